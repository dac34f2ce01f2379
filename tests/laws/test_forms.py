import subprocess
import sys

import numpy as np
import pytest

from rag_exp.core.errors import LawError
from rag_exp.laws import fit
from rag_exp.laws.engine import Design, Objective
from rag_exp.laws.forms import EXPONENT_BOUNDS, FORMS, form_by_name

# Every form as its paper prints it, written out by hand: what the registry's terms must amount to.


def _kaplan(p, N, D):
    return ((p["Nc"] / N) ** (p["alpha_N"] / p["alpha_D"]) + p["Dc"] / D) ** p["alpha_D"]


def _chinchilla(p, N, D):
    return p["E"] + p["A"] / N ** p["alpha"] + p["B"] / D ** p["beta"]


def _repeated(x, unique, R):
    used = np.minimum(x, unique)
    return used + used * R * (1 - np.exp(-np.maximum(x / unique - 1, 0) / R))


EQUATIONS = {
    "power": lambda p, N: p["A"] * N ** -p["alpha"],
    "saturating": lambda p, N: p["E"] + p["A"] * N ** -p["alpha"],
    "gain": lambda p, M: p["E"] - p["G"] * M ** p["gamma"],
    "log_gain": lambda p, M: p["E"] - p["G"] * np.log(M),
    "log_linear": lambda p, N: p["E"] + p["G"] * np.log(N),
    "rising": lambda p, M: p["E"] + p["B"] * M ** p["beta"],
    "broken_power": lambda p, N: (
        p["E"] + p["A"] * N ** -p["c0"] * (1 + (N / p["d1"]) ** (1 / p["f1"])) ** (-p["c1"] * p["f1"])
    ),
    "chinchilla": _chinchilla,
    "chinchilla_tied": lambda p, N, D: p["E"] + p["A"] / N ** p["alpha"] + p["B"] / D ** p["alpha"],
    "chinchilla_cross": lambda p, N, D: _chinchilla(p, N, D) + p["G"] * N ** -p["gamma"] * D ** -p["delta"],
    "multiplicative": lambda p, N, D: p["E"] + p["A"] * N ** -p["alpha"] * D ** -p["beta"],
    "over_training": lambda p, N, D: p["E"] + p["a"] * N ** -p["eta"] + p["b"] * 6 ** (-p["eta"] / 2) * D ** -p["eta"],
    "kaplan": lambda p, N, D: p["E"] + _kaplan(p, N, D),
    "kaplan_no_floor": _kaplan,
    "skaling": lambda p, N, D: p["E"] + p["A"] * (N ** -p["a"] + p["R"] * D ** -p["b"]) ** p["k"],
    "data_constrained": lambda p, N, U_N, D, U: (
        p["E"] + p["A"] * _repeated(N, U_N, p["R_N"]) ** -p["alpha"] + p["B"] * _repeated(D, U, p["R_D"]) ** -p["beta"]
    ),
    "sigmoid": lambda p, L: p["b"] + p["a"] / (1 + np.exp(p["k"] * (L - p["L0"]))),
    "error_from_loss": lambda p, L: p["epsilon"] - p["k"] * np.exp(-p["gamma"] * L),
    "joint": lambda p, N, M: p["E"] + p["A"] * N ** -p["alpha"] + p["B"] * M ** -p["beta"],
    "joint_gain": lambda p, N, M: p["E"] + p["A"] * N ** -p["alpha"] - p["G"] * M ** p["gamma"],
    "joint_log_gain": lambda p, N, M: p["E"] + p["A"] * N ** -p["alpha"] - p["G"] * np.log(M),
    "joint_hill": lambda p, N, M: (
        p["E"] + p["A"] * N ** -p["alpha"] - p["G"] * M ** p["h"] / (p["M0"] ** p["h"] + M ** p["h"])
    ),
    "joint_coverage": lambda p, N, M: (
        p["E"] + p["A"] * N ** -p["alpha"] - p["G"] * M ** p["gamma"] + p["B"] * M ** p["gamma"] * N ** -p["alpha"]
    ),
    "joint_rising": lambda p, N, M: p["E"] + p["A"] * N ** -p["alpha"] + p["B"] * M ** p["beta"],
    "rag_log": lambda p, N, D, M: _chinchilla(p, N, D) - p["G"] * np.log(1 + M / p["M0"]),
    "rag_power": lambda p, N, D, M: _chinchilla(p, N, D) - p["G"] * M ** p["gamma"],
    "rag_hill": lambda p, N, D, M: _chinchilla(p, N, D) - p["G"] * M ** p["h"] / (p["M0"] ** p["h"] + M ** p["h"]),
    "rag_interaction": lambda p, N, D, M: _chinchilla(p, N, D) - p["G"] * N ** -p["delta"] * np.log(1 + M / p["M0"]),
    "crowded": lambda p, M, K: p["B"] * M ** p["rho"] * K ** -p["kappa"],
    "unsearched": lambda p, M, S: p["B"] * M ** p["rho"] * S ** -p["kappa"],
    "mixture": lambda p, N, P: (
        p["E"] + p["A"] * N ** -p["alpha"] - p["G"] * P ** p["gamma"] + p["B"] * P ** p["gamma"] * N ** -p["alpha"]
    ),
    "reading": lambda p, N, K: p["E"] + p["A"] * N ** -p["alpha"] + p["B"] * K ** p["beta"],
}


