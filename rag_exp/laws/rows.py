"""The rows of a fit: read, checked, and each row left out with its reason."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rag_exp.core.errors import LawError, did_you_mean
from rag_exp.laws.columns import column_of, listed, names_of, numbers
from rag_exp.laws.definitions import definitions_of
from rag_exp.laws.form import Form

MIN_LEVELS = 3
ONE_KIND = ("arm", "index", "growth")  # columns of a study's table that make other curves
PERPLEXITIES = ("ppl", "perplexity")
SCORES = ("accuracy", "acc", "em", "f1", "recall", "bleu", "rouge")
_NO_LABEL = ("None", "nan", "<NA>", "NaT")
_RISES = 0.5  # rank correlation with an axis from which on a share is taken to rise with it


@dataclass
class Rows:
    """Rows that a fit uses, in the given order.

    Attributes:
        axes: values of every axis of the form, each [n].
        y_n: what is fitted.
        w_n: weights.
        clusters_n: an integer per row, equal for rows of one cluster; None where no clusters were given.
        seeds_n: the same for seeds.
        positions_n: the rows' positions in the given data.
        left_out: ``{"row": position, "reason": words}`` for every row not used.
        warnings: what a reader of the fit should know about the rows.
        definitions: what the data say that their axes are (see ``rag_exp.laws.definitions``).
    """

    axes: dict[str, np.ndarray]
    y_n: np.ndarray
    w_n: np.ndarray
    clusters_n: np.ndarray | None
    seeds_n: np.ndarray | None
    positions_n: np.ndarray
    left_out: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    definitions: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y_n)

    def take(self, keep: np.ndarray) -> Rows:
        """The rows at the positions (or under the mask) ``keep``."""
        return Rows(
            {k: v[keep] for k, v in self.axes.items()},
            self.y_n[keep],
            self.w_n[keep],
            None if self.clusters_n is None else self.clusters_n[keep],
            None if self.seeds_n is None else self.seeds_n[keep],
            self.positions_n[keep],
            self.left_out,
            self.warnings,
            self.definitions,
        )

    def logs(self) -> dict[str, np.ndarray]:
        return {k: np.log(v) for k, v in self.axes.items()}


def read_rows(
    form: Form,
    data: Any,
    y: str,
    *,
    weights: str | Sequence[float] | None = None,
    cluster: str | Sequence[Any] | None = None,
    seeds: str | Sequence[Any] | None = None,
    missing: str = "error",
    log: bool = True,
) -> Rows:
    """Take the form's axes and ``y`` out of a DataFrame or a mapping of arrays.

    Args:
        missing: what a null or NaN is: ``"error"``, or ``"leave_out"`` (the row goes, with its reason).
        log: whether residuals are taken in logarithms, so that ``y`` must be positive.

    Raises:
        LawError: a column is absent, lengths differ, a value cannot be used, the column is by its name no loss, or
            the rows mean different things by an axis.
    """
    names = names_of(data)
    columns: dict[str, np.ndarray] = {}
    for name in (*form.variables, y):
        if name not in names:
            way = "y=" if name == y else f"columns={{{name!r}: ...}}"
            raise LawError(
                f"Form {form.label} needs the column {name!r}, which the data do not have.{did_you_mean(name, names)} "
                f"{listed(names)} Where it has another name, say so: {way}."
            )
        columns[name] = numbers(data[name], name)
    lengths = {name: len(v) for name, v in columns.items()}
    if len(set(lengths.values())) != 1:
        raise LawError(f"Columns differ in length: {', '.join(f'{k} has {v}' for k, v in lengths.items())}.")
    n = lengths[y]
    if not n:
        raise LawError("The data have no rows.")
    left_out = _usable(form, columns, y, n, missing, log)
    gone = {row["row"] for row in left_out}
    keep = np.array([i for i in range(n) if i not in gone], dtype=int)
    rows = Rows(
        {v: columns[v][keep] for v in form.variables},
        columns[y][keep],
        row_weights(data, weights, n)[keep],
        None if cluster is None else row_labels(data, cluster, n, "cluster")[keep],
        None if seeds is None else row_labels(data, seeds, n, "seed")[keep],
        keep,
        left_out,
    )
    rows.definitions = definitions_of(data, form.variables, keep)
    rows.warnings += _mixtures(data, names, rows.positions_n) + _repeated(rows)
    if not form.score:
        refuse_scores(y)
        rows.warnings += _like_an_accuracy(rows, y)
    return rows


def refuse_scores(y: str) -> None:
    """Refuse a column that by its name is no loss in nats.

    Raises:
        LawError: it says perplexity, or a score.
    """
    parts = set(re.split(r"[^a-z0-9]+", y.lower()))
    if parts & set(PERPLEXITIES):
        raise LawError(
            f"{y!r} is a perplexity: its floor and its powers are not those of a loss. Fit its logarithm, the loss in "
            "nats per token."
        )
    if parts & set(SCORES):
        raise LawError(
            f"{y!r} is a score and not a loss in nats, whose laws these are. Fit a loss, or a form of scores (sigmoid, "
            "error_from_loss, log_linear)."
        )


def check_rows(form: Form, rows: Rows, free: int, fixed: Mapping[str, float]) -> None:
    """Refuse data that cannot carry the form.

    Raises:
        LawError: no rows, constant losses, fewer than three levels of an axis, fewer rows than free parameters.
    """
    if not len(rows):
        raise LawError(f"No row is left to fit {form.label} to. " + _reasons(rows.left_out))
    for axis, values in rows.axes.items():
        terms = [t for t in form.terms if axis in t.variables]
        if all({t.coefficient, *t.shapes} <= fixed.keys() for t in terms):
            continue
        if all(t.curve is not None and axis in t.curve.covariates for t in terms):
            continue
        levels = np.unique(values[rows.w_n > 0])
        if len(levels) < MIN_LEVELS:
            shown = ", ".join(f"{v:g}" for v in levels)
            raise LawError(
                f"{form.label} needs at least {MIN_LEVELS} levels of {axis}; the data have {len(levels)} ({shown}). "
                f"Add runs at other values of {axis}, or fit a form without it."
            )
    spread = np.ptp(rows.y_n)
    if spread <= 1e-12 * np.abs(rows.y_n).max():
        raise LawError(f"The losses are constant ({rows.y_n[0]:g} in all {len(rows)} rows): there is nothing to fit.")
    if len(rows) < free:
        raise LawError(f"{form.label} has {free} free parameters, but the data have only {len(rows)} rows.")


def _usable(
    form: Form, columns: dict[str, np.ndarray], y: str, n: int, missing: str, log: bool
) -> list[dict[str, Any]]:
    left_out = []
    for i in range(n):
        for name in (*form.variables, y):
            value = columns[name][i]
            what = "loss" if name == y else "axis"
            if math.isnan(value):
                reason = f"{name} is missing"
                if missing == "error":
                    raise LawError(
                        f"Row {i}: {reason} (null or NaN). Drop the row, or give missing='leave_out' to have it left "
                        "out and listed on the fit card."
                    )
                left_out.append({"row": i, "reason": reason})
                break
            if math.isinf(value) or (value <= 0 and (name != y or log)):
                raise LawError(
                    f"Row {i}: the {what} {name} is {value:g}; it must be {'finite and ' * math.isinf(value)}positive"
                    + (" (residuals are taken in logarithms; loss='ls_raw' takes any)." if name == y else ".")
                )
    return left_out


def _mixtures(data: Any, names: list[str], positions_n: np.ndarray) -> list[str]:
    """A warning for each column that tells curves apart and has several values among the rows."""
    out = []
    for name in ONE_KIND:
        if name in names:
            column = [str(v) for v in data[name]]
            kinds = sorted({column[i] for i in positions_n if i < len(column)})
            if len(kinds) > 1:
                out.append(f"the rows mix several values of {name} ({', '.join(kinds)}): one law for different curves")
    return out


def _repeated(rows: Rows) -> list[str]:
    """A warning where rows are the same to the last digit and no clusters tell that they are one measurement."""
    values = np.stack([*rows.axes.values(), rows.y_n], axis=1)[rows.w_n > 0]
    again = len(values) - len(np.unique(values, axis=0))
    if rows.clusters_n is not None or not again:
        return []
    return [
        f"{again} rows repeat another one to the last digit: intervals take them for measurements of their own and are "
        "narrow; leave them out, or give cluster= with one label for equal rows"
    ]


def _like_an_accuracy(rows: Rows, y: str) -> list[str]:
    """A warning where all values are shares that rise with model, data or compute: what losses do not."""
    if len(rows) < MIN_LEVELS or not ((rows.y_n >= 0) & (rows.y_n <= 1)).all():
        return []
    ranks = _ranks(rows.y_n)
    for axis in ("N", "D", "C"):
        varies = axis in rows.axes and np.ptp(rows.axes[axis]) > 0 and np.ptp(ranks) > 0
        if varies and np.corrcoef(_ranks(rows.axes[axis]), ranks)[0, 1] > _RISES:
            return [f"{y!r} looks like an accuracy: its values lie in [0, 1] and rise with {axis}"]
    return []


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks with ties at their mean."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((2 * last - counts - 1) / 2)[which]


def row_weights(data: Any, weights: str | Sequence[float] | None, n: int) -> np.ndarray:
    """Weights of ``n`` rows, from a column or as given; 1 each where none are.

    Raises:
        LawError: no such column, or weights that cannot be used.
    """
    if weights is None:
        return np.ones(n)
    found = numbers(column_of(data, weights, "weights") if isinstance(weights, str) else weights, "weights")
    if len(found) != n:
        raise LawError(f"{len(found)} weights for {n} rows.")
    if not (np.isfinite(found).all() and (found >= 0).all() and (found > 0).any()):
        raise LawError("Weights must be finite and not negative, and some must be positive.")
    return found


def row_labels(data: Any, column: str | Sequence[Any], n: int, what: str) -> np.ndarray:
    """An integer per row, equal for rows of equal labels (a column's, or as given).

    Raises:
        LawError: no such column, another number of labels than of rows, or a label that is missing.
    """
    labels = [str(v) for v in (column_of(data, column, what) if isinstance(column, str) else column)]
    if len(labels) != n:
        raise LawError(f"{len(labels)} {what} labels for {n} rows.")
    if absent := [i for i, label in enumerate(labels) if label in _NO_LABEL]:
        raise LawError(
            f"Row {absent[0]} has no {what} label ({len(absent)} of {n} have none), and is not of one {what} with the "
            f"others that have none. Give each a label of its own, or leave the rows out."
        )
    return np.unique(labels, return_inverse=True)[1]


def _reasons(left_out: list[dict[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for row in left_out:
        counts[row["reason"]] = counts.get(row["reason"], 0) + 1
    if not counts:
        return "The data are empty."
    return "Left out: " + "; ".join(f"{n} rows because {reason}" for reason, n in counts.items()) + "."
