"""What a fitted law says a change is worth: differences, exchange rates and contours, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_exp.core.errors import LawError
from rag_exp.laws.surface import Surface

if TYPE_CHECKING:
    import pandas as pd

    from rag_exp.laws.card import LawFit
    from rag_exp.laws.factorised import FactorisedFit

    Law = LawFit | FactorisedFit | Surface

TENFOLD = 10.0
_SEARCH = 1e6  # an exchange rate is looked for up to this factor on the other axis
_HALVINGS = 50
_LARGEST = 700.0  # logarithm of what a float still holds
_STEP = 1e-4  # in the logarithm of an axis, of a central difference


def surface_of(law: Law) -> Surface:
    """The law as a surface, where it is none yet."""
    return law if isinstance(law, Surface) else Surface(law)


def alternatives(surface: Surface) -> list[Surface]:
    """The same over the other acceptable forms that have the same axes."""
    others = [Surface(law, surface.given) for law in getattr(surface.law, "alternatives", [])]
    return [s for s in others if set(s.axes) == set(surface.axes)]


@dataclass(frozen=True)
class Effect:
    """How much the loss falls when an axis is multiplied by ``factor``, ending at its largest measured value.

    Attributes:
        axis, start, stop: the axis, and from where to where it goes; both inside the data.
        at: where the other axes stand; empty for a law in one axis.
        fall: nats by which the loss falls (negative: it rises).
        low, high: interval of ``fall``; None where nothing was resampled.
    """

    axis: str
    start: float
    stop: float
    at: dict[str, float]
    fall: float
    low: float | None
    high: float | None

    @property
    def factor(self) -> float:
        return self.stop / self.start

    @property
    def sign(self) -> int:
        """1: the loss falls; -1: it rises; 0: the interval includes zero."""
        if self.low is None or self.high is None:
            return 1 if self.fall > 0 else -1 if self.fall < 0 else 0
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def effect(law: Law, axis: str, at: dict[str, float] | None = None) -> Effect:
    """The worth of the last tenfold of an axis, or of its whole measured range where that is less than tenfold.

    Args:
        at: the other axes; their largest measured values unless given.

    Raises:
        LawError: the law has no such axis.
    """
    surface = surface_of(law)
    _check_axes(surface, axis)
    low, high = surface.ranges[axis]
    start = max(low, high / TENFOLD)
    others = {a: r[1] for a, r in surface.ranges.items() if a != axis} | (at or {})
    points = {axis: np.array([start, high]), **{a: np.array([v, v]) for a, v in others.items()}}
    value = surface.loss(points)[0]
    fall = float(value[0] - value[1])
    if not surface.replicated:
        return Effect(axis, start, high, others, fall, None, None)
    draws = surface.loss(points, draws=True)
    return Effect(axis, start, high, others, fall, *surface.interval(draws[:, 0] - draws[:, 1]))


@dataclass(frozen=True)
class Exchange:
    """The factor on ``other`` that lowers the loss as much as the effect does.

    Attributes:
        base: where ``other`` starts: the middle of its measured range (log scale).
        factor: None where no factor up to a million does.
        low, high: interval over the replicates; None for an end where the replicates reach no such factor.
        within: whether the factor stays inside the measured range of ``other``.
        none_share: share of replicates in which no factor is enough.
    """

    effect: Effect
    other: str
    base: float
    factor: float | None
    low: float | None
    high: float | None
    within: bool
    none_share: float


def exchange(law: Law, of: Effect, other: str) -> Exchange:
    """What ``of`` is worth in terms of ``other``: ``exchange(law, effect(law, "N"), "M")``.

    Raises:
        LawError: the law has no axis ``other``, or ``of`` is not what :func:`effect` returns.
    """
    if not isinstance(of, Effect):
        raise LawError(f"exchange takes the worth of an axis and not {of!r}: exchange(law, effect(law, 'N'), 'M').")
    surface = surface_of(law)
    _check_axes(surface, of.axis, other)
    low, high = surface.ranges[other]
    base = float(np.sqrt(low * high))
    held = {a: v for a, v in of.at.items() if a != other}

    def factors(draws: bool) -> np.ndarray:
        start = {**held, of.axis: np.array([[of.start]])}
        target_R1 = surface.loss({**held, of.axis: np.array([[of.stop]]), other: np.array([[base]])}, draws)
        return _level(surface, start, other, target_R1, (base, base * _SEARCH), draws)[:, 0] / base

    factor = factors(False)[0]
    if not surface.replicated:
        bounds: tuple[float | None, float | None] = (None, None)
        share = 0.0
    else:
        draws = factors(True)
        with np.errstate(invalid="ignore"):  # between a factor and none lies none
            ends = surface.interval(np.where(np.isnan(draws), np.inf, draws))
        bounds = tuple(float(e) if np.isfinite(e) else None for e in ends)  # type: ignore[assignment]
        share = float(np.isnan(draws).mean())
    known = None if np.isnan(factor) else float(factor)
    return Exchange(of, other, base, known, *bounds, known is not None and base * known <= high, share)


@dataclass(frozen=True)
class Rate:
    """The marginal rate of exchange: the slope of an iso-loss curve in logarithms.

    Attributes:
        rate: -d ln ``other`` / d ln ``of`` at constant loss: x times ``of`` is worth x^rate times ``other`` there. None
            where more of ``other`` does not lower the loss.
        low, high: its interval over the replicates of all acceptable forms; None without replicates, or where
            ``other`` is worthless in too many of them.
        at: the point.
        beyond: decades by which the point leaves the data, per axis.
    """

    of: str
    other: str
    at: dict[str, float]
    rate: float | None
    low: float | None
    high: float | None
    beyond: dict[str, float]

    @property
    def tenfold(self) -> float | None:
        """What ten times ``of`` is worth, as a factor on ``other``, as long as the slope holds."""
        return None if self.rate is None else float(np.exp(min(self.rate * np.log(TENFOLD), _LARGEST)))


def rate(law: Law, of: str, other: str, at: Mapping[str, float] | None = None) -> Rate:
    """The marginal rate at which ``of`` is worth ``other``.

    Args:
        at: the point; the middle of the data (log scale) on every axis that is not given.

    Raises:
        LawError: the law has no such axis.
    """
    surface = surface_of(law)
    _check_axes(surface, of, other)
    point = {a: float(np.sqrt(low * high)) for a, (low, high) in surface.ranges.items()} | dict(at or {})

    def rates(of_law: Surface, draws: bool) -> np.ndarray:
        worth = {axis: -_slope(of_law, point, axis, draws) for axis in (of, other)}
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(worth[other] > 0, worth[of] / worth[other], np.nan)

    value = rates(surface, False)[0]
    draws = [rates(s, True) for s in (surface, *alternatives(surface)) if s.replicated]
    tail = (1 - surface.level) / 2
    low = high = None
    if draws and all(np.isnan(d).mean() <= tail for d in draws):
        ends = [surface.interval(d[~np.isnan(d)]) for d in draws]
        low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    return Rate(of, other, point, None if np.isnan(value) else float(value), low, high, surface.beyond(point))


def contours(
    law: Law,
    levels: Sequence[float] | None = None,
    x: str = "M",
    y: str = "N",
    *,
    at: Mapping[str, float] | None = None,
    points: int = 13,
    reach: float = 1.0,
    across: tuple[float, float] | None = None,
    bands: bool = True,
) -> pd.DataFrame:
    """Iso-loss curves: how much ``y`` it takes at every ``x`` to have the same loss.

    Args:
        levels: losses; the fitted ones at five steps along the data's diagonal, unless given.
        at: the other axes; the middle of the data unless given.
        points: how many values of ``x``.
        reach: decades beyond the data in which ``y`` is looked for.
        across: from where to where ``x`` goes; over its measured range unless given.
        bands: whether ``y`` has intervals, where the law has replicates.

    Returns:
        per level and x: ``loss``, x, y, ``y_low``, ``y_high`` (columns carry the axes' names) and ``beyond``, the
        decades by which y leaves the data. y is null where no value within reach has the loss.

    Raises:
        LawError: the law has no such axes, or x is y.
    """
    import pandas as pd

    surface = surface_of(law)
    _check_axes(surface, x, y)
    if x == y:
        raise LawError(f"A contour is over two axes; x and y are both {x!r}.")
    (x_low, x_high), (low, high) = surface.ranges[x], surface.ranges[y]
    others = {a: float(np.sqrt(lo * hi)) for a, (lo, hi) in surface.ranges.items()} | dict(at or {})
    held = {a: v for a, v in others.items() if a not in (x, y)}
    if levels is None:
        shares = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
        diagonal = {x: x_low * (x_high / x_low) ** shares, y: low * (high / low) ** shares}
        levels = sorted(surface.loss({**held, **diagonal})[0].tolist(), reverse=True)
    within = (low / TENFOLD**reach, high * TENFOLD**reach)
    xs = np.geomspace(*(across or (x_low, x_high)), points)
    target_1n, start = np.repeat(levels, points)[None], {**held, x: np.tile(xs, len(levels))[None]}
    there_n = _level(surface, start, y, target_1n, within, False)[0]
    known = ~np.isnan(there_n)
    ends_2n = np.full((2, len(there_n)), np.nan)
    if surface.replicated and bands and known.any():
        own = {**held, x: start[x][:, known]}
        rows = len(surface.loss({**held, x: xs[:1], y: np.array([low])}, draws=True))
        draws_Rk = _level(surface, own, y, np.repeat(target_1n[:, known], rows, axis=0), within, True)
        # An interval needs all replicates but those that its tails may be made of.
        common = np.isnan(draws_Rk).mean(0) <= (1 - surface.level) / 2
        ends_2n[:, np.flatnonzero(known)[common]] = np.array(
            [surface.interval(column[~np.isnan(column)]) for column in draws_Rk[:, common].T]
        ).T.reshape(2, -1)
    table = pd.DataFrame({"loss": target_1n[0], x: start[x][0], y: there_n})
    table[f"{y}_low"], table[f"{y}_high"] = ends_2n
    table["beyond"] = np.maximum(np.maximum(np.log10(low / there_n), np.log10(there_n / high)), 0.0)
    return table


def _check_axes(surface: Surface, *axes: str) -> None:
    for axis in axes:
        if axis not in surface.axes:
            raise LawError(f"The law has no axis {axis!r}. Axes: {', '.join(surface.axes)}.")


def _slope(surface: Surface, point: Mapping[str, float], axis: str, draws: bool) -> np.ndarray:
    """d loss / d ln axis at a point, by a central difference: [1] or [R]."""
    steps = point[axis] * np.exp(np.array([-_STEP, _STEP]))
    value = surface.loss({**{a: np.array([v, v]) for a, v in point.items()}, axis: steps}, draws)
    return (value[:, 1] - value[:, 0]) / (2 * _STEP)


def _level(
    surface: Surface,
    start: Mapping[str, Any],
    axis: str,
    target_Rn: np.ndarray,
    within: tuple[float, float],
    draws: bool,
) -> np.ndarray:
    """The least value of ``axis`` within bounds at which the loss, falling along it, is down at the target.

    NaN where even the upper bound is not enough, or the lower bound has less loss already.

    Args:
        start: the other axes, each [R, n] or what broadcasts to it.

    Returns:
        [R, n], or [1, n] by the parameters.
    """
    shape = np.broadcast_shapes(target_Rn.shape, *(np.shape(v) for v in start.values()))
    wide = {a: np.broadcast_to(np.asarray(v, dtype=float), shape) for a, v in start.items()}

    def loss(log_axis: np.ndarray) -> np.ndarray:
        return surface.loss({**wide, axis: np.exp(log_axis)}, draws)

    first, last = (np.full(shape, np.log(w)) for w in within)
    there = (loss(last) <= target_Rn) & (loss(first) >= target_Rn * (1 - 1e-12))
    low, high = (np.broadcast_to(end, there.shape).copy() for end in (first, last))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = loss(middle) <= target_Rn
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(there, np.exp(high), np.nan)
