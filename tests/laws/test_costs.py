from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rag_exp.analysis.tables import load_study
from rag_exp.core.errors import DataError
from rag_exp.laws import Costs, costs_of_records

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


def test_runs_without_flops_are_refused():
    with pytest.raises(DataError, match=r"FLOPs of its training; give costs\.train"):
        costs_of_records(pd.DataFrame({"N": [1e5], "D": [1e6], "M": [10], "K": [1], "questions": [5]}))
