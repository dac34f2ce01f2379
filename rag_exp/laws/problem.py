"""A form on rows: its global optimum with a certificate, and what is to be said about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rag_exp.core.errors import LawError
from rag_exp.laws.absolute import corner
from rag_exp.laws.engine import EXACT, LAD_DELTA, Design, Objective
from rag_exp.laws.form import Form
from rag_exp.laws.newton import Solution, minimise
from rag_exp.laws.rows import Rows
from rag_exp.laws.starts import projected_starts

SAME = 1e-7  # relative objectives closer than this are one basin
FLAT = 1e-7  # eigenvalue ratio of the scaled Gauss-Newton matrix under which a direction is named as flat
BASINS = 3
ROUNDS = 4  # of starts around the best optimum


@dataclass
class Problem:
    """A form on rows, ready to be solved from starts or again for replicates. ``held``: the parameters not fitted."""

    form: Form
    rows: Rows
    held: Mapping[str, float]
    design: Design
    objective: Objective
    low_p: np.ndarray
    high_p: np.ndarray

    @classmethod
    def build(cls, form: Form, rows: Rows, held: Mapping[str, float], loss: str, delta: float) -> Problem:
        design = Design.build(form, rows.logs(), held)
        low, high = design.bounds(held)
        threshold = {"huber_log": delta, "lad_log": LAD_DELTA}.get(loss, np.inf)
        objective = Objective(design, rows.y_n[None], rows.w_n[None], loss != "ls_raw", threshold)
        return cls(form, rows, held, design, objective, low, high)

    @property
    def free(self) -> int:
        """How many parameters are fitted."""
        return len(self.form.parameters) - len(self.held)

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
        if len(self.rows) <= self.free:
            out.append(
                f"{len(self.rows)} rows for {self.free} parameters: the curve goes through the points and tests nothing"
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

    def with_losses(self, y_n: np.ndarray) -> Problem:
        """The same rows with other losses."""
        base = self.objective
        return replace(
            self,
            rows=replace(self.rows, y_n=y_n),
            objective=Objective(self.design, y_n[None], base.w_Rn, base.log, base.delta),
        )


def _bound_meaning(form: Form, name: str, value: float) -> str:
    if name == form.floor:
        return ": the data show no floor"
    if name in form.coefficients:
        return ": its term does nothing here"
    low, _ = form.bound(name)
    return ": the term is nearly a logarithm" if value <= low else ": the term is nearly a step"
