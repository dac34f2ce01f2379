"""Global starts by variable projection: given its shapes a form is linear, so only they need a grid.

For every grid point the floor and coefficients are solved exactly under their signs (non-negative least
squares by trying every set of parameters that may be zero: at most 2^4 tiny systems), on relative
residuals where the objective takes logs (Golub & Pereyra 1973 for the projection). A term is evaluated once
per value of its own shapes, not once per grid point: what the grid needs are inner products of terms.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from rag_exp.laws.engine import Design

GRID = {0: 1, 1: 97, 2: 33, 3: 15, 4: 9}
"""Grid points per shape parameter, by the number of free ones."""
MOST = 6


def shape_grid(low_m: np.ndarray, high_m: np.ndarray, exponents: int) -> list[np.ndarray]:
    """Points between each pair of bounds, one where they are equal.

    The first ``exponents`` are log-spaced unless they may be negative; what follows (scales) are logarithms already.
    """
    points = GRID.get(int((low_m < high_m).sum()), MOST)
    grid = []
    for i, (low, high) in enumerate(zip(low_m, high_m, strict=True)):
        if low == high:
            grid.append(np.array([low]))
        elif i >= exponents or low < 0:
            grid.append(np.linspace(low, high, points))
        elif low == 0:
            grid.append(np.concatenate([[0.0], np.geomspace(high / 500, high, points - 1)]))
        else:
            grid.append(np.geomspace(low, high, points))
    return grid


def projected_starts(
    design: Design, y_n: np.ndarray, w_n: np.ndarray, low_p: np.ndarray, high_p: np.ndarray, log: bool, keep: int = 12
) -> np.ndarray:
    """The best local minima of the projected objective on the shapes' grid, best first: [<= keep, p]."""
    first = 1 + len(design.parts)
    grid = shape_grid(low_p[first:], high_p[first:], len(design.form.exponents))
    shape = tuple(len(g) for g in grid)
    weight_n = np.sqrt(w_n) / (y_n if log else 1.0)
    gram, right = _inner_products(design, grid, weight_n, y_n * weight_n)
    total = float(((y_n * weight_n) ** 2).sum())
    solved, error = non_negative(gram, right, total, low_p[:first], high_p[:first])
    order = _local_minima(error.reshape(shape))
    order = order[np.argsort(error[order], kind="stable")][:keep]
    rest = np.setdiff1d(np.argsort(error, kind="stable")[: keep * 4], order, assume_unique=True)
    chosen = np.concatenate([order, rest])[:keep]
    if not grid:
        return solved[chosen]
    points = [g[i] for g, i in zip(grid, np.unravel_index(chosen, shape), strict=True)]
    return np.concatenate([solved[chosen], np.stack(points, axis=1)], axis=1)


def _inner_products(
    design: Design, grid: list[np.ndarray], weight_n: np.ndarray, target_n: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Inner products of floor and terms with each other [G, q, q] and with the target [G, q], at all grid points."""
    first = 1 + len(design.parts)
    where = np.indices([len(g) for g in grid]).reshape(len(grid), -1) if grid else np.zeros((0, 1), dtype=int)
    columns = [weight_n[None]]
    which = [np.zeros(where.shape[1], dtype=int)]
    for part in design.parts:
        own = [design.form.shapes.index(s) for s in part.term.shapes]
        sizes = [len(grid[i]) for i in own]
        theta = np.zeros((int(np.prod(sizes)), first + len(grid)))
        for i, values in zip(own, np.meshgrid(*(grid[i] for i in own), indexing="ij"), strict=True):
            theta[:, first + i] = values.ravel()
        columns.append(part.unit(theta) * weight_n)
        which.append(np.ravel_multi_index([where[i] for i in own], sizes) if own else which[0])
    q = len(columns)
    gram = np.empty((where.shape[1], q, q))
    right = np.empty((where.shape[1], q))
    for a in range(q):
        right[:, a] = (columns[a] @ target_n)[which[a]]
        gram[:, a, a] = (columns[a] ** 2).sum(1)[which[a]]
        for b in range(a):
            gram[:, a, b] = gram[:, b, a] = (columns[a] @ columns[b].T)[which[a], which[b]]
    return gram, right


def non_negative(
    gram: np.ndarray, right: np.ndarray, total: float, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Least squares with linear parameters >= 0 (or held where low == high), from inner products.

    Args:
        gram: of the columns, [G, q, q].
        right: of the columns with the target, [G, q].
        total: the target's squared norm.

    Returns:
        solutions [G, q] and squared errors [G].
    """
    held = low == high
    fixed = np.where(held, low, 0.0)
    # Unit columns keep the tiny systems well conditioned whatever the exponents do to the terms' sizes.
    norm = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
    norm = np.where((norm > 0) & np.isfinite(norm), norm, 1.0)
    unit = np.nan_to_num(gram / (norm[:, :, None] * norm[:, None, :]), posinf=0.0, neginf=0.0)
    goal = np.nan_to_num(right / norm, posinf=0.0, neginf=0.0)
    offset = fixed * norm
    bare = goal - np.matmul(unit, offset[:, :, None])[:, :, 0]
    best = np.tile(fixed, (len(gram), 1))
    error = total - 2 * (offset * goal).sum(1) + (offset * (goal - bare)).sum(1)
    base = error.copy()
    free = np.flatnonzero(~held)
    todo = np.arange(len(gram))
    for chosen in sorted(product((False, True), repeat=len(free)), key=sum, reverse=True):
        use = free[np.array(chosen, dtype=bool)]
        if not len(use) or not len(todo):
            break
        block = unit[todo[:, None, None], use[:, None], use] + 1e-13 * np.eye(len(use))
        x = np.linalg.solve(block, bare[todo][:, use, None])[:, :, 0]
        squared = base[todo] - (x * bare[todo][:, use]).sum(1)
        inside = (x >= 0).all(1)
        better = inside & (squared < error[todo])
        at = todo[better]
        error[at] = squared[better]
        best[at] = fixed
        best[at[:, None], use] = x[better] / norm[at[:, None], use]
        if len(use) == len(free):
            todo = todo[~inside]  # what the signs do not bind is solved
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
