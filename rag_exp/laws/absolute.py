"""Least absolute deviations exactly: the optimum is a corner, where as many residuals vanish as parameters move.

Newton on a smooth limit comes within 1e-8 of it; here the corner's own equations are solved.
"""

from __future__ import annotations

import numpy as np

from rag_exp.laws.engine import Objective

_STEPS = 8
_TIGHT = 0.01  # share of a row's weight that its multiplier may exceed it by, for rounding


def corner(objective: Objective, theta_p: np.ndarray, low_p: np.ndarray, high_p: np.ndarray) -> np.ndarray | None:
    """The corner at a smooth limit's optimum, or None where it is not one (the optimum bends along fewer residuals).

    Args:
        objective: Huber's loss with a threshold close to 0.
        theta_p: its minimum.

    Returns:
        theta with as many residuals equal to 0 as parameters are free, certified by its multipliers: no row's
        weight is outweighed by the others' pull.
    """
    w = np.broadcast_to(objective.w_Rn[0], objective.y_Rn.shape[1:])
    free = np.flatnonzero((theta_p > low_p) & (theta_p < high_p))
    r = objective.residuals(theta_p[None])[0]
    near = np.flatnonzero((np.abs(r) <= 2 * objective.delta) & (w > 0))
    if len(near) != len(free) or not len(free):
        return None
    theta = theta_p.copy()
    for _ in range(_STEPS):
        J = objective.derivatives(theta[None]).jacobian_Rpn[0][free]
        r = objective.residuals(theta[None])[0]
        if np.linalg.cond(J[:, near] / np.linalg.norm(J[:, near], axis=1, keepdims=True)) > 1e12:
            return None
        theta[free] -= np.linalg.solve(J[:, near].T, r[near])
    r = objective.residuals(theta[None])[0]
    others = np.where(np.isin(np.arange(len(r)), near), 0.0, w * np.sign(r))
    multipliers = np.linalg.solve(J[:, near], -(J @ others))
    inside = (theta >= low_p).all() and (theta <= high_p).all()
    best = bool((np.abs(multipliers) <= w[near] * (1 + _TIGHT)).all())
    return theta if inside and best and np.isfinite(r).all() else None
