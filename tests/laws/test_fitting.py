import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_exp.core.errors import LawError
from rag_exp.laws import fit
from rag_exp.laws.forms import FORMS, form_by_name

TRUTH = {"E": 2.0, "A": 150.0, "alpha": 0.35, "B": 20.0, "beta": 0.3, "G": 0.02, "gamma": 0.4}
# Exponents that fit the sign and direction of a term, with sizes that keep every loss positive.
OTHER = {
    "rising": {"B": 0.01, "beta": 0.45},
    "joint_rising": {"B": 0.01, "beta": 0.45},
    "log_gain": {"E": 9.0, "G": 0.5},
    "joint_log_gain": {"E": 9.0, "G": 0.5},
    "chinchilla": {"B": 300.0, "beta": 0.25},
}

PLAIN = [
    n
    for n in sorted(FORMS)
    if set(form_by_name(n).parameters) <= TRUTH.keys()
    and set(form_by_name(n).variables) <= {"N", "M", "D"}
    and n != "chinchilla_tied"
]
"""Forms of powers and logarithms alone; those with curves are in test_forms.py."""


def grid(nN=4, nM=5):
    N, M = np.geomspace(2e5, 4e6, nN), np.geomspace(1000, 32_380, nM).round()
    return {"N": np.repeat(N, nM), "M": np.tile(M, nN), "D": np.tile(M, nN) * 1e4}


def truth_of(name):
    form = form_by_name(name)
    return form, {p: {**TRUTH, **OTHER.get(name, {})}[p] for p in form.parameters}


def losses(form, params, data):
    total = np.full(len(data["N"]), params.get(form.floor, 0.0))
    for t in form.terms:
        size = np.full(len(total), t.sign * params[t.coefficient])
        for f in t.factors:
            size = size * (
                np.log(data[f.variable])
                if f.exponent is None
                else data[f.variable] ** (f.direction * params[f.exponent])
            )
        total = total + size
    assert (total > 0).all()
    return total


def noisy(name, sigma, seed=0, **sizes):
    form, params = truth_of(name)
    data = grid(**sizes)
    y = losses(form, params, data)
    return form, params, {**data, "loss": y * np.exp(np.random.default_rng(seed).normal(0, sigma, len(y)))}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("loss", ["huber_log", "lad_log", "ls_log", "ls_raw"])
def test_every_form_recovers_its_parameters_from_exact_data(name, loss):
    _, params, data = noisy(name, 0.0)
    law = fit(name, data, loss=loss)
    for p, value in params.items():
        assert law.params[p] == pytest.approx(value, rel=1e-5), p
    np.testing.assert_allclose(law.predict(data), data["loss"], rtol=1e-10)
    assert law.objective < 1e-9
    assert law.certificate["gradient"] <= law.certificate["goal"]


@pytest.mark.parametrize("name", PLAIN)
def test_no_better_point_lies_near_or_far(name):
    """The optimum beats scipy's least squares from the truth and from random starts."""
    from scipy.optimize import least_squares

    form, params, data = noisy(name, 0.03, seed=3)
    law = fit(name, data, loss="ls_log")
    y = data["loss"]
    names = list(form.parameters)
    low = [form.bound(p)[0] for p in names]
    high = [form.bound(p)[1] for p in names]
    rng = np.random.default_rng(0)

    def residual(v):
        with np.errstate(all="ignore"):
            value = law.values(data, np.array([v]))[0]
            return np.where(value > 1e-9, np.log(np.maximum(value, 1e-9) / y), 10.0)

    for k in range(6):
        x0 = np.array([params[p] * np.exp(rng.normal(0, 0.3) * (k > 0)) for p in names])
        x0 = np.clip(x0, np.array(low) + 1e-9, np.array(high) - 1e-9)
        found = least_squares(residual, x0, bounds=(low, high), x_scale=np.maximum(np.abs(x0), 1e-3), max_nfev=400)
        assert law.objective <= found.cost * (1 + 1e-8)


