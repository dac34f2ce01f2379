"""How often the intervals of a fit hold the truth, on the very design that was fitted.

Studies are simulated from the fitted law as if it were true, with noise of the size of its residuals (a part common
to the rows of a cluster, and a part of each row); each is fitted and given intervals in the same way. What
questions add to a study's noise is left out on both sides: it is in neither the simulated losses nor the intervals.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rag_exp.core.errors import LawError
from rag_exp.core.rng import numpy_rng
from rag_exp.laws.engine import Objective
from rag_exp.laws.intervals import percentiles
from rag_exp.laws.newton import Solution
from rag_exp.laws.problem import Problem
from rag_exp.laws.replication import Resampling, refit, replicate


def interval_coverage(
    problem: Problem, theta_p: np.ndarray, how: Resampling, studies: int, level: float, seed: int = 0
) -> dict[str, Any]:
    """Shares of simulated studies whose intervals hold the parameter, per free parameter.

    Returns:
        ``studies``, ``draws``, ``level``, ``noise`` (standard deviations ``cluster`` and ``row`` of the residuals,
        in the objective's unit), ``shares`` by parameter and ``error``, the standard error of a share that is as
        large as the level says.

    Raises:
        LawError: there are no replicates that could be made anew, or a study or a replicate did not converge.
    """
    if how.resamples is not None or (how.replicates is not None and how.kind != "wild"):
        raise LawError("coverage simulates studies, so it cannot use replicates that were given; use bootstrap_kind.")
    if not how.draws:
        raise LawError("coverage needs intervals to measure: give bootstrap=200 or more.")
    noise = residual_noise(problem, theta_p)
    y_Sn = simulated(problem, theta_p, noise, studies, seed)
    anew = replace(how, replicates=None, questions=None)
    ends = solved(problem, y_Sn, theta_p[None])
    inside = covered(problem, ends, y_Sn, anew, level, problem.design.to_papers(theta_p[None])[0])
    return {
        "studies": studies,
        "draws": how.draws,
        "level": level,
        "noise": {"cluster": noise[0], "row": noise[1]},
        "shares": {p: float(inside[i]) for i, p in enumerate(problem.form.parameters) if p not in problem.held},
        "error": float(np.sqrt(level * (1 - level) / studies)),
    }


def solved(problem: Problem, y_Sn: np.ndarray, basins: np.ndarray) -> Solution:
    """The law fitted to studies that have other losses, each from the best of ``basins``.

    Raises:
        LawError: a study did not converge.
    """
    base = problem.objective
    ends = refit(problem, Objective(problem.design, y_Sn, base.w_Rn, base.log, base.delta), basins, len(y_Sn))
    if not ends.converged_R.all():
        raise LawError(f"{int((~ends.converged_R).sum())} of {len(y_Sn)} simulated studies did not converge.")
    return ends


def covered(
    problem: Problem, ends: Solution, y_Sn: np.ndarray, how: Resampling, level: float, truth: np.ndarray
) -> np.ndarray:
    """Share of studies whose intervals hold ``truth``, each replicate solved from its study's end: [parameters]."""
    inside = np.zeros(len(truth))
    for s, theta_p in enumerate(ends.theta_Rp):
        draws, _ = replicate(problem.with_losses(y_Sn[s]), theta_p, theta_p[None], replace(how, seed=how.seed + s))
        low, high = percentiles(draws, level)
        inside += (low <= truth) & (truth <= high)
    return inside / len(ends.theta_Rp)


def simulated(problem: Problem, theta_p: np.ndarray, noise: tuple[float, float], studies: int, seed: int) -> np.ndarray:
    """Losses of simulated studies: the law with normal noise of its clusters and rows, [studies, n]."""
    rng = numpy_rng(seed, "laws", "simulate")
    exact = problem.design.values(theta_p[None])
    n = exact.shape[1]
    error = rng.normal(0.0, 1.0, (studies, n)) * noise[1]
    if noise[0]:
        clusters = problem.rows.clusters_n
        assert clusters is not None
        error += rng.normal(0.0, noise[0], (studies, int(clusters.max()) + 1))[:, clusters]
    return exact * np.exp(error) if problem.objective.log else exact + error


def residual_noise(problem: Problem, theta_p: np.ndarray) -> tuple[float, float]:
    """Standard deviations of what is common to the rows of a cluster and of the rest, from the residuals.

    By analysis of variance; the parameters' share of the freedom is given back to both alike.
    """
    r = problem.objective.residuals(theta_p[None])[0]
    n, spare = len(r), len(r) - problem.free
    if spare < 1:
        raise LawError("There are no more rows than parameters: the size of the noise is not known.")
    total = float((r**2).sum() / spare)
    clusters = problem.rows.clusters_n
    if clusters is None or len(np.unique(clusters)) in (1, n):
        return 0.0, total**0.5
    counts = np.bincount(clusters)
    counts = counts[counts > 0]
    means = np.bincount(clusters, r)[np.unique(clusters)] / counts
    within = float((r**2).sum() - (counts * means**2).sum()) / (n - len(counts))
    size = (n - (counts**2).sum() / n) / (len(counts) - 1)
    between = max(0.0, (float((counts * means**2).sum()) / len(counts) - within) / size)
    scale = total / (between + within) if between + within > 0 else 1.0
    return (between * scale) ** 0.5, (within * scale) ** 0.5
