"""What a fitted law says a change is worth: differences and exchange rates, with intervals over its replicates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from rag_exp.laws.card import LawFit

TENFOLD = 10.0
_SEARCH = 1e6  # an exchange rate is looked for up to this factor on the other axis


@dataclass(frozen=True)
class Effect:
    """How much the loss falls when an axis is multiplied by ``factor``, ending at its largest measured value.

    Attributes:
        axis, start, stop: the axis, and from where to where it goes; both inside the data.
        at: where the other axis stands, None for a law without one.
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


def effect(law: LawFit, axis: str, at: dict[str, float] | None = None) -> Effect:
    """The worth of the last tenfold of an axis, or of its whole measured range where that is less than tenfold.

    Args:
        at: the other axes; their largest measured values unless given.
    """
    low, high = law.ranges[axis]
    start = max(low, high / TENFOLD)
    others = {a: law.ranges[a][1] for a in law.form.variables if a != axis} | (at or {})
    points = {axis: [start, high], **{a: [v, v] for a, v in others.items()}}
    value = law.predict(points)
    fall = float(value[0] - value[1])
    if law.draws_Rp is None:
        return Effect(axis, start, high, others, fall, None, None)
    draws = law.predict_draws(points)
    bounds = _interval(draws[:, 0] - draws[:, 1], law.level)
    return Effect(axis, start, high, others, fall, *bounds)


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


def exchange(law: LawFit, of: Effect, other: str) -> Exchange:
    """What ``of`` is worth in terms of ``other``."""
    import numpy as np

    low, high = law.ranges[other]
    base = float(np.sqrt(low * high))
    params = np.array([[law.params[p] for p in law.form.parameters]])
    factor = _factors(law, params, of, other, base)[0]
    if law.draws_Rp is None:
        bounds: tuple[float | None, float | None] = (None, None)
        share = 0.0
    else:
        draws = _factors(law, law.draws_Rp, of, other, base)
        tail = (1 - law.level) / 2
        ends = np.quantile(np.where(np.isnan(draws), np.inf, draws), [tail, 1 - tail], method="nearest")
        bounds = tuple(float(e) if np.isfinite(e) else None for e in ends)  # type: ignore[assignment]
        share = float(np.isnan(draws).mean())
    known = None if np.isnan(factor) else float(factor)
    return Exchange(of, other, base, known, *bounds, known is not None and base * known <= high, share)


def _factors(law: LawFit, params_Rp: np.ndarray, of: Effect, other: str, base: float) -> np.ndarray:
    """Per parameter vector the factor on ``other`` that equals the effect; NaN where none up to a million does: [R]."""
    import numpy as np

    def loss(x: float, o: float | np.ndarray) -> np.ndarray:
        return law.values({of.axis: [[x]], other: o}, params_Rp)[:, 0]  # a column, so that each vector has its own o

    target = loss(of.stop, base)
    low, high = np.zeros(len(params_Rp)), np.full(len(params_Rp), np.log(_SEARCH))
    reaches = loss(of.start, base * _SEARCH) <= target
    for _ in range(50):
        middle = (low + high) / 2
        enough = loss(of.start, (base * np.exp(middle))[:, None]) <= target
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(reaches, np.exp(high), np.nan)


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    import numpy as np

    low, high = np.percentile(values, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)