def test_coverage_growth_with_one_gold_passage_per_question_is_fitted_exactly():
    """A prefix of M of 32,380 passages holds a question's gold passage with probability M / 32,380."""
    N, M = np.repeat([2e5, 5e5, 1e6, 2e6], 5), np.tile([1000.0, 3000.0, 8000.0, 16_000.0, 32_380.0], 4)
    miss, hit = 14 + 200 * N**-0.4, 3 + 200 * N**-0.4
    loss = miss + (hit - miss) * M / 32_380
    law = fit("joint_gain", {"N": N, "M": M, "loss": loss})
    assert law.params["gamma"] == pytest.approx(1.0, abs=1e-8)
    assert law.params["G"] == pytest.approx(11 / 32_380, rel=1e-7)
    assert law.params["E"] == pytest.approx(14, rel=1e-8)
    one = fit("gain", {"M": M[:5], "loss": loss[:5]})
    assert one.params["gamma"] == pytest.approx(1.0, abs=1e-8)
    assert not any("bound" in w for w in one.warnings)


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(["joint", "joint_gain", "joint_log_gain", "saturating", "power", "rising", "gain"]),
    seed=st.integers(0, 50),
    powers=st.tuples(st.floats(-8, 8), st.floats(-8, 8)),
)
def test_units_change_no_prediction(name, seed, powers):
    _, _, data = noisy(name, 0.02, seed=seed)
    other = {**data, "N": data["N"] * 10 ** powers[0], "M": data["M"] * 10 ** powers[1]}
    a, b = fit(name, data, delta=0.02), fit(name, other, delta=0.02)
    np.testing.assert_allclose(a.predict(data), b.predict(other), rtol=1e-6)
    for e in a.form.exponents:
        assert a.params[e] == pytest.approx(b.params[e], rel=1e-4, abs=1e-6)


def test_the_unit_of_the_loss_scales_the_coefficients_and_nothing_else():
    _, _, data = noisy("joint", 0.02)
    a = fit("joint", data)
    b = fit("joint", {**data, "loss": data["loss"] * 1000})
    assert b.params["alpha"] == pytest.approx(a.params["alpha"], rel=1e-6)
    assert b.params["E"] == pytest.approx(1000 * a.params["E"], rel=1e-6)
    assert b.objective == pytest.approx(a.objective, rel=1e-9)


def test_millions_of_parameters_predict_what_parameters_do():
    _, _, data = noisy("joint", 0.02)
    plain = fit("joint", data, bootstrap=60, bootstrap_kind="wild", loss="ls_log")
    millions = fit("joint", {**data, "N": data["N"] / 1e6}, bootstrap=60, bootstrap_kind="wild", loss="ls_log")
    far = plain.predict({"N": 1e8, "M": 1e5}, interval=0.9)
    np.testing.assert_allclose(millions.predict({"N": 100.0, "M": 1e5}, interval=0.9), far, rtol=1e-6, atol=1e-9)
    alpha = plain.params["alpha"]
    assert millions.params["A"] == pytest.approx(plain.params["A"] * 1e6**-alpha, rel=1e-5)
    assert millions.intervals["alpha"] == pytest.approx(plain.intervals["alpha"], rel=1e-6)


def test_duplicated_rows_of_half_the_weight_change_nothing():
    _, _, data = noisy("joint", 0.02)
    n = len(data["loss"])
    twice = {k: np.tile(v, 2) for k, v in data.items()}
    a, b = fit("joint", data), fit("joint", twice, weights=np.full(2 * n, 0.5))
    assert a.objective == pytest.approx(b.objective, rel=1e-10)
    assert a.params == pytest.approx(b.params, rel=1e-6)


def test_rows_in_another_order_change_nothing():
    _, _, data = noisy("joint_gain", 0.02)
    order = np.random.default_rng(1).permutation(len(data["loss"]))
    assert fit("joint_gain", data).params == pytest.approx(
        fit("joint_gain", {k: v[order] for k, v in data.items()}).params, rel=1e-6
    )


def test_huber_shrugs_at_a_wild_run_that_moves_least_squares():
    _, params, data = noisy("saturating", 0.002, nN=8, nM=1)
    data["loss"][5] *= 1.5
    robust, plain = fit("saturating", data, delta=1e-3), fit("saturating", data, loss="ls_log")
    clean = losses(form_by_name("saturating"), params, data)
    assert np.abs(robust.predict(data) / clean - 1).max() < 0.01
    assert np.abs(plain.predict(data) / clean - 1).max() > 0.05


def test_what_the_fit_holds_in_another_form_cannot_be_fixed():
    data = {"N": np.repeat([1e6, 1e7, 1e8], 3), "D": np.tile([1e8, 1e9, 1e10], 3), "loss": np.linspace(4, 3, 9)}
    for name in ("Nc", "Dc"):
        with pytest.raises(LawError, match=f"{name} cannot be fixed.*alpha_N, alpha_D"):
            fit("kaplan", data, fixed={name: 1e13})


