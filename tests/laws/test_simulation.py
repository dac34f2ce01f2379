import numpy as np
import pytest

from rag_exp.core.errors import LawError
from rag_exp.laws import simulate

DESIGN = {"N": np.repeat(np.geomspace(1e5, 1e7, 8), 5), "M": np.tile(np.geomspace(500, 5e4, 5), 8)}
TRUTH = {"E": 2.0, "A": 150.0, "alpha": 0.35, "B": 20.0, "beta": 0.3}


def test_recovery_is_unbiased_and_a_known_floor_narrows_the_exponents():
    free = simulate("joint", DESIGN, TRUTH, noise=0.01, loss="ls_log")
    held = simulate("joint", DESIGN, TRUTH, noise=0.01, loss="ls_log", fixed={"E": 2.0})
    assert (free["bias"].abs() < 0.25 * free["sd"]).all()
    assert "E" not in held.index
    assert held.loc["beta", "sd"] < 0.7 * free.loc["beta", "sd"]


@pytest.mark.parametrize(("level", "fewest", "most"), [(0.9, 0.75, 1.0), (0.5, 0.25, 0.75)])
def test_coverage_is_about_what_the_intervals_say(level, fewest, most):
    """Give or take three standard errors of 40 trials. At 50% intervals that are too wide are found out, too."""
    how = {"coverage": 40, "bootstrap": 120, "loss": "ls_log", "bootstrap_kind": "wild"}
    table = simulate("joint", DESIGN, TRUTH, noise=0.01, level=level, **how)
    assert table["coverage"].between(fewest, most).all()


def test_a_truth_that_is_not_one_is_refused():
    with pytest.raises(LawError, match="true value of beta"):
        simulate("joint", DESIGN, {k: v for k, v in TRUTH.items() if k != "beta"}, noise=0.01)
    with pytest.raises(LawError, match="not positive"):
        simulate("log_gain(M)", DESIGN, {"E": 1.0, "G": 0.5}, noise=0.01)
