import numpy as np
import pytest

from rag_exp.analysis.effects import effect, exchange
from rag_exp.laws import fit

N, M = np.repeat(np.geomspace(1e5, 1e7, 5), 5), np.tile(np.geomspace(1e3, 1e5, 5), 5)


def law(loss, form="joint", **kwargs):
    return fit(form, {"N": N, "M": M, "loss": loss}, loss="ls_log", **kwargs)


def test_the_last_tenfold_of_an_axis_is_measured_at_the_largest_other():
    found = effect(law(2 + 100 * N**-0.5 + 50 * M**-0.5), "N")
    assert (found.start, found.stop, found.at) == (1e6, 1e7, {"M": 1e5})
    assert found.fall == pytest.approx(100 * (1e6**-0.5 - 1e7**-0.5), rel=1e-6)
    assert found.low is None
    assert found.sign == 1


def test_a_short_axis_is_measured_over_its_own_range():
    keep = N < 2e6
    short = fit("joint", {"N": N[keep], "M": M[keep], "loss": (2 + 100 * N**-0.5 + 50 * M**-0.5)[keep]}, loss="ls_log")
    found = effect(short, "N")
    assert found.factor == pytest.approx(10)
    three = fit("saturating(N)", {"N": [1e5, 2e5, 4e5], "loss": [3.0, 2.5, 2.2]}, loss="ls_log")
    assert effect(three, "N").factor == pytest.approx(4)
    assert effect(three, "N").at == {}


def test_a_rising_loss_is_a_negative_fall():
    found = effect(law(2 + 100 * N**-0.5 + 0.01 * M**0.5, "joint_rising"), "M")
    assert found.fall == pytest.approx(-0.01 * (1e5**0.5 - 1e4**0.5), rel=1e-6)
    assert found.sign == -1


def test_an_exchange_rate_solves_the_law():
    fitted = law(2 + 100 * N**-0.5 + 50 * M**-0.5)
    of = effect(fitted, "M")
    rate = exchange(fitted, of, "N")
    fall = 50 * (1e4**-0.5 - 1e5**-0.5)
    expected = (1 - fall / (100 * 1e6**-0.5)) ** -2 if fall < 100 * 1e6**-0.5 else None
    assert rate.base == pytest.approx(1e6)
    assert expected is None
    assert rate.factor is None
    back = exchange(fitted, effect(fitted, "N"), "M")
    fall = 100 * (1e6**-0.5 - 1e7**-0.5)
    base = 50 * 1e4**-0.5
    assert back.factor == pytest.approx((1 - fall / base) ** -2, rel=1e-6)
    assert back.within


def test_an_exchange_rate_outside_what_was_measured_says_so():
    fitted = law(2 + 450 * N**-0.5 + 50 * M**-0.5)
    of = effect(fitted, "M")
    rate = exchange(fitted, of, "N")
    expected = (1 - of.fall / (450 * 1e6**-0.5)) ** -2
    assert expected > 12  # the measured range ends at ten times the base
    assert rate.factor == pytest.approx(expected, rel=1e-6)
    assert not rate.within


def test_intervals_come_from_the_replicates():
    loss = (2 + 100 * N**-0.5 + 20 * M**-0.5) * np.exp(np.random.default_rng(0).normal(0, 0.005, 25))
    fitted = law(loss, bootstrap=100, bootstrap_kind="wild")
    found = effect(fitted, "N")
    assert found.low < found.fall < found.high
    draws = fitted.predict_draws({"N": [1e6, 1e7], "M": 1e5})
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(draws[:, 0] - draws[:, 1], [2.5, 97.5])))
    rate = exchange(fitted, found, "M")
    assert rate.low <= rate.factor <= rate.high
    assert rate.none_share == 0
