import numpy as np
import pytest
from pydantic import ValidationError

from rag_exp.core.errors import LawError
from rag_exp.laws import compare, fit, simulate
from rag_exp.laws.intervals import percentiles
from rag_exp.laws.options import LawOptions

N, M = np.repeat(np.geomspace(1e5, 3e6, 5), 5), np.tile(np.geomspace(1e3, 3e4, 5), 5)
RUNS = {"N": N, "M": M, "loss": 2 + 150 * N**-0.35 + 20 * M**-0.3}


@pytest.mark.parametrize(("draws", "level"), [(40, 0.95), (100, 0.8), (500, 0.95)])
def test_another_draw_lies_between_the_ends_as_often_as_the_level_says(draws, level):
    rng = np.random.default_rng(0)
    low, high = percentiles(rng.uniform(size=(draws, 4000)), level)
    assert (high - low).mean() == pytest.approx(level, abs=0.003)  # of a uniform variable the share is the width


def test_fewer_replicates_than_an_interval_needs_are_refused_before_anything_is_fitted():
    no_data = {"N": [], "loss": []}
    for draws in (-5, 3, 39):
        with pytest.raises(LawError, match=rf"bootstrap: an interval needs at least 40 replicates.*not {draws}"):
            fit("saturating", no_data, bootstrap=draws)
    with pytest.raises(LawError, match="at least 40"):
        compare(["saturating"], no_data, bootstrap=10)
    with pytest.raises(LawError, match="at least 40"):
        simulate("saturating", {"N": [1.0]}, {}, noise=0.01, bootstrap=10)
    with pytest.raises(LawError, match=r"replicates: an interval needs.*not 20"):
        fit("joint", RUNS, replicates=np.tile(RUNS["loss"], (20, 1)), loss="ls_log")


def test_the_outermost_replicates_are_no_interval_at_a_higher_level():
    with pytest.raises(LawError, match=r"bootstrap: an interval at level 0.99 needs at least 199 replicates.*not 100"):
        fit("saturating", {"N": [], "loss": []}, bootstrap=100, level=0.99)
    with pytest.raises(ValidationError, match=r"at level 0.999 needs at least 1,999"):
        LawOptions(bootstrap=1998, level=0.999)
    assert LawOptions(bootstrap=1999, level=0.999).bootstrap == 1999
    law = fit("joint", RUNS, loss="ls_log", bootstrap=199, bootstrap_kind="wild")
    law.predict(RUNS, interval=0.99)
    with pytest.raises(LawError, match=r"at level 0.995 needs at least 399 replicates; there are 199"):
        law.predict(RUNS, interval=0.995)


def test_a_single_cluster_has_no_intervals_and_a_row_without_a_label_no_cluster():
    noisy = RUNS | {"loss": RUNS["loss"] * np.exp(np.random.default_rng(0).normal(0, 0.005, 25))}
    for kind in ("wild", "cluster"):
        with pytest.raises(LawError, match="All rows are of one cluster"):
            fit("joint", noisy, loss="ls_log", bootstrap=40, bootstrap_kind=kind, cluster=["a"] * 25)
    # One run over many corpora, of one seed: its rows are shaken by themselves.
    law = fit("joint", noisy, loss="ls_log", bootstrap=40, bootstrap_kind="hierarchical", cluster=["a"] * 25)
    low, high = law.intervals["alpha"]
    assert 0.001 < high - low < 1
    with pytest.raises(LawError, match=r"Row 1 has no cluster label \(2 of 25 have none\)"):
        fit("joint", noisy, loss="ls_log", cluster=["a", None, float("nan"), *"b" * 22])


def test_draws_are_one_row_per_replicate():
    law = fit("joint", RUNS, loss="ls_log", bootstrap=40, bootstrap_kind="wild")
    assert law.draws.shape == (40, 5)


def test_few_clusters_that_are_drawn_are_warned_of():
    rng = np.random.default_rng(0)
    runs = {"N": np.repeat(np.geomspace(1e5, 1e7, 9), 5), "M": np.tile(np.geomspace(1e3, 3e4, 5), 9)}
    runs["loss"] = (2 + 150 * runs["N"] ** -0.35 + 20 * runs["M"] ** -0.3) * np.exp(rng.normal(0, 0.005, 45))
    options = {"loss": "ls_log", "bootstrap": 40, "bootstrap_kind": "cluster", "unconverged": "leave_out"}
    told = []
    for sizes in (5, 9):
        some = {k: v[: 5 * sizes] for k, v in runs.items()}
        law = fit("joint", some, **options, cluster=some["N"].tolist())
        told.append(any("bootstrap_kind='wild' makes them wide enough" in w for w in law.warnings))
        assert len(set(zip(law.rows["clusters"], some["N"], strict=True))) == sizes
    assert told == [True, False]


def test_rows_that_are_there_twice_are_warned_of():
    twice = {k: np.concatenate([v, v[:3]]) for k, v in RUNS.items()}
    assert any(w.startswith("3 rows repeat another one") for w in fit("joint", twice, loss="ls_log").warnings)
    labels = [*range(25), *range(3)]
    assert not any("repeat" in w for w in fit("joint", twice, loss="ls_log", cluster=labels).warnings)
    assert "clusters" not in fit("joint", twice, loss="ls_log").rows
    assert not any("repeat" in w for w in fit("joint", RUNS, loss="ls_log").warnings)
