"""Value, gradient and Hessian of a form's objective, for many problems at once.

Shapes: R problems solved side by side (starts or bootstrap replicates), n rows, T terms, m exponents,
p = 1 + T + m parameters in the order floor, coefficients, exponents (the floor's slot is kept for forms
without one, and held at 0).

Inside, every axis is measured from the end of the data where its term is largest, so that a coefficient is
the term's largest value: the units of the axes change nothing, the Hessian is well conditioned, and a steep
term's coefficient does not have to follow its exponent along a curved valley.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from rag_exp.laws.forms import Form

LAD_DELTA = 1e-8  # least absolute deviations as the limit of Huber's loss (objective within n * delta / 2)
EPS = float(np.finfo(float).eps)
GOAL = 1e-9  # the gradient, a cosine, that counts as zero
EXACT = 1e-13  # residuals this small are rounding: the data follow the form exactly


@dataclass(frozen=True)
class Design:
    """A form on given rows, each term anchored where it is largest.

    ``log_factors_Tnm`` holds each term's derivative of its log with respect to the exponents, so that term t
    is ``coefficient * basis_Tn * exp(log_factors_Tnm @ exponents)``, its sign inside ``basis_Tn``.
    """

    form: Form
    log_factors_Tnm: np.ndarray
    basis_Tn: np.ndarray
    anchors: dict[str, float]
    log_anchors: dict[str, float]

    @classmethod
    def build(cls, form: Form, logs: dict[str, np.ndarray], fixed: dict[str, float]) -> Design:
        """``logs``: natural logarithms of the axes, each of shape [n]. ``fixed``: the parameters held."""
        n = len(next(iter(logs.values())))
        log_factors = np.zeros((len(form.terms), n, len(form.exponents)))
        basis = np.empty((len(form.terms), n))
        anchors: dict[str, float] = {}
        log_anchors: dict[str, float] = {}
        for t, term in enumerate(form.terms):
            basis[t] = term.sign
            for f in term.factors:
                held = term.coefficient in fixed if f.exponent else form.floor in fixed
                # A held coefficient must mean the same for every exponent, so its axis keeps its own units.
                ends = (float(logs[f.variable].min()), float(logs[f.variable].max()))
                anchor = 0.0 if held else ends[f.direction > 0 and f.exponent is not None]
                if f.exponent is None:
                    log_anchors[term.coefficient] = anchor
                    basis[t] *= logs[f.variable] - anchor
                else:
                    anchors[f"{term.coefficient}:{f.variable}"] = anchor
                    log_factors[t, :, form.exponents.index(f.exponent)] += f.direction * (logs[f.variable] - anchor)
        return cls(form, log_factors, basis, anchors, log_anchors)

    def to_papers(self, theta_Rp: np.ndarray) -> np.ndarray:
        """Inner parameters [R, p] to the form's own, without the slot of an absent floor: [R, parameters]."""
        out = theta_Rp.copy()
        T = len(self.form.terms)
        for t, term in enumerate(self.form.terms):
            for f in term.factors:
                if f.exponent is None:
                    out[:, 0] -= term.sign * theta_Rp[:, 1 + t] * self.log_anchors[term.coefficient]
                else:
                    power = f.direction * theta_Rp[:, 1 + T + self.form.exponents.index(f.exponent)]
                    out[:, 1 + t] *= np.exp(-power * self.anchors[f"{term.coefficient}:{f.variable}"])
        return out if self.form.floor else out[:, 1:]

    def terms(self, theta_Rp: np.ndarray) -> np.ndarray:
        """Each term per unit of its coefficient, sign included: [R, T, n]."""
        T = len(self.form.terms)
        power_RTn = np.einsum("tnm,rm->rtn", self.log_factors_Tnm, theta_Rp[:, 1 + T :])
        with np.errstate(over="ignore"):
            return self.basis_Tn * np.exp(np.minimum(power_RTn, 700.0))

    def values(self, theta_Rp: np.ndarray) -> np.ndarray:
        """Predictions: [R, n]."""
        T = len(self.form.terms)
        return theta_Rp[:, :1] + np.einsum("rt,rtn->rn", theta_Rp[:, 1 : 1 + T], self.terms(theta_Rp))


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
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(value > 0, np.log(np.where(value > 0, value, 1.0)) - np.log(self.y_Rn), np.inf)

    def loss(self, theta_Rp: np.ndarray) -> np.ndarray:
        """[R]; infinite where a prediction is not positive."""
        r = self.residuals(theta_Rp)
        size = np.abs(r)
        if np.isinf(self.delta):
            rho = 0.5 * r * r
        else:
            rho = np.where(size <= self.delta, 0.5 * r * r, self.delta * (size - 0.5 * self.delta))
        with np.errstate(invalid="ignore"):
            total = np.where(self.w_Rn > 0, self.w_Rn * rho, 0.0).sum(1)
        return np.where(np.isfinite(total), total, np.inf)

    def derivatives(self, theta_Rp: np.ndarray) -> Derivatives:
        """Gradient and exact Hessian at points where every prediction is positive (log residuals)."""
        T, m = len(self.design.form.terms), self.design.log_factors_Tnm.shape[2]
        Z = self.design.log_factors_Tnm
        unit_RTn = self.design.terms(theta_Rp)
        term_RTn = theta_Rp[:, 1 : 1 + T, None] * unit_RTn
        value_Rn = theta_Rp[:, :1] + term_RTn.sum(1)
        R, n = value_Rn.shape
        parts_Rn = np.abs(theta_Rp[:, :1]) + np.abs(term_RTn).sum(1)
        J = np.empty((R, n, 1 + T + m))
        J[:, :, 0] = 1.0
        J[:, :, 1 : 1 + T] = unit_RTn.transpose(0, 2, 1)
        J[:, :, 1 + T :] = np.einsum("rtn,tnm->rnm", term_RTn, Z)
        w = np.broadcast_to(self.w_Rn, value_Rn.shape)
        if self.log:  # a row that a replicate left out may have no logarithm there
            value_Rn = np.where(w > 0, value_Rn, self.y_Rn)
        r = np.log(value_Rn) - np.log(self.y_Rn) if self.log else value_Rn - self.y_Rn
        inside = np.abs(r) <= self.delta
        psi = np.clip(r, -self.delta, self.delta)
        if self.log:
            J /= value_Rn[:, :, None]
            unit_RTn = unit_RTn / value_Rn[:, None, :]
            term_RTn = term_RTn / value_Rn[:, None, :]
            parts_Rn = parts_Rn / value_Rn
        gradient = np.einsum("rn,rnp->rp", w * psi, J)
        # d2 log f = d2 f / f - dlog f dlog f', hence the second term of the curvature under log residuals.
        curvature = w * inside - (w * psi if self.log else 0.0)
        hessian = np.matmul(J.transpose(0, 2, 1), J * curvature[:, :, None])
        pull = (w * psi)[:, None, :]
        mixed = np.einsum("rtn,tnm->rtm", pull * unit_RTn, Z)
        hessian[:, 1 : 1 + T, 1 + T :] += mixed
        hessian[:, 1 + T :, 1 : 1 + T] += mixed.transpose(0, 2, 1)
        hessian[:, 1 + T :, 1 + T :] += np.einsum("rtn,tnk,tnl->rkl", pull * term_RTn, Z, Z, optimize=True)
        columns = np.sqrt(np.einsum("rn,rnp->rp", w, J * J))
        residual = np.sqrt((w * psi * psi).sum(1))
        # Large terms of opposite signs cancel; what is left carries the rounding of the largest.
        unit = np.max(np.where(w > 0, parts_Rn, 0.0), axis=1)
        largest = np.max(np.where(w > 0, np.abs(r), 0.0), axis=1) / np.where(unit > 0, unit, 1.0)
        # Rounding of a residual, over the typical pull, is how far from zero a cosine can be kept.
        typical = residual / np.sqrt(w.sum(1))
        goal = np.maximum(GOAL, 64 * EPS * unit / np.where(typical > 0, typical, 1.0))
        rounding = 8 * EPS * unit * (w * np.abs(psi)).sum(1)
        return Derivatives(gradient, hessian, columns, residual, largest, goal, rounding, J)


