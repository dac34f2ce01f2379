"""Quantities that follow from a law's parameters, with intervals and covariance over its replicates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rag_exp.core.errors import LawError
from rag_exp.laws.card import LawFit
from rag_exp.laws.form import Form
from rag_exp.laws.intervals import check_level, percentiles

Quantity = Callable[[Mapping[str, Any]], Any]
"""From parameters by name (numbers or arrays [R]) to a number or an array [R]."""


@dataclass(frozen=True)
class Derived:
    """Values of named quantities, their intervals at ``level`` and their covariance (None without replicates)."""

    level: float
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]] | None
    covariance_qq: np.ndarray | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a card."""
        return {
            "level": self.level,
            "values": self.values,
            "intervals": None if self.intervals is None else {k: list(v) for k, v in self.intervals.items()},
            "covariance": None if self.covariance_qq is None else self.covariance_qq.tolist(),
        }


def derive(law: LawFit, quantities: Mapping[str, Quantity], level: float | None = None) -> Derived:
    """Quantities of the fit and of every replicate: ``derive(law, {"ratio": lambda p: p["A"] / p["B"]})``.

    Correlated parameters are what makes this differ from combining their intervals.

    Raises:
        LawError: no quantity, no level, or a quantity that is not finite for the fit itself or for a replicate.
    """
    level = law.level if level is None else level
    check_level(level)
    if not quantities:
        raise LawError("derive needs a quantity: derive(law, {'ratio': lambda p: p['A'] / p['B']}).")
    values = {}
    for name, quantity in quantities.items():
        values[name] = float(quantity(law.params))
        if not np.isfinite(values[name]):
            raise LawError(f"{name} is not finite for the fitted parameters.")
    if law.draws_Rp is None:
        return Derived(level, values, None, None)
    columns = dict(zip(law.form.parameters, np.ascontiguousarray(law.draws_Rp.T), strict=True))
    draws_Rq = np.stack([np.broadcast_to(q(columns), len(law.draws_Rp)) for q in quantities.values()], axis=1)
    bad = ~np.isfinite(draws_Rq)
    if bad.any():
        name = list(quantities)[int(bad.any(0).argmax())]
        raise LawError(f"{name} is not finite in {int(bad.any(1).sum())} of {len(draws_Rq)} replicates.")
    low, high = percentiles(draws_Rq, level)
    intervals = {name: (float(low[i]), float(high[i])) for i, name in enumerate(quantities)}
    return Derived(level, values, intervals, np.atleast_2d(np.cov(draws_Rq, rowvar=False)))


def allocation_exponents(form: Form) -> dict[str, Quantity]:
    """How the optimal N and D grow with compute C = 6 N D under a form with a falling power of each.

    N ~ C^a with a = beta / (alpha + beta), D ~ C^b with b = alpha / (alpha + beta) (Hoffmann et al. 2022, eq. 4).

    Returns:
        quantities ``a`` and ``b``; none where the form is not a floor and these two terms.
    """
    exponents = {}
    for term in form.terms:
        f = term.factors[0] if len(term.factors) == 1 and term.curve is None else None
        if f is None or f.exponent is None or term.sign < 0 or f.direction > 0:
            return {}
        exponents[f.variable] = f.exponent
    if exponents.keys() != {"N", "D"} or len(form.terms) != 2:
        return {}
    of_N, of_D = exponents["N"], exponents["D"]
    return {"a": lambda p: p[of_D] / (p[of_N] + p[of_D]), "b": lambda p: p[of_N] / (p[of_N] + p[of_D])}
