"""Figures of one law, from its card alone: the fit with its band, residuals, hold-outs, exponents, contours."""

from __future__ import annotations

import textwrap
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rag_exp.analysis import theme
from rag_exp.analysis.curves import Curve, curves_chart, overlapping
from rag_exp.analysis.figures import Figure
from rag_exp.analysis.page import GREEK
from rag_exp.analysis.study_fits import StudyFit
from rag_exp.analysis.words import held_out
from rag_exp.core.errors import LawError
from rag_exp.laws.form import AXES

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from rag_exp.laws.card import LawFit

_CURVES = 5  # levels of a second axis that are drawn
_FINE = 81  # points of a line of equal loss, which may be steep
_LEAST = 1e-4  # %: smaller held-out errors, of data without noise, stand there
_HIDDEN = 0.5  # of what two bands share that they may cover of each other


def figures_of_law(found: StudyFit) -> list[Figure]:
    """Every figure that the card's law allows; none where there is no law."""
    law = found.law
    if law is None:
        return []
    made = [_fit(law), _residuals(law), holdout_figure(found), _profiles(law), _contours(law)]
    return [figure for figure in made if figure is not None]


def rows_of(law: LawFit) -> pd.DataFrame:
    """The rows that were fitted: the axes, ``y``, and ``percent`` by which the law is above (+) or below (-)."""
    import numpy as np
    import pandas as pd

    y = np.asarray(law.rows["y"])
    percent = 100 * (np.expm1(law.residuals()) if law.loss != "ls_raw" else law.residuals() / y)
    return pd.DataFrame({**law.rows["axes"], "y": y, "percent": percent})


def _fit(law: LawFit) -> Figure:
    """Loss against the first axis, a curve for some levels of the second."""
    import numpy as np

    rows, (axis, *others) = rows_of(law), law.form.variables
    title = f"{_named(law)} against {axis}"
    if not others:
        points = rows.rename(columns={axis: "x"})
        curves = [Curve("", theme.KINDS[0], points[["x", "y"]], law)]
    else:
        other = others[0]
        rest = {a: float(np.exp(np.log(rows[a]).mean())) for a in others[1:]}
        levels = _levels(rows[other].to_numpy())
        nearest = levels[np.abs(np.log(rows[other].to_numpy()[:, None] / levels)).argmin(1)]
        colors = theme.shades(theme.CORPORA, len(levels))
        curves = [
            Curve(
                f"{other} {theme.si(level)}",
                color,
                rows[nearest == level].rename(columns={axis: "x"})[["x", "y", other]],
                law,
                {other: float(level), **rest},
            )
            for level, color in zip(levels, colors, strict=True)
        ]
        curves = [c for c in curves if len(c.points) > 1]
    chart = theme.configure(curves_chart(curves, axis, law.definitions.get("loss", law.y), x_title=_title(law, axis)))
    caption = f"{law.form.equation}, certified. Points are the rows of the fit"
    caption += f", each with the nearest of the levels of {others[0]} that are drawn" if others else ""
    bands = "below, each by itself with its band" if overlapping(curves, axis) else "bands"
    caption += f"; {bands}: {law.level:.0%} intervals over replicates." if law.draws_Rp is not None else "."
    return Figure("fit", title, caption, chart)


def _levels(values: np.ndarray) -> np.ndarray:
    """The levels of an axis, where there are few; else the middles (geometric) of as many equal parts of its rows."""
    import numpy as np

    levels = np.unique(values)
    if len(levels) <= _CURVES:
        return levels
    parts = np.array_split(np.sort(np.log(values)), _CURVES)
    return np.unique(np.exp([np.median(part) for part in parts]))


