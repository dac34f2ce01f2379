"""A fitted law as a surface over its axes: what effects, exchange rates, contours and the frontier are read from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_exp.core.errors import LawError, did_you_mean
from rag_exp.laws.intervals import percentiles

if TYPE_CHECKING:
    from rag_exp.laws.card import LawFit
    from rag_exp.laws.factorised import FactorisedFit

LABELS = ("growth", "index")  # what is given as a word


class Surface:
    """The loss over the axes of a law, by its parameters and by every replicate.

    Args:
        law: of any kind.
        given: what a prediction needs besides and that stays the same: an axis that is held (``{"K": 4}``; one that
            had a single level in the data is), and of a factorised law ``growth``, ``index``, ``index_recall@k``, ...

    Raises:
        LawError: ``given`` holds what the law has no place for, or a word where a number belongs.
    """

    def __init__(self, law: LawFit | FactorisedFit, given: Mapping[str, Any] | None = None):
        self.law, self.given = law, dict(given or {})
        own = getattr(law, "form", law).variables
        known = (*own, *getattr(law, "asked", ()))
        for name, value in self.given.items():
            if name not in known:
                raise LawError(f"The law has no {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
            self.given[name] = _plain(name, value)
        unvaried = {a: law.ranges[a][0] for a in own if a not in self.given and law.ranges[a][0] == law.ranges[a][1]}
        self.given |= unvaried
        self.axes = tuple(a for a in own if a not in self.given)
        self.ranges = {a: law.ranges[a] for a in self.axes}
        self.level = law.level
        self.replicated = bool(law.resampling["draws"])

    def loss(self, axes: Mapping[str, Any], draws: bool = False) -> np.ndarray:
        """The loss at ``axes``: by the parameters [1, n], or by every replicate [R, n].

        Args:
            axes: a value per point, [n], or one row of points per replicate, [R, n].
        """
        at = {**self.given, **axes}
        return self.law.predict_draws(at) if draws else np.atleast_2d(np.asarray(self.law.predict(at)))

    def interval(self, values_R: np.ndarray) -> tuple[float, float]:
        """The interval of replicated values at the law's level."""
        low, high = percentiles(values_R, self.level)
        return float(low), float(high)

    def beyond(self, point: Mapping[str, float]) -> dict[str, float]:
        """Decades by which a point leaves the data, per axis on which it does: negative below the smallest value."""
        found = {}
        for axis, (low, high) in self.ranges.items():
            value = point[axis]
            decades = np.log10(value / high) if value > high else np.log10(value / low) if value < low else 0.0
            if abs(decades) > 1e-9:
                found[axis] = round(float(decades), 12)
        return found

    @property
    def assumed(self) -> list[str]:
        """What its predictions take for granted that is neither measured nor given, in words."""
        assumed = getattr(self.law, "assumed", None)
        return assumed(self.given) if assumed else []

    def rows(self) -> dict[str, np.ndarray]:
        """The rows of the fit that stand at what is ``given``: the law's axes, and ``y``; each [n]."""
        card = self.law.rows
        columns = {k: np.asarray(v) for k, v in card["axes"].items()} | {"y": np.asarray(card["y"])}
        kept = np.ones(len(columns["y"]), dtype=bool)
        for name in ("growth", "index"):
            if name in self.given:
                kept &= np.asarray(card[name]) == self.given[name]
            elif name == "index" and name in card:
                kept &= np.isin(card[name], card["exact"])
        for axis, column in columns.items():
            if axis in self.given:
                kept &= np.isclose(column, float(self.given[axis]))
        return {name: column[kept] for name, column in columns.items()}


def _plain(name: str, value: Any) -> Any:
    """What is given, a number that is written out (as a command gives it) as one."""
    if not isinstance(value, str) or name in LABELS:
        return value
    try:
        return float(value)
    except ValueError as e:
        raise LawError(f"{name} is given as {value!r}; it is a number.") from e
