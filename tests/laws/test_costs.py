from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rag_exp.analysis.tables import load_study
from rag_exp.core.errors import DataError
from rag_exp.laws import Costs, costs_of_records
from rag_exp.laws.costs import FLOPS, SECONDS, spent_on

QUICKSTART = Path(__file__).parents[2] / "results" / "quickstart"


def test_kaplans_rule_is_the_default():
    assert Costs().total(1e9, 2e10, 0, 1) == 6 * 1e9 * 2e10
    parts = Costs(embed=3, refreshes=1, build=2, queries=10, search=4, read=2, read_passage=5).parts(7, 11, 13, 3)
    assert parts == {"training": 6 * 7 * 11, "corpus": (3 * 2 + 2) * 13, "search": 10 * 4 * 13, "reading": 10 * 19 * 3}


@pytest.mark.parametrize("tied", [None, 20.0])
def test_what_is_affordable_uses_up_the_budget(tied):
    costs = Costs(train_token=1e5, fixed=1e15, embed=1e9, queries=1e6, search=100, read=300, tokens_per_parameter=tied)
    budget = np.array([1e18, 1e20])
    size = costs.affordable(budget, 1e10, 1e6, 4.0)
    D = size * tied if tied else 1e10
    np.testing.assert_allclose(costs.total(size, D, 1e6, 4.0), budget, rtol=1e-12)
    assert costs.affordable(1e10, 1e10, 1e6, 4.0) < 0


def test_a_study_tells_its_own_costs():
    table = load_study(QUICKSTART)
    rows = table[(table["arm"] == "dense") & (table["index"] == "flat") & (table["growth"] == "coverage")]
    costs = costs_of_records(rows, queries=500)
    assert costs.search == 2 * 192  # exact search over vectors of 192 dimensions
    assert 6 < costs.train < 9
    spent = sum(rows[f"flops.{k}"] for k in ("training", "embedding", "index_build", "search", "reading"))
    said = costs.total(rows["N"], rows["D"], rows["M"], rows["K"])
    np.testing.assert_allclose(said, spent.astype(float), rtol=0.08)
    assert costs_of_records(rows, train=6.0).train == 6.0
    assert (costs.tokens, costs.passages, costs.k) == (5330608, 5688, 4)  # of a law without D, M or K


def test_an_index_that_compares_ever_less_of_a_corpus_costs_as_it_did_at_every_size():
    table = load_study(QUICKSTART)
    rows = table[(table["arm"] == "dense") & (table["growth"] == "coverage")]
    costs = costs_of_records(rows, "ivf", queries=500)
    assert 0 < costs.search_power < 0.5
    own = rows[rows["index"] == "ivf"]
    said = costs.parts(own["N"], own["D"], own["M"], own["K"])["search"] / own["flops.search"].astype(float)
    assert said.between(1 / 1.5, 1.5).all()
    assert costs_of_records(rows, "flat").search_power == 1.0
    assert costs_of_records(rows, "ivf", search=7.0).model_dump(include={"search", "search_power"}) == {
        "search": 7.0,
        "search_power": 1.0,
    }


@pytest.mark.parametrize(("spent", "embedded"), [(FLOPS, "flops.embedding"), (SECONDS, "seconds.embeddings/0")])
def test_what_was_spent_tells_every_constant(spent, embedded):
    true = Costs(train=6, train_token=5e5, fixed=3e9, embed=7e4, build=1e3, search=40, read=300, read_passage=2e7)
    true = true.model_copy(update={"queries": 50.0})
    N, M = (g.ravel() for g in np.meshgrid([1e5, 4e5, 1e6], [1e3, 1e4]))
    rows = pd.DataFrame({"N": N, "D": 2e6, "M": M, "K": 4.0, "questions": 50.0})
    parts = true.parts(N, 2e6, M, 4.0)
    warmup, marginal = spent["training"]
    rows[spent["fixed"][0]] = true.fixed
    rows[warmup] = 0.7 * (parts["training"] - true.fixed)
    rows[marginal] = 0.3 * (parts["training"] - true.fixed)
    rows[embedded] = true.embed * (M if spent is FLOPS else 1e4)  # whole shards
    rows[spent["build"][0]], rows[spent["search"][0]] = true.build * M, parts["search"]
    rows[spent["reading"][0]] = parts["reading"]
    found = costs_of_records(rows, spent=spent, queries=50)
    for name in ("train", "train_token", "fixed", "embed", "build", "search", "read", "read_passage"):
        assert getattr(found, name) == pytest.approx(getattr(true, name)), name


def test_a_study_tells_what_its_runs_took():
    table = load_study(QUICKSTART)
    rows = table[(table["arm"] == "dense") & (table["index"] == "flat") & (table["growth"] == "coverage")]
    costs = costs_of_records(rows, spent=SECONDS, queries=500)
    trained = rows["seconds.reader_warmup"] + rows["seconds.checkpoint"] + rows["seconds.encoder"]
    said = costs.parts(rows["N"], rows["D"], rows["M"], rows["K"])
    np.testing.assert_allclose(said["training"], trained.astype(float), rtol=0.35)  # two of them ran at a time
    np.testing.assert_allclose(said["reading"], rows["seconds.evaluation"].astype(float), rtol=0.5)
    assert costs.embed * 32380 == pytest.approx(rows["seconds.embeddings/0"].iloc[0])


@pytest.mark.parametrize(
    ("per_token", "line"),
    [
        ([8e5, 1.4e6, 2.6e6], (2e5, 6.0)),
        ([1e5, 4e5, 1.6e6], None),  # bends upwards: no operations below none at N = 0
    ],
)
def test_a_line_in_the_parameters_has_no_part_below_zero(per_token, line):
    rows = pd.DataFrame({"N": [1e5, 2e5, 4e5], "D": 10.0, "M": 10.0, "K": 1.0, "questions": 5.0})
    rows["flops.reader_warmup"] = [4.0 * f for f in per_token]
    rows["flops.marginal"] = [6.0 * f for f in per_token]
    costs = costs_of_records(rows)
    if line is not None:
        assert (costs.train_token, costs.train) == pytest.approx(line)
    else:
        assert costs.train_token == 0.0
        assert 1.0 < costs.train < 4.0


def test_operations_that_do_not_grow_with_the_parameters_are_refused():
    rows = pd.DataFrame({"N": [1e5, 2e5], "D": 10.0, "M": 10.0, "K": 1.0, "questions": 5.0})
    rows = rows.assign(**{"flops.reader_warmup": [2e6, 1e6], "flops.marginal": 0.0})
    with pytest.raises(DataError, match=r"FLOPs of training do not grow with N in these runs; give costs\.train"):
        costs_of_records(rows)


def test_runs_without_flops_are_refused():
    with pytest.raises(DataError, match=r"FLOPs of its training; give costs\.train"):
        costs_of_records(pd.DataFrame({"N": [1e5], "D": [1e6], "M": [10], "K": [1], "questions": [5]}))


def test_an_index_in_shards_took_what_its_parts_and_its_quantizer_took():
    rows = pd.DataFrame(
        {
            "seconds.index": [5.0, 0.5, None],
            "seconds.index_shards/0": [None, 1.0, None],
            "seconds.index_shards/1": [None, 2.0, None],
            "seconds.quantizer": [None, 10.0, None],
            "seconds.topk": [9.0, 9.0, 9.0],
        }
    )
    whole, cut, unknown = spent_on(rows, SECONDS["build"])
    assert (whole, cut) == (5.0, 13.5)
    assert np.isnan(unknown)
    assert np.isnan(spent_on(rows[["seconds.topk"]], SECONDS["build"])).all()
