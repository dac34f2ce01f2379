"""Profile likelihood: how far one parameter can go while the others follow it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rag_exp.core.errors import LawError, did_you_mean
from rag_exp.laws.card import LawFit
from rag_exp.laws.intervals import check_level

_FIRST = 0.01  # of the parameter: the first step away from the optimum
_STEPS = 40


@dataclass(frozen=True)
class Profile:
    """Values of a parameter and how much worse than the optimum they are at best.

    Attributes:
        values, rise: twice the fall in log-likelihood at each value, sorted by value.
        low, high: where ``rise`` meets its limit; None where the form's bound comes first, so that the
            data do not limit the parameter on that side.
    """

    parameter: str
    level: float
    values: list[float]
    rise: list[float]
    low: float | None
    high: float | None


def profile(law: LawFit, parameter: str, level: float = 0.95) -> Profile:
    """The profile likelihood of a parameter (Venzon & Moolgavkar 1988), every point a certified fit.

    Least squares are the likelihood of normal errors, absolute deviations that of Laplace's; their scale is fitted
    too. For normal errors the limit is F's with the rows that parameters leave, exact where the form is linear.

    Args:
        law: fitted with ``ls_log``, ``ls_raw`` or ``lad_log``.
        parameter: one that is not fixed, under the papers' name.
        level: of the interval that the profile's limit gives.

    Raises:
        LawError: an unknown or fixed parameter, no level, or Huber's loss, which is no likelihood of one scale.
    """
    from scipy.optimize import brentq
    from scipy.stats import chi2, f

    from rag_exp.laws.fitting import fit

    check_level(level)
    if parameter not in law.form.parameters:
        raise LawError(
            f"{law.form.label} has no parameter {parameter!r}.{did_you_mean(parameter, law.form.parameters)}"
        )
    if parameter in law.fixed:
        raise LawError(f"{parameter} is fixed in this fit: it has no profile.")
    if law.loss == "huber_log":
        raise LawError("Huber's loss is no likelihood of one scale; fit with ls_log, ls_raw or lad_log for a profile.")
    if not law.objective > 0:
        raise LawError("The law meets every row exactly: its likelihood has no width.")
    data = {**law.rows["axes"], law.y: law.rows["y"]}
    count = float(np.sum(law.rows["weights"])) * (2.0 if law.loss == "lad_log" else 1.0)
    seen: dict[float, float] = {law.params[parameter]: 0.0}

    def rise(value: float) -> float:
        if value not in seen:
            held = {**law.fixed, parameter: value}
            again = fit(law.form, data, y=law.y, loss=law.loss, fixed=held, weights=law.rows["weights"])  # type: ignore[arg-type]
            seen[value] = count * float(np.log(again.objective / law.objective))
        return seen[value]

    spare = sum(w > 0 for w in law.rows["weights"]) - (len(law.form.parameters) - len(law.fixed))
    if law.loss == "lad_log":
        limit = float(chi2.ppf(level, 1))
    elif spare < 1:
        raise LawError("There are no more rows than parameters: the likelihood has no scale.")
    else:
        limit = count * float(np.log1p(f.ppf(level, 1, spare) / spare))
    ends: list[float | None] = []
    bounds = law.form.bound(parameter)
    for side, bound in zip((-1, 1), bounds, strict=True):
        inner, step = law.params[parameter], _FIRST * abs(law.params[parameter]) or _FIRST
        end = None
        for _ in range(_STEPS):
            outer = min(max(inner + side * step, bounds[0]), bounds[1])
            if rise(outer) > limit:
                end = float(brentq(lambda v: rise(v) - limit, inner, outer, xtol=1e-6 * abs(outer)))
                break
            if outer == bound:
                break
            inner, step = outer, 2 * step
        ends.append(end)
    order = sorted(seen)
    return Profile(parameter, level, order, [seen[v] for v in order], *ends)
