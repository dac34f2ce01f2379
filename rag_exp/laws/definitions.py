"""What the columns of a law's data mean, which travels with them: N without embeddings is another axis than N with.

Data say so in a column beside the axis (``N_definition``, a sentence per row), or for all rows at once in
``attrs["definitions"]`` of a DataFrame. Rows that say different things are refused, and so are predictions at points
that say something else than the law. Data that say nothing are taken to mean what :data:`rag_exp.laws.form.AXES` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rag_exp.core.errors import LawError

SUFFIX = "_definition"
UNKNOWN = "not said"


def definitions_of(data: Any, axes: Iterable[str], positions: Iterable[int] | None = None) -> dict[str, str]:
    """What the data say that their axes are; an axis of which they say nothing is absent.

    Args:
        positions: the rows that count; None for all.

    Raises:
        LawError: rows of one axis say different things, or some say what others do not.
    """
    whole = getattr(data, "attrs", {}).get("definitions", {})
    which = None if positions is None else list(positions)
    found = {}
    for axis in axes:
        if axis + SUFFIX in data:
            said = [_words(v) for v in data[axis + SUFFIX]]
            rows = range(len(said)) if which is None else which
            kinds: dict[str, list[int]] = {}
            for i in rows:
                kinds.setdefault(said[i], []).append(i)
            if len(kinds) > 1:
                listed = "; ".join(f"{k!r} in rows {_few(v)}" for k, v in kinds.items())
                raise LawError(
                    f"The rows do not mean the same by {axis}: {listed}. Bring them to one definition, or fit them "
                    "apart."
                )
            if kinds and UNKNOWN not in kinds:
                found[axis] = next(iter(kinds))
        elif axis in whole:
            found[axis] = str(whole[axis])
    return found


def check_same(law: Mapping[str, str], data: Any, axes: Iterable[str], what: str) -> None:
    """Refuse points that mean something else by an axis than the law does.

    Raises:
        LawError: they do.
    """
    for axis, said in definitions_of(data, axes).items():
        if axis in law and said != law[axis]:
            raise LawError(f"{what}: {axis} is {said!r} here, but {law[axis]!r} in the law.")


def not_said(column: str, units: float = 1.0) -> str:
    """What a card says of an axis that is somebody's column, of whose meaning nothing is said."""
    return f"column {column}{'' if units == 1 else f' times {units:g}'}, {UNKNOWN}"


def _words(value: Any) -> str:
    return UNKNOWN if value is None or value != value or str(value) == "<NA>" else str(value)


def _few(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:5]))
    return f"{shown}{', ...' if len(rows) > 5 else ''}"
