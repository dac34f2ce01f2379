"""Value, gradient and Hessian of a form's objective, for many problems at once.

Shapes: R problems solved side by side (starts or bootstrap replicates), n rows, T terms, m shape parameters,
p = 1 + T + m parameters in the order floor, coefficients, shapes (the floor's slot is kept for forms
without one, and held at 0).

Inside, every axis is measured from the end of the data where its term is largest, so that a coefficient is
the term's largest value: the units of the axes change nothing, the Hessian is well conditioned, and a steep
term's coefficient does not have to follow its exponent along a curved valley.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from rag_exp.laws.curves import Curve
from rag_exp.laws.form import Form
from rag_exp.laws.jets import Jet
from rag_exp.laws.terms import Term

LAD_DELTA = 1e-8  # least absolute deviations as the limit of Huber's loss (objective within n * delta / 2)
EPS = float(np.finfo(float).eps)
GOAL = 1e-9  # the gradient, a cosine, that counts as zero
EXACT = 1e-13  # residuals this small are rounding: the data follow the form exactly


@dataclass(frozen=True)
class Slope:
    """How the logarithm of a unit term changes with the shapes: positions in theta, and derivatives [n] or [R, n]."""

    first: list[tuple[int, Any]]
    second: list[tuple[int, int, Any]]


class DesignTerm:
    """One term on given rows: ``coefficient * basis_n * exp(powers_nm @ exponents + curve)``, anchored.

    Attributes:
        powers: (position in theta, direction * log of the axis from its anchor [n]) per power of an axis.
        basis_n: the sign, times the logarithms that the term holds.
        positive: whether it is nowhere below 0 (its coefficient is not).
        anchors: the log of the axis that each power or curve is measured from.
    """

    def __init__(self, form: Form, term: Term, logs: Mapping[str, np.ndarray], fixed: Mapping[str, float]):
        self.term = term
        first = 1 + len(form.terms)
        self.position = {name: first + i for i, name in enumerate(form.shapes)}
        self.basis_n = np.full(len(next(iter(logs.values()))), float(term.sign))
        self.log_anchor = 0.0
        self.power_anchors: list[tuple[int, int, float]] = []
        powers: dict[int, np.ndarray] = {}
        # A held coefficient must mean the same for every exponent, so its axis keeps its own units.
        held = term.coefficient in fixed or any(s in fixed for s in term.scales)
        for f in term.factors:
            x = logs[f.variable]
            low, high = float(x.min()), float(x.max())
            if f.exponent is None:
                self.log_anchor = 0.0 if form.floor in fixed or held else low
                self.basis_n = self.basis_n * (x - self.log_anchor)
                continue
            at = 0.0 if held else high if f.direction > 0 else low
            where = self.position[f.exponent]
            self.power_anchors.append((where, f.direction, at))
            powers[where] = powers.get(where, 0.0) + f.direction * (x - at)
        self.powers = sorted(powers.items())
        self.curve: Curve | None = term.curve
        self.at: dict[str, float] = {}
        if term.curve:
            self.at = {v: 0.0 if held else float(logs[v].min()) for v in term.curve.variables}
            self.x = {v: logs[v] - at for v, at in self.at.items()}
        self._squares = [(j, k, a * b) for i, (j, a) in enumerate(self.powers) for k, b in self.powers[i:]]
        self._plain = bool((self.basis_n == 1.0).all())
        self.positive = bool((self.basis_n >= 0).all())

    def _curve_parameters(self, theta_Rp: np.ndarray) -> dict[str, np.ndarray]:
        return {s: theta_Rp[:, self.position[s], None] for s in (*self.curve.exponents, *self.curve.scales)}  # type: ignore[union-attr]

    def _scaled(self, log_Rn: np.ndarray) -> np.ndarray:
        """The exponential of ``log_Rn``, which is overwritten, times the basis."""
        np.minimum(log_Rn, 700.0, out=log_Rn)
        np.exp(log_Rn, out=log_Rn)
        return log_Rn if self._plain else np.multiply(log_Rn, self.basis_n, out=log_Rn)

    def _power_log(self, theta_Rp: np.ndarray) -> np.ndarray:
        if not self.powers:
            return np.zeros((len(theta_Rp), len(self.basis_n)))
        (j, x), *rest = self.powers
        log_Rn = theta_Rp[:, j, None] * x
        for j, x in rest:
            log_Rn += theta_Rp[:, j, None] * x
        return log_Rn

    def unit(self, theta_Rp: np.ndarray) -> np.ndarray:
        """The term per unit of its coefficient, sign included: [R, n]."""
        log_Rn = self._power_log(theta_Rp)
        if self.curve:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                log_Rn = log_Rn + self.curve.log(self.x, self.at, self._curve_parameters(theta_Rp))
        return self._scaled(log_Rn)

    def unit_and_slope(self, theta_Rp: np.ndarray) -> tuple[np.ndarray, Slope]:
        """:meth:`unit`, and the derivatives of its logarithm; second ones include the products of first ones."""
        log_Rn = self._power_log(theta_Rp)
        if not self.curve:
            return self._scaled(log_Rn), Slope(list(self.powers), self._squares)
        jets = {name: Jet.of(name, value) for name, value in self._curve_parameters(theta_Rp).items()}
        bent = self.curve.log(self.x, self.at, jets)
        first: dict[int, Any] = dict(self.powers)
        for name, slope in bent.first.items():
            j = self.position[name]
            first[j] = first.get(j, 0.0) + slope
        order = sorted(first)
        second = {(j, k): first[j] * first[k] for i, j in enumerate(order) for k in order[i:]}
        for (a, b), bend in bent.second.items():
            j, k = sorted((self.position[a], self.position[b]))
            second[j, k] = second[j, k] + bend
        slope = Slope([(j, first[j]) for j in order], [(j, k, v) for (j, k), v in second.items()])
        return self._scaled(log_Rn + bent.value), slope

    def to_papers(self, c_R: np.ndarray, theta_Rp: np.ndarray) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """The coefficient, and the scales by position, in the axes' own units."""
        for j, direction, at in self.power_anchors:
            c_R = c_R * np.exp(-direction * theta_Rp[:, j] * at)
        if not self.curve:
            return c_R, {}
        inner = {s: v[:, 0] for s, v in self._curve_parameters(theta_Rp).items()}
        based = self.curve.rebase(inner, self.at)
        nowhere = dict.fromkeys(self.at, 0.0)
        shift = self.curve.log(nowhere, self.at, inner) - self.curve.log(self.at, nowhere, based)
        c_R, own = self.curve.to_papers(c_R * np.exp(shift), based)
        return c_R, {self.position[s]: own[s] for s in self.curve.scales}


