import numpy as np
import pytest

from rag_exp.laws import fit

N = np.geomspace(1e5, 1e8, 15)


def test_as_many_residuals_vanish_as_parameters_move():
    y = (2 + 150 * N**-0.35) * np.exp(np.random.default_rng(3).laplace(0, 0.01, 15))
    law = fit("saturating", {"N": N, "loss": y}, loss="lad_log")
    assert law.certificate["corner"]
    assert (np.abs(law.residuals()) < 1e-13).sum() == 3
    assert law.objective == pytest.approx(np.abs(law.residuals()).sum(), rel=1e-12)


def test_a_line_has_the_optimum_of_linear_programming():
    from scipy.optimize import linprog

    y = 40 * N**-0.2 * np.exp(np.random.default_rng(4).laplace(0, 0.02, 15))
    design = np.stack([np.ones(15), -np.log(N)], axis=1)
    cost = np.concatenate([np.zeros(2), np.ones(30)])
    equal = np.concatenate([design, np.eye(15), -np.eye(15)], axis=1)
    best = linprog(cost, A_eq=equal, b_eq=np.log(y), bounds=[(None, None)] * 2 + [(0, None)] * 30)
    law = fit("power", {"N": N, "loss": y}, loss="lad_log")
    assert law.objective == pytest.approx(best.fun, rel=1e-12)
    assert law.params == pytest.approx({"A": np.exp(best.x[0]), "alpha": best.x[1]}, rel=1e-9)
