import numpy as np
import pytest

from rag_exp.core.errors import LawError
from rag_exp.laws import fit, profile

N = np.geomspace(1e5, 1e8, 12)
LOSS = (2 + 150 * N**-0.35) * np.exp(np.random.default_rng(0).normal(0, 0.01, 12))


def test_a_straight_line_has_the_interval_of_linear_regression():
    """ln y = ln A - alpha ln N: the profile of alpha is known in closed form."""
    from scipy.stats import t

    y = 40 * N**-0.2 * np.exp(np.random.default_rng(1).normal(0, 0.02, 12))
    found = profile(fit("power", {"N": N, "loss": y}, loss="ls_log"), "alpha")
    x = np.log(N) - np.log(N).mean()
    slope = x @ np.log(y) / (x @ x)
    left = np.log(y) - np.log(y).mean() - slope * x
    half = t.ppf(0.975, 10) * np.sqrt((left @ left) / 10 / (x @ x))
    assert (found.low, found.high) == pytest.approx((-slope - half, -slope + half), rel=1e-5)
    assert min(found.rise) == 0.0


def test_a_row_of_weight_zero_is_no_evidence():
    plain = profile(fit("saturating", {"N": N, "loss": LOSS}, loss="ls_log"), "alpha")
    more = {"N": np.tile(N, 2), "loss": np.append(LOSS, np.full(12, 50.0))}
    same = profile(fit("saturating", more, loss="ls_log", weights=np.repeat([1.0, 0.0], 12)), "alpha")
    assert (same.low, same.high) == pytest.approx((plain.low, plain.high), rel=1e-5)


def test_a_parameter_that_the_data_do_not_limit_has_no_end():
    short = fit("saturating", {"N": N[:5], "loss": LOSS[:5] + 0.02 * np.array([1, -1, 1, -1, 1])}, loss="ls_log")
    assert profile(short, "E").low is None


def test_what_has_no_profile_is_refused():
    law = fit("saturating", {"N": N, "loss": LOSS}, loss="ls_log", fixed={"E": 2.0})
    with pytest.raises(LawError, match="E is fixed"):
        profile(law, "E")
    with pytest.raises(LawError, match=r"no parameter 'alhpa'.*alpha"):
        profile(law, "alhpa")
    with pytest.raises(LawError, match="Huber"):
        profile(fit("saturating", {"N": N, "loss": LOSS}), "E")
