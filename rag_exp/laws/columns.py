"""Columns of anybody's table: a DataFrame or a mapping of arrays, under the axes' names or the user's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rag_exp.core.errors import LawError, did_you_mean
from rag_exp.laws.definitions import SUFFIX, not_said
from rag_exp.laws.form import AXES


def names_of(data: Any) -> list[str]:
    """The columns of a DataFrame or a mapping.

    Raises:
        LawError: the data are neither.
    """
    if not hasattr(data, "keys"):
        raise LawError(
            f"data must be a DataFrame or a mapping of columns to values, not a {type(data).__name__} (of records: "
            "pandas.DataFrame(records))."
        )
    return [str(c) for c in data.keys()]  # noqa: SIM118 (a DataFrame's keys are its columns)


def column_of(data: Any, name: str, what: str) -> Any:
    """A column of the data, which is asked for as ``what``.

    Raises:
        LawError: there is none of this name.
    """
    names = names_of(data)
    if name not in names:
        raise LawError(f"{what}: the data have no column {name!r}.{did_you_mean(name, names)} {listed(names)}")
    return data[name]


def numbers(column: Any, name: str) -> np.ndarray:
    """A column (of an array, its shape) with NaN for what is missing.

    Raises:
        LawError: it holds something that is not a number.
    """
    if isinstance(column, np.ndarray) and column.dtype.kind in "fiu":
        return column.astype(float)
    try:
        values = [math.nan if v is None or str(v) == "<NA>" else float(v) for v in column]
    except (TypeError, ValueError) as e:
        raise LawError(f"Column {name!r} holds something that is not a number ({e}).") from e
    return np.array(values, dtype=float)


def under_axes(data: Any, columns: Mapping[str, str] | None) -> Any:
    """The data with the axes under their own names.

    Args:
        columns: axis to the column that is it (``{"N": "params"}``). What the data say that the column means
            (``params_definition``) is said of the axis; where they say nothing, so does the card.

    Raises:
        LawError: a key that is no axis, or a column that is not there.
    """
    names = names_of(data)
    if not columns:
        return data
    found = {name: data[name] for name in names}
    for name, said in getattr(data, "attrs", {}).get("definitions", {}).items():
        if name in names:
            found.setdefault(name + SUFFIX, [said] * len(data))
    for axis, column in columns.items():
        if axis not in AXES:
            raise LawError(
                f"columns: {axis!r} is no axis.{did_you_mean(axis, AXES)} Axes: {', '.join(AXES)}; y= names the column "
                "that is fitted."
            )
        values = column_of(data, column, f"columns[{axis!r}]")
        said = found.get(column + SUFFIX, found.get(axis + SUFFIX))
        found |= {axis: values, axis + SUFFIX: [not_said(column)] * len(values) if said is None else said}
    return found


def listed(names: list[str]) -> str:
    """``Columns: N, D, loss.``"""
    return f"Columns: {', '.join(names[:30]) or 'none'}{', ...' if len(names) > 30 else ''}."
