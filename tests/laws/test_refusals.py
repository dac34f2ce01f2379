"""Whatever is handed in by mistake is answered in our own words, with the way out."""

import json
import math

import numpy as np
import pytest

from rag_exp.core.errors import LawError
from rag_exp.laws import (
    Costs,
    LawFit,
    best,
    contours,
    derive,
    effect,
    exchange,
    fit,
    frontier,
    isoflop,
    profile,
    simulate,
)

N = np.geomspace(1e5, 1e8, 8)
DATA = {"N": N, "loss": 2 + 150 * N**-0.35 + 0.01 * np.cos(np.arange(8))}
PARAMS = {"E": 2.0, "A": 150.0, "alpha": 0.35}
COSTS = Costs(tokens=1e9)
LAW = fit("saturating", DATA, loss="ls_log", bootstrap=40, bootstrap_kind="wild")
CARD = LAW.to_dict()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit("saturating", DATA, level=95), r"level=95: a level lies between 0 and 1 \(0.95"),
        (lambda: fit("saturating", DATA, fixed={"alpha": None}), "fixed alpha must be a number.*it is None"),
        (lambda: fit("saturating", DATA, fixed={"alpha": "0.3"}), "fixed alpha must be a number"),
        (lambda: fit("saturating", {"N": [], "loss": []}), "no rows"),
        (lambda: LAW.predict({"N": 1e9}, interval=95), "interval=95: a level lies between 0 and 1"),
        (lambda: LAW.predict([1e9]), "not a list"),
        (lambda: LAW.predict({"N": "large"}), "'N' holds something that is not a number"),
        (lambda: profile(LAW, "alpha", level=95), "level=95"),
        (lambda: simulate("saturating", DATA, PARAMS, noise=-1), "noise >= 0.*-1"),
        (lambda: simulate("saturating", DATA, PARAMS, noise=0.01, studies=0), "studies > 0"),
        (lambda: simulate("saturating", DATA, PARAMS, noise=0.01, coverage=9, bootstrap=0), "coverage needs intervals"),
        (lambda: simulate("saturating", {"n": N}, PARAMS, noise=0.01), "design: the data have no column 'N'"),
        (lambda: simulate("saturating", DATA, {**PARAMS, "E": None}, noise=0.01), "needs a true value of E"),
        (lambda: fit("saturating", DATA, coverage=-5), "coverage=-5"),
        (lambda: best("saturating", DATA, factor=0.5), "factor=0.5: it is 1 for the chosen form alone"),
        (lambda: derive(LAW, {}), "derive needs a quantity"),
        (lambda: derive(LAW, {"E": lambda p: p["E"]}, level=95), "level=95"),
        (lambda: effect(LAW, "M"), r"no axis 'M'\. Axes: N"),
        (lambda: exchange(LAW, effect(LAW, "N"), "M"), r"no axis 'M'\. Axes: N"),
        (lambda: exchange(LAW, "N", "M"), r"exchange\(law, effect\(law, 'N'\), 'M'\)"),
        (lambda: contours(LAW), r"no axis 'M'\. Axes: N"),
        (lambda: contours(LAW, x="N"), "both 'N'"),
        (lambda: isoflop(DATA), "compute: the data have no column 'C'"),
        (lambda: isoflop([DATA]), "not a list"),
        (lambda: Costs(querys=1.0), r"no constant is called 'querys'\. Did you mean 'queries'"),
        (lambda: Costs(train=-1.0), r"Costs: train: input should be greater than 0 \(given: -1.0\)"),
        (lambda: frontier(LAW, {"tokns": 1e9}, [1e18]), r"no constant is called 'tokns'\. Did you mean 'tokens'"),
        (lambda: frontier(LAW, COSTS, []), "Budgets must be positive FLOPs; they are none"),
        (lambda: frontier(LAW, COSTS, [1e18], reach=-1), "reach=-1: it is how many decades"),
        (lambda: frontier(LAW, COSTS, [1e18], caps={"N": math.nan}), "N is capped at nan"),
        (lambda: LawFit.from_json("[1]"), "Not a fit card of schema"),
        (lambda: LawFit.from_json("{"), "Not a fit card"),
        (lambda: LawFit.from_json(json.dumps({**CARD, "schema": 0})), "its schema is 0"),
        (lambda: LawFit.from_dict({k: v for k, v in CARD.items() if k != "rows"}), "no 'rows'"),
    ],
)
def test_a_mistake_is_answered_in_our_own_words(call, message):
    with pytest.raises(LawError, match=message):
        call()


def test_costs_may_be_a_mapping_and_one_budget_a_number():
    assert frontier(LAW, {"tokens": 1e9}, 1e18).equals(frontier(LAW, COSTS, [1e18]))