def test_a_known_floor_can_be_fixed_and_narrows_the_exponent():
    _, _, data = noisy("joint", 0.01)
    free = fit("joint", data, bootstrap=200, bootstrap_kind="wild", delta=0.02)
    held = fit("joint", data, bootstrap=200, bootstrap_kind="wild", delta=0.02, fixed={"E": 2.0})
    assert held.params["E"] == 2.0
    assert held.intervals["E"] is None
    width = {law: np.ptp(law_.intervals["alpha"]) for law, law_ in (("free", free), ("held", held))}
    assert width["held"] < 0.7 * width["free"]


@pytest.mark.parametrize("fixed", [{"alpha": 0.35}, {"A": 150.0}, {"G": 0.02, "gamma": 0.4}])
def test_any_parameter_can_be_fixed_to_its_true_value(fixed):
    _, params, data = noisy("joint_gain", 0.0)
    law = fit("joint_gain", data, fixed=fixed, loss="ls_log")
    assert law.params == pytest.approx(params, rel=1e-5)


# --- guards ---------------------------------------------------------------------------------------------------------


def test_fewer_than_three_levels_name_the_axis_and_the_levels():
    _, _, data = noisy("joint", 0.01, nM=2)
    with pytest.raises(LawError, match=r"at least 3 levels of M; the data have 2 \(1000, 32380\)"):
        fit("joint", data)
    with pytest.raises(LawError, match="levels of N"):
        fit("saturating(N)", {"N": [1e6] * 4, "loss": [3.0, 3.1, 3.2, 3.3]})


def test_constant_losses_are_refused():
    with pytest.raises(LawError, match=r"constant \(3 in all 4 rows\)"):
        fit("saturating", {"N": [1, 2, 3, 4], "loss": [3.0] * 4})


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf")])
def test_losses_that_have_no_logarithm_are_refused_by_row(bad):
    with pytest.raises(LawError, match="Row 2: the loss loss"):
        fit("saturating", {"N": [1, 2, 3, 4], "loss": [5, 4, bad, 3]})


def test_a_missing_loss_is_an_error_or_left_out_with_a_reason():
    data = {"N": [1, 2, 4, 8, 16], "loss": [5.0, 4.0, None, 3.0, 2.8]}
    with pytest.raises(LawError, match="Row 2: loss is missing"):
        fit("saturating", data)
    law = fit("saturating", data, missing="leave_out")
    assert law.rows["left_out"] == [{"row": 2, "reason": "loss is missing"}]
    assert law.rows["positions"] == [0, 1, 3, 4]
    assert any("1 of 5 rows" in w for w in law.warnings)
    with pytest.raises(LawError, match="No row is left"):
        fit("saturating", {"N": [1, 2], "loss": [None, float("nan")]}, missing="leave_out")


def test_a_missing_column_is_named_with_what_the_data_have():
    with pytest.raises(LawError, match=r"needs the column 'M'.*Columns: N, n_passages, loss"):
        fit("joint", {"N": [1], "n_passages": [1], "loss": [1]})
    with pytest.raises(LawError, match="Did you mean 'loss'"):
        fit("saturating", {"N": [1, 2, 3], "loss": [3, 2, 1]}, y="los")
    four = {"N": [1, 2, 4, 8], "loss": [5, 4, 3.5, 3.4], "run": [0, 1, 2, 3]}
    with pytest.raises(LawError, match=r"cluster: the data have no column 'runs'. Did you mean 'run'"):
        fit("saturating", four, cluster="runs")
    with pytest.raises(LawError, match="weights: the data have no column 'w'"):
        fit("saturating", four, weights="w")
    with pytest.raises(LawError, match="not a number"):
        fit("saturating", {"N": ["s0", "s1", "s2"], "loss": [3, 2, 1]})
    with pytest.raises(LawError, match="differ in length"):
        fit("saturating", {"N": [1, 2, 3, 4], "loss": [3, 2, 1]})


def test_fewer_rows_than_parameters_are_refused_and_as_many_are_warned_of():
    N, M = [1, 2, 4, 8], [10, 30, 90, 90]
    with pytest.raises(LawError, match="5 free parameters, but the data have only 4 rows"):
        fit("joint", {"N": N, "M": M, "loss": [5, 4, 3.5, 3]})
    law = fit("saturating", {"N": [1e5, 1e6, 1e7], "loss": [5, 4, 3.5]})
    assert any("goes through the points" in w for w in law.warnings)


def test_a_parameter_at_its_bound_is_warned_of():
    _, _, data = noisy("power", 0.0)
    law = fit("saturating(N)", data)
    assert law.params["E"] == pytest.approx(0, abs=1e-9)
    wiggly = fit("saturating(N)", {"N": [1e5, 1e6, 1e7, 1e8], "loss": [5.0, 3.9, 3.0, 1.5]}, loss="ls_log")
    assert wiggly.params["E"] == 0.0
    assert any(w.startswith("E is at its bound (0)") for w in wiggly.warnings)


