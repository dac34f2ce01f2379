"""Choosing among forms by what they say about levels that they were not shown.

The largest level of an axis is held out, each form is fitted to the rest, and its error there is measured;
AICc stands beside it. In-sample error never decides (see :mod:`rag_exp.laws.holdout`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from rag_exp.laws.rows import Rows, read_rows, row_labels, row_weights

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
        One row per form, the best first. Columns: ``form``, ``equation``, ``parameters`` (those fitted), ``rows``
        (forms that differ in it, since an axis of theirs is missing in some, were judged by different rows), ``rmse``
        (in sample) and ``aicc`` (both from least squares on log residuals), and per hold-out H: ``H.rmse`` and
        ``H.bias`` (log residuals: 0.01 is about 1% of the loss), ``H.rows``; ``heldout`` is the root mean square over
        hold-outs and orders the table. A form that could not be fitted has nulls and a ``reason``. With replicates
        also ``H.spread``, the standard deviation of the predicted log losses, and ``spread`` over all.
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
    labels = None if cluster is None else row_labels(data, cluster, n, "cluster")
    options = {"loss": loss, "delta": delta, "missing": missing}
    trial = _Trial(values, y, row_weights(data, weights, n), labels, options, bootstrap, seed)
    read = [a for a in axes if any(a in f.variables for f in candidates)]
    masks = {h: folds(h, values, y) for h in holdouts_of(holdout, read)}
    rows = [trial.row(form, fixed_in(form, fixed), masks) for form in candidates]
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


@dataclass(frozen=True)
class _Trial:
    """The rows that all forms are tried on, and how each is fitted to them (``options``, but not in sample)."""

    values: dict[str, np.ndarray]
    y: str
    weights_n: np.ndarray
    clusters_n: np.ndarray | None
    options: dict[str, Any]
    bootstrap: int
    seed: int

    def row(self, form: Form, fixed: dict[str, float], masks: Mapping[str, list[np.ndarray]]) -> dict[str, Any]:
        """The form's row in the table."""
        row: dict[str, Any] = {"form": form.label, "equation": form.equation}
        row |= {
            "parameters": len(form.parameters) - len(fixed),
            "rows": len(self.weights_n),
            "rmse": None,
            "aicc": None,
        }
        reasons: list[str] = []
        with _noted(reasons):
            row |= _in_sample(self.fit(form, fixed, np.ones(len(self.weights_n), dtype=bool), loss="ls_log"))
        for name, held in masks.items():
            without = f"without {name.replace('_', ' ')}"
            row |= {f"{name}.rmse": None, f"{name}.bias": None, f"{name}.rows": int(sum(m.sum() for m in held))}
            row |= {f"{name}.spread": None} if self.bootstrap else {}
            with _noted(reasons, f"{without}: "):
                parts = [self.fit(form, fixed, ~m) for m in held]
                error = np.concatenate([self.error(p, m) for p, m in zip(parts, held, strict=True)])
                row |= {f"{name}.rmse": float(np.sqrt((error**2).mean())), f"{name}.bias": float(error.mean())}
                with _noted(reasons, f"{without}, replicates: "):
                    if self.bootstrap:
                        variances = [self.variances(p, m) for p, m in zip(parts, held, strict=True)]
                        row[f"{name}.spread"] = float(np.sqrt(np.concatenate(variances).mean()))
        row["heldout"] = _together([row[f"{name}.rmse"] for name in masks])
        if self.bootstrap:
            row["spread"] = _together([row[f"{name}.spread"] for name in masks])
        row["reason"] = " ".join(dict.fromkeys(reasons)) or None
        return row

    def fit(self, form: Form, fixed: dict[str, float], keep: np.ndarray, **other: Any) -> LawFit:
        """The form on some of the rows."""
        return fit(
            form, self.of(keep), y=self.y, fixed=fixed, weights=self.weights_n[keep], **{**self.options, **other}
        )

    def error(self, law: LawFit, held: np.ndarray) -> np.ndarray:
        """log(prediction / loss) of held-out rows: [held]."""
        rows = self.held(law.form, held)
        value = law.predict(rows.axes)
        if not (value > 0).all():
            raise LawError(f"{law.form.label} falls below zero at the held-out level.")
        return np.log(value / rows.y_n)

    def variances(self, law: LawFit, held: np.ndarray) -> np.ndarray:
        """Variance of the log loss predicted for each held-out row, over replicates of the kept ones: [held]."""
        kept = {**law.rows["axes"], self.y: law.rows["y"]}
        how: dict[str, Any] = {k: v for k, v in self.options.items() if k != "missing"}
        how |= {"fixed": law.fixed, "weights": law.rows["weights"], "bootstrap": self.bootstrap, "seed": self.seed}
        if self.clusters_n is not None:
            how |= {"cluster": self.clusters_n[~held][law.rows["positions"]], "bootstrap_kind": "cluster"}
        again = fit(law.form, kept, y=self.y, **how)
        values = again.predict_draws(self.held(law.form, held).axes)
        if not (values > 0).all():
            raise LawError(f"{law.form.label} falls below zero at the held-out level in some replicates.")
        return np.log(values).var(0)

    def held(self, form: Form, mask: np.ndarray) -> Rows:
        """The rows under the mask on which nothing is missing."""
        rows = read_rows(form, self.of(mask), self.y, missing="leave_out")
        if not len(rows):
            raise LawError("No row is held out.")
        return rows

    def of(self, mask: np.ndarray) -> dict[str, np.ndarray]:
        """The rows under the mask."""
        return {k: v[mask] for k, v in self.values.items()}


def _in_sample(law: LawFit) -> dict[str, Any]:
    r, w = law.residuals(), np.asarray(law.rows["weights"])
    n, k = float(w.sum()), len(law.form.parameters) - len(law.fixed) + 1  # the noise's variance is a parameter too
    mean_square = float((w * r**2).sum() / n)
    aicc = None
    if n - k - 1 > 0 and mean_square > 0:
        aicc = n * float(np.log(mean_square)) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    return {"rows": len(r), "rmse": float(np.sqrt(mean_square)), "aicc": aicc}


@contextmanager
def _noted(reasons: list[str], where: str = "") -> Iterator[None]:
    """Within, what cannot be fitted is a reason and no error."""
    try:
        yield
    except LawError as e:
        reasons.append(f"{where}{e}")


def _together(errors: list[float | None]) -> float | None:
    """Their root mean square; None where one is not known."""
    known = [e for e in errors if e is not None]
    return float(np.sqrt(np.mean(np.square(known)))) if len(known) == len(errors) else None
