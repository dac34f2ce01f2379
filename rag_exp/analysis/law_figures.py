"""Figures of one law, from its card alone: the fit with its band, residuals, hold-outs, exponents, contours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rag_exp.analysis import theme
from rag_exp.analysis.curves import Curve, curves_chart
from rag_exp.analysis.figures import Figure
from rag_exp.analysis.study_fits import StudyFit
from rag_exp.analysis.words import held_out
from rag_exp.core.errors import LawError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from rag_exp.laws.card import LawFit

_CURVES = 5  # levels of a second axis that are drawn


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
    caption += f"; bands: {law.level:.0%} intervals over replicates." if law.draws_Rp is not None else "."
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
        x = theme.log_axis(axis, rows[axis].tolist(), _title(law, axis))
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
        {"form": r["form"], "holdout": held_out(h), "error": 100 * r[f"{h}.rmse"]}
        for r in found.comparison
        for h in names
        if r.get(f"{h}.rmse") is not None
    ]
    rows += [
        {"form": "repeat the nearest row", "holdout": held_out(h), "error": 100 * e}
        for h, e in found.nearest.items()
        if e is not None
    ]
    if not rows:
        return None
    order = list(dict.fromkeys(r["form"] for r in rows))
    chart = (
        alt.Chart(pd.DataFrame(rows))
        .mark_point(filled=True, size=80)
        .encode(
            x=alt.X("error:Q", title="Held-out error, %", scale=alt.Scale(type="log", nice=False)),
            y=alt.Y("form:N", sort=order, title=""),
            color=alt.Color("holdout:N", title="Without", scale=alt.Scale(range=list(theme.KINDS))),
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
        line = alt.Chart(shape).mark_line(color=theme.KINDS[0])
        line = line.encode(
            x=alt.X("value:Q", title=name, scale=alt.Scale(zero=False)),
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
    rows = contours(law, x=x, y=y, points=40)
    rows = rows[rows[y].notna()]
    if not len(rows):
        return None
    rows = rows.assign(level=[f"{v:.4g}" for v in rows["loss"]])
    order = list(dict.fromkeys(rows["level"]))
    color = alt.Color(
        "level:N", title=_named(law), sort=order, scale=alt.Scale(range=theme.shades(theme.SIZES, len(order)))
    )
    base = alt.Chart(rows).encode(
        x=theme.log_axis(x, rows[x].tolist(), _title(law, x)), y=_log_y(law, y, rows[y].tolist()), color=color
    )
    layers: list[Any] = [base.mark_line(strokeWidth=2)]
    banded = rows[rows[f"{y}_low"].notna()]
    if len(banded):
        band = alt.Chart(banded).mark_area(opacity=0.13)
        layers.insert(
            0,
            band.encode(
                x=theme.log_axis(x, rows[x].tolist(), _title(law, x)),
                y=alt.Y(f"{y}_low:Q", scale=alt.Scale(type="log", nice=False), title=_title(law, y)),
                y2=f"{y}_high:Q",
                color=color,
            ),
        )
    chart = alt.layer(*layers).properties(width=theme.WIDTH, height=theme.HEIGHT)
    caption = f"Each line joins the {y} and {x} of equal loss, up to a decade beyond the rows"
    caption += f"; bands: {law.level:.0%} intervals." if len(banded) else "."
    return Figure("contours", "Equal loss", caption, theme.configure(chart))


def _log_y(law: LawFit, axis: str, values: list[float]) -> Any:
    import altair as alt

    return alt.Y(
        f"{axis}:Q",
        title=_title(law, axis),
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(values=theme.log_ticks(min(values), max(values)), format=".2~s"),
    )


def _title(law: LawFit, axis: str) -> str:
    """``N, parameters``: the axis by its letter and by what the data say that it is."""
    return f"{axis}, {law.definitions[axis]}" if law.definitions.get(axis, axis) != axis else axis


def _named(law: LawFit) -> str:
    return theme.label(law.definitions.get("loss", law.y))