_ND = {"N": np.geomspace(1e7, 1e10, 5), "D": np.geomspace(1e9, 1e12, 5)}
_NM = {"N": np.geomspace(2e5, 4e6, 5), "M": np.geomspace(1000, 32_380, 5)}
_NDM = {"N": np.geomspace(1e7, 1e10, 4), "D": np.geomspace(1e9, 1e12, 4), "M": np.geomspace(1e3, 1e6, 6)}
_CHINCHILLA = {"E": 1.8, "A": 480.0, "B": 2080.0, "alpha": 0.35, "beta": 0.37}
_M = {"M": np.geomspace(1000, 32_380, 5)}
_KAPLAN = {"Nc": 8.8e13, "Dc": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095}
_JOINT = {"E": 2.0, "A": 150.0, "alpha": 0.35}

TRUTHS = {
    "power": ({"N": np.geomspace(1e5, 1e8, 8)}, {"A": 40.0, "alpha": 0.2}),
    "saturating": ({"N": np.geomspace(1e5, 1e8, 8)}, {"E": 2.0, "A": 150.0, "alpha": 0.35}),
    "gain": ({"M": np.geomspace(1e3, 1e5, 8)}, {"E": 9.0, "G": 0.02, "gamma": 0.4}),
    "log_gain": ({"M": np.geomspace(1e3, 1e5, 8)}, {"E": 9.0, "G": 0.5}),
    "log_linear": ({"N": np.geomspace(1e3, 1e5, 8)}, {"E": 0.1, "G": 0.05}),
    "rising": ({"M": np.geomspace(1e3, 1e5, 8)}, {"E": 2.0, "B": 0.01, "beta": 0.45}),
    "broken_power": (
        {"N": np.geomspace(1e2, 1e6, 30)},
        {"E": 0.5, "A": 5.0, "c0": 0.1, "c1": 0.8, "d1": 3000.0, "f1": 0.3},
    ),
    "chinchilla": (_ND, _CHINCHILLA),
    "chinchilla_tied": (_ND, {"E": 1.8, "A": 480.0, "B": 2080.0, "alpha": 0.36}),
    "chinchilla_cross": (_ND, {**_CHINCHILLA, "G": 3e5, "gamma": 0.6, "delta": 0.2}),
    "multiplicative": (_ND, {"E": 1.5, "A": 200.0, "alpha": 0.1, "beta": 0.13}),
    "over_training": (_ND, {"E": 1.8, "a": 166.0, "b": 367.0, "eta": 0.27}),
    "kaplan": (_ND, {"E": 1.0, **_KAPLAN}),
    "kaplan_no_floor": (_ND, _KAPLAN),
    "skaling": (_ND, {"E": 1.8, "A": 400.0, "R": 1.0, "a": 0.5, "b": 0.4, "k": 0.7}),
    "data_constrained": (
        {"N": np.geomspace(1e7, 1e10, 4), "D": np.geomspace(1e9, 1e12, 4), "U": np.geomspace(5e8, 1e11, 4)},
        {**_CHINCHILLA, "R_N": 5.3, "R_D": 15.4},
    ),
    "sigmoid": ({"L": np.linspace(0.5, 4, 15)}, {"b": 0.25, "a": 0.6, "k": 3.0, "L0": 2.0}),
    "error_from_loss": ({"L": np.linspace(1.5, 4, 10)}, {"epsilon": 0.86, "k": 2.2, "gamma": 0.71}),
    "joint": (_NM, {**_JOINT, "B": 20.0, "beta": 0.3}),
    "joint_gain": (_NM, {**_JOINT, "G": 0.02, "gamma": 0.4}),
    "joint_log_gain": (_NM, {**_JOINT, "E": 9.0, "G": 0.5}),
    "joint_hill": (_NM, {**_JOINT, "E": 6.0, "G": 3.0, "h": 1.2, "M0": 6000.0}),
    "joint_coverage": (_NM, {**_JOINT, "E": 14.0, "G": 0.02, "gamma": 0.6, "B": 0.3}),
    "joint_rising": (_NM, {**_JOINT, "B": 0.01, "beta": 0.45}),
    "rag_log": (_NDM, {**_CHINCHILLA, "G": 0.15, "M0": 8000.0}),
    "rag_power": (_NDM, {**_CHINCHILLA, "G": 0.04, "gamma": 0.2}),
    "rag_hill": (_NDM, {**_CHINCHILLA, "G": 0.9, "h": 0.9, "M0": 2e4}),
    "rag_interaction": (_NDM, {**_CHINCHILLA, "G": 1.5, "delta": 0.12, "M0": 8000.0}),
    "crowded": ({**_M, "K": np.array([1.0, 2.0, 4.0, 8.0])}, {"B": 0.01, "rho": 0.3, "kappa": 0.7}),
    "unsearched": ({**_M, "S": np.array([100.0, 200.0, 800.0])}, {"B": 0.9, "rho": 0.3, "kappa": 0.7}),
    "mixture": (
        {"N": _NM["N"], "P": np.array([0.1, 0.3, 0.5, 0.8, 1.0])},
        {"E": 14.0, "A": 150.0, "alpha": 0.35, "G": 9.0, "B": 300.0, "gamma": 1.0},
    ),
    "reading": ({"N": _NM["N"], "K": np.array([1.0, 2.0, 4.0, 8.0])}, {**_JOINT, "B": 0.1, "beta": 0.6}),
}