def _residuals(law: LawFit) -> Figure:
    import altair as alt
    import numpy as np
    import pandas as pd

    rows = rows_of(law)
    panels = []
    reach = max(0.1, float(rows["percent"].abs().max())) * 1.15
    for axis in law.form.variables:
        x = theme.log_axis(axis, rows[axis].tolist(), _title(law, axis, 70 // len(law.form.variables)))
        y = alt.Y(
            "percent:Q",
            title="" if panels else "Law above (+) or below (-) the row, %",
            scale=alt.Scale(domain=[-reach, reach], nice=False),
        )
        zero = alt.Chart(pd.DataFrame({"y": [0.0]})).mark_rule(color=theme.MUTED).encode(y="y:Q")
        dots = alt.Chart(rows).mark_point(filled=True, size=45, opacity=0.8, color=theme.KINDS[0]).encode(x=x, y=y)
        panels.append(alt.layer(zero, dots).properties(width=theme.WIDTH / len(law.form.variables), height=200))
    size = float(np.sqrt(np.mean(rows["percent"] ** 2)))
    caption = (
        f"What {law.form.equation} leaves over; root mean square {size:.2g}%. A pattern means that the form is wrong."
    )
    return Figure("residuals", "What the law leaves over", caption, theme.configure(alt.hconcat(*panels)))


def holdout_figure(found: StudyFit) -> Figure | None:
    """Every candidate's error on the levels it was not shown."""
    import altair as alt
    import pandas as pd

    names = list(found.nearest)
    rows = [
        {"form": r["form"], "holdout": held_out(h), "error": max(100 * r[f"{h}.rmse"], _LEAST)}
        for r in found.comparison
        for h in names
        if r.get(f"{h}.rmse") is not None
    ]
    rows += [
        {"form": "repeat the nearest row", "holdout": held_out(h), "error": max(100 * e, _LEAST)}
        for h, e in found.nearest.items()
        if e is not None
    ]
    if not rows:
        return None
    order = list(dict.fromkeys(r["form"] for r in rows))
    seen = list(dict.fromkeys(r["holdout"] for r in rows))
    chart = (
        alt.Chart(pd.DataFrame(rows))
        .mark_point(filled=True, size=80, opacity=1)
        .encode(
            x=theme.log_axis("error", [r["error"] for r in rows], "Held-out error, %"),
            y=alt.Y("form:N", sort=order, title="", axis=alt.Axis(grid=True, ticks=False, labelPadding=10)),
            color=alt.Color("holdout:N", title="Without", scale=alt.Scale(domain=seen, range=list(theme.KINDS))),
        )
        .properties(width=theme.WIDTH, height=28 * len(order))
    )
    caption = "Root mean square of log(prediction / loss) on the rows that were held out; the best form is the law."
    return Figure("holdouts", "Which form says best what it was not shown", caption, theme.configure(chart))


def _profiles(law: LawFit) -> Figure | None:
    """Twice the fall in log-likelihood over each exponent, of the least-squares fit to the same rows."""
    import altair as alt
    import pandas as pd

    from rag_exp.laws.fitting import fit
    from rag_exp.laws.likelihood import profile

    data = {**law.rows["axes"], law.y: law.rows["y"]}
    panels, open_ends = [], []
    try:
        plain = fit(law.form, data, y=law.y, loss="ls_log", weights=law.rows["weights"], fixed=law.fixed)
    except LawError:
        return None
    for name in (e for e in law.form.exponents if e not in law.fixed and e not in plain.unidentified):
        try:
            found = profile(plain, name, law.level)
        except LawError:
            continue
        ends = [v for v in (found.low, found.high) if v is not None]
        if len(ends) < 2:
            open_ends.append(name)
        shape = pd.DataFrame({"value": found.values, "rise": found.rise})
        line = alt.Chart(shape).mark_line(color=theme.KINDS[0], interpolate="monotone")
        line = line.encode(
            x=alt.X("value:Q", title=GREEK.get(name, name), scale=alt.Scale(zero=False)),
            y=alt.Y("rise:Q", title="" if panels else "Twice the fall in log-likelihood"),
        )
        marks = alt.Chart(pd.DataFrame({"value": ends})).mark_rule(color=theme.MUTED, strokeDash=[4, 4])
        panels.append(alt.layer(line, marks.encode(x="value:Q")).properties(width=200, height=160))
    if not panels:
        return None
    caption = "Profile likelihood of the exponents (least squares on logs); dashed: the ends of their "
    caption += f"{law.level:.0%} intervals."
    if open_ends:
        caption += f" The data do not limit {', '.join(open_ends)} on both sides."
    return Figure("profiles", "How far the exponents can go", caption, theme.configure(alt.hconcat(*panels)))


def _contours(law: LawFit) -> Figure | None:
    """Lines of equal loss over the first two axes."""
    import altair as alt

    from rag_exp.laws.effects import contours

    if len(law.form.variables) < 2:
        return None
    y, x = law.form.variables[:2]
    rows = contours(law, x=x, y=y, points=_FINE)
    rows = rows[rows[y].notna()]
    if not len(rows):
        return None
    rows = rows.assign(level=[f"{v:.4g}" for v in rows["loss"]])
    order = list(dict.fromkeys(rows["level"]))
    color = alt.Color(
        "level:N",
        title=_named(law),
        sort=order,
        scale=alt.Scale(range=theme.shades(theme.SIZES, len(order))),
        legend=alt.Legend(symbolType="stroke", symbolStrokeWidth=3),
    )
    x_axis, y_axis = theme.log_axis(x, rows[x].tolist(), _title(law, x)), _log_y(law, y, rows[y].tolist())
    layers: list[Any] = [alt.Chart(rows).mark_line(strokeWidth=2).encode(x=x_axis, y=y_axis, color=color)]
    caption = f"Each line joins the {y} and {x} of equal loss, up to a decade beyond the rows"
    banded = rows[rows[f"{y}_low"].notna()]
    if len(banded) and _touching(banded, x, y):
        caption += f". Their {law.level:.0%} intervals are not drawn: they are wider than the lines are apart."
    elif len(banded):
        low = alt.Y(f"{y}_low:Q", scale=alt.Scale(type="log", nice=False), title="")
        band = alt.Chart(banded).mark_area(opacity=0.13)
        layers.insert(0, band.encode(x=x_axis, y=low, y2=f"{y}_high:Q", color=color))
        caption += f"; bands: {law.level:.0%} intervals."
    else:
        caption += "."
    chart = alt.layer(*layers).properties(width=theme.WIDTH, height=theme.HEIGHT)
    return Figure("contours", "Equal loss", caption, theme.configure(chart))


def _touching(rows: pd.DataFrame, x: str, y: str) -> bool:
    """Whether bands of equal loss reach over the next line at half of the places or more where both are known."""
    middles = rows.pivot_table(index=x, columns="loss", values=y, sort=True)
    ends = [rows.pivot_table(index=x, columns="loss", values=f"{y}_{end}", sort=True) for end in ("low", "high")]
    over = [
        (ends[0][one] < middles[other]) & (middles[other] < ends[1][one])
        for a, b in pairwise(middles.columns)
        for one, other in ((a, b), (b, a))
        if (middles[a].notna() & middles[b].notna()).any()
    ]
    both = sum(2 * int((middles[a].notna() & middles[b].notna()).sum()) for a, b in pairwise(middles.columns))
    return bool(both) and sum(int(o.sum()) for o in over) >= _HIDDEN * both


def _log_y(law: LawFit, axis: str, values: list[float]) -> Any:
    import altair as alt

    return alt.Y(
        f"{axis}:Q",
        title=_title(law, axis),
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(values=theme.log_ticks(min(values), max(values)), format=".2~s"),
    )


def _title(law: LawFit, axis: str, width: int = 60) -> str | list[str]:
    """``N, parameters``: the axis by its letter and by what the data say that it is, in lines of so many letters."""
    said = law.definitions.get(axis, AXES.get(axis))
    if said == AXES.get(axis):
        return theme.QUANTITIES.get(axis, axis)
    return textwrap.wrap(f"{axis}, {said}", width)


def _named(law: LawFit) -> str:
    return theme.label(law.definitions.get("loss", law.y))
