"""Recall against what it costs: how fast an index answers, how many bytes it takes, how long it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rag_exp.analysis import theme

if TYPE_CHECKING:
    import pandas as pd

SIDE = 260
SHAPES = ("circle", "diamond", "square", "triangle-up")  # tell apart the index types that share a colour


def cost_chart(rows: pd.DataFrame, colors: dict[str, str], recall: str) -> tuple[Any, str] | None:
    """Recall against questions per second, bytes and build time, a line per index type over corpus sizes.

    Points that another index of the same corpus size beats in both recall and the panel's cost are pale: the others
    are the Pareto frontier.

    Args:
        rows: finished runs.
        colors: of the index types.
        recall: ``index_recall@k``, against exact search; a type that has none (BM25) shows in the caption, not at 0.
            Or ``gold_recall@k``, which every type has, at the largest corpus alone: before it, coverage decides.

    Returns:
        the chart and its caption; None where fewer than two index types have both.
    """
    import altair as alt
    import pandas as pd

    from rag_exp.laws.costs import SECONDS, spent_on

    if "queries_per_second" not in rows:
        return None
    timed = rows[rows["queries_per_second"].notna() & rows["index"].notna()]
    if recall == "gold_recall@k":
        timed = timed[timed["M"] == timed["M"].max()]
    if recall not in timed or timed[timed[recall].notna()]["index"].nunique() < 2:
        return None
    known = timed[timed[recall].notna()]
    growths = known["growth"].value_counts()
    known = known[known["growth"] == growths.index[0]]  # how a corpus grows changes what is found, not what it costs
    absent = sorted(set(timed["index"]) - set(known["index"]))
    # The same index asked by several generators is one index: its search was timed once.
    width = known["index_bytes_per_passage"] if "index_bytes_per_passage" in known else float("nan")
    per_index = known.assign(bytes=width * known["M"], built=spent_on(known, SECONDS["build"]))
    keys = ["index", "M", recall, "K"]
    per_index = per_index.groupby(keys, as_index=False).agg(
        speed=("queries_per_second", "median"),
        bytes=("bytes", "median"),
        built=("built", "median"),
        runs=("run_id", "count"),
    )
    kinds = [k for k in colors if k in set(per_index["index"])]
    color = alt.Color(
        "index:N",
        scale=alt.Scale(domain=kinds, range=[colors[k] for k in kinds]),
        legend=alt.Legend(title="Index", symbolLimit=0),
    )
    shape = alt.Shape("index:N", scale=alt.Scale(domain=kinds, range=shapes([colors[k] for k in kinds])))
    low = min(per_index[recall])
    y = alt.Y(
        f"{theme_escape(recall)}:Q",
        title=theme.label(recall),
        scale=theme.linear((max(0.0, low - 0.1 * (1 - low) - 0.02), 1.0 + 0.03 * (1.02 - low))),
        axis=alt.Axis(format=".1~%", values=_shares(low)),
    )
    # Several settings of one type at one size (a sweep over nprobe) make a curve, by rising recall; else sizes do.
    swept = per_index.groupby(["index", "M"]).size().max() > 1
    detail, order = (["M:N"], f"{theme_escape(recall)}:Q") if swept else (["index:N"], "M:Q")
    sizes: Any = alt.Size(
        "M:Q",
        scale=alt.Scale(type="log", range=[30, 190]),
        legend=alt.Legend(
            title="Passages",
            orient="right",
            values=_three(sorted({float(m) for m in per_index["M"]})),
            format=".2~s",
            symbolFillColor=theme.MUTED,
        ),
    )
    if per_index["M"].nunique() == 1:
        sizes = alt.value(130)
    panels = []
    for column, title in (
        ("speed", theme.label("queries_per_second")),
        ("bytes", theme.label("index_bytes")),
        ("built", "Seconds to build"),
    ):
        part = per_index[per_index[column].notna() & (per_index[column] > 0)]
        if not len(part):
            continue
        part = part.assign(best=undominated(part, recall, column, more_is_better=column == "speed"))
        x = theme.log_axis(column, part[column].tolist(), title, form="~g" if column == "built" else "~s")
        base = alt.Chart(pd.DataFrame(part)).encode(x=x, y=y if not panels else y.title(""), color=color)
        line = base.mark_line(strokeWidth=1.5, opacity=0.55).encode(detail=detail, order=order)
        tips = [
            alt.Tooltip("index:N"),
            alt.Tooltip("M:Q", title="passages", format=",.0f"),
            alt.Tooltip(f"{theme_escape(recall)}:Q", title=theme.label(recall).lower(), format=".4~f"),
            alt.Tooltip("speed:Q", title="questions per second", format=",.0f"),
            alt.Tooltip("bytes:Q", title="bytes", format=".3~s"),
            alt.Tooltip("built:Q", title="seconds to build", format=".3~g"),
            alt.Tooltip("runs:Q", title="runs that asked it"),
        ]
        pale = alt.condition("datum.best", alt.value(1.0), alt.value(0.35))
        dots = base.mark_point(filled=True, stroke="white", strokeWidth=1)
        dots = dots.encode(size=sizes, shape=shape, tooltip=tips, opacity=pale)
        panels.append(alt.layer(line, dots).properties(width=SIDE, height=SIDE * 0.8))
    caption = (
        f"{theme.label(recall)}, at the passages read (K). Each point is an index of one corpus size, larger points "
        "for larger corpora; pale ones are beaten in recall and cost alike by another index of their size. Speed is "
        "that of the machine that searched, over batches of questions."
    )
    if recall == "gold_recall@k":
        largest = theme.si(float(known["M"].max()))
        caption = (
            f"The share of needed gold passages among the passages read, over the largest corpus ({largest} passages): "
            "what every type can be held to, also one that has no exact search to compare with."
        )
    if absent:
        caption += (
            f" Not shown, since {'it has' if len(absent) == 1 else 'they have'} no such recall: {', '.join(absent)}."
        )
    said = alt.Title("", subtitle="pale: beaten in recall and cost alike by another index of the same size")
    return alt.hconcat(*panels, spacing=28, title=said), caption


def shapes(colors: list[str]) -> list[str]:
    """A shape for each of ``colors``, so that no two points look alike."""
    return [SHAPES[colors[:i].count(color) % len(SHAPES)] for i, color in enumerate(colors)]


def undominated(rows: pd.DataFrame, recall: str, cost: str, more_is_better: bool) -> list[bool]:
    """For each row, whether none of its corpus size has more recall at no more cost, or as much recall at less."""
    sign = -1.0 if more_is_better else 1.0
    points = [(m, r, sign * c) for m, r, c in zip(rows["M"], rows[recall], rows[cost], strict=True)]
    return [not any(m == n and s >= r and d <= c and (s > r or d < c) for n, s, d in points) for m, r, c in points]


def _shares(low: float) -> list[float]:
    """Round shares from just below ``low`` up to 1."""
    step = next(s for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if 1 - low <= 6 * s or s == 0.2)
    return [round(1 - i * step, 6) for i in range(int((1.02 - low) / step) + 2) if 1 - i * step >= 0]


def _three(levels: list[float]) -> list[float]:
    """The first, the middle and the last."""
    return sorted({levels[0], levels[len(levels) // 2], levels[-1]})


def theme_escape(column: str) -> str:
    """A column's name inside an Altair shorthand."""
    return column.replace(".", "\\.").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
