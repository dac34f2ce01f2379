import numpy as np
import pytest

from rag_exp.analysis.replicates import aggregate
from rag_exp.analysis.tables import records_to_table
from rag_exp.core.errors import DataError


@pytest.fixture(scope="module")
def table(synthetic):
    world = synthetic.World()
    runs = [synthetic.record(world, s, c, seed=i) for s in ("s0", "s1") for c in ("1000", "null") for i in (0, 1, 2)]
    runs.append(synthetic.record(world, "s2"))
    runs.append(synthetic.record(world, "s2", seed=1, status="failed"))
    return records_to_table(runs)


def test_seeds_are_means_with_counts_and_intervals(table):
    found = aggregate(table)
    assert len(found) == 5
    group = table[(table["N"] == 131_072) & (table["M"] == 997)]["nll"].to_numpy()
    row = found[(found["N"] == 131_072) & (found["M"] == 997)].iloc[0]
    assert row["n"] == 3
    assert row["seed"] == [0, 1, 2]
    assert row["nll"] == pytest.approx(group.mean())
    half = 4.302652729911275 * group.std(ddof=1) / np.sqrt(3)  # Student's t, two degrees of freedom
    assert (row["nll.low"], row["nll.high"]) == pytest.approx((group.mean() - half, group.mean() + half))


def test_one_seed_has_no_interval_and_a_failed_one_does_not_count(table):
    found = aggregate(table)
    row = found[found["N"] == 786_432].iloc[0]
    assert row["n"] == 1
    assert row["nll.low"] != row["nll.low"] or row["nll.low"] is None


def test_the_bootstrap_interval_holds_the_mean_and_is_reproducible(table):
    a, b = aggregate(table, interval="bootstrap"), aggregate(table, interval="bootstrap")
    assert a["nll.low"].tolist()[:4] == b["nll.low"].tolist()[:4]
    several = a[a["n"] > 1]
    assert (several["nll.low"] <= several["nll"]).all()
    assert (several["nll"] <= several["nll.high"]).all()


def test_runs_that_differ_in_anything_else_are_not_pooled(synthetic):
    world = synthetic.World()
    runs = [synthetic.record(world, index=i, seed=s) for i in ("flat", "ivf") for s in (0, 1)]
    found = aggregate(records_to_table(runs))
    assert found["n"].tolist() == [2, 2]
    assert found["index"].tolist() == ["flat", "ivf"]


def test_several_metrics_and_unknown_ones(table):
    found = aggregate(table, metrics=["nll", "em"])
    assert {"em", "em.low", "em.high"} <= set(found.columns)
    with pytest.raises(DataError, match="no column nlll"):
        aggregate(table, metrics=["nlll"])
