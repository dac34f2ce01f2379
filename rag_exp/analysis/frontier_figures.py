"""Figures of a frontier, from a fit card and the costs alone: the loss that a budget buys, what it is to be spent on,
and the path of the optima over lines of equal loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rag_exp.analysis import theme
from rag_exp.analysis.figures import Figure

if TYPE_CHECKING:
    import pandas as pd

    from rag_exp.analysis.frontier import Frontier

SAMPLES = 25
_FINE = 161  # points of a line of equal loss, which may be steep
TENFOLD = 10.0
PARTS = {
    "training": "Training",
    "corpus": "Embedding and indexing",
    "search": "Search",
    "reading": "Reading",
}
_BAND_SHARE = 0.5  # of the range of points and line that a band may add to the axis at either end
_BUDGET = "Budget, FLOPs"
_LAW, _RUNS = "best, by the law", "runs"


def figures_of_frontier(asked: Frontier) -> list[Figure]:
    """Every figure of the frontier; none where no budget has an optimum."""
    table = asked.table[asked.table["reason"].isna()]
    if not len(table):
        return []
    curve = _curve(asked, table)
    made = [_loss(asked, table, curve), _allocation(asked, table, curve), _shares(asked, curve)]
    tied = asked.costs.tokens_per_parameter is not None  # D then follows from N, and there is no plane of both
    made += [_plane(asked, table, curve, x) for x in ("D", "M") if x in asked.surface.axes and not (tied and x == "D")]
    return [figure for figure in made if figure is not None]


def _curve(asked: Frontier, table: pd.DataFrame) -> pd.DataFrame:
    """The optima from the cheapest run, or budget, to the dearest, as numbers; ``far``: beyond the data."""
    import numpy as np

    budgets = np.array([*table["budget"], *asked.runs["budget"]], dtype=float)
    low, high = budgets.min(), budgets.max()
    if low == high:
        low, high = low / TENFOLD, high * TENFOLD
    found = asked.at(np.union1d(np.geomspace(low, high, SAMPLES), table["budget"].astype(float)))
    found = found[found["reason"].isna()]
    return _numbers(found).assign(far=[bool(b) for b in found["beyond"]])


def _numbers(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of numbers, with NaN for None."""
    plain = table.drop(columns=["reason", "beyond", "capped", "at_end"])
    return plain.astype(float)


def _loss(asked: Frontier, table: pd.DataFrame, curve: pd.DataFrame) -> Figure:
    """The least loss that a budget buys, with what the runs reached."""
    import altair as alt

    points, runs = _numbers(table), asked.runs
    domain = _loss_domain([*curve["loss"], *points["loss"], *runs["loss"]], curve)
    x = theme.flops_axis("budget", [*curve["budget"], *runs["budget"]], _BUDGET)
    y = theme.loss_axis("loss", domain, asked.metric)
    color = alt.Color("kind:N", title="", scale=alt.Scale(domain=[_LAW, _RUNS], range=[theme.KINDS[0], theme.MUTED]))
    tips = [alt.Tooltip("budget:Q", title="FLOPs", format=".3~e"), alt.Tooltip("loss:Q", format=".4~g")]
    sizes = [alt.Tooltip(f"{a}:Q", format=".3~s") for a in asked.surface.axes]
    made = alt.Chart(runs.assign(kind=_RUNS)).mark_point(size=42, filled=True, opacity=0.75)
    best = alt.Chart(points.assign(kind=_LAW)).mark_point(
        size=70, filled=True, opacity=1, stroke="white", strokeWidth=1
    )
    layers = [
        *_banded(curve, "loss", x, theme.linear(domain)),
        made.encode(x=x, y=y, color=color, tooltip=[*tips, *sizes]),
        *_lines(curve, x, y),
        best.encode(x=x, y=y, color=color, tooltip=[*tips, *sizes]),
    ]
    chart = alt.layer(*layers).properties(width=theme.WIDTH, height=theme.HEIGHT)
    caption = (
        "The line is the least loss by the law, spent as the next figures say"
        f"{_band_words(asked, curve)}. Grey points are the runs of the fit, each at what it would cost here"
        f"{_queries(asked)}. Of a good law none lies below the line but by noise."
    )
    return Figure(
        "frontier_loss", "The least loss against the budget", caption + _far_words(curve), theme.configure(chart)
    )


