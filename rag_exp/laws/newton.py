"""A batched, damped Newton method inside bounds, which runs until a stated gradient is met."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rag_exp.laws.engine import GOAL, Objective

MAX_STEPS = 200
WARM_STEPS = 60
STAGE_STEPS = 40
VALLEY_STEPS = 2000
STAGES = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
AFAR, NEARBY = 1e-2, 1e-4  # the first step's damping, over the largest curvature of a column
SHARP, BLUNT = 1e-5, 1e-3  # thresholds under which nearby starts are staged, and from which on
_TRIES = 8
_PATIENCE = 12
_PER_PROBLEM = ("theta_Rp", "loss_R", "gradient_R", "converged_R")


@dataclass(frozen=True)
class Solution:
    """Where R problems ended.

    ``gradient_R`` is ``Derivatives.cosine`` over the parameters that no bound holds; it met its goal where converged.
    """

    theta_Rp: np.ndarray
    loss_R: np.ndarray
    gradient_R: np.ndarray
    converged_R: np.ndarray
    steps: int

    def pick(self, which: np.ndarray) -> Solution:
        """Copies of some of the problems' ends."""
        return Solution(*(getattr(self, name)[which] for name in _PER_PROBLEM), self.steps)

    def join(self, other: Solution) -> Solution:
        """The ends of both."""
        both = [np.concatenate([getattr(self, name), getattr(other, name)]) for name in _PER_PROBLEM]
        return Solution(*both, max(self.steps, other.steps))

    def put(self, which: np.ndarray, other: Solution) -> None:
        """Replace the ends of some of the problems."""
        for name in _PER_PROBLEM:
            getattr(self, name)[which] = getattr(other, name)


def newton(
    objective: Objective,
    start_Rp: np.ndarray,
    low_p: np.ndarray,
    high_p: np.ndarray,
    max_steps: int = MAX_STEPS,
    damping: float = AFAR,
) -> Solution:
    """Minimise every problem from its start by damped Newton steps on the exact Hessian, inside the bounds.

    Directions of negative curvature are followed downhill (absolute eigenvalues); a step that raises the
    objective is damped and tried again; parameters that a bound holds leave the system, and one that a step
    brings to its bound stays there while the step is solved again for the others.
    """
    theta = np.clip(start_Rp, low_p, high_p)
    loss = objective.loss(theta)
    R = len(theta)
    damping_R = np.full(R, damping)
    gradient, goal = np.full(R, np.inf), np.full(R, GOAL)
    stalls = np.zeros(R, dtype=int)
    todo = np.flatnonzero(np.isfinite(loss))
    steps = 0
    part = objective if len(todo) == R else objective.rows(todo)
    while len(todo):
        d = part.derivatives(theta[todo])
        moving = _moving(theta[todo], d.gradient_Rp, d.columns_Rp, low_p, high_p)
        gradient[todo], goal[todo] = d.cosine(moving), d.goal_R
        ongoing = (gradient[todo] > goal[todo]) & (stalls[todo] < _PATIENCE)
        if steps == max_steps or not ongoing.any():
            break
        if not ongoing.all():
            todo, moving, part, d = todo[ongoing], moving[ongoing], part.rows(ongoing), d.rows(ongoing)
        steps += 1
        # A column that is nearly zero (its coefficient is) must not make its exponent leap.
        scale = np.where(moving, 1.0 / np.maximum(d.columns_Rp, 1e-3 * d.columns_Rp.max(1, keepdims=True)), 0.0)
        g = d.gradient_Rp * scale
        hessian = d.hessian_Rpp * scale[:, :, None] * scale[:, None, :]
        bowl = _Bowl(hessian + np.eye(hessian.shape[1]) * ~moving[:, None, :])  # what is held bends nothing
        left = np.arange(len(todo))
        for _ in range(_TRIES):
            who = todo[left]
            model = bowl.damped(left, damping_R[who])
            unit = np.where(moving[left], scale[left], 1.0)
            move = _boxed(model, g[left], (low_p - theta[who]) / unit, (high_p - theta[who]) / unit, moving[left])
            trial = np.clip(theta[who] + move * scale[left], low_p, high_p)
            fall = loss[who] - (part if len(left) == len(todo) else part.rows(left)).loss(trial)
            expected = -(g[left] * move).sum(1) - 0.5 * np.einsum("rp,rpk,rk->r", move, model, move)
            good = fall >= -d.rounding_R[left]
            tiny = np.abs(fall) <= d.rounding_R[left]
            theta[who[good]] = trial[good]
            loss[who[good]] -= fall[good]
            stalls[who] = np.where(good, np.where(tiny, stalls[who] + 1, 0), stalls[who])
            expected = np.maximum(expected, 0.0)
            change = np.where(tiny | (fall > 0.75 * expected), 0.01, np.where(fall > 0.1 * expected, 0.1, 1.0))
            damping_R[who] = np.clip(np.where(good, damping_R[who] * change, damping_R[who] * 8 + 1e-9), 1e-15, 1e12)
            left = left[~good]
            if not len(left):
                break
        stalls[todo[left]] += _PATIENCE // 3
    return Solution(theta, loss, gradient, gradient <= goal, steps)


