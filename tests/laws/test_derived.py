import json

import numpy as np
import pytest

from rag_exp.core.errors import LawError
from rag_exp.laws import LawFit, allocation_exponents, derive, fit, form_by_name

N, D = np.repeat(np.geomspace(1e7, 1e10, 6), 5), np.tile(np.geomspace(1e9, 1e12, 5), 6)
LOSS = (1.8 + 480 * N**-0.35 + 2000 * D**-0.37) * np.exp(np.random.default_rng(0).normal(0, 0.004, 30))


@pytest.fixture(scope="module")
def law():
    return fit("chinchilla", {"N": N, "D": D, "loss": LOSS}, bootstrap=200, bootstrap_kind="wild", loss="ls_log")


def test_the_exponents_of_the_optimum_with_their_covariance(law):
    found = derive(law, allocation_exponents(law.form))
    alpha, beta = law.params["alpha"], law.params["beta"]
    assert found.values == pytest.approx({"a": beta / (alpha + beta), "b": alpha / (alpha + beta)})
    draws = law.draws["beta"] / (law.draws["alpha"] + law.draws["beta"])
    assert found.intervals["a"] == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5], method="weibull")))
    # The two add up to 1, so that they vary against each other.
    np.testing.assert_allclose(found.covariance_qq, draws.var() * np.array([[1, -1], [-1, 1]]), rtol=1e-9)


def test_correlated_parameters_make_a_share_surer_than_its_parts_taken_apart(law):
    covariance = law.covariance
    assert list(covariance.columns) == ["E", "A", "B", "alpha", "beta"]
    assert covariance.loc["A", "alpha"] / np.sqrt(covariance.loc["A", "A"] * covariance.loc["alpha", "alpha"]) > 0.9
    at = 1e9
    joint = derive(law, {"term": lambda p: p["A"] * at ** -p["alpha"]})
    apart = np.random.default_rng(0).permutation(law.draws["A"]) * at ** -law.draws["alpha"]
    low, high = joint.intervals["term"]
    assert high - low < 0.5 * np.ptp(np.percentile(apart, [2.5, 97.5]))


def test_the_delta_method_agrees_where_noise_is_small(law):
    found = derive(law, allocation_exponents(law.form))
    alpha, beta = law.params["alpha"], law.params["beta"]
    slope = np.array([-beta, alpha]) / (alpha + beta) ** 2
    block = law.covariance.loc[["alpha", "beta"], ["alpha", "beta"]].to_numpy()
    assert found.covariance_qq[0, 0] == pytest.approx(slope @ block @ slope, rel=0.1)


def test_forms_without_the_two_falling_powers_have_no_such_exponents():
    with_them = {n for n in ("chinchilla", "chinchilla_tied", "joint", "joint_gain", "kaplan", "skaling", "rag_hill")}
    found = {n for n in with_them if allocation_exponents(form_by_name(n))}
    assert found == {"chinchilla", "chinchilla_tied"}
    tied = allocation_exponents(form_by_name("chinchilla_tied"))
    assert tied["a"]({"alpha": 0.4}) == 0.5


def test_without_replicates_there_are_values_alone(law):
    plain = fit("chinchilla", {"N": N, "D": D, "loss": LOSS}, loss="ls_log")
    found = derive(plain, allocation_exponents(plain.form))
    assert (found.intervals, found.covariance_qq) == (None, None)
    assert found.values["a"] == pytest.approx(derive(law, allocation_exponents(law.form)).values["a"])


def test_what_is_not_finite_is_refused(law):
    with pytest.raises(LawError, match="x is not finite for the fitted"):
        derive(law, {"x": lambda p: p["A"] * np.nan})
    middle = float(law.draws["alpha"].median())
    with pytest.raises(LawError, match="x is not finite in 100 of 200"):
        derive(
            law, {"x": lambda p: np.where(np.asarray(p["alpha"]) > middle, np.inf, 1.0) if np.ndim(p["alpha"]) else 1}
        )


def test_the_card_holds_them(law):
    card = json.loads(law.to_json())
    np.testing.assert_allclose(card["covariance"], law.covariance.to_numpy(), rtol=1e-9)
    assert card["allocation"] == derive(law, allocation_exponents(law.form)).to_dict()
    assert LawFit.from_json(law.to_json()).to_json() == law.to_json()