def _allocation(asked: Frontier, table: pd.DataFrame, curve: pd.DataFrame) -> Figure:
    """Each axis' optimum against the budget."""
    import altair as alt

    axes = [a for a in ("N", "D", "M", "K") if a in asked.surface.axes]
    columns = 2 if len(axes) == 4 else len(axes)
    panels = [_panel(asked, _numbers(table), curve, axis, columns) for axis in axes]
    chart = alt.concat(*panels, columns=columns, spacing={"column": 24, "row": 36})
    growing = asked.table.attrs["exponents"]
    caption = f"Both axes logarithmic{_band_words(asked, curve)}. Shaded: the range of the runs."
    grows = [f"{axis} as budget^{value:.2g}" for axis, (value, _, _) in growing.items()]
    if grows:
        caption += f" Over the budgets of the table {' and '.join(grows)}."
    if asked.caps:
        caption += f" A dotted line marks what there is no more of ({', '.join(asked.caps)})."
    return Figure("frontier_allocation", "What to spend it on", caption + _far_words(curve), theme.configure(chart))


def _panel(asked: Frontier, points: pd.DataFrame, curve: pd.DataFrame, axis: str, columns: int) -> Any:
    """One axis against the budget, for a row of so many."""
    import altair as alt
    import pandas as pd

    low, high = asked.surface.ranges[axis]
    bands = [*curve[f"{axis}_low"].dropna(), *curve[f"{axis}_high"].dropna()]
    values = [*curve[axis], *bands, low, high]
    scale = alt.Scale(type="log", domain=list(theme.padded(values, log=True)), nice=False)
    ticks = theme.log_ticks(min(values), max(values))
    if axis == "K":
        ticks = sorted({max(1.0, round(t)) for t in ticks})
    x = theme.flops_axis("budget", curve["budget"].tolist(), _BUDGET, most=12 // (columns + 1))
    y = alt.Y(f"{axis}:Q", title=theme.QUANTITIES[axis], scale=scale, axis=alt.Axis(values=ticks, format="~s"))
    measured = alt.Chart(pd.DataFrame({"low": [low], "high": [high]})).mark_rect(color=theme.RULE, opacity=0.55)
    layers = [measured.encode(y=alt.Y("low:Q", title="", scale=scale), y2="high:Q")]
    if axis in asked.caps:
        cap = alt.Chart(pd.DataFrame({axis: [asked.caps[axis]]}))
        layers.append(cap.mark_rule(color=theme.MUTED, strokeDash=[2, 3], clip=True).encode(y=y))
    dots = alt.Chart(points).mark_point(size=60, filled=True, opacity=1, color=theme.KINDS[0], stroke="white")
    tips = [alt.Tooltip("budget:Q", title="FLOPs", format=".3~e"), alt.Tooltip(f"{axis}:Q", format=".3~s")]
    layers += [*_banded(curve, axis, x, scale), *_lines(curve, x, y, axis), dots.encode(x=x, y=y, tooltip=tips)]
    return alt.layer(*layers).properties(width=(theme.WIDTH - 90 * (columns - 1)) / columns, height=200)


def _shares(asked: Frontier, curve: pd.DataFrame) -> Figure | None:
    """What part of the budget goes where."""
    import altair as alt
    import pandas as pd

    spent = {words: curve[f"flops.{part}"] / curve["budget"] for part, words in PARTS.items()}
    spent = {words: share for words, share in spent.items() if share.max() > 0.005}
    if len(spent) < 2:
        return None
    rows = pd.concat(
        [
            pd.DataFrame({"budget": curve["budget"], "share": s, "on": w, "order": i})
            for i, (w, s) in enumerate(spent.items())
        ]
    )
    color = alt.Color("on:N", title="", sort=list(spent), scale=alt.Scale(domain=list(spent), range=list(theme.KINDS)))
    area = alt.Chart(rows).mark_area(opacity=0.85, line={"color": "white", "strokeWidth": 1})
    chart = area.encode(
        x=theme.flops_axis("budget", curve["budget"].tolist(), _BUDGET),
        y=alt.Y(
            "share:Q", title="Share of the budget", stack="zero",
            scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format=".0%", tickCount=5),
        ),
        color=color,
        order=alt.Order("order:Q"),
        tooltip=["on:N", alt.Tooltip("budget:Q", title="FLOPs", format=".3~e"), alt.Tooltip("share:Q", format=".1%")],
    ).properties(width=theme.WIDTH, height=220)  # fmt: skip
    caption = f"How the best allocation divides the budget{_queries(asked)}."
    return Figure("frontier_shares", "Where the FLOPs go", caption, theme.configure(chart))