def minimise(
    objective: Objective, start_Rp: np.ndarray, low_p: np.ndarray, high_p: np.ndarray, staged: bool
) -> Solution:
    """:func:`newton` from afar (``staged``) or from a nearby optimum.

    Huber's loss with a small delta is nearly the sum of absolute residuals, on which Newton steps from afar
    stall. Staged, the threshold shrinks tenfold at a time, each stage starting the next one close enough. Under a
    threshold that is all but 0 the next optimum is another corner, so that nearby starts take the last stages too.
    """
    theta = start_Rp
    if not staged and objective.delta >= SHARP:
        return newton(objective, start_Rp, low_p, high_p, WARM_STEPS, NEARBY)
    if np.isfinite(objective.delta):
        for delta in (s for s in STAGES if s > objective.delta and (staged or s <= BLUNT)):
            theta = newton(objective.at(delta), theta, low_p, high_p, STAGE_STEPS).theta_Rp
    if not staged:
        return newton(objective, theta, low_p, high_p, WARM_STEPS)
    found = newton(objective, theta, low_p, high_p)
    slow = np.flatnonzero(~found.converged_R & np.isfinite(found.loss_R))
    if len(slow):
        # A long curved valley (an exponent near 0, where floor and coefficient all but cancel) takes many steps.
        more = newton(objective.rows(slow), found.theta_Rp[slow], low_p, high_p, VALLEY_STEPS)
        found.put(slow, more)
    return found


class _Bowl:
    """Symmetric matrices [R, p, p] made positive: the absolute values of their eigenvalues (Nocedal & Wright, 3.4).

    Near an optimum they are positive as they are, which a Cholesky factor tells at a fraction of the cost.
    """

    def __init__(self, matrix_Rpp: np.ndarray):
        self.bowl_Rpp = matrix_Rpp
        bent = np.flatnonzero(~_positive(matrix_Rpp))
        if len(bent):
            values, vectors = np.linalg.eigh(matrix_Rpp[bent])
            size = np.abs(values)
            size = np.maximum(size, 1e-12 * size.max(1, keepdims=True) + 1e-300)
            self.bowl_Rpp = matrix_Rpp.copy()
            self.bowl_Rpp[bent] = np.matmul(vectors * size[:, None, :], vectors.transpose(0, 2, 1))

    def damped(self, which: np.ndarray, damping: np.ndarray) -> np.ndarray:
        """Those of ``which`` with ``damping`` on the diagonal."""
        return self.bowl_Rpp[which] + damping[:, None, None] * np.eye(self.bowl_Rpp.shape[1])


def _positive(matrix_Rpp: np.ndarray) -> np.ndarray:
    """Whether each matrix's Cholesky pivots are positive, by more than rounding: [R]."""
    left = matrix_Rpp.copy()
    enough = 1e-12 * np.abs(np.diagonal(left, axis1=1, axis2=2)).max(1)
    positive = np.ones(len(left), dtype=bool)
    for i in range(left.shape[1]):
        pivot = left[:, i, i]
        positive &= pivot > enough
        row = left[:, i, i + 1 :] / np.where(pivot > enough, pivot, 1.0)[:, None]
        left[:, i + 1 :, i + 1 :] -= row[:, :, None] * left[:, i, None, i + 1 :]
    return positive


def _moving(
    theta_Rp: np.ndarray, gradient_Rp: np.ndarray, columns_Rp: np.ndarray, low_p: np.ndarray, high_p: np.ndarray
) -> np.ndarray:
    pinned = ((theta_Rp <= low_p) & (gradient_Rp > 0)) | ((theta_Rp >= high_p) & (gradient_Rp < 0))
    return ~pinned & (low_p < high_p) & (columns_Rp > 0)


def _boxed(
    model_Rpp: np.ndarray, g_Rp: np.ndarray, low_Rp: np.ndarray, high_Rp: np.ndarray, moving_Rp: np.ndarray
) -> np.ndarray:
    """Minimisers of ``g s + s M s / 2`` inside a box: what meets a bound stays there while the others adapt to it."""
    step = np.zeros_like(g_Rp)
    held = ~moving_Rp
    eye = np.eye(g_Rp.shape[1])
    for _ in range(g_Rp.shape[1]):
        stay = np.where(held, step, 0.0)
        right = np.where(held, step, -g_Rp - np.matmul(model_Rpp, stay[:, :, None])[:, :, 0])
        system = np.where(held[:, :, None] | held[:, None, :], eye, model_Rpp)
        step = np.linalg.solve(system, right[:, :, None])[:, :, 0]
        over = ~held & ((step < low_Rp) | (step > high_Rp))
        if not over.any():
            break
        step = np.where(over, np.clip(step, low_Rp, high_Rp), step)
        held = held | over
    return step
