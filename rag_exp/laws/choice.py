"""Choosing among forms by what they say about levels that they were not shown.

The largest level of an axis is held out, each form is fitted to the rest, and its error there is measured;
AICc stands beside it. In-sample error never decides (see :mod:`rag_exp.laws.holdout`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rag_exp.core.errors import LawError, did_you_mean
from rag_exp.laws.card import LawFit
from rag_exp.laws.columns import column_of, listed, names_of, numbers, under_axes
from rag_exp.laws.definitions import definitions_of
from rag_exp.laws.fitting import Loss, fit
from rag_exp.laws.forms import AXES, Form, form_by_name
from rag_exp.laws.holdout import folds, holdouts_of, nearest_error
from rag_exp.laws.intervals import check_draws
from rag_exp.laws.rows import read_rows, row_labels, row_weights

if TYPE_CHECKING:
    import pandas as pd

ACCEPTABLE = 2.0
"""Held-out errors within this factor are alike: of five to ten held-out rows each, two equally good forms differ by a
factor of 1.7 to 2.2 in one of twenty studies (the square root of F's 95% point), where their errors are independent."""
AICC_GAP = 2.0
"""Burnham & Anderson 2002, section 2.6: models this close have substantial support too."""


def compare(
    forms: str | Form | Iterable[str | Form],
    data: Any,
    holdout: str | Sequence[str] | None = None,
    *,
    y: str = "loss",
    loss: Loss = "huber_log",
    delta: float = 1e-3,
    fixed: Mapping[str, float] | None = None,
    weights: str | Sequence[float] | None = None,
    cluster: str | Sequence[Any] | None = None,
    missing: Literal["error", "leave_out"] = "error",
    bootstrap: int = 0,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Fit every form without the held-out rows (the largest level of an axis), and measure it there.

    ``y``, ``loss``, ``delta``, ``weights``, ``cluster``, ``missing``, ``seed`` and ``columns`` are those of
    :func:`rag_exp.laws.fit`.

    Args:
        forms: names or forms.
        data: a DataFrame or a mapping of arrays, as for :func:`rag_exp.laws.fit`.
        holdout: ``"largest_compute"`` (largest N * D, one fifth of the rows), ``"largest_params"`` (N), ``"largest_N"``
            (or D, M, K), ``"leave_one_level_out"`` (each level of each axis in turn; ``"leave_one_level_out_N"``: of
            this axis), or several. None: ``"largest_compute"`` where the forms read N and D, else the largest of every
            axis.
        fixed: parameters held at known values in every form that has them (a floor that is known exactly, say).
        bootstrap: replicates of every fit without its held-out rows, by ``cluster`` where given (0: none).

    Returns:
        One row per form, the best first. Columns: ``form``, ``equation``, ``parameters`` (those fitted), ``rows``,
        ``rmse`` (in sample) and ``aicc`` (both from least squares on log residuals), and per hold-out H:
        ``H.rmse`` and ``H.bias`` (log residuals: 0.01 is about 1% of the loss), ``H.rows``; ``heldout`` is the root
        mean square over hold-outs and orders the table. A form that could not be fitted has nulls and a ``reason``.
        With replicates also ``H.spread``, the standard deviation of the predicted log losses, and ``spread`` over all.
        ``attrs["nearest"]`` holds what repeating the nearest kept level would err, per hold-out.

    Raises:
        LawError: an unknown hold-out or parameter, a column that is not there, no rows, or rows that mean different
            things by an axis.
    """
    import pandas as pd

    check_draws(bootstrap)
    candidates = [form_by_name(f) for f in ([forms] if isinstance(forms, str | Form) else forms)]
    if not candidates:
        raise LawError("compare needs at least one form.")
    _check_fixed(candidates, fixed)
    data = under_axes(data, columns)
    values = _columns(data, candidates, y)
    axes = [a for a in values if a != y]
    definitions_of(data, axes)
    n = len(values[y])
    given = {"weights": row_weights(data, weights, n)}
    if cluster is not None:
        given["cluster"] = row_labels(data, cluster, n, "cluster")
    read = [a for a in axes if any(a in f.variables for f in candidates)]
    masks = {h: folds(h, values, y) for h in holdouts_of(holdout, read)}
    options: dict[str, Any] = {"y": y, "missing": missing}
    rows = []
    for form in candidates:
        options["fixed"] = fixed_in(form, fixed)
        free = len(form.parameters) - len(options["fixed"])
        row: dict[str, Any] = {"form": form.label, "equation": form.equation, "parameters": free}
        row |= {"rows": n, "rmse": None, "aicc": None}
        reasons = []
        try:
            row |= _in_sample(fit(form, values, loss="ls_log", weights=given["weights"], **options))
        except LawError as e:
            reasons.append(str(e))
        errors = []
        for name, held in masks.items():
            row |= {f"{name}.rmse": None, f"{name}.bias": None, f"{name}.rows": int(sum(m.sum() for m in held))}
            row |= {f"{name}.spread": None} if bootstrap else {}
            try:
                parts = [
                    fit(form, _take(values, ~m), loss=loss, delta=delta, **options, **_take(given, ~m)) for m in held
                ]
                error = np.concatenate([_log_error(p, _take(values, m), y) for p, m in zip(parts, held, strict=True)])
            except LawError as e:
                reasons.append(f"without {name.replace('_', ' ')}: {e}")
                continue
            if bootstrap:
                try:
                    spreads = [
                        _variances(p, _take(values, m), _take(given, ~m).get("cluster"), bootstrap, seed)
                        for p, m in zip(parts, held, strict=True)
                    ]
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
    table.attrs["nearest"] = {h: nearest_error(values, m, y, axes, h) for h, m in masks.items()}
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
        LawError: no form could be fitted, or a factor below 1.
    """
    if not factor >= 1:
        raise LawError(f"factor={factor:g}: it is 1 for the chosen form alone, or larger.")
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


def fixed_in(form: Form, fixed: Mapping[str, float] | None) -> dict[str, float]:
    """What of ``fixed`` the form has."""
    return {p: v for p, v in (fixed or {}).items() if p in form.parameters}


def _check_fixed(forms: list[Form], fixed: Mapping[str, float] | None) -> None:
    known = dict.fromkeys(p for f in forms for p in f.parameters)
    for name in fixed or {}:
        if name not in known:
            raise LawError(f"No form has a parameter {name!r} to fix.{did_you_mean(name, known)}")


def _columns(data: Any, forms: list[Form], y: str) -> dict[str, np.ndarray]:
    """The axes that the forms read, the other axes that the data have, and ``y``, each [n]."""
    names = [name for name in names_of(data) if name != y]
    wanted = dict.fromkeys(v for f in forms for v in f.variables)
    columns = {a: numbers(data[a], a) for a in dict.fromkeys([*wanted, *AXES]) if a in names}
    if not wanted.keys() & columns.keys():
        way = ", ".join(f"{a!r}: ..." for a in wanted)
        raise LawError(f"The data have none of the axes {', '.join(wanted)}. {listed(names)} Say: columns={{{way}}}.")
    columns[y] = numbers(column_of(data, y, "y"), y)
    if not len(columns[y]):
        raise LawError("The data have no rows.")
    if len({len(v) for v in columns.values()}) > 1:
        raise LawError(f"Columns differ in length: {', '.join(f'{k} has {len(v)}' for k, v in columns.items())}.")
    return columns


def _take(columns: Mapping[str, np.ndarray], mask: np.ndarray) -> dict[str, np.ndarray]:
    return {k: v[mask] for k, v in columns.items()}


def _in_sample(law: LawFit) -> dict[str, Any]:
    r, w = law.residuals(), np.asarray(law.rows["weights"])
    n, k = float(w.sum()), len(law.form.parameters) - len(law.fixed) + 1  # the noise's variance is a parameter too
    mean_square = float((w * r**2).sum() / n)
    aicc = None
    if n - k - 1 > 0 and mean_square > 0:
        aicc = n * float(np.log(mean_square)) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    return {"rows": len(r), "rmse": float(np.sqrt(mean_square)), "aicc": aicc}


def _log_error(law: LawFit, held: Mapping[str, Any], y: str) -> np.ndarray:
    rows = read_rows(law.form, held, y, missing="leave_out")
    if not len(rows):
        raise LawError("No row is held out.")
    value = law.predict(rows.axes)
    if not (value > 0).all():
        raise LawError(f"{law.form.label} falls below zero at the held-out level.")
    return np.log(value / rows.y_n)


def _variances(
    part: LawFit, held: Mapping[str, np.ndarray], clusters: np.ndarray | None, bootstrap: int, seed: int
) -> np.ndarray:
    """Variance of the log loss predicted for each held-out row, over replicates of the kept ones: [held]."""
    data = {**part.rows["axes"], part.y: part.rows["y"]}
    options = {"y": part.y, "loss": part.loss, "delta": part.delta or 1e-3, "fixed": part.fixed}
    if clusters is not None:
        options |= {"cluster": clusters[part.rows["positions"]], "bootstrap_kind": "cluster"}
    law = fit(part.form, data, weights=part.rows["weights"], bootstrap=bootstrap, seed=seed, **options)
    values = law.predict_draws({v: held[v] for v in law.form.variables})
    if not (values > 0).all():
        raise LawError(f"{law.form.label} falls below zero at the held-out level in some replicates.")
    return np.log(values).var(0)
