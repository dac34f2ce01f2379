"""How figures look: one typeface, quiet axes, ordered colours for ordered axes, numbers with SI letters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

FONT = "Inter, Helvetica Neue, Helvetica, Arial, sans-serif"
INK, MUTED, RULE = "#1b1f24", "#5b6470", "#e4e7eb"

# Perceptually ordered and safe for colour-blind readers (viridis and plasma, without their palest ends).
SIZES = ("#0d0887", "#5601a4", "#900da4", "#bf3984", "#e16462", "#f89441")
CORPORA = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#73c04c")
# Okabe & Ito (2008).
KINDS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b7280")

WIDTH, HEIGHT = 640, 360
LABEL_SIZE = 12
_LABEL_GAP = 14.0

LABELS = {
    "loss": "Loss, nats",
    "N": "Generator parameters, without embeddings",
    "M": "Corpus size, passages",
    "nll": "Loss, nats per answer",
    "nll_any": "Loss, nats per answer (any answer)",
    "nll_per_byte": "Loss, nats per answer byte",
    "nll_over_entropy": "Loss above the entropy, nats per answer",
    "nll_over_entropy_given_gold": "Loss above the readable floor, nats per answer",
    "gold_recall@k": "Gold passages among those read",
    "index_recall@k": "Recall against exact search",
    "queries_per_second": "Questions per second",
    "index_bytes": "Index size, bytes",
}
QUANTITIES = {"N": "N, parameters", "D": "D, training tokens", "M": "M, passages", "K": "K, passages read"}
UNITS = {"nll": "nats per answer", "nll_any": "nats per answer", "nll_per_byte": "nats per byte"}


def unit(metric: str) -> str:
    """The unit of a metric, for words; nats where nothing else is known."""
    return UNITS.get(metric, "nats")


def label(column: str) -> str:
    """An axis title."""
    return LABELS.get(column, column)


def si(value: float, digits: int = 3) -> str:
    """``1966080 -> "1.97M"``: a number in ``digits`` significant digits with its SI letter."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * (1 - 0.5 * 10**-digits):
            return f"{value / size:.{digits}g}{letter}"
    return f"{value:.{digits}g}"


def scientific(value: float, digits: int = 3) -> str:
    """``9.61e12``, ``1e15``: a number that outgrows the usual SI letters (FLOPs), as a command takes it."""
    head, _, power = f"{value:.{digits - 1}e}".partition("e")
    return f"{head.rstrip('0').rstrip('.') if '.' in head else head}e{int(power)}"


def shades(palette: Sequence[str], count: int) -> list[str]:
    """``count`` colours evenly along an ordered palette, in between its own where need be."""
    if count == 1:
        return [palette[len(palette) // 2]]
    return [_mix(palette, i * (len(palette) - 1) / (count - 1)) for i in range(count)]


def _mix(palette: Sequence[str], at: float) -> str:
    low = min(int(at), len(palette) - 2)
    a, b = ([int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in (palette[low], palette[low + 1]))
    return "#" + "".join(f"{round(x + (y - x) * (at - low)):02x}" for x, y in zip(a, b, strict=True))


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values inside a range of a logarithmic axis: dense in a short range, decades in a long one."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]


def padded(values: Sequence[float], share: float = 0.06, log: bool = False) -> tuple[float, float]:
    """The values' range with some air on both sides."""
    low, high = min(values), max(values)
    if log:
        a, b = math.log(low), math.log(high)
        air = (b - a) * share or 0.3
        return math.exp(a - air), math.exp(b + air)
    air = (high - low) * share or abs(high) * 0.05 or 1.0
    return low - air, high + air


def spread_labels(positions: Sequence[float], domain: tuple[float, float], height: float = HEIGHT) -> list[float]:
    """Heights for labels that stand beside ``positions`` (in the axis' units) without touching each other."""
    gap = _LABEL_GAP * (domain[1] - domain[0]) / height
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed: list[list[float]] = []  # runs of touching labels: [centre, count]
    for i in order:
        placed.append([positions[i], 1])
        while len(placed) > 1 and placed[-1][0] - placed[-2][0] < gap * (placed[-1][1] + placed[-2][1]) / 2:
            (a, n), (b, m) = placed[-2:]
            placed[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    out = [0.0] * len(positions)
    flat = [c + gap * (j - (n - 1) / 2) for c, n in placed for j in range(int(n))]
    for i, y in zip(order, flat, strict=True):
        out[i] = y
    return out


def configure(chart: Any) -> Any:
    """Apply the look to a finished Altair chart."""
    return (
        chart.configure(background="#ffffff", padding={"left": 8, "right": 16, "top": 8, "bottom": 8}, font=FONT)
        .configure_view(stroke=None)
        .configure_axis(
            labelFont=FONT,
            titleFont=FONT,
            labelFontSize=12,
            titleFontSize=12.5,
            titleFontWeight="normal",
            labelColor=MUTED,
            titleColor=INK,
            titlePadding=10,
            labelPadding=6,
            gridColor=RULE,
            domain=False,
            tickColor=RULE,
            tickSize=4,
        )
        .configure_legend(
            labelFont=FONT,
            titleFont=FONT,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            labelColor=INK,
            titleColor=MUTED,
            symbolStrokeWidth=0,
            symbolSize=90,
            symbolOpacity=1,
            symbolType="circle",
            rowPadding=4,
        )
        .configure_title(font=FONT, fontSize=13, fontWeight=600, color=INK, anchor="start", offset=12)
        .configure_text(font=FONT, fontSize=LABEL_SIZE)
    )


def log_axis(
    column: str,
    values: Sequence[float],
    title: str | list[str] | None = None,
    right: float = 0.05,
    form: str | None = None,
    most: int = 6,
) -> Any:
    """An x encoding of a logarithmic axis with round ticks.

    Args:
        right: the air at its right end.
        form: of the ticks' labels; SI letters unless given, and plain numbers where some are below 1.
        most: how many ticks there may be.
    """
    import altair as alt

    low, high = padded(values, 0.05, log=True)
    high = max(values) * (high / max(values)) ** (right / 0.05)
    return alt.X(
        f"{column}:Q",
        title=label(column) if title is None else title,
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(
            values=log_ticks(low, high, most),
            format=form or ("~s" if low >= 1 else "~g"),
            grid=False,
            labelOverlap=False,
        ),
    )


def flops_axis(column: str, values: Sequence[float], title: str, most: int = 6) -> Any:
    """An x encoding of FLOPs: logarithmic, with at most so many labels as :func:`scientific` makes them (``3e12``)."""
    import altair as alt

    low, high = padded(values, 0.05, log=True)
    return alt.X(
        f"{column}:Q",
        title=title,
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(
            values=log_ticks(low, high, most),
            labelExpr="replace(format(datum.value, '.2~e'), '+', '')",
            grid=False,
            labelOverlap=False,
        ),
    )


def loss_axis(column: str, domain: tuple[float, float], metric: str) -> Any:
    """A y encoding of the loss over a given domain."""
    import altair as alt

    return alt.Y(
        f"{column}:Q",
        title=label(metric),
        scale=linear(domain),
        axis=alt.Axis(tickCount=6),
    )


def linear(domain: tuple[float, float]) -> Any:
    """A scale over exactly this domain."""
    import altair as alt

    return alt.Scale(domain=list(domain), zero=False, nice=False)
