"""What a law says beyond the data: with its interval over all acceptable forms, and with how far away that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag_exp.analysis.theme import si, unit

if TYPE_CHECKING:
    from rag_exp.laws.card import LawFit

TENFOLD = 10.0
_UNITS = {"N": "parameters", "M": "passages", "D": "tokens", "K": "passages read"}


@dataclass(frozen=True)
class Ahead:
    """A prediction beyond the data.

    Attributes:
        at: the point.
        value: nats; ``low`` and ``high`` are its interval over all acceptable forms, None where nothing was resampled.
        forms_low, forms_high: the acceptable forms' own values (equal where there is one form).
        distance: decades beyond the data's largest value, per axis that lies beyond it.
    """

    at: dict[str, float]
    value: float
    low: float | None
    high: float | None
    forms_low: float
    forms_high: float
    distance: dict[str, float]


def ahead(law: LawFit, factor: float = TENFOLD) -> list[Ahead]:
    """The law at ``factor`` times the largest value of each axis, the others at their largest; then of all together."""
    ends = {axis: high for axis, (_, high) in law.ranges.items()}
    steps = [{axis} for axis in ends] + ([set(ends)] if len(ends) > 1 else [])
    found = []
    for grown in steps:
        at = {axis: end * (factor if axis in grown else 1.0) for axis, end in ends.items()}
        point = {axis: [v] for axis, v in at.items()}
        distance = {axis: float(d[0]) for axis, d in law.distance(point).items() if d[0]}
        value = float(law.predict(point)[0])
        if law.draws_Rp is None:
            others = [float(a.predict(point)[0]) for a in (law, *law.alternatives)]
            found.append(Ahead(at, value, None, None, min(others), max(others), distance))
        else:
            p = law.predict(point, interval=law.level)
            ends_of = [float(v[0]) for v in (p.low_n, p.high_n, p.forms_low_n, p.forms_high_n)]  # type: ignore[union-attr]
            found.append(Ahead(at, value, *ends_of, distance))
    return found


def ahead_sentences(law: LawFit, metric: str) -> Iterator[str]:
    """``At 22.2M parameters and 32.4k passages (1 decade beyond the largest N): 8.9 nats per answer [8.1, 9.6].``"""
    for a in ahead(law):
        where = " and ".join(f"{si(v)} {_UNITS.get(axis, axis)}" for axis, v in a.at.items())
        far = " and ".join(
            f"{d:.3g} decade{'s' * (d != 1)} beyond the largest {axis}" for axis, d in a.distance.items()
        )
        where = f"At {where} ({far})"
        if a.forms_high <= 0:
            yield f"{where} the law falls below zero, which no loss can: its form does not hold so far out."
            continue
        interval = "" if a.low is None or a.high is None else f" [{a.low:.3g}, {a.high:.3g}]"
        text = f"{where}: {a.value:.3g} {unit(metric)}{interval}"
        if law.alternatives:
            text += f"; {1 + len(law.alternatives)} acceptable forms say {a.forms_low:.3g} to {a.forms_high:.3g}"
        if a.forms_low <= 0:
            text += ", and no loss is below zero: a form does not hold so far out"
        yield text + "."
