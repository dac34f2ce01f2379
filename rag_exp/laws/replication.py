"""Replicates of a fit: made by resampling or given, each refitted and certified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rag_exp.core.errors import LawError
from rag_exp.laws.engine import Objective
from rag_exp.laws.hierarchy import question_means, seed_weights
from rag_exp.laws.intervals import check_draws
from rag_exp.laws.newton import Solution
from rag_exp.laws.problem import Problem
from rag_exp.laws.starts import projected_starts
from rag_exp.laws.uncertainty import resampled_weights
from rag_exp.laws.wild import Errors, blind

KINDS = ("case", "cluster", "wild", "hierarchical")
UNCONVERGED = ("error", "leave_out")
CHUNK = 256


@dataclass(frozen=True)
class Resampling:
    """What the replicates of a fit are (see the arguments of :func:`rag_exp.laws.fit`)."""

    kind: str = "case"
    draws: int = 0
    seed: int = 0
    replicates: Any | None = None
    resamples: Any | None = None
    questions: Any | None = None
    unconverged: Literal["error", "leave_out"] = "error"


def replicate(
    problem: Problem, theta_p: np.ndarray, basins: np.ndarray, how: Resampling
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """Refit the replicates, each from the best few basins of the fit itself.

    Args:
        theta_p: the fit's optimum, in inner parameters.
        basins: where replicates start from, [basins, p].

    Returns:
        parameters [draws, parameters] in the form's order (None without replicates), and what the card says of them.

    Raises:
        LawError: replicates of the wrong shape, one whose optimum does not meet its gradient, or errors that nothing
            tells.
    """
    base, rows, design = problem.objective, problem.rows, problem.design
    _check_clusters(problem, how)
    note: dict[str, Any] = {"kind": how.kind, "draws": how.draws, "seed": how.seed, "drawn_again": 0}
    y_Rn, w_Rn = base.y_Rn, base.w_Rn
    if how.replicates is not None:
        y_Rn = _given(problem, how.replicates)
        note.update(kind="given" if how.kind != "wild" else "given and wild", draws=len(y_Rn))
        if how.kind == "wild":
            y_Rn, note["spare"] = _shaken(problem, y_Rn, theta_p, len(y_Rn), how.seed)
    elif how.resamples is not None:
        w_Rn = rows.w_n * _matched(problem, how.resamples, "resamples")
        note.update(kind="given", draws=len(w_Rn))
    elif not how.draws:
        return None, {"kind": None, "draws": 0, "seed": None}
    elif how.kind == "wild":
        y_Rn, note["spare"] = _shaken(problem, design.values(theta_p[None]), theta_p, how.draws, how.seed)
        _check_told(problem, note["spare"])
    elif how.kind == "hierarchical":
        y_Rn, w_Rn, levels = _hierarchical(problem, theta_p, how)
        note |= levels
        if how.questions is None and not levels["levels"]["rows with other seeds"]:
            _check_told(problem, levels["spare"])
    else:
        w_Rn, note["drawn_again"] = resampled_weights(rows, how.draws, how.seed, how.kind == "cluster")
    found = refit(problem, Objective(design, y_Rn, w_Rn, base.log, base.delta), basins, note["draws"])
    met = found.converged_R
    if not met.all():
        if how.unconverged == "error" or not met.any():
            raise LawError(
                f"{int((~met).sum())} of {len(met)} replicates of {problem.form.label} did not converge (worst "
                f"gradient {found.gradient_R[~met].max():.1e}). The data do not hold the form firmly enough for this "
                "resampling: use a simpler form, another bootstrap_kind, or loss='ls_log'; or give "
                "unconverged='leave_out' to have them left out and counted on the fit card."
            )
        found = found.pick(np.flatnonzero(met))
    note["unconverged"] = {"told": how.unconverged, "left_out": int((~met).sum())}
    note["worst_gradient"] = float(found.gradient_R.max())
    return _significant(design.to_papers(found.theta_Rp)), note


def refit(problem: Problem, objective: Objective, basins: np.ndarray, draws: int) -> Solution:
    """Where each of ``draws`` problems ends, from the best of the basins, or from global starts where those fail."""
    ends = []
    for start in range(0, draws, CHUNK):
        size = min(CHUNK, draws - start)
        part = objective.rows(np.arange(start, start + size))
        found = _warm(problem, part, [np.tile(b, (size, 1)) for b in basins])
        _rescue(problem, part, found)
        ends.append(found)
    whole = ends[0]
    for end in ends[1:]:
        whole = whole.join(end)
    return whole


def _check_clusters(problem: Problem, how: Resampling) -> None:
    """Refuse a single cluster where the errors that clusters have in common are to be known from how they differ."""
    labels = problem.rows.clusters_n
    asked = how.kind in ("cluster", "wild") and (how.draws or how.replicates is not None)
    if asked and labels is not None and len(np.unique(labels[problem.rows.w_n > 0])) == 1:
        raise LawError(
            "All rows are of one cluster, so that nothing tells how another would differ, and no interval can be "
            "given. Add rows of other clusters; or leave cluster out for intervals of this one's own curve."
        )


def _check_told(problem: Problem, spare: Mapping[str, Mapping[str, float]]) -> None:
    """Refuse residuals that say nothing of the errors, where there is no other noise: intervals would be points."""
    if because := blind(spare):
        raise LawError(
            f"{problem.form.label} leaves the errors' size unknown: {because}, so that no interval can be given. "
            "Add some, use a simpler form, or hold a parameter that is known with fixed."
        )


def _hierarchical(
    problem: Problem, theta_p: np.ndarray, how: Resampling
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    rows = problem.rows
    times_Rn, alone_n = seed_weights(rows, how.draws, how.seed)
    y_Rn = np.tile(rows.y_n, (how.draws, 1))
    if how.questions is not None:
        y_Rn = question_means(rows, how.questions, how.draws, how.seed)
        if problem.objective.log and not (y_Rn > 0).all():
            raise LawError("A resample of the questions has a mean loss that is not positive.")
    note: dict[str, Any] = {}
    if alone_n.any():
        y_Rn, note["spare"] = _shaken(problem, y_Rn, theta_p, how.draws, how.seed, alone_n)
    note["levels"] = {
        "questions": None if how.questions is None else len(how.questions),
        "rows with other seeds": int((~alone_n).sum()),
        "rows shaken by their residuals": int(alone_n.sum()),
    }
    return y_Rn, rows.w_n * times_Rn, note


def _shaken(
    problem: Problem, y_Rn: np.ndarray, theta_p: np.ndarray, draws: int, seed: int, which_n: np.ndarray | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """``y_Rn`` with errors like the fit's (of ``which_n`` alone, where given), and ``Errors.spare``."""
    errors = Errors.of(problem, theta_p)
    shift = errors.draw(draws, seed, len(problem.rows))
    if which_n is not None:
        shift = shift * which_n
    return y_Rn * np.exp(shift) if problem.objective.log else y_Rn + shift, errors.spare()


