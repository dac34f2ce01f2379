"""Loss curves: points of the runs, fitted curves with bootstrap bands, labels at the curves' ends.

Bands that lie over each other hide what they are of. Where they do, the curves are drawn together without them, and
below it stands a panel for each with its own band.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rag_exp.analysis import theme

if TYPE_CHECKING:
    import pandas as pd

    from rag_exp.laws.card import LawFit

SAMPLES = 60
_BAND_SHARE = 0.25  # of the points' range that bands may add to the axis at either end
_HIDDEN = 0.5  # of a curve's length that may lie in the next one's band
_PANELS, _PANEL_GAP, _PANEL_HEIGHT = 6, 12, 120  # in a row; between them; of each


@dataclass
class Curve:
    """One curve of a figure.

    Attributes:
        label: what stands at its end.
        color: of points, line and band.
        points: rows with ``x`` and ``y``, and what the tooltip shows; ``low`` and ``high`` where replicates give them.
        law: drawn through the points, with its band; None draws thin lines from point to point.
        at: what the law needs beside x (``{"M": 32380}``).
        dash: a dashed line, for a second kind of curve of one colour.
    """

    label: str
    color: str
    points: pd.DataFrame
    law: LawFit | None = None
    at: dict[str, float] = field(default_factory=dict)
    dash: bool = False


def curves_chart(
    curves: Sequence[Curve],
    axis: str,
    metric: str,
    heading: str = "",
    width: int = theme.WIDTH,
    y_domain: Any = None,
    x_title: str | list[str] | None = None,
) -> Any:
    """Layers of bands, lines, error bars, points and labels over a logarithmic x axis; with a panel per band below
    where :func:`overlapping` ones would hide each other.

    Args:
        axis: N or M.
        heading: stands above the labels at the right, saying what they are ("Passages").
        y_domain: to share between charts; None fits the data.
        x_title: in place of the axis' own.
    """
    import altair as alt
    import pandas as pd

    apart = overlapping(curves, axis)
    fitted = pd.concat([_line(c, axis) for c in curves], ignore_index=True)
    points = pd.concat([c.points.assign(curve=c.label) for c in curves], ignore_index=True)
    domain = y_domain or curves_domain(curves, axis, bands=not apart)
    names = list(dict.fromkeys(c.label for c in curves))
    colors = {c.label: c.color for c in curves}
    scale = alt.Scale(domain=names, range=[colors[n] for n in names])
    color = alt.Color("curve:N", scale=scale, legend=None)
    x = theme.log_axis("x", points["x"].tolist(), x_title or theme.label(axis), right=0.01)
    y = theme.loss_axis("y", domain, metric)
    layers = []
    banded = fitted[fitted["low"].notna()]
    if len(banded) and not apart:
        layers.append(
            alt.Chart(banded)
            .mark_area(opacity=0.13, clip=True)
            .encode(
                x=x,
                y=alt.Y("low:Q", title=theme.label(metric), scale=theme.linear(domain)),
                y2="high:Q",
                color=color,
                detail="part:N",
            )
        )
    for solid in (True, False):
        part = fitted[fitted["solid"] == solid]
        if len(part):
            dash = [1, 0] if solid else [5, 4]
            thin = part["measured"].all()
            mark = alt.Chart(part).mark_line(strokeWidth=1.3 if thin else 2, strokeDash=dash, clip=True)
            layers.append(mark.encode(x=x, y=y, color=color, detail="part:N"))
    if "low" in points and points["low"].notna().any():
        bars = alt.Chart(points[points["low"].notna()]).mark_rule(strokeWidth=1.5)
        layers.append(bars.encode(x=x, y=alt.Y("low:Q", scale=theme.linear(domain)), y2="high:Q", color=color))
    shown = [c for c in points.columns if c not in ("x", "y", "curve", "low", "high", "run_id")]
    tooltip = [alt.Tooltip(f"{_escaped(c)}:{_type(points[c])}", title=c, format=_format(points[c])) for c in shown]
    layers.append(
        alt.Chart(points)
        .mark_point(size=52, filled=True, opacity=1, stroke="white", strokeWidth=1)
        .encode(x=x, y=y, color=color, tooltip=tooltip)
    )
    layers.append(_labels(curves, fitted, domain, x, color, heading))
    together = alt.layer(*layers).properties(width=width, height=theme.HEIGHT)
    return alt.vconcat(together, _apart(curves, axis, metric, width), spacing=26) if apart else together


def overlapping(curves: Sequence[Curve], axis: str) -> bool:
    """Whether curves lie in the bands of their neighbours along half their length or more."""
    import numpy as np

    lines = sorted((_line(c, axis) for c in curves if _banded(c)), key=lambda line: line["y"].mean())
    inside = []
    for one, other in pairwise(lines):
        for line, band in ((one, other), (other, one)):
            low, high = (
                np.interp(np.log(line["x"]), np.log(band["x"]), band[end].astype(float)) for end in ("low", "high")
            )
            inside += ((line["y"] > low) & (line["y"] < high)).tolist()
    return bool(inside) and float(np.mean(inside)) >= _HIDDEN


def _banded(curve: Curve) -> bool:
    return curve.law is not None and curve.law.draws_Rp is not None


def _apart(curves: Sequence[Curve], axis: str, metric: str, width: int) -> Any:
    """A panel per curve with its band and its points, the other curves behind it in grey."""
    import altair as alt
    import pandas as pd

    lines = {c.label: _line(c, axis) for c in curves}
    ends = [v for line in lines.values() for v in (*line["low"].dropna(), *line["high"].dropna())]
    domain = theme.padded([*ends, *(v for c in curves for v in c.points["y"])], share=0.12)
    own = (width - _PANEL_GAP * (min(len(curves), _PANELS) - 1)) / min(len(curves), _PANELS)
    xs = [v for c in curves for v in c.points["x"]]
    panels = []
    for i, curve in enumerate(curves):
        first = i % _PANELS == 0
        x = theme.log_axis("x", xs, "", most=2)
        y = alt.Y(
            "y:Q",
            title=theme.label(metric).partition(",")[0] if first else "",
            scale=theme.linear(domain),
            axis=alt.Axis(tickCount=4, labels=first, ticks=first),
        )
        others = pd.concat([line.assign(of=label) for label, line in lines.items() if label != curve.label])
        grey = (
            alt.Chart(others).mark_line(color=theme.MUTED, opacity=0.35, strokeWidth=1).encode(x=x, y=y, detail="of:N")
        )
        layers = [grey]
        if _banded(curve):
            band = alt.Chart(lines[curve.label]).mark_area(opacity=0.22, color=curve.color)
            layers.append(band.encode(x=x, y=alt.Y("low:Q", title="", scale=theme.linear(domain)), y2="high:Q"))
        line = alt.Chart(lines[curve.label]).mark_line(color=curve.color, strokeWidth=1.8)
        dots = alt.Chart(curve.points).mark_point(color=curve.color, filled=True, size=22, opacity=1)
        layers += [line.encode(x=x, y=y), dots.encode(x=x, y=y)]
        title = alt.TitleParams(curve.label, color=curve.color, fontSize=theme.LABEL_SIZE, offset=6, frame="group")
        panels.append(alt.layer(*layers).properties(width=own, height=_PANEL_HEIGHT, title=title))
    return alt.concat(*panels, columns=_PANELS, spacing=_PANEL_GAP)


def curves_domain(curves: Sequence[Curve], axis: str, bands: bool = True) -> tuple[float, float]:
    """The range of losses that holds the points, the fitted lines and, unless they are very wide, the bands."""
    import pandas as pd

    lines = pd.concat([_line(c, axis) for c in curves])
    values = [*lines["y"], *(v for c in curves for v in c.points["y"])]
    low, high = theme.padded(values)
    ends = lines[["low", "high"]].astype(float)
    if not bands or ends["low"].isna().all():
        return low, high
    reach = _BAND_SHARE * (high - low)
    return min(low, max(ends["low"].min(), low - reach)), max(high, min(ends["high"].max(), high + reach))


def _line(curve: Curve, axis: str) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    part = f"{curve.label} {'dashed' if curve.dash else 'solid'}"
    shared = {"curve": curve.label, "part": part, "solid": not curve.dash, "measured": curve.law is None}
    if curve.law is None:
        means = curve.points.groupby("x", as_index=False)["y"].mean()
        return means.assign(low=None, high=None, **shared)
    xs = np.geomspace(curve.points["x"].min(), curve.points["x"].max(), SAMPLES)
    at = {axis: xs, **curve.at}
    line = pd.DataFrame({"x": xs})
    if curve.law.draws_Rp is None:
        return line.assign(y=curve.law.predict(at), low=None, high=None, **shared)
    found = curve.law.predict(at, interval=curve.law.level)
    return line.assign(y=found.value_n, low=found.low_n, high=found.high_n, **shared)


def _labels(
    curves: Sequence[Curve], fitted: pd.DataFrame, domain: tuple[float, float], x: Any, color: Any, heading: str
) -> Any:
    """Each curve's name at its right end, moved up or down where two would touch."""
    import altair as alt
    import pandas as pd

    ends = fitted.sort_values("x").groupby("part", as_index=False).last()
    right = ends["x"].max()
    named = ends.groupby("curve", as_index=False).agg(y=("y", "mean"))
    names, ys = named["curve"].tolist(), named["y"].tolist()
    heights = theme.spread_labels(ys, domain)
    rows = pd.DataFrame({"curve": names, "x": right, "height": heights})
    y = alt.Y("height:Q", title="", scale=theme.linear(domain))
    text = alt.Chart(rows).mark_text(align="left", dx=12, fontSize=theme.LABEL_SIZE, fontWeight=600)
    layer = text.encode(x=x, y=y, text="curve:N", color=color)
    if not heading:
        return layer
    gap = 17 * (domain[1] - domain[0]) / theme.HEIGHT
    top = pd.DataFrame({"x": [right], "height": [max(heights) + gap], "text": [heading]})
    above = alt.Chart(top).mark_text(align="left", dx=12, fontSize=theme.LABEL_SIZE, color=theme.MUTED)
    return layer + above.encode(x=x, y=y, text="text:N")


def _escaped(column: str) -> str:
    return column.replace(".", "\\.").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")


def _type(values: pd.Series) -> str:
    return "Q" if values.dtype.kind in "if" else "N"


def _format(values: pd.Series) -> str:
    return "" if values.dtype.kind not in "if" else ",.0f" if (values.dropna() % 1 == 0).all() else ".4~g"
