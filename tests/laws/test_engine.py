import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_exp.laws.engine import Design, Objective
from rag_exp.laws.forms import Factor, Form, Term, form_by_name
from rag_exp.laws.newton import _Bowl, _positive, newton
from rag_exp.laws.starts import non_negative, projected_starts


def _design(name_or_form, seed=0, n=14, fixed=None):
    rng = np.random.default_rng(seed)
    form = form_by_name(name_or_form)
    logs = {v: rng.uniform(2, 14, n) for v in form.variables}
    return Design.build(form, logs, fixed or {}), rng


def _theta(design, rng, R=3):
    T, m = len(design.form.terms), len(design.form.shapes)
    theta = np.concatenate(
        [rng.uniform(60, 90, (R, 1)), rng.uniform(0.5, 2, (R, T)), rng.uniform(0.1, 0.9, (R, m))], axis=1
    )
    if design.form.floor is None:
        theta[:, 0] = 0.0
    return theta


class _Interaction(Form):
    """Two terms that share an exponent, and one with two axes: what later forms need from the engine."""

    name = "interaction"
    terms = (
        Term("A", 1, (Factor("N", "alpha", -1), Factor("M", "beta", 1))),
        Term("B", 1, (Factor("M", "beta", -1),)),
        Term("G", -1, (Factor("N", None), Factor("M", "beta", -1))),
    )


@pytest.mark.parametrize(("log", "delta"), [(True, np.inf), (True, 0.05), (False, np.inf)])
def test_terms_may_share_exponents_and_hold_several_axes(log, delta):
    design, rng = _design(_Interaction())
    theta = _theta(design, rng)
    y = design.values(theta)[:1] * np.exp(rng.normal(0, 0.1, (1, 14)))
    objective = Objective(design, np.abs(y), rng.uniform(0.5, 2, (1, 14)), log, delta)
    d = objective.derivatives(theta)
    h = 1e-6
    for j in range(theta.shape[1]):
        step = np.zeros_like(theta)
        step[:, j] = h
        slope = (objective.loss(theta + step) - objective.loss(theta - step)) / (2 * h)
        np.testing.assert_allclose(d.gradient_Rp[:, j], slope, rtol=1e-5, atol=1e-7)
        bend = (objective.derivatives(theta + step).gradient_Rp - objective.derivatives(theta - step).gradient_Rp) / (
            2 * h
        )
        np.testing.assert_allclose(d.hessian_Rpp[:, j], bend, rtol=2e-5, atol=1e-6)


def test_a_row_of_weight_zero_counts_for_nothing_even_where_the_prediction_is_negative():
    design, _ = _design("gain", n=5)
    theta = np.array([[1.0, 3.0, 0.5]])  # negative at the largest M
    values = design.values(theta)[0]
    assert values.min() < 0 < values.max()
    w = np.where(values > 0, 1.0, 0.0)[None]
    objective = Objective(design, np.ones((1, 5)), w, True, np.inf)
    assert np.isfinite(objective.loss(theta)).all()
    d = objective.derivatives(theta)
    assert np.isfinite(d.gradient_Rp).all()
    assert np.isfinite(d.hessian_Rpp).all()


def test_newton_solves_many_problems_at_once_as_it_solves_one():
    design, rng = _design("saturating", n=12)
    truth = np.array([[2.0, 1.5, 0.4]])
    y = design.values(truth) * np.exp(rng.normal(0, 0.02, (20, 12)))
    low, high = np.array([0.0, 0.0, 0.01]), np.array([np.inf, np.inf, 5.0])
    objective = Objective(design, y, np.ones((1, 12)), True, np.inf)
    together = newton(objective, np.tile(truth, (20, 1)), low, high)
    assert together.converged_R.all()
    for r in (0, 7, 19):
        alone = newton(objective.rows(np.array([r])), truth, low, high)
        np.testing.assert_allclose(together.theta_Rp[r], alone.theta_Rp[0], rtol=1e-7)


def test_newton_stops_on_a_bound_that_holds_the_optimum():
    design, rng = _design("saturating", n=12)
    y = np.exp(rng.normal(0, 0.01, (1, 12))) * design.values(np.array([[0.0, 9.0, 0.1]])) - 1.0
    low, high = np.array([0.0, 0.0, 0.01]), np.array([np.inf, np.inf, 5.0])
    objective = Objective(design, y, np.ones((1, 12)), True, np.inf)
    found = newton(objective, np.array([[1.0, 2.0, 0.5]]), low, high)
    assert found.converged_R.all()
    assert found.theta_Rp[0, 0] == 0.0
    assert objective.derivatives(found.theta_Rp).gradient_Rp[0, 0] > 0  # leaving the bound would raise the loss


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), p=st.integers(1, 6), bent=st.booleans())
def test_a_bowl_has_the_absolute_eigenvalues(seed, p, bent):
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(4, p, p))
    matrix = half @ half.transpose(0, 2, 1) + 1e-3 * np.eye(p)
    if bent:
        matrix[1] -= np.linalg.eigvalsh(matrix[1]).mean() * np.eye(p)
    values, vectors = np.linalg.eigh(matrix)
    expected = (vectors * (np.abs(values) + 0.1)[:, None, :]) @ vectors.transpose(0, 2, 1)
    found = _Bowl(matrix).damped(np.array([2, 1]), np.array([0.1, 0.1]))
    np.testing.assert_allclose(found, expected[[2, 1]], atol=1e-9)
    np.testing.assert_array_equal(_positive(matrix), (values > 0).all(1))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), q=st.integers(1, 4))
def test_non_negative_least_squares_agrees_with_scipy(seed, q):
    from scipy.optimize import nnls

    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(q, 9))
    target = rng.normal(size=9)
    gram, right = (columns @ columns.T)[None], (columns @ target)[None]
    solution, error = non_negative(gram, right, target @ target, np.zeros(q), np.full(q, np.inf))
    expected, norm = nnls(columns.T, target)
    np.testing.assert_allclose(error[0], norm**2, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(solution[0], expected, atol=1e-6)


def test_the_first_start_is_already_near_a_noisy_truth():
    design, rng = _design("joint", n=40)
    truth = np.array([[2.0, 3.0, 2.0, 0.5, 0.2]])
    y = design.values(truth)[0] * np.exp(rng.normal(0, 0.002, 40))
    low, high = np.array([0, 0, 0, 0.01, 0.01]), np.array([np.inf] * 3 + [5.0, 5.0])
    starts = projected_starts(design, y, np.ones(40), low, high, True)
    assert len(starts) == 12
    np.testing.assert_allclose(starts[0, 3:], truth[0, 3:], rtol=0.35)