def test_a_term_that_does_nothing_leaves_its_exponent_unidentified():
    _, _, data = noisy("saturating", 0.0)
    rising = {**data, "loss": data["loss"] + 1e-6 * np.log(data["M"]) ** 3}
    law = fit("joint", rising, loss="ls_log", bootstrap=50, bootstrap_kind="wild")
    assert law.params["B"] == 0.0
    assert law.unidentified == ["beta"]
    assert law.intervals["beta"] is None
    assert any("beta is not identified" in w for w in law.warnings)


def test_axes_that_move_together_give_a_named_flat_direction():
    N = np.geomspace(1e6, 1e9, 12)
    y = 1.7 + 400 * N**-0.34 + 400 * (20 * N) ** -0.28
    law = fit("chinchilla", {"N": N, "D": 20 * N, "loss": y}, loss="ls_log")
    assert law.certificate["eigenvalue_ratio"] < 1e-7
    warning = next(w for w in law.warnings if "hardly tell apart" in w)
    assert "A, B" in warning
    assert "eigenvalue ratio" in warning


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ("ppl", "a perplexity.*Fit its logarithm"),
        ("val_perplexity", "a perplexity"),
        ("eval/perplexity", "a perplexity"),
        ("Val PPL", "a perplexity"),
        ("test-acc", "a score"),
        ("accuracy", "a score and not a loss.*sigmoid"),
        ("gold_recall@k", "a score"),
        ("em", "a score"),
    ],
)
def test_a_perplexity_or_a_score_in_place_of_a_loss_is_refused(y, message):
    with pytest.raises(LawError, match=message):
        fit("saturating", {"N": [1, 2, 4, 8], y: [5, 4, 3.5, 3.4]}, y=y)


def test_a_form_of_scores_takes_them():
    L = np.linspace(1, 5, 12)
    law = fit("sigmoid", {"L": L, "accuracy": 0.2 + 0.6 / (1 + np.exp(2 * (L - 3)))}, y="accuracy", loss="ls_raw")
    assert law.params["k"] == pytest.approx(2, rel=1e-6)
    assert fit("log_linear", {"N": [1, 2, 4, 8], "em": [0.1, 0.2, 0.3, 0.4]}, y="em", loss="ls_raw").params["G"] > 0


def test_values_that_behave_as_an_accuracy_are_warned_of_whatever_they_are_called():
    law = fit("saturating", {"N": [1, 2, 4, 8], "loss": [0.1, 0.2, 0.3, 0.35]}, loss="ls_log")
    assert "'loss' looks like an accuracy: its values lie in [0, 1] and rise with N" in law.warnings
    per_byte = fit("saturating", {"N": [1, 2, 4, 8], "loss": [0.9, 0.7, 0.6, 0.55]})
    assert not any("accuracy" in w for w in per_byte.warnings)
    distractors = fit("rising", {"M": [1, 2, 4, 8], "loss": [0.5, 0.6, 0.7, 0.9]})
    assert not any("accuracy" in w for w in distractors.warnings)


def test_a_fit_that_does_not_converge_is_an_error_and_never_the_initial_guess(monkeypatch):
    from rag_exp.laws import newton

    for name in ("MAX_STEPS", "STAGE_STEPS", "VALLEY_STEPS"):
        monkeypatch.setattr(newton, name, 0)
    monkeypatch.setattr(newton.newton, "__defaults__", (0, newton.AFAR))
    _, _, data = noisy("joint", 0.02)
    with pytest.raises(LawError, match="did not converge"):
        fit("joint", data)


@pytest.fixture
def stubborn(monkeypatch):
    """Every fifth replicate never meets its gradient."""
    from dataclasses import replace

    from rag_exp.laws import replication

    honest = replication.refit

    def refit(*args):
        found = honest(*args)
        failed = np.arange(len(found.theta_Rp)) % 5 == 0
        return replace(found, gradient_R=np.where(failed, 0.3, found.gradient_R), converged_R=~failed)

    monkeypatch.setattr(replication, "refit", refit)


def test_a_replicate_that_does_not_converge_is_an_error(stubborn):
    _, _, data = noisy("joint", 0.02)
    with pytest.raises(LawError, match=r"10 of 50 replicates of joint did not converge \(worst gradient 3.0e-01\)"):
        fit("joint", data, bootstrap=50, bootstrap_kind="wild", loss="ls_log")


