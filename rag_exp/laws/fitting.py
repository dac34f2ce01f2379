"""``fit``: a form, data, and a certificate that the optimum is one.

A fit that does not meet its gradient is a :class:`LawError`, never the initial guess.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import rag_exp
from rag_exp.core.errors import LawError, did_you_mean
from rag_exp.laws.absolute import corner
from rag_exp.laws.card import LawFit
from rag_exp.laws.engine import EXACT, LAD_DELTA, Design, Objective
from rag_exp.laws.forms import AXES, Form, form_by_name
from rag_exp.laws.hierarchy import question_means, seed_weights
from rag_exp.laws.newton import Solution, minimise
from rag_exp.laws.rows import Rows, check_rows, read_rows
from rag_exp.laws.starts import projected_starts
from rag_exp.laws.uncertainty import resampled_weights, wild_factors

Loss = Literal["huber_log", "lad_log", "ls_log", "ls_raw"]
LOSSES = ("huber_log", "lad_log", "ls_log", "ls_raw")
KINDS = ("case", "cluster", "wild", "hierarchical")

SAME = 1e-7  # relative objectives closer than this are one basin
FLAT = 1e-7  # eigenvalue ratio of the scaled Gauss-Newton matrix under which a direction is named as flat
CHUNK = 256
BASINS = 3
ROUNDS = 4  # of starts around the best optimum


def fit(
    form: str | Form,
    data: Any,
    *,
    y: str = "loss",
    loss: Loss = "huber_log",
    delta: float = 1e-3,
    fixed: Mapping[str, float] | None = None,
    weights: str | Sequence[float] | None = None,
    cluster: str | Sequence[Any] | None = None,
    bootstrap: int = 0,
    bootstrap_kind: Literal["case", "cluster", "wild", "hierarchical"] = "case",
    seeds: str | Sequence[Any] | None = None,
    questions: Any | None = None,
    seed: int = 0,
    replicates: Any | None = None,
    resamples: Any | None = None,
    level: float = 0.95,
    missing: Literal["error", "leave_out"] = "error",
) -> LawFit:
    """Fit a law and certify its optimum.

    Args:
        form: a name (``"joint"``, ``"saturating(M)"``) or a :class:`rag_exp.laws.Form`.
        data: a DataFrame or a mapping of arrays with the form's axes (N, D, M, K) and ``y``.
        loss: of the residuals: Huber, absolute or squared on log residuals, or squared on plain ones.
        delta: Huber's threshold, in log units.
        fixed: parameters held at known values (a floor that is known exactly, say).
        weights: a column or values; a row of weight 2 counts as two equal rows.
        cluster: a column or labels; rows of one cluster (one checkpoint) are resampled together.
        bootstrap: how many replicates.
        bootstrap_kind: what a replicate resamples (see ``rag_exp.laws.uncertainty``).
        seeds: a column or labels for ``"hierarchical"``: runs of one cluster that differ in it are repetitions.
        questions: for ``"hierarchical"``: losses [questions, rows of ``data``] on the same questions in the same
            order, whose means are ``y`` (of a study: the column of its metric in every run's predictions.parquet).
        replicates: losses [draws, rows of ``data``] of a resampling done elsewhere, such as
            :func:`rag_exp.laws.question_bootstrap`; with ``bootstrap_kind="wild"`` the runs' own residuals are
            added to them. ``bootstrap`` is then not used.
        resamples: counts [draws, rows of ``data``]: how often each replicate holds each row, of a resampling done
            elsewhere. ``bootstrap`` is then not used.
        level: of the intervals (percentiles of the replicates).
        missing: whether a null or NaN is an error, or leaves its row out with a reason on the card.

    Raises:
        LawError: the data cannot carry the form, or an optimisation did not meet its gradient.
    """
    form = form_by_name(form)
    held = _held(form, fixed)
    _known("loss", loss, LOSSES)
    _known("bootstrap_kind", bootstrap_kind, KINDS)
    if loss == "huber_log" and not delta > 0:
        raise LawError(f"delta must be positive; it is {delta}.")
    log = loss != "ls_raw"
    if bootstrap_kind != "hierarchical" and not (seeds is None and questions is None):
        raise LawError("seeds and questions belong to bootstrap_kind='hierarchical'.")
    rows = read_rows(form, data, y, weights=weights, cluster=cluster, seeds=seeds, missing=missing, log=log)
    free = len(form.parameters) - len(held)
    check_rows(form, rows, free, held)
    problem = Problem.build(form, rows, held, loss, delta)
    best, basins, certificate = problem.optimum()
    params = dict(zip(form.parameters, problem.design.to_papers(best.theta_Rp)[0].tolist(), strict=True))
    params.update(held)
    unidentified = problem.unidentified(best.theta_Rp[0])
    warnings = [*rows.warnings, *problem.warnings(best.theta_Rp[0], certificate, params, unidentified)]
    if rows.left_out:
        warnings.insert(0, f"{len(rows.left_out)} of {len(rows) + len(rows.left_out)} rows are left out (see the card)")
    draws, resampling = problem.replicate(
        best, basins, replicates, resamples, bootstrap, bootstrap_kind, seed, questions
    )
    intervals: dict[str, tuple[float, float] | None] = dict.fromkeys(form.parameters)
    if draws is not None:
        tail = 50 * (1 - level)
        low, high = np.percentile(draws, [tail, 100 - tail], axis=0)
        for i, name in enumerate(form.parameters):
            if name not in unidentified and name not in held:
                intervals[name] = (float(low[i]), float(high[i]))
        warnings += problem.bound_warnings(draws, unidentified)
        again = resampling["drawn_again"] / (len(draws) + resampling["drawn_again"])
        if again > 0.1:
            warnings.append(
                f"{again:.0%} of the resamples had too few levels and were drawn again: intervals are narrow"
            )
    return LawFit(
        form=form,
        y=y,
        loss=loss,
        delta=delta if loss == "huber_log" else None,
        params=params,
        objective=problem.true_objective(best.theta_Rp),
        fixed=held,
        level=level,
        intervals=intervals,
        draws_Rp=draws,
        certificate=certificate,
        rows={
            "axes": {k: v.tolist() for k, v in rows.axes.items()},
            "y": rows.y_n.tolist(),
            "weights": rows.w_n.tolist(),
            "positions": rows.positions_n.tolist(),
            "left_out": rows.left_out,
        },
        resampling=resampling,
        warnings=warnings,
        unidentified=unidentified,
        definitions={v: AXES.get(v, v) for v in form.variables},
        versions={"python": platform.python_version(), "numpy": np.__version__, "rag_exp": rag_exp.__version__},
    )


def _held(form: Form, fixed: Mapping[str, float] | None) -> dict[str, float]:
    held = {k: float(v) for k, v in (fixed or {}).items()}
    for name, value in held.items():
        if name not in form.parameters:
            raise LawError(
                f"{form.label} has no parameter {name!r} to fix.{did_you_mean(name, form.parameters)} "
                f"Parameters: {', '.join(form.parameters)}."
            )
        if not (np.isfinite(value) and value >= 0):
            raise LawError(f"fixed {name} must be finite and not negative (the form holds the signs); it is {value}.")
    for term in form.terms:
        if term.curve is None or term.curve.fixable is None:
            continue
        for name in sorted(held.keys() & {term.coefficient, *term.scales} - set(term.curve.fixable)):
            raise LawError(
                f"{form.label}: {name} cannot be fixed: in the fit it is tied to other parameters of its term. "
                f"Of that term these can: {', '.join(term.curve.fixable)}."
            )
    if len(held) == len(form.parameters):
        raise LawError(f"All parameters of {form.label} are fixed: nothing is left to fit.")
    return held


def _known(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise LawError(f"{what}={value!r} is not known.{did_you_mean(value, known)} Known: {', '.join(known)}.")


@dataclass
class Problem:
    """A form on rows, ready to be solved from starts or again for replicates."""

    form: Form
    rows: Rows
    design: Design
    objective: Objective
    low_p: np.ndarray
    high_p: np.ndarray

    @classmethod
    def build(cls, form: Form, rows: Rows, held: dict[str, float], loss: str, delta: float) -> Problem:
        design = Design.build(form, rows.logs(), held)
        low, high = design.bounds(held)
        threshold = {"huber_log": delta, "lad_log": LAD_DELTA}.get(loss, np.inf)
        objective = Objective(design, rows.y_n[None], rows.w_n[None], loss != "ls_raw", threshold)
        return cls(form, rows, design, objective, low, high)

    def solve(self, objective: Objective, starts: np.ndarray, staged: bool) -> Solution:
        return minimise(objective, starts, self.low_p, self.high_p, staged)

    def optimum(self) -> tuple[Solution, np.ndarray, dict[str, Any]]:
        """The best of all starts, the inner parameters of the best few basins, and the certificate.

        Raises:
            LawError: the best point that was found does not meet the gradient.
        """
        starts = projected_starts(
            self.design, self.rows.y_n, self.rows.w_n, self.low_p, self.high_p, self.objective.log
        )
        found = self.explore(self.solve(self.objective, starts, staged=True))
        order = np.argsort(np.where(np.isfinite(found.loss_R), found.loss_R, np.inf), kind="stable")
        lowest = found.loss_R[order[0]]
        scale = abs(lowest) + len(self.rows) * EXACT**2 / SAME  # an exact fit has one basin, at rounding
        good = [i for i in order if found.converged_R[i]]
        if not good or found.loss_R[good[0]] > lowest + SAME * scale:
            raise LawError(
                f"The fit of {self.form.label} to {len(self.rows)} rows did not converge: the best of {len(order)} "
                f"starts has a gradient of {found.gradient_R[order[0]]:.1e} after {found.steps} steps. Give more "
                "levels, a simpler form, or another loss (ls_log is the smoothest)."
            )
        basins = [good[0]]
        for i in good[1:]:
            if found.loss_R[i] > found.loss_R[basins[-1]] + SAME * scale:
                basins.append(i)
        gap = (found.loss_R[basins[1]] - found.loss_R[basins[0]]) / scale if len(basins) > 1 else None
        ratio, direction = self.curvature(found.theta_Rp[basins[0]])
        best = found.pick(np.array(basins[:1]))
        exact = self.objective.delta == LAD_DELTA
        tip = corner(self.objective, best.theta_Rp[0], self.low_p, self.high_p) if exact else None
        certificate = {
            "gradient": float(best.gradient_R[0]),
            "goal": float(self.objective.derivatives(best.theta_Rp).goal_R[0]),
            "corner": tip is not None if exact else None,
            "starts": len(order),
            "converged": int(found.converged_R.sum()),
            "agreeing": int((found.loss_R <= best.loss_R[0] + SAME * scale).sum()),
            "basins": len(basins),
            "runner_up_gap": None if gap is None else float(gap),
            "condition_number": None if not ratio else ratio**-0.5,
            "eigenvalue_ratio": ratio,
            "flat_direction": direction,
            "steps": found.steps,
        }
        if tip is not None:
            best.theta_Rp[0] = tip
        return best, found.theta_Rp[basins[:BASINS]], certificate

    def explore(self, found: Solution) -> Solution:
        """Start again around the best optimum, along the principal axes of its Gauss-Newton ellipsoid.

        Absolute residuals make many small basins along a valley, into which starts from afar all fall alike.
        """
        if np.isinf(self.objective.delta):
            return found
        for _ in range(ROUNDS):
            usable = np.where(found.converged_R, found.loss_R, np.inf)
            lowest = int(usable.argmin())
            if not np.isfinite(usable[lowest]) or found.loss_R[lowest] <= 0:
                return found
            around = self.around(found.theta_Rp[lowest])
            more = self.solve(self.objective, around, staged=False)
            better = np.where(more.converged_R, more.loss_R, np.inf).min() < found.loss_R[lowest] * (1 - SAME)
            found = found.join(more)
            if not better:
                break
        return found

    def around(self, theta_p: np.ndarray) -> np.ndarray:
        """Points at some standard errors from ``theta_p`` along each principal axis: [8 per parameter, p]."""
        d = self.objective.derivatives(theta_p[None])
        free = np.flatnonzero((self.low_p < self.high_p) & (d.columns_Rp[0] > 0))
        J = (d.jacobian_Rpn[0][free] * np.sqrt(self.rows.w_n)).T / d.columns_Rp[0][free]
        singular, vectors = np.linalg.svd(J, full_matrices=False)[1:]
        r = self.objective.residuals(theta_p[None])[0]
        noise = np.sqrt((self.rows.w_n * r**2).sum() / self.rows.w_n.sum())
        axes = noise * vectors / np.maximum(singular, 1e-6)[:, None] / d.columns_Rp[0][free]
        points = [theta_p]
        for axis in axes:
            for errors in (-3.0, -1.5, -0.75, -0.3, 0.3, 0.75, 1.5, 3.0):
                point = theta_p.copy()
                point[free] += errors * axis
                points.append(np.clip(point, self.low_p, self.high_p))
        return np.array(points[1:])

    def curvature(self, theta_p: np.ndarray) -> tuple[float | None, dict[str, float]]:
        """Smallest over largest eigenvalue of J'WJ with unit columns, and the smallest one's direction by name."""
        d = self.objective.derivatives(theta_p[None])
        free = np.flatnonzero((self.low_p < self.high_p) & (d.columns_Rp[0] > 0))
        J = (d.jacobian_Rpn[0][free] * np.sqrt(self.rows.w_n)).T / d.columns_Rp[0][free]
        singular, vectors = np.linalg.svd(J, full_matrices=False)[1:]
        names = [self.form.floor, *self.form.coefficients, *self.form.shapes]
        direction = {str(names[j]): round(float(v), 3) for j, v in zip(free, vectors[-1], strict=True) if abs(v) > 0.1}
        return float((singular[-1] / singular[0]) ** 2), direction

    def unidentified(self, theta_p: np.ndarray) -> list[str]:
        """Shape parameters all of whose terms are zero."""
        zero = {t.coefficient for t, c in zip(self.form.terms, theta_p[1:], strict=False) if c == 0}
        return [e for e in self.form.shapes if all(t.coefficient in zero for t in self.form.terms if e in t.shapes)]

    def warnings(
        self, theta_p: np.ndarray, certificate: dict[str, Any], params: dict[str, float], unidentified: list[str]
    ) -> list[str]:
        names = [self.form.floor, *self.form.coefficients, *self.form.shapes]
        out = []
        for i, name in enumerate(names):
            if name is None or self.low_p[i] == self.high_p[i] or name in unidentified:
                continue
            if theta_p[i] <= self.low_p[i] or theta_p[i] >= self.high_p[i]:
                out.append(f"{name} is at its bound ({params[name]:g})" + _bound_meaning(self.form, name, theta_p[i]))
        for e in unidentified:
            out.append(f"{e} is not identified: every term that it shapes is 0")
        ratio = certificate["eigenvalue_ratio"]
        if ratio is not None and ratio < FLAT:
            flat = ", ".join(certificate["flat_direction"])
            out.append(f"the data hardly tell apart {flat} (eigenvalue ratio {ratio:.1e}): only the curve has meaning")
        free = int((self.low_p < self.high_p).sum())
        if len(self.rows) <= free:
            out.append(
                f"{len(self.rows)} rows for {free} parameters: the curve goes through the points and tests nothing"
            )
        gap = certificate["runner_up_gap"]
        if gap is not None and gap < 0.02:
            out.append(
                f"another optimum is nearly as good (objective {gap:.2%} higher): the parameters may be ambiguous"
            )
        return out + list(self.form.cautions)

    def bound_warnings(self, draws: np.ndarray, unidentified: list[str]) -> list[str]:
        out = []
        for i, name in enumerate(self.form.parameters):
            low, high = self.form.bound(name)
            share = float(((draws[:, i] <= low * (1 + 1e-9)) | (draws[:, i] >= high)).mean())
            if share >= 0.05 and name not in unidentified and low < high:
                out.append(
                    f"{name} is at a bound in {share:.0%} of the replicates, where its interval ends artificially"
                )
        return out

    def true_objective(self, theta_Rp: np.ndarray) -> float:
        """The objective as it is named: the sum of absolute residuals for LAD, not its smooth limit."""
        if self.objective.delta == LAD_DELTA:
            return float((self.rows.w_n * np.abs(self.objective.residuals(theta_Rp)[0])).sum())
        return float(self.objective.loss(theta_Rp)[0])

    def replicate(
        self,
        best: Solution,
        basins: np.ndarray,
        replicates: Any | None,
        resamples: Any | None,
        bootstrap: int,
        kind: str,
        seed: int,
        questions: Any | None = None,
    ) -> tuple[np.ndarray | None, dict[str, Any]]:
        """Refit the replicates, each from the best few basins of the fit itself.

        Raises:
            LawError: replicates of the wrong shape, or one whose optimum does not meet its gradient.
        """
        base = self.objective
        note: dict[str, Any] = {"kind": kind, "draws": bootstrap, "seed": seed, "drawn_again": 0}
        if replicates is not None:
            y_Rn = self._given(replicates)
            note.update(kind="given" if kind != "wild" else "given and wild", draws=len(y_Rn))
            if kind == "wild":
                y_Rn = self._shaken(y_Rn, best, len(y_Rn), seed)
            objective = Objective(self.design, y_Rn, base.w_Rn, base.log, base.delta)
        elif resamples is not None:
            w_Rn = self.rows.w_n * self._matched(resamples, "resamples")
            note.update(kind="given", draws=len(w_Rn))
            objective = Objective(self.design, base.y_Rn, w_Rn, base.log, base.delta)
        elif not bootstrap:
            return None, {"kind": None, "draws": 0, "seed": None}
        elif kind == "wild":
            y_Rn = self._shaken(self.design.values(best.theta_Rp), best, bootstrap, seed)
            objective = Objective(self.design, y_Rn, base.w_Rn, base.log, base.delta)
        elif kind == "hierarchical":
            objective = self._hierarchical(best, bootstrap, seed, questions, note)
        else:
            w_Rn, note["drawn_again"] = resampled_weights(self.rows, bootstrap, seed, kind == "cluster")
            objective = Objective(self.design, base.y_Rn, w_Rn, base.log, base.delta)
        theta, worst = self._refit(objective, basins, note["draws"])
        note["worst_gradient"] = worst
        return _significant(self.design.to_papers(theta)), note

    def _hierarchical(
        self, best: Solution, draws: int, seed: int, questions: Any | None, note: dict[str, Any]
    ) -> Objective:
        times_Rn, alone_n = seed_weights(self.rows, draws, seed)
        y_Rn = np.tile(self.rows.y_n, (draws, 1))
        if questions is not None:
            y_Rn = question_means(self.rows, questions, draws, seed)
            if self.objective.log and not (y_Rn > 0).all():
                raise LawError("A resample of the questions has a mean loss that is not positive.")
        if alone_n.any():
            y_Rn = self._shaken(y_Rn, best, draws, seed, alone_n)
        note["levels"] = {
            "questions": None if questions is None else len(questions),
            "rows with other seeds": int((~alone_n).sum()),
            "rows shaken by their residuals": int(alone_n.sum()),
        }
        return Objective(self.design, y_Rn, self.rows.w_n * times_Rn, self.objective.log, self.objective.delta)

    def _shaken(
        self, y_Rn: np.ndarray, best: Solution, draws: int, seed: int, which_n: np.ndarray | None = None
    ) -> np.ndarray:
        """``y_Rn`` with the fit's residuals, each times a random factor (those of ``which_n`` alone, where given)."""
        free = int((self.low_p < self.high_p).sum())
        factors = wild_factors(self.rows, draws, free, seed)
        if which_n is not None:
            factors = factors * which_n
        residual = -self.objective.residuals(best.theta_Rp)[0]
        return y_Rn * np.exp(factors * residual) if self.objective.log else y_Rn + factors * residual

    def _given(self, replicates: Any) -> np.ndarray:
        y_Rn = self._matched(replicates, "replicates")
        if not np.isfinite(y_Rn).all() or (self.objective.log and (y_Rn <= 0).any()):
            raise LawError("replicates hold losses that are not finite" + " and positive." * self.objective.log)
        return y_Rn

    def _matched(self, given: Any, what: str) -> np.ndarray:
        """Values per draw and row of the data, for the rows used: [R, n]."""
        values = np.asarray(given, dtype=float)
        total = len(self.rows) + len(self.rows.left_out)
        if values.ndim != 2 or values.shape[1] != total or not len(values):
            raise LawError(f"{what} must have shape [draws, {total}] (rows as in the data); they have {values.shape}.")
        return values[:, self.rows.positions_n]

    def _refit(self, objective: Objective, basins: np.ndarray, draws: int) -> tuple[np.ndarray, float]:
        theta = np.empty((draws, len(self.low_p)))
        worst = 0.0
        for start in range(0, draws, CHUNK):
            part = objective.rows(np.arange(start, min(start + CHUNK, draws)))
            found = self._warm(part, [np.tile(b, (min(CHUNK, draws - start), 1)) for b in basins])
            self._rescue(part, found)
            if not found.converged_R.all():
                left = ~found.converged_R
                raise LawError(
                    f"{int(left.sum())} of {draws} replicates of {self.form.label} did not converge (worst gradient "
                    f"{found.gradient_R[left].max():.1e}). The data do not hold the form firmly enough for this "
                    "resampling: use a simpler form, another bootstrap_kind, or loss='ls_log'."
                )
            theta[start : start + len(found.theta_Rp)] = found.theta_Rp
            worst = max(worst, float(found.gradient_R.max()))
        return theta, worst

    def _rescue(self, objective: Objective, found: Solution) -> None:
        """Start the replicates that did not converge globally, as the fit itself was: they lie in another valley."""
        lost = np.flatnonzero(~found.converged_R)
        if not len(lost):
            return
        starts = []
        for r in lost:
            one = objective.rows(np.array([r]))
            starts.append(projected_starts(self.design, one.y_Rn[0], one.w_Rn[0], self.low_p, self.high_p, one.log))
        owner = np.repeat(lost, [len(s) for s in starts])
        again = self.solve(objective.rows(owner), np.concatenate(starts), staged=True)
        for r in lost:
            of = np.flatnonzero(owner == r)
            best = of[np.lexsort((again.loss_R[of], ~again.converged_R[of]))[0]]
            found.put(np.array([r]), again.pick(np.array([best])))

    def _warm(self, objective: Objective, starts: list[np.ndarray]) -> Solution:
        """The best of several solutions of the same problems, a converged one before any that is not."""
        best = self.solve(objective, starts[0], staged=False)
        for start in starts[1:]:
            other = self.solve(objective, start, staged=False)
            better = other.converged_R & (~best.converged_R | (other.loss_R < best.loss_R))
            best.put(np.flatnonzero(better), other.pick(np.flatnonzero(better)))
        return best


def _significant(values: np.ndarray, digits: int = 10) -> np.ndarray:
    """Rounded to significant digits, so that a card holds its draws exactly and is half as long."""
    size = np.where(values == 0, 1.0, np.abs(values))
    unit = 10.0 ** (digits - 1 - np.floor(np.log10(size)))
    return np.round(values * unit) / unit


def _bound_meaning(form: Form, name: str, value: float) -> str:
    if name == form.floor:
        return ": the data show no floor"
    if name in form.coefficients:
        return ": its term does nothing here"
    low, _ = form.bound(name)
    return ": the term is nearly a logarithm" if value <= low else ": the term is nearly a step"
