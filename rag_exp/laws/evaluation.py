"""What a form says, from the papers' parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rag_exp.laws.form import Form


def evaluate(form: Form, axes: Mapping[str, Any], params_Rp: np.ndarray) -> np.ndarray:
    """Losses of R parameter vectors (in the form's order) at n points: [R, n]."""
    return evaluate_logs(form, {v: np.log(np.asarray(axes[v], dtype=float)) for v in form.variables}, params_Rp)


def evaluate_logs(form: Form, logs: Mapping[str, np.ndarray], params_Rp: np.ndarray) -> np.ndarray:
    """:func:`evaluate` from the natural logarithms of the axes."""
    column = {p: params_Rp[:, i, None] for i, p in enumerate(form.parameters)}
    total = column[form.floor] if form.floor else 0.0
    for term in form.terms:
        # The coefficient enters the exponent: alone it may be 1e40 where its power is 1e-40.
        if term.curve:
            own = {s: column[s] for s in (*term.curve.exponents, *term.curve.scales)}
            log_term, inner = term.curve.from_papers(column[term.coefficient], own)
            log_term = log_term + term.curve.log(logs, dict.fromkeys(logs, 0.0), inner)
        else:
            with np.errstate(divide="ignore"):
                log_term = np.log(column[term.coefficient])
        other: Any = 1.0
        for f in term.factors:
            if f.exponent is None:
                other = other * logs[f.variable]
            else:
                log_term = log_term + f.direction * column[f.exponent] * logs[f.variable]
        total = total + term.sign * np.exp(log_term) * other
    return np.asarray(total)