def test_unless_told_otherwise_and_then_the_card_says_so(stubborn):
    _, _, data = noisy("joint", 0.02)
    options = {"bootstrap": 50, "bootstrap_kind": "wild", "loss": "ls_log"}
    law = fit("joint", data, unconverged="leave_out", **options)
    assert len(law.draws_Rp) == 40
    assert law.to_dict()["resampling"]["unconverged"] == {"told": "leave_out", "left_out": 10}
    assert "10 of 50 replicates did not converge and are left out" in law.warnings
    assert law.resampling["worst_gradient"] < 1e-6
    with pytest.raises(LawError, match="Did you mean 'leave_out'"):
        fit("joint", data, unconverged="leaveout", **options)


def test_options_that_mean_nothing_are_refused():
    data = {"N": [1, 2, 4, 8], "loss": [5, 4, 3.5, 3.4]}
    for kwargs, message in [
        ({"loss": "hubr_log"}, "Did you mean 'huber_log'"),
        ({"delta": 0.0}, "delta must be positive"),
        ({"fixed": {"beta": 1.0}}, "no parameter 'beta'"),
        ({"fixed": {"E": -1.0}}, "not negative"),
        ({"fixed": {"E": 1.0, "A": 1.0, "alpha": 1.0}}, "nothing is left to fit"),
        ({"weights": [1, 1]}, "2 weights for 4 rows"),
        ({"weights": [1, 1, -1, 1]}, "not negative"),
        ({"bootstrap": 50, "bootstrap_kind": "cluster"}, "needs cluster="),
        ({"replicates": np.ones((5, 3))}, r"shape \[draws, 4\]"),
    ]:
        with pytest.raises(LawError, match=message):
            fit("saturating", data, **kwargs)


# --- a published fit ------------------------------------------------------------------------------------------------

REFERENCE = Path(os.environ.get("RAG_EXP_DATA", Path(__file__).parents[3] / "shared" / "data")) / "scaling-laws"


@pytest.fixture(scope="module")
def chinchilla():
    path = REFERENCE / "epoch-chinchilla" / "svg_extracted_data.csv"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    import pandas as pd

    table = pd.read_csv(path)
    table = table[table["loss"] < table["loss"].nlargest(5).iloc[-1]]
    return {"N": table["Model Size"], "D": table["Training FLOP"] / 6 / table["Model Size"], "loss": table["loss"]}


def test_hoffmanns_points_give_the_certified_optimum(chinchilla):
    """The objective that scipy's L-BFGS-B misses by 14% from the published parameters."""
    law = fit("chinchilla", chinchilla)
    assert law.objective == pytest.approx(1.0182740178006e-3, rel=1e-9)
    assert law.params["alpha"] == pytest.approx(0.3473105, abs=2e-5)
    assert law.params["beta"] == pytest.approx(0.36717243, abs=2e-5)
    assert law.params["E"] == pytest.approx(1.8172181, abs=2e-5)
    assert law.params["A"] == pytest.approx(477.825868, rel=1e-4)
    assert law.params["B"] == pytest.approx(2143.41737, rel=3e-4)
    assert law.certificate["agreeing"] == law.certificate["starts"]


def test_hoffmanns_points_under_the_other_losses(chinchilla):
    lad = fit("chinchilla", chinchilla, loss="lad_log")
    assert lad.objective == pytest.approx(1.129494653621552, rel=1e-7)
    assert lad.params["alpha"] == pytest.approx(0.34781307, abs=2e-5)
    squares = fit("chinchilla", chinchilla, loss="ls_log")
    assert 2 * squares.objective == pytest.approx(0.011461886991698656, rel=1e-9)
    assert squares.params["beta"] == pytest.approx(0.4058834, abs=2e-5)
    raw = fit("chinchilla", chinchilla, loss="ls_raw")
    assert 2 * raw.objective == pytest.approx(0.08320380769330131, rel=1e-9)
    assert raw.params["E"] == pytest.approx(1.88281362, abs=2e-5)


def test_rows_of_several_kinds_of_runs_are_warned_of():
    _, _, data = noisy("saturating", 0.001, nN=6, nM=1)
    mixed = {**data, "arm": ["dense"] * 3 + ["oracle"] * 3, "index": ["flat"] * 6}
    law = fit("saturating", mixed)
    assert [w for w in law.warnings if "mix" in w] == [
        "the rows mix several values of arm (dense, oracle): one law for different curves"
    ]


def test_pandas_missing_values_are_missing():
    import pandas as pd

    table = pd.DataFrame({"N": [1, 2, 4, 8, 16], "loss": pd.array([5.0, 4.0, None, 3.0, 2.8], dtype="Float64")})
    assert fit("saturating", table, missing="leave_out").rows["positions"] == [0, 1, 3, 4]
