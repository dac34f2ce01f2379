"""What a law in N and M leaves over, run by run: a pattern here means that the form is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rag_exp.analysis import theme

if TYPE_CHECKING:
    from rag_exp.laws.card import LawFit


def residuals_chart(law: LawFit) -> tuple[Any, str]:
    """Percent by which the law is above (+) or below (-) each run, against N, coloured by M; and its caption."""
    import altair as alt
    import numpy as np
    import pandas as pd

    percent = 100 * (np.expm1(law.residuals()) if law.loss != "ls_raw" else law.residuals() / np.asarray(law.rows["y"]))
    axes = law.rows["axes"]
    rows = pd.DataFrame({"N": axes["N"], "M": axes["M"], "loss": law.rows["y"], "percent": percent})
    levels = sorted(rows["M"].unique())
    names = [theme.si(m) for m in levels]
    rows["passages"] = [theme.si(m) for m in rows["M"]]
    reach = max(0.1, float(np.abs(percent).max())) * 1.15
    color = alt.Color(
        "passages:N",
        scale=alt.Scale(domain=names, range=theme.shades(theme.CORPORA, len(levels))),
        legend=alt.Legend(title="Passages"),
    )
    x = theme.log_axis("N", rows["N"].tolist())
    y = alt.Y(
        "percent:Q",
        title="Law above (+) or below (-) the run, %",
        scale=alt.Scale(domain=[-reach, reach], nice=False),
        axis=alt.Axis(tickCount=5, format="+.2~f"),
    )
    tips = [
        alt.Tooltip("N:Q", title="parameters", format=",.0f"),
        alt.Tooltip("M:Q", title="passages", format=",.0f"),
        alt.Tooltip("loss:Q", format=".4~g"),
        alt.Tooltip("percent:Q", title="law - run, %", format="+.2f"),
    ]
    zero = alt.Chart(pd.DataFrame({"y": [0.0]})).mark_rule(color=theme.MUTED, strokeWidth=1).encode(y="y:Q")
    dots = (
        alt.Chart(rows)
        .mark_point(filled=True, size=70, opacity=1, stroke="white", strokeWidth=1)
        .encode(x=x, y=y, color=color, tooltip=tips)
    )
    chart = alt.layer(zero, dots).properties(width=theme.WIDTH, height=220)
    size = float(np.sqrt(np.mean(percent**2)))
    caption = (
        f"Residuals of {law.form.equation} over its {len(rows)} runs; root mean square {size:.2g}%. Scatter about zero "
        "is noise; an order by size or colour is something that the form does not say."
    )
    return chart, caption
