"""Global starts by variable projection: given the exponents a form is linear, so only they need a grid.

For every grid point the floor and coefficients are solved exactly under their signs (non-negative least
squares by trying every set of parameters that may be zero: at most 2^4 tiny systems), on relative
residuals where the objective takes logs (Golub & Pereyra 1973 for the projection).
"""

from __future__ import annotations

from itertools import product

import numpy as np

from rag_exp.laws.engine import Design

GRID = {0: 1, 1: 97, 2: 33, 3: 13}
"""Grid points per exponent, by the number of free exponents."""


def exponent_grid(bounds: list[tuple[float, float]]) -> list[np.ndarray]:
    """Log-spaced exponents between each pair of bounds; one point where they are equal."""
    free = sum(low < high for low, high in bounds)
    points = GRID.get(free, 7)
    return [np.geomspace(low, high, points) if low < high else np.array([low]) for low, high in bounds]


def projected_starts(
    design: Design, y_n: np.ndarray, w_n: np.ndarray, low_p: np.ndarray, high_p: np.ndarray, log: bool, keep: int = 12
) -> np.ndarray:
    """The best local minima of the projected objective on the exponents' grid, best first: [<= keep, p]."""
    T = len(design.form.terms)
    grid = exponent_grid(list(zip(low_p[1 + T :], high_p[1 + T :], strict=True)))
    shape = tuple(len(g) for g in grid)
    points = np.array(list(product(*grid)), dtype=float)
    theta = np.zeros((len(points), len(low_p)))
    theta[:, 1 + T :] = points
    weight = np.sqrt(w_n) / (y_n if log else 1.0)
    columns = np.concatenate([np.ones((len(points), 1, len(y_n))), design.terms(theta)], axis=1) * weight
    solved, error = _non_negative(columns, y_n * weight, low_p[: 1 + T], high_p[: 1 + T])
    theta[:, : 1 + T] = solved
    order = _local_minima(error.reshape(shape))
    order = order[np.argsort(error[order], kind="stable")][:keep]
    rest = np.setdiff1d(np.argsort(error, kind="stable")[: keep * 4], order, assume_unique=True)
    return theta[np.concatenate([order, rest])[:keep]]


def _non_negative(
    columns: np.ndarray, target_n: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Least squares with linear parameters >= 0 (or held where low == high): solutions [G, q], squared errors [G]."""
    G = len(columns)
    held = low == high
    target = target_n - np.einsum("q,gqn->gn", np.where(held, low, 0.0), columns)
    # Unit columns keep the tiny systems well conditioned whatever the exponents do to the terms' sizes.
    norm = np.sqrt((columns**2).sum(2))
    unit = columns / np.where(norm > 0, norm, 1.0)[:, :, None]
    gram = np.einsum("gqn,gkn->gqk", unit, unit)
    right = np.einsum("gqn,gn->gq", unit, target)
    best = np.tile(np.where(held, low, 0.0), (G, 1))
    error = (target**2).sum(1)
    free = np.flatnonzero(~held)
    for chosen in product((False, True), repeat=len(free)):
        use = free[np.array(chosen, dtype=bool)]
        if not len(use):
            continue
        block = gram[:, use[:, None], use] + 1e-13 * np.eye(len(use))
        x = np.linalg.solve(block, right[:, use, None])[:, :, 0]
        fitted = np.einsum("gk,gkn->gn", x, unit[:, use])
        sse = ((target - fitted) ** 2).sum(1)
        better = (x >= 0).all(1) & (sse < error)
        error[better] = sse[better]
        solution = np.tile(np.where(held, low, 0.0), (int(better.sum()), 1))
        solution[:, use] = x[better] / norm[better][:, use]
        best[better] = solution
    return best, error


def _local_minima(error: np.ndarray) -> np.ndarray:
    """Flat positions of grid points no worse than their neighbours along every axis."""
    lowest = np.ones(error.shape, dtype=bool)
    for axis in range(error.ndim):
        if error.shape[axis] == 1:
            continue
        padded = np.pad(error, [(1, 1) if a == axis else (0, 0) for a in range(error.ndim)], constant_values=np.inf)
        n = error.shape[axis]
        before = np.take(padded, range(n), axis=axis)
        after = np.take(padded, range(2, n + 2), axis=axis)
        lowest &= (error <= before) & (error <= after)
    return np.flatnonzero(lowest)