def _given(problem: Problem, replicates: Any) -> np.ndarray:
    y_Rn = _matched(problem, replicates, "replicates")
    if not np.isfinite(y_Rn).all() or (problem.objective.log and (y_Rn <= 0).any()):
        raise LawError("replicates hold losses that are not finite" + " and positive." * problem.objective.log)
    return y_Rn


def _matched(problem: Problem, given: Any, what: str) -> np.ndarray:
    """Values per draw and row of the data, for the rows used: [R, n]."""
    values = np.asarray(given, dtype=float)
    total = len(problem.rows) + len(problem.rows.left_out)
    if values.ndim != 2 or values.shape[1] != total or not len(values):
        raise LawError(f"{what} must have shape [draws, {total}] (rows as in the data); they have {values.shape}.")
    check_draws(len(values), what)
    return values[:, problem.rows.positions_n]


def _rescue(problem: Problem, objective: Objective, found: Solution) -> None:
    """Start the replicates that did not converge globally, as the fit itself was: they lie in another valley."""
    lost = np.flatnonzero(~found.converged_R)
    if not len(lost):
        return
    starts = []
    for r in lost:
        one = objective.rows(np.array([r]))
        low, high = problem.low_p, problem.high_p
        starts.append(projected_starts(problem.design, one.y_Rn[0], one.w_Rn[0], low, high, one.log))
    owner = np.repeat(lost, [len(s) for s in starts])
    again = problem.solve(objective.rows(owner), np.concatenate(starts), staged=True)
    for r in lost:
        of = np.flatnonzero(owner == r)
        best = of[np.lexsort((again.loss_R[of], ~again.converged_R[of]))[0]]
        found.put(np.array([r]), again.pick(np.array([best])))


def _warm(problem: Problem, objective: Objective, starts: list[np.ndarray]) -> Solution:
    """The best of several solutions of the same problems, a converged one before any that is not."""
    best = problem.solve(objective, starts[0], staged=False)
    for start in starts[1:]:
        other = problem.solve(objective, start, staged=False)
        better = other.converged_R & (~best.converged_R | (other.loss_R < best.loss_R))
        best.put(np.flatnonzero(better), other.pick(np.flatnonzero(better)))
    return best


def _significant(values: np.ndarray, digits: int = 10) -> np.ndarray:
    """Rounded to significant digits, so that a card holds its draws exactly and is half as long."""
    size = np.where(values == 0, 1.0, np.abs(values))
    unit = 10.0 ** (digits - 1 - np.floor(np.log10(size)))
    return np.round(values * unit) / unit