@dataclass(frozen=True)
class Design:
    """A form on given rows, each term anchored where it is largest."""

    form: Form
    parts: tuple[DesignTerm, ...]

    @property
    def rows(self) -> int:
        return len(self.parts[0].basis_n)

    @classmethod
    def build(cls, form: Form, logs: Mapping[str, np.ndarray], fixed: Mapping[str, float]) -> Design:
        """``logs``: natural logarithms of the axes, each of shape [n]. ``fixed``: the parameters held."""
        return cls(form, tuple(DesignTerm(form, term, logs, fixed) for term in form.terms))

    def bounds(self, fixed: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the inner parameters, equal where one is held: two of shape [p]."""
        form = self.form
        bounds = []
        for name in (form.floor, *form.coefficients, *form.shapes):
            if name is None:
                bounds.append((0.0, 0.0))
            elif name in fixed:
                held = np.log(fixed[name]) if name in form.scales else fixed[name]
                bounds.append((held, held))
            elif name in form.scales:
                part = next(p for p in self.parts if name in p.term.scales)
                bounds.append(part.curve.scale_bounds(name, part.x))  # type: ignore[union-attr]
            else:
                bounds.append(form.bound(name))
        low, high = np.array(bounds, dtype=float).T
        return low, high

    def to_papers(self, theta_Rp: np.ndarray) -> np.ndarray:
        """Inner parameters [R, p] to the form's own, without the slot of an absent floor: [R, parameters]."""
        out = theta_Rp.copy()
        for t, part in enumerate(self.parts):
            out[:, 0] -= part.term.sign * theta_Rp[:, 1 + t] * part.log_anchor
            out[:, 1 + t], scales = part.to_papers(theta_Rp[:, 1 + t], theta_Rp)
            for j, values in scales.items():
                out[:, j] = values
        return out if self.form.floor else out[:, 1:]

    def terms(self, theta_Rp: np.ndarray) -> np.ndarray:
        """Each term per unit of its coefficient, sign included: [R, T, n]."""
        return np.stack([part.unit(theta_Rp) for part in self.parts], axis=1)

    def values(self, theta_Rp: np.ndarray) -> np.ndarray:
        """Predictions: [R, n]."""
        total = np.zeros((len(theta_Rp), self.rows)) + theta_Rp[:, :1]
        for t, part in enumerate(self.parts):
            unit = part.unit(theta_Rp)
            total += np.multiply(unit, theta_Rp[:, 1 + t, None], out=unit)
        return total


@dataclass(frozen=True)
class Objective:
    """``sum_i w_i rho(residual_i)``: a sum, so that its scale grows with the data (a mean stops optimizers early).

    ``y_Rn`` and ``w_Rn`` may have one row for all problems. ``delta`` is Huber's threshold, infinite for least squares.
    """

    design: Design
    y_Rn: np.ndarray
    w_Rn: np.ndarray
    log: bool
    delta: float

    def at(self, delta: float) -> Objective:
        return Objective(self.design, self.y_Rn, self.w_Rn, self.log, delta)

    def rows(self, keep: np.ndarray) -> Objective:
        """The same objective for some of the problems."""
        pick = [a[keep] if len(a) > 1 else a for a in (self.y_Rn, self.w_Rn)]
        return Objective(self.design, pick[0], pick[1], self.log, self.delta)

    def residuals(self, theta_Rp: np.ndarray) -> np.ndarray:
        """Residuals [R, n]: log(prediction / y) or prediction - y; infinite where a prediction has no logarithm."""
        value = self.design.values(theta_Rp)
        if not self.log:
            return value - self.y_Rn
        if value.min() > 0:
            value /= self.y_Rn
            return np.log(value, out=value)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(value > 0, np.log(value / self.y_Rn), np.inf)

    def loss(self, theta_Rp: np.ndarray) -> np.ndarray:
        """[R]; infinite where a prediction is not positive."""
        r = self.residuals(theta_Rp)
        if np.isinf(self.delta):
            rho = 0.5 * r * r
        else:
            np.abs(r, out=r)
            inside = np.minimum(r, self.delta)
            r -= 0.5 * inside
            rho = np.multiply(r, inside, out=r)
        with np.errstate(invalid="ignore"):
            total = np.einsum("rn,rn->r", np.broadcast_to(self.w_Rn, rho.shape), rho)
        if np.isnan(total).any():  # infinite where the weight is 0, which counts for nothing
            total = np.where(self.w_Rn > 0, self.w_Rn * np.where(self.w_Rn > 0, rho, 0.0), 0.0).sum(1)
        return np.where(np.isfinite(total), total, np.inf)

    def derivatives(self, theta_Rp: np.ndarray) -> Derivatives:
        """Gradient and exact Hessian at points where every prediction is positive (log residuals)."""
        R, n, p = len(theta_Rp), self.y_Rn.shape[1], theta_Rp.shape[1]
        w = np.broadcast_to(self.w_Rn, (R, n))
        parts = [part.unit_and_slope(theta_Rp) for part in self.design.parts]
        value_Rn = np.zeros((R, n)) + theta_Rp[:, :1]
        for t, (unit, _) in enumerate(parts):
            value_Rn += theta_Rp[:, 1 + t, None] * unit
        unit_R = self._largest(theta_Rp, parts, value_Rn, w)
        J = np.empty((R, p, n))
        if self.log:
            if not value_Rn.min() > 0:  # a row that a replicate left out may have no logarithm there
                value_Rn = np.where(w > 0, value_Rn, self.y_Rn)
            over_Rn = np.divide(1.0, value_Rn, out=J[:, 0])
            r = np.log(np.divide(value_Rn, self.y_Rn, out=value_Rn), out=value_Rn)
        else:
            J[:, 0] = 1.0
            r = np.subtract(value_Rn, self.y_Rn, out=value_Rn)
        psi = np.clip(r, -self.delta, self.delta)
        pull = w * psi
        bends = np.zeros((R, p, p))
        filled: set[int] = set()
        for t, (unit, slope) in enumerate(parts):
            if self.log:
                np.multiply(unit, over_Rn, out=J[:, 1 + t])
            else:
                J[:, 1 + t] = unit
            pull_unit = pull * J[:, 1 + t]
            coefficient_R = theta_Rp[:, 1 + t]
            relative = np.multiply(coefficient_R[:, None], J[:, 1 + t], out=unit)
            for j, first in slope.first:
                if j in filled:
                    J[:, j] += relative * first
                else:
                    np.multiply(relative, first, out=J[:, j])
                filled.add(j)
                mixed = _dot(pull_unit, first)
                bends[:, 1 + t, j] += mixed
                bends[:, j, 1 + t] += mixed
            for j, k, second in slope.second:
                both = coefficient_R * _dot(pull_unit, second)
                bends[:, j, k] += both
                if j != k:
                    bends[:, k, j] += both
        for j in set(range(1 + len(parts), p)) - filled:
            J[:, j] = 0.0
        gradient = np.matmul(J, pull[:, :, None])[:, :, 0]
        # d2 log f = d2 f / f - dlog f dlog f', hence the second term of the curvature under log residuals.
        curvature = w.copy() if np.isinf(self.delta) else w * (np.abs(r) <= self.delta)
        if self.log:
            curvature -= pull
        hessian = np.matmul(J * curvature[:, None, :], J.transpose(0, 2, 1)) + bends
        columns = np.sqrt(np.einsum("rpn,rpn,rn->rp", J, J, w))
        residual = np.sqrt(np.einsum("rn,rn->r", pull, psi))
        weight_R = w.sum(1)
        pulled_R = np.abs(pull, out=pull).sum(1)
        worst = pulled_R / (weight_R * np.where(unit_R > 0, unit_R, 1.0))
        # Rounding of a residual, over the typical pull, is how far from zero a cosine can be kept.
        typical = residual / np.sqrt(weight_R)
        goal = np.maximum(GOAL, 64 * EPS * unit_R / np.where(typical > 0, typical, 1.0))
        rounding = 8 * EPS * unit_R * pulled_R
        return Derivatives(gradient, hessian, columns, residual, worst, goal, rounding, J)

    def _largest(
        self, theta_Rp: np.ndarray, parts: list[tuple[np.ndarray, Slope]], value_Rn: np.ndarray, w_Rn: np.ndarray
    ) -> np.ndarray:
        """The size of the terms that a prediction is made of, at its largest and in the residual's unit: [R].

        Large terms of opposite signs cancel; what is left carries the rounding of the largest.
        """
        if all(part.positive for part in self.design.parts):  # nothing cancels
            return np.ones(len(value_Rn)) if self.log else value_Rn.max(1)
        sizes_Rn = np.abs(theta_Rp[:, :1]) + np.zeros_like(value_Rn)
        for t, (unit, _) in enumerate(parts):
            sizes_Rn += np.abs(theta_Rp[:, 1 + t, None] * unit)
        if self.log:
            with np.errstate(divide="ignore", invalid="ignore"):
                sizes_Rn /= np.where(w_Rn > 0, value_Rn, 1.0)
        return np.where(w_Rn > 0, sizes_Rn, 0.0).max(1)


def _dot(a_Rn: np.ndarray, b: Any) -> np.ndarray:
    """Sums over rows of a product: [R]."""
    b = np.asarray(b)
    return a_Rn @ b if b.ndim == 1 else np.einsum("rn,rn->r", a_Rn, np.broadcast_to(b, a_Rn.shape))


@dataclass(frozen=True)
class Derivatives:
    """At R points.

    Attributes:
        columns_Rp: norms of the Jacobian's columns.
        residual_R: norm of the residuals' pulls (rho').
        pull_R: mean absolute pull, over the size of the terms.
        goal_R: the gradient (:meth:`cosine`) that counts as zero.
        rounding_R: objectives this close cannot be told apart.
    """

    gradient_Rp: np.ndarray
    hessian_Rpp: np.ndarray
    columns_Rp: np.ndarray
    residual_R: np.ndarray
    pull_R: np.ndarray
    goal_R: np.ndarray
    rounding_R: np.ndarray
    jacobian_Rpn: np.ndarray

    def cosine(self, moving_Rp: np.ndarray) -> np.ndarray:
        """The gradient's norm without units: the largest cosine between the pulls and a moving column, [R].

        It is 0 at a stationary point and at most 1 anywhere (MINPACK's gtol); 0 too where the fit is exact.
        """
        size = self.columns_Rp * self.residual_R[:, None]
        cos = np.where(moving_Rp & (size > 0), np.abs(self.gradient_Rp) / np.where(size > 0, size, 1.0), 0.0)
        return np.where(self.pull_R <= EXACT, 0.0, cos.max(1))

    def rows(self, keep: np.ndarray) -> Derivatives:
        """The derivatives of some of the points, without their Jacobian: it is large and no step needs it."""
        small = [getattr(self, f.name)[keep] for f in fields(self) if f.name != "jacobian_Rpn"]
        return Derivatives(*small, self.jacobian_Rpn[:0])