def exact(name):
    """The full grid of the form's axes, with losses that follow it without noise."""
    axes, params = TRUTHS[name]
    grid = [g.ravel() for g in np.meshgrid(*axes.values(), indexing="ij")]
    data = dict(zip(axes, grid, strict=True))
    if name == "data_constrained":
        data["U_N"] = 0.02 * data["U"]
    return params, {**data, "loss": EQUATIONS[name](params, **data)}


def test_every_form_has_its_equation_and_a_truth_here():
    assert sorted(FORMS) == sorted(EQUATIONS) == sorted(TRUTHS)


@pytest.mark.parametrize("name", sorted(FORMS))
def test_every_form_recovers_its_parameters_from_exact_data(name):
    params, data = exact(name)
    law = fit(name, data, loss="ls_log")
    for p, value in params.items():
        assert law.params[p] == pytest.approx(value, rel=2e-4), p
    np.testing.assert_allclose(law.predict(data), data["loss"], rtol=1e-9)
    assert law.certificate["gradient"] <= law.certificate["goal"]


@pytest.mark.parametrize("name", sorted(FORMS))
def test_the_terms_amount_to_the_papers_equation(name):
    """Inside, from the anchors; outside, from the papers' parameters."""
    params, data = exact(name)
    form = form_by_name(name)
    law = fit(name, data, loss="ls_log")
    np.testing.assert_allclose(
        law.values(data, np.array([[params[p] for p in form.parameters]]))[0], data["loss"], rtol=1e-9
    )
    design = Design.build(form, {v: np.log(data[v]) for v in form.variables}, {})
    low, high = design.bounds({})
    rng = np.random.default_rng(0)
    for _ in range(3):
        theta = np.clip(rng.uniform(0.2, 0.9, len(low)), low, np.where(np.isfinite(high), high, 1.0))
        theta[0] = 3.0 if form.floor else 0.0
        papers = dict(zip(form.parameters, design.to_papers(theta[None])[0], strict=True))
        np.testing.assert_allclose(
            design.values(theta[None])[0], EQUATIONS[name](papers, **{v: data[v] for v in form.variables}), rtol=1e-7
        )


