import numpy as np
import pytest

from rag_exp.core.errors import LawError
from rag_exp.laws import fit
from rag_exp.laws.effects import contours, effect, exchange, rate

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
    assert (found.low, found.high) == pytest.approx(
        tuple(np.percentile(draws[:, 0] - draws[:, 1], [2.5, 97.5], method="weibull"))
    )
    rate = exchange(fitted, found, "M")
    assert rate.low <= rate.factor <= rate.high
    assert rate.none_share == 0


def test_a_marginal_rate_is_the_slope_of_the_iso_loss_curve():
    fitted = law(2 + 100 * N**-0.5 + 50 * M**-0.4)
    point = {"N": 3e5, "M": 2e4}
    expected = 0.4 * 50 * 2e4**-0.4 / (0.5 * 100 * 3e5**-0.5)
    found = rate(fitted, "M", "N", point)
    assert found.rate == pytest.approx(expected, rel=1e-6)
    assert found.tenfold == pytest.approx(10**expected, rel=1e-5)
    assert rate(fitted, "N", "M", point).rate == pytest.approx(1 / expected, rel=1e-6)
    assert found.beyond == {}
    assert rate(fitted, "M", "N", {"N": 1e8, "M": 100}).beyond == pytest.approx({"N": 1.0, "M": -1.0})
    with pytest.raises(LawError, match="no axis 'D'"):
        rate(fitted, "D", "N")


def test_what_does_not_help_has_no_rate():
    shaken = np.exp(np.random.default_rng(0).normal(0, 1e-4, 25))
    rising = law((2 + 100 * N**-0.5 + 0.01 * M**0.5) * shaken, "joint_rising", bootstrap=40, bootstrap_kind="wild")
    assert rate(rising, "N", "M").rate is None
    assert (rate(rising, "N", "M").low, rate(rising, "N", "M").high) == (None, None)
    nothing = exchange(rising, effect(rising, "N"), "M")
    assert (nothing.factor, nothing.low, nothing.high, nothing.none_share) == (None, None, None, 1.0)
    assert rate(rising, "M", "N").rate < 0


def test_contours_have_one_loss_and_say_where_they_leave_the_data():
    fitted = law(2 + 100 * N**-0.5 + 50 * M**-0.5)
    table = contours(fitted, points=5)
    known = table[table["N"].notna()]
    assert len(known) > 10
    said = fitted.predict({"N": known["N"].to_numpy(float), "M": known["M"].to_numpy(float)})
    np.testing.assert_allclose(said, known["loss"], rtol=1e-9)
    far = contours(fitted, [2 + 100 * 3e7**-0.5 + 50 * 1e5**-0.5], points=3)
    assert far["N"].isna().tolist() == [True, True, False]
    assert far["N"].iloc[-1] == pytest.approx(3e7, rel=1e-6)
    assert far["beyond"].iloc[-1] == pytest.approx(np.log10(3))


def test_bands_of_rates_and_contours_hold_the_value():
    loss = (2 + 100 * N**-0.5 + 20 * M**-0.5) * np.exp(np.random.default_rng(0).normal(0, 0.005, 25))
    fitted = law(loss, bootstrap=100, bootstrap_kind="wild")
    found = rate(fitted, "M", "N")
    assert found.low < found.rate < found.high
    table = contours(fitted, [2.3], points=3).dropna()
    assert len(table) == 2
    assert (table["N_low"] < table["N"]).all()
    assert (table["N"] < table["N_high"]).all()


def test_a_rate_spans_the_forms_that_hold_as_well():
    loss = (2 + 100 * N**-0.5 + 20 * M**-0.5) * np.exp(np.random.default_rng(0).normal(0, 0.005, 25))
    options = {"bootstrap": 100, "bootstrap_kind": "wild"}
    fitted, other = law(loss, **options), law(loss, "joint_log_gain", **options)
    alone, apart = rate(fitted, "M", "N"), rate(other, "M", "N")
    fitted.alternatives = [other]
    both = rate(fitted, "M", "N")
    assert both.rate == alone.rate
    assert (both.low, both.high) == (min(alone.low, apart.low), max(alone.high, apart.high))
    assert both.high - both.low > alone.high - alone.low
