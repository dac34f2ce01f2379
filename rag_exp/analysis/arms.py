"""Controls and baselines side by side: what the same reader loses when given nothing, anything, or the gold passage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rag_exp.analysis import theme
from rag_exp.analysis.replicates import aggregate

if TYPE_CHECKING:
    import pandas as pd

ORDER = {
    "closed_book": "No passage (closed book)",
    "random": "Random passages",
    "run": "Passages of a run file",
    "bm25": "BM25",
    "dense": "Dense retrieval",
    "hybrid": "Dense retrieval and BM25 fused",
    "oracle": "Gold passage (oracle)",
}


def arms_chart(rows: pd.DataFrame, metric: str) -> tuple[Any, str] | None:
    """One row per arm: a dot per model size at its loss, over the largest corpus.

    Returns:
        the chart and its caption; None where only one arm was run.
    """
    import altair as alt
    import pandas as pd

    placed = rows[rows["N"].notna()]
    if placed["arm"].nunique() < 2:
        return None
    largest = placed["M"].max()
    placed = placed[placed["M"].isna() | (placed["M"] == largest)]
    # Of several indexes at the largest corpus the exact one stands for dense retrieval.
    dense = placed[placed["arm"] == "dense"]
    best = "flat" if "flat" in set(dense["index"]) else None
    placed = placed[(placed["arm"] != "dense") | (placed["index"] == best if best else True)]
    means = aggregate(placed, metrics=[metric])
    points = pd.DataFrame(
        {
            "arm": [ORDER.get(a, a) for a in means["arm"]],
            "loss": means[metric].astype(float),
            "low": means[f"{metric}.low"].astype(float),
            "high": means[f"{metric}.high"].astype(float),
            "N": means["N"].astype(float),
            "seeds": means["n"],
        }
    )
    levels = sorted(points["N"].unique())
    points["size"] = [theme.si(n) for n in points["N"]]
    order = [name for arm, name in ORDER.items() if name in set(points["arm"])]
    order += sorted(set(points["arm"]) - set(order))
    colors = theme.shades(theme.SIZES, len(levels))
    color = alt.Color(
        "size:N",
        scale=alt.Scale(domain=[theme.si(n) for n in levels], range=colors),
        legend=alt.Legend(title="Parameters"),
    )
    y = alt.Y(
        "arm:N",
        sort=order,
        title=None,
        axis=alt.Axis(labelFontSize=13, labelColor=theme.INK, ticks=False, labelPadding=10),
    )
    domain = theme.padded([*points["loss"], *points["low"].dropna(), *points["high"].dropna()], 0.1)
    x = alt.X(
        "loss:Q",
        title=theme.label(metric),
        scale=theme.linear(domain),
        axis=alt.Axis(grid=True, tickCount=7),
    )
    ends = points.groupby("arm", as_index=False).agg(low=("loss", "min"), high=("loss", "max"))
    span = alt.Chart(ends).mark_rule(strokeWidth=2, color="#c9ced6")
    tips = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("size:N", title="parameters"),
        alt.Tooltip("loss:Q", format=".4~g"),
        "seeds:Q",
    ]
    base = alt.Chart(points).encode(y=y, tooltip=tips)
    layers = [
        span.encode(y=y, x=alt.X("low:Q", scale=theme.linear(domain), title=theme.label(metric)), x2="high:Q"),
        base.mark_point(filled=True, size=130, opacity=1, stroke="white", strokeWidth=1).encode(x=x, color=color),
    ]
    shown = _outermost(points)
    for side, align, dx in (("low", "right", -11), ("high", "left", 11)):
        text = alt.Chart(shown[shown["side"] == side]).mark_text(align=align, dx=dx, fontSize=12, color=theme.MUTED)
        layers.append(text.encode(y=y, x=x, text=alt.Text("loss:Q", format=".2f")))
    chart = alt.layer(*layers).properties(width=theme.WIDTH, height=54 * len(order))
    caption = (
        f"The largest corpus ({theme.si(largest)} passages), a dot per model size. "
        "Between the gold passage and none runs all that retrieval can change; random passages show what reading costs "
        "when it cannot help."
    )
    if len(set(dense["index"])) > 1 and best:
        caption += " Dense retrieval is exact search here."
    return chart, caption


def _outermost(points: pd.DataFrame) -> pd.DataFrame:
    """The smallest and largest loss of every arm, whose values are written beside them."""
    import pandas as pd

    low = points.loc[points.groupby("arm")["loss"].idxmin()].assign(side="low")
    high = points.loc[points.groupby("arm")["loss"].idxmax()].assign(side="high")
    high = high[~high["arm"].isin(low[low["loss"].isin(high["loss"])]["arm"])]
    return pd.concat([low, high], ignore_index=True)