@pytest.mark.parametrize("name", sorted(FORMS))
@pytest.mark.parametrize(("log", "delta"), [(True, np.inf), (True, 0.05), (False, np.inf)])
def test_gradient_and_hessian_match_finite_differences(name, log, delta):
    _, data = exact(name)
    form = form_by_name(name)
    design = Design.build(form, {v: np.log(data[v]) for v in form.variables}, {})
    rng = np.random.default_rng(1)
    p = 1 + len(form.coefficients) + len(form.shapes)
    theta = rng.uniform(0.2, 0.9, (3, p))
    theta[:, 0] = 9.0 * (form.floor is not None)
    y = design.values(theta)[:1] * np.exp(rng.normal(0, 0.1, (1, len(data["loss"]))))
    objective = Objective(design, np.abs(y), rng.uniform(0.5, 2, y.shape), log, delta)
    d = objective.derivatives(theta)
    h = 1e-6
    for j in range(p):
        step = np.zeros_like(theta)
        step[:, j] = h
        ahead, behind = theta + step, theta - step
        slope = (objective.loss(ahead) - objective.loss(behind)) / (2 * h)
        bend = (objective.derivatives(ahead).gradient_Rp - objective.derivatives(behind).gradient_Rp) / (2 * h)
        size = np.abs(d.gradient_Rp).max() + 1e-3
        np.testing.assert_allclose(d.gradient_Rp[:, j], slope, rtol=1e-5, atol=1e-7 * size)
        np.testing.assert_allclose(d.hessian_Rpp[:, j], bend, rtol=1e-4, atol=1e-6 * np.abs(d.hessian_Rpp).max())


def test_a_form_in_one_axis_takes_the_axis_that_is_asked_for():
    form = form_by_name("saturating(M)")
    assert form.variables == ("M",)
    assert form.parameters == ("E", "A", "alpha")
    assert form.equation == "E + A M^-alpha"
    assert form.label == "saturating(M)"


def test_the_joint_forms_have_the_papers_names_and_their_own_axes():
    assert form_by_name("joint").equation == "E + A N^-alpha + B M^-beta"
    assert form_by_name("joint_gain").equation == "E + A N^-alpha - G M^gamma"
    assert form_by_name("joint_rising").equation == "E + A N^-alpha + B M^beta"
    assert form_by_name("joint_log_gain").equation == "E + A N^-alpha - G ln M"
    assert form_by_name("chinchilla").parameters == ("E", "A", "B", "alpha", "beta")
    assert form_by_name("power").parameters == ("A", "alpha")


@pytest.mark.parametrize("name", sorted(FORMS))
def test_every_form_is_read_back_from_its_label(name):
    form = form_by_name(name)
    again = form_by_name(form.label)
    assert (again.label, again.equation, again.parameters) == (form.label, form.equation, form.parameters)
    assert all(form.bound(e) == type(form).bounds.get(e, EXPONENT_BOUNDS) for e in form.exponents)
    assert form.summary


def test_an_unknown_form_is_an_error_that_suggests_one():
    with pytest.raises(LawError, match=r"saturatin.*Did you mean 'saturating'"):
        form_by_name("saturatin(N)")
    with pytest.raises(LawError, match="has its own axes"):
        form_by_name("joint(M)")
    with pytest.raises(LawError, match="No form is called"):
        form_by_name("E + A/N")


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, rag_exp.laws, rag_exp.laws.options; "
        "print([m for m in ('numpy', 'scipy', 'pandas', 'torch') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_the_public_names_load():
    import rag_exp.laws as laws

    assert all(callable(getattr(laws, name)) for name in laws.__all__ if name not in ("FORMS", "LAWS"))
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = laws.fitt
