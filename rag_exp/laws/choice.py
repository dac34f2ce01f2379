"""Choosing among forms by what they say about levels that they were not shown.

The largest level of an axis is held out, each form is fitted to the rest, and its error there is measured;
AICc stands beside it. In-sample error never decides (see :mod:`rag_exp.laws.holdout`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_exp.core.errors import LawError
from rag_exp.laws.definitions import definitions_of
from rag_exp.laws.fitting import fit
from rag_exp.laws.forms import AXES, Form, form_by_name
from rag_exp.laws.holdout import folds, nearest_error
from rag_exp.laws.rows import read_rows

if TYPE_CHECKING:
    import pandas as pd

ACCEPTABLE = 2.0
"""Held-out errors within this factor are alike: of five to ten held-out rows each, two equally good forms differ by a
factor of 1.7 to 2.2 in one of twenty studies (the square root of F's 95% point), where their errors are independent."""
AICC_GAP = 2.0
"""Burnham & Anderson 2002, section 2.6: models this close have substantial support too."""


def compare(
    forms: Iterable[str | Form],
    data: Any,
    holdout: str | Sequence[str] = "largest_N",
    *,
    y: str = "loss",
    loss: str = "huber_log",
    delta: float = 1e-3,
    weights: Sequence[float] | None = None,
    missing: str = "error",
    bootstrap: int = 0,
) -> pd.DataFrame:
    """Fit every form without the held-out rows (the largest level of an axis), and measure it there.

    Args:
        forms: names or forms.
        holdout: ``"largest_N"`` (or D, M, K), ``"largest_params"`` (N), ``"largest_compute"`` (largest N * D, one fifth
            of the rows), ``"leave_one_level_out_N"`` (each level in turn, their errors together), or several.
        bootstrap: replicates of every fit without its held-out rows (0: none).

    Returns:
        One row per form, the best first. Columns: ``form``, ``equation``, ``parameters``, ``rows``,
        ``rmse`` (in sample) and ``aicc`` (both from least squares on log residuals), and per hold-out H:
        ``H.rmse`` and ``H.bias`` (log residuals: 0.01 is about 1% of the loss), ``H.rows``; ``heldout`` is the root
        mean square over hold-outs and orders the table. A form that could not be fitted has nulls and a ``reason``.
        With replicates also ``H.spread``, the standard deviation of the predicted log losses, and ``spread`` over all.
        ``attrs["nearest"]`` holds what repeating the nearest kept level would err, per hold-out.

    Raises:
        LawError: an unknown hold-out, no rows, or rows that mean different things by an axis.
    """
    import pandas as pd

    holdouts = [holdout] if isinstance(holdout, str) else list(holdout)
    candidates = [form_by_name(f) for f in forms]
    if not candidates or not holdouts:
        raise LawError("compare needs at least one form and one hold-out.")
    axes = _axes(data, candidates)
    definitions_of(data, axes)
    columns = {v: data[v] for v in [*axes, y]}
    n = len(list(columns[y]))
    w = np.ones(n) if weights is None else np.asarray(weights, dtype=float)
    masks = {h: folds(h, columns, y) for h in holdouts}
    rows = []
    for form in candidates:
        row: dict[str, Any] = {"form": form.label, "equation": form.equation, "parameters": len(form.parameters)}
        row |= {"rows": n, "rmse": None, "aicc": None}
        reasons = []
        try:
            whole = fit(form, columns, y=y, loss="ls_log", weights=w, missing=missing)  # type: ignore[arg-type]
            row |= _in_sample(whole)
        except LawError as e:
            reasons.append(str(e))
        errors = []
        for name, held in masks.items():
            row |= {f"{name}.rmse": None, f"{name}.bias": None, f"{name}.rows": int(sum(m.sum() for m in held))}
            row |= {f"{name}.spread": None} if bootstrap else {}
            try:
                parts = [
                    fit(form, _take(columns, ~m), y=y, loss=loss, delta=delta, weights=w[~m], missing=missing)  # type: ignore[arg-type]
                    for m in held
                ]
                error = np.concatenate([_log_error(p, _take(columns, m), y) for p, m in zip(parts, held, strict=True)])
            except LawError as e:
                reasons.append(f"without {name.replace('_', ' ')}: {e}")
                continue
            if bootstrap:
                try:
                    spreads = [_variances(p, _take(columns, m), bootstrap) for p, m in zip(parts, held, strict=True)]
                    row[f"{name}.spread"] = float(np.sqrt(np.concatenate(spreads).mean()))
                except LawError as e:
                    reasons.append(f"without {name.replace('_', ' ')}, replicates: {e}")
            row[f"{name}.rmse"], row[f"{name}.bias"] = float(np.sqrt((error**2).mean())), float(error.mean())
            errors.append(row[f"{name}.rmse"])
        row["heldout"] = float(np.sqrt(np.mean(np.square(errors)))) if len(errors) == len(masks) else None
        if bootstrap:
            all_spreads = [row[f"{name}.spread"] for name in masks]
            known = all(s is not None for s in all_spreads)
            row["spread"] = float(np.sqrt(np.mean(np.square(all_spreads)))) if known else None
        row["reason"] = " ".join(dict.fromkeys(reasons)) or None
        rows.append(row)
    rows.sort(key=lambda r: (r["heldout"] is None, r["heldout"] or 0.0))
    table = pd.DataFrame(rows).astype(object).where(lambda t: t.notna(), None)
    table.attrs["nearest"] = {h: nearest_error(columns, m, y, axes, h) for h, m in masks.items()}
    return table


def choose(table: pd.DataFrame) -> str:
    """The form with the smallest held-out error; where none has one, smallest AICc; else fewest parameters.

    Raises:
        LawError: no form could be fitted; the message holds every reason.
    """
    fitted = table[[rmse is not None for rmse in table["rmse"]]]
    for column in ("heldout", "aicc", "parameters"):
        known = [(value, form) for value, form in zip(fitted[column], fitted["form"], strict=True) if value is not None]
        if known:
            return min(known)[1]
    reasons = " ".join(f"{f}: {r}" for f, r in zip(table["form"], table["reason"], strict=True))
    raise LawError(f"None of the forms could be fitted. {reasons}")


def acceptable(table: pd.DataFrame, factor: float = ACCEPTABLE) -> list[str]:
    """The forms whose held-out error is at most ``factor`` times that of the chosen one, which comes first.

    Where no form could be held out, those within ``AICC_GAP`` of the smallest AICc.

    Raises:
        LawError: no form could be fitted.
    """
    first = choose(table)
    by_form = table.set_index("form")
    near = []
    for form, row in by_form.iterrows():
        if row["rmse"] is None or form == first:
            continue
        if by_form.loc[first, "heldout"] is not None:
            close = row["heldout"] is not None and row["heldout"] <= factor * by_form.loc[first, "heldout"]
        else:
            known = row["aicc"] is not None and by_form.loc[first, "aicc"] is not None
            close = known and row["aicc"] <= by_form.loc[first, "aicc"] + AICC_GAP
        near += [str(form)] * close
    return [first, *near]


def _axes(data: Any, forms: list[Form]) -> list[str]:
    names = [str(c) for c in data.keys()]  # noqa: SIM118 (a DataFrame's keys are its columns)
    wanted = dict.fromkeys(v for f in forms for v in f.variables)
    return [a for a in dict.fromkeys([*wanted, *AXES]) if a in names]


def _take(columns: Mapping[str, Any], mask: np.ndarray) -> dict[str, list[Any]]:
    return {k: [v for v, keep in zip(values, mask, strict=True) if keep] for k, values in columns.items()}


def _in_sample(law: Any) -> dict[str, Any]:
    r, w = law.residuals(), np.asarray(law.rows["weights"])
    n, k = float(w.sum()), len(law.form.parameters) + 1  # the noise's variance is a parameter too
    mean_square = float((w * r**2).sum() / n)
    aicc = None
    if n - k - 1 > 0 and mean_square > 0:
        aicc = n * float(np.log(mean_square)) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    return {"rows": len(r), "rmse": float(np.sqrt(mean_square)), "aicc": aicc}


def _log_error(law: Any, held: Mapping[str, Any], y: str) -> np.ndarray:
    rows = read_rows(law.form, held, y, missing="leave_out")
    if not len(rows):
        raise LawError("No row is held out.")
    value = law.predict(rows.axes)
    if not (value > 0).all():
        raise LawError(f"{law.form.label} falls below zero at the held-out level.")
    return np.log(value / rows.y_n)


def _variances(part: Any, held: Mapping[str, Any], bootstrap: int) -> np.ndarray:
    """Variance of the log loss predicted for each held-out row, over replicates of the kept ones: [held]."""
    data = {**part.rows["axes"], part.y: part.rows["y"]}
    options = {"loss": part.loss, "weights": part.rows["weights"], "bootstrap": bootstrap}
    law = fit(part.form, data, y=part.y, delta=part.delta or 1e-3, **options)
    values = law.predict_draws({v: held[v] for v in law.form.variables})
    if not (values > 0).all():
        raise LawError(f"{law.form.label} falls below zero at the held-out level in some replicates.")
    return np.log(values).var(0)