@dataclass(frozen=True)
class Derivatives:
    """At R points.

    Attributes:
        columns_Rp: norms of the Jacobian's columns.
        residual_R: norm of the residuals' pulls (rho').
        largest_R: largest residual, over the size of the terms.
        goal_R: the gradient (:meth:`cosine`) that counts as zero.
        rounding_R: objectives this close cannot be told apart.
    """

    gradient_Rp: np.ndarray
    hessian_Rpp: np.ndarray
    columns_Rp: np.ndarray
    residual_R: np.ndarray
    largest_R: np.ndarray
    goal_R: np.ndarray
    rounding_R: np.ndarray
    jacobian_Rnp: np.ndarray

    def cosine(self, moving_Rp: np.ndarray) -> np.ndarray:
        """The gradient's norm without units: the largest cosine between the pulls and a moving column, [R].

        It is 0 at a stationary point and at most 1 anywhere (MINPACK's gtol); 0 too where the fit is exact.
        """
        size = self.columns_Rp * self.residual_R[:, None]
        cos = np.where(moving_Rp & (size > 0), np.abs(self.gradient_Rp) / np.where(size > 0, size, 1.0), 0.0)
        return np.where(self.largest_R <= EXACT, 0.0, cos.max(1))

    def rows(self, keep: np.ndarray) -> Derivatives:
        """The derivatives of some of the points."""
        return Derivatives(*(getattr(self, f.name)[keep] for f in fields(self)))