def _plane(asked: Frontier, table: pd.DataFrame, curve: pd.DataFrame, x: str) -> Figure:
    """The path of the optima over lines of equal loss, N against ``x``."""
    import altair as alt
    import numpy as np
    import pandas as pd

    table = _with_less(asked, table, curve)
    points = _numbers(table)
    middle = points.iloc[len(points) // 2]
    held = {a: float(middle[a]) for a in asked.surface.axes if a not in ("N", x)}
    ranges = asked.surface.ranges
    across = (min(ranges[x][0], curve[x].min()), max(ranges[x][1], curve[x].max()))
    up = (min(ranges["N"][0], curve["N"].min()), max(ranges["N"][1], curve["N"].max()))
    lines = _equal_losses(asked, table, x, held, across)
    x_values, y_domain = list(across), list(theme.padded(up, log=True))
    lines = lines[lines["N"].between(*y_domain)].assign(level=lambda t: [f"{v:.4g}" for v in t["loss"]])
    order = list(dict.fromkeys(lines["level"]))
    across_x = theme.log_axis(x, x_values, theme.QUANTITIES[x])
    scale = alt.Scale(type="log", domain=y_domain, nice=False)
    y = alt.Y("N:Q", title=theme.QUANTITIES["N"], scale=scale, axis=alt.Axis(values=theme.log_ticks(*up), format="~s"))
    box = pd.DataFrame([{"x": ranges[x][0], "x2": ranges[x][1], "y": ranges["N"][0], "y2": ranges["N"][1]}])
    color = alt.Color(
        "level:N", title=theme.label(asked.metric), sort=order,
        scale=alt.Scale(domain=order, range=theme.shades(theme.SIZES, len(order))),
        legend=alt.Legend(symbolType="stroke", symbolStrokeWidth=3),
    )  # fmt: skip
    layers: list[Any] = [
        alt.Chart(box)
        .mark_rect(color=theme.RULE, opacity=0.55)
        .encode(
            x=theme.log_axis("x", x_values, theme.QUANTITIES[x]),
            x2="x2:Q",
            y=alt.Y("y:Q", title="", scale=scale),
            y2="y2:Q",
        )
    ]
    drawn = [middle["budget"]] if held else points["budget"]
    budgets = pd.concat([_budget_line(asked, b, x, held, np.geomspace(*across, _FINE)) for b in drawn])
    budgets = budgets[budgets["N"].between(*y_domain)]
    if len(budgets):
        dashes = alt.Chart(budgets).mark_line(color=theme.MUTED, strokeWidth=1, strokeDash=[2, 3])
        layers.append(dashes.encode(x=across_x, y=y, detail="budget:N"))
    layers.append(alt.Chart(lines).mark_line(strokeWidth=2).encode(x=across_x, y=y, color=color))
    runs = alt.Chart(asked.runs).mark_point(size=26, filled=True, opacity=0.7, color=theme.MUTED)
    layers.append(runs.encode(x=across_x, y=y))
    path = alt.Chart(curve).mark_line(color=theme.INK, strokeWidth=2.5)
    layers.append(path.encode(x=across_x, y=y, order="budget:Q"))
    named = alt.Chart(points.assign(text=[theme.scientific(b, 2) for b in points["budget"]]))
    layers.append(
        named.mark_point(size=70, filled=True, opacity=1, color=theme.INK, stroke="white").encode(x=across_x, y=y)
    )
    text = {"align": "right", "dx": -9, "dy": -9, "fontWeight": 600}
    for look in ({"stroke": "white", "strokeWidth": 4, "color": "white"}, {"color": theme.INK}):
        layers.append(named.mark_text(**text, **look).encode(x=across_x, y=y, text="text:N"))
    chart = alt.layer(*layers).properties(width=theme.WIDTH, height=theme.HEIGHT)
    caption = (
        "The black path joins the optima, marked with their budgets in FLOPs. Coloured lines: equal loss; dotted: "
        "equal budget. Shaded: the range of the runs (grey points)."
    )
    if held:
        where = ", ".join(f"{a} = {theme.si(v)}" for a, v in held.items())
        caption += f" Lines are those at {where}, the optimum of {theme.scientific(middle['budget'], 2)} FLOPs."
    name = "frontier_plane" if x == "M" else "frontier_plane_tokens"
    return Figure(name, f"The path of the optima, {x} and N", caption, theme.configure(chart))


def _equal_losses(
    asked: Frontier, table: pd.DataFrame, x: str, held: dict[str, float], across: tuple[float, float]
) -> pd.DataFrame:
    """Lines of equal loss: those of the optima, which touch the lines of their budgets.

    Where a cap holds the path, or it leaves the plane since another axis has its optimum elsewhere, nothing touches:
    the losses are then five along the data's diagonal.
    """
    from rag_exp.laws.effects import contours

    losses = sorted({float(v) for v, capped in zip(table["loss"], table["capped"], strict=True) if not capped})
    lines = contours(
        asked.surface, losses[::-1] if len(losses) > 1 and not held else None, x, "N",
        at=held, points=_FINE, reach=asked.reach, across=across, bands=False,
    )  # fmt: skip
    return lines[lines["N"].notna()]


def _with_less(asked: Frontier, table: pd.DataFrame, curve: pd.DataFrame) -> pd.DataFrame:
    """The optima of the asked budgets, and of a tenth, a hundredth, ... of the least down to what is drawn."""
    import pandas as pd

    least = float(table["budget"].min())
    less = []
    while (least := least / TENFOLD) >= curve["budget"].min():
        less.append(least)
    if not less:
        return table
    more = asked.at(less)
    return pd.concat([more[more["reason"].isna()], table], ignore_index=True)


def _budget_line(asked: Frontier, budget: float, x: str, held: dict[str, float], xs: Any) -> pd.DataFrame:
    """The N that a budget leaves at every value of ``x``."""
    import pandas as pd

    costs = asked.costs
    at = {"D": costs.tokens or 0.0, "M": costs.passages, "K": costs.k} | held | {x: xs}
    return pd.DataFrame({x: xs, "N": costs.affordable(budget, at["D"], at["M"], at["K"]), "budget": f"{budget:.6g}"})


def _banded(curve: pd.DataFrame, name: str, x: Any, scale: Any) -> list[Any]:
    """The band of a column over its line's budgets; nothing where no replicates give one."""
    import altair as alt

    rows = curve[curve[f"{name}_low"].notna()]
    if not len(rows):
        return []
    band = alt.Chart(rows).mark_area(opacity=0.15, color=theme.KINDS[0], clip=True)
    return [band.encode(x=x, y=alt.Y(f"{name}_low:Q", title="", scale=scale), y2=f"{name}_high:Q")]


def _lines(curve: pd.DataFrame, x: Any, y: Any, name: str = "loss") -> list[Any]:
    """The optimum over the budgets: dashed where it leaves the data."""
    import altair as alt

    step = "step-after" if name == "K" else "linear"
    layers = []
    piece = (curve["far"] != curve["far"].shift()).cumsum().tolist()
    for first, last in ((piece.index(p), len(piece) - piece[::-1].index(p)) for p in dict.fromkeys(piece)):
        far = bool(curve["far"].iloc[first])
        rows = curve.iloc[max(first - 1, 0) : last + 1] if far else curve.iloc[first:last]
        line = alt.Chart(rows).mark_line(
            color=theme.KINDS[0], strokeWidth=2, strokeDash=[5, 4] if far else [1, 0], interpolate=step
        )
        layers.append(line.encode(x=x, y=y))
    return layers


def _loss_domain(values: Sequence[float], curve: pd.DataFrame) -> tuple[float, float]:
    """The range of points and line, and of the band as far as that does not dwarf them."""
    low, high = theme.padded(values)
    if curve["loss_low"].isna().all():
        return low, high
    reach = _BAND_SHARE * (high - low)
    return min(low, max(curve["loss_low"].min(), low - reach)), max(high, min(curve["loss_high"].max(), high + reach))


def _band_words(asked: Frontier, curve: pd.DataFrame) -> str:
    if curve["loss_low"].isna().all():
        return ""
    return f"; bands: {asked.surface.level:.0%} intervals over replicates and acceptable forms"


def _far_words(curve: pd.DataFrame) -> str:
    return " Dashed: beyond the data." if curve["far"].any() else ""


def _queries(asked: Frontier) -> str:
    return f", {asked.costs.queries:,.0f} questions answered" if asked.costs.queries else ""
