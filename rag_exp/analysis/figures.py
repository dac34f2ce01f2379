"""The figures of a study, each made where its runs allow it, with its caption; as Vega-Lite, PNG and PDF."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.analysis import theme
from rag_exp.analysis.arms import arms_chart
from rag_exp.analysis.conditions import conditions_of, groups
from rag_exp.analysis.costs import cost_chart
from rag_exp.analysis.curves import Curve, curves_chart, overlapping
from rag_exp.analysis.page import Chart
from rag_exp.analysis.replicates import aggregate
from rag_exp.analysis.residuals import residuals_chart
from rag_exp.analysis.study_fits import StudyFit, StudyFits, described
from rag_exp.analysis.tables import finished
from rag_exp.analysis.words import RESAMPLED

if TYPE_CHECKING:
    import pandas as pd

    from rag_exp.laws.card import LawFit


@dataclass
class Figure:
    """A finished figure.

    Attributes:
        name: of its files, and its anchor in the report.
        title: one line.
        caption: what is drawn, and what to hold against it.
        chart: an Altair chart, configured.
    """

    name: str
    title: str
    caption: str
    chart: Any

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification, data inside."""
        found: dict[str, Any] = self.chart.to_dict()
        return found

    def drawn(self) -> Chart:
        """The figure as a page takes it."""
        import vl_convert

        svg = vl_convert.vegalite_to_svg(self.spec, vl_version=vega_lite_version())
        return Chart(self.name, self.title, self.caption, self.spec, svg)


def figures_of(table: pd.DataFrame, fits: StudyFits) -> list[Figure]:
    """Every figure that the study's runs allow.

    Args:
        table: as from ``rag_exp.load_study``.
        fits: the study's laws.

    Raises:
        DataError: the fits' metric is in no run.
    """
    rows = finished(table, fits.metric)
    view = _View(rows, fits)
    made = [
        view.against_parameters(),
        view.against_corpus(),
        view.by_index(),
        view.by_growth(),
        *_costs_by_corpus(table[table["status"] == "finished"]),
        _arms(rows, fits.metric),
        _residuals(fits),
    ]
    return [f for f in made if f is not None]


def vega_lite_version() -> str:
    """The Vega-Lite that the installed Altair writes, as vl-convert names it (``6.1``)."""
    import altair as alt

    return alt.SCHEMA_VERSION.lstrip("v").rsplit(".", 1)[0]


@cache
def vega_libraries() -> str:
    """The JavaScript that draws a page's charts."""
    import vl_convert

    return str(vl_convert.javascript_bundle(vl_version=vega_lite_version()))


def save_figures(figures: list[Figure], folder: Path) -> list[Path]:
    """Write every figure as ``figures/NAME.png`` (2x) and ``figures/NAME.pdf``."""
    import vl_convert

    from rag_exp.core.atomic import disk_errors

    files = []
    version = vega_lite_version()
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for figure in figures:
            png = vl_convert.vegalite_to_png(figure.spec, vl_version=version, scale=2)
            pdf = vl_convert.vegalite_to_pdf(figure.spec, vl_version=version)
            for suffix, content in (("png", png), ("pdf", pdf)):
                path = folder / f"{figure.name}.{suffix}"
                path.write_bytes(content)
                files.append(path)
    return files


class _View:
    """The rows of the arm that laws are about, cut into curves."""

    def __init__(self, rows: pd.DataFrame, fits: StudyFits):
        self.metric, self.fits = fits.metric, fits
        placed = rows[rows["N"].notna() & rows["M"].notna()]
        fitted = placed[placed["arm"] == fits.arm]
        self.searched = placed[placed["arm"].isin(["dense", "bm25", "hybrid"])]
        self.main: pd.DataFrame | None = None
        self.where: dict[str, Any] = {}
        if len(fitted):
            self.where, self.main = next(groups(fitted, conditions_of(fitted)))

    def against_parameters(self) -> Figure | None:
        """Loss against N, a curve per corpus size."""
        return self._main("N", "M", theme.CORPORA, "Passages")

    def against_corpus(self) -> Figure | None:
        """Loss against M, a curve per model size."""
        return self._main("M", "N", theme.SIZES, "Parameters")

    def _main(self, axis: str, other: str, palette: tuple[str, ...], heading: str) -> Figure | None:
        if self.main is None or self.main[axis].nunique() < 2:
            return None
        levels = sorted(self.main[other].unique())
        colors = theme.shades(palette, len(levels))
        curves, kinds = [], set()
        for level, color in zip(levels, colors, strict=True):
            rows = self.main[self.main[other] == level]
            fit = self._law(axis, {other: level}, rows)
            kinds.add(fit.axes if fit else None)
            at = {other: float(level)} if fit and len(fit.axes) > 1 else {}
            curves.append(Curve(theme.si(level), color, points_of(rows, axis, self.metric), fit and fit.law, at))
        chart = theme.configure(curves_chart(curves, axis, self.metric, heading))
        name = "loss_against_parameters" if axis == "N" else "loss_against_corpus"
        what = "generator parameters" if axis == "N" else "corpus size"
        per = "corpus size" if axis == "N" else "model size"
        apart = overlapping(curves, axis)
        caption = f"{_points_are(self.main)} {_curves_are(kinds, self.fits, apart)} {_setting(self.where)}"
        return Figure(name, f"Loss against {what}, per {per}", caption, chart)

    def _law(self, axis: str, at: dict[str, Any], rows: pd.DataFrame) -> StudyFit | None:
        """The law to draw through rows: the one in both axes where these rows are among its own, else theirs alone."""
        ids = set(rows["run_id"])
        for axes in (("N", "M"), (axis,)):
            for found in self.fits.fits:
                if found.axes == axes and found.law is not None and ids <= set(found.run_ids):
                    if len(axes) == 1 and any(int(found.where.get(k, v)) != int(v) for k, v in at.items()):
                        continue
                    return found
        return None

    def by_index(self) -> Figure | None:
        """Loss against M, a curve per index type, at the model size where most types were tried."""
        rows = self.searched
        if self.main is None or not len(rows):
            return None
        rows = _same(rows, self.where, ("growth", "K", "K_train", "M_train"))
        count = rows.groupby("N")["index"].nunique()
        if not len(count) or count.max() < 2:
            return None
        size = max(count[count == count.max()].index)
        rows = rows[rows["N"] == size]
        # Only sizes that several types share: segments of other lengths would seem to cross.
        tried = rows.groupby("M")["index"].nunique()
        rows = rows[rows["M"].isin(tried[tried > 1].index)]
        kinds = [k for k in _kinds(self.searched) if k in set(rows["index"])]
        curves = [
            Curve(k, color_of(k, self.searched), points_of(rows[rows["index"] == k], "M", self.metric)) for k in kinds
        ]
        chart = theme.configure(curves_chart(curves, "M", self.metric))
        caption = (
            f"The generator of {theme.si(size)} parameters, asked through each index. {_points_are(rows)} "
            "Lines join the points. Types differ in their recall here, not only in kind: see recall against cost."
        )
        return Figure("loss_by_index", "Loss against corpus size, per index", caption, chart)

    def by_growth(self) -> Figure | None:
        """Loss against M under coverage growth and under distractor growth."""
        rows = self.searched[self.searched["arm"] == "dense"]
        if self.main is None or rows["growth"].nunique() < 2:
            return None
        rows = _same(rows, self.where, ("index", "K", "K_train", "M_train"))
        found = {w["growth"]: g for w, g in groups(rows, ["growth"]) if w["growth"]}
        shared = set.intersection(*(set(g["N"]) for g in found.values())) if len(found) > 1 else set()
        if not shared:
            return None
        size = max(shared, key=lambda n: (sum((g["N"] == n).sum() for g in found.values()), n))
        curves = []
        for growth, color in (("coverage", theme.KINDS[0]), ("distractor", theme.KINDS[1])):
            if growth in found:
                part = found[growth][found[growth]["N"] == size]
                curves.append(Curve(growth, color, points_of(part, "M", self.metric), dash=growth == "distractor"))
        chart = theme.configure(curves_chart(curves, "M", self.metric))
        caption = (
            f"The generator of {theme.si(size)} parameters. Coverage: gold passages enter with the corpus. Distractor: "
            f"they are always there, and the rest only hides them. {_points_are(rows)} Lines join the points; both "
            "growths end in the same corpus."
        )
        return Figure("loss_by_growth", "Two ways for a corpus to grow", caption, chart)


def points_of(rows: pd.DataFrame, axis: str, metric: str) -> pd.DataFrame:
    """One row per point (mean over seeds, with its interval), with what a reader may want to know on hovering."""
    extra = [c for c in (metric, "em", "f1", "gold_recall@k") if c in rows and rows[c].notna().any()]
    means = aggregate(rows, metrics=extra)
    out = means[[axis, metric]].set_axis(["x", "y"], axis=1)
    out = out.assign(low=means[f"{metric}.low"], high=means[f"{metric}.high"])
    out["parameters"], out["passages"] = means["N"], means["M"]
    for column in ("index", "growth"):
        out[column] = means[column]
    for column in extra:
        out["loss" if column == metric else column] = means[column]
    out["seeds"] = means["n"]
    out["run"] = [ids[0][:12] + (f" and {len(ids) - 1} more" if len(ids) > 1 else "") for ids in means["run_id"]]
    return out.astype({c: float for c in ("x", "y", "low", "high")})


def _kinds(rows: pd.DataFrame) -> list[str]:
    order = {"flat": 0, "hnsw": 1, "ivf": 2, "bm25": 8, "hybrid": 9}
    return sorted(set(rows["index"].dropna()), key=lambda k: (order.get(k, 5), k))


def color_of(kind: str, rows: pd.DataFrame) -> str:
    """An index type's colour, the same in every figure of the study."""
    return theme.KINDS[_kinds(rows).index(kind) % len(theme.KINDS)]


def _same(rows: pd.DataFrame, where: dict[str, Any], columns: tuple[str, ...]) -> pd.DataFrame:
    """The rows of the main setting, but for what the figure itself varies."""
    for column in columns:
        if column in where and column in rows:
            whole = rows["whole_corpus"].astype(bool) if column == "growth" else False
            rows = rows[(rows[column].map(str) == str(_like(rows[column], where[column]))) | whole]
    return rows


def _like(column: Any, value: Any) -> Any:
    return float(value) if value is not None and column.dtype.kind == "f" else value


def _points_are(rows: pd.DataFrame) -> str:
    seeds = rows.groupby([rows[c].map(str) for c in ("N", "M", "index", "growth")])["seed"].nunique()
    if len(seeds) and seeds.max() > 1:
        return "Points are means over seeds, with 95% intervals where there are several."
    return "Each point is one run."


def _curves_are(kinds: set[Any], fits: StudyFits, apart: bool) -> str:
    """What the curves are, and their bands: drawn ``apart`` where they would lie over each other."""
    if kinds == {None}:
        return "No law was fitted; lines join the points."
    joint = fits.joint()
    if ("N", "M") in kinds and joint is not None and joint.law is not None:
        text = f"Curves: {joint.law.form.equation}, one law for all"
        return f"{text}{_bands_are(joint.law, apart)}."
    bands = "each with its band below" if apart else "each with its band"
    return f"Curves: a law per curve, {bands}" + ("; thin lines where none could be fitted." if None in kinds else ".")


def _bands_are(law: LawFit, apart: bool) -> str:
    if law.draws_Rp is None:
        return ""
    common = ", much of it common to all curves" if "given" in str(law.resampling["kind"]) else ""
    bands = "below, each by itself with its band" if apart else "bands"
    return f"; {bands}: {law.level:.0%} intervals over {RESAMPLED.get(law.resampling['kind'], 'refits')}{common}"


def _setting(where: dict[str, Any]) -> str:
    words = described({k: v for k, v in where.items() if k in ("index", "growth", "K")})
    return f"({words[0].upper()}{words[1:]}.)" if words else ""


def _costs_by_corpus(rows: pd.DataFrame) -> list[Figure | None]:
    """What recall costs, a figure for each corpus: indexes over different passages are not to be compared."""
    kinds = rows["config.corpus.kind"].map(str) if "config.corpus.kind" in rows else rows["status"]
    made = []
    for kind in dict.fromkeys(kinds):
        part, several = rows[kinds == kind], kinds.nunique() > 1
        name, title = (f"_{kind}", f", corpus {kind}") if several else ("", "")
        made += [
            _costs(part, "index_recall@k", f"recall_against_cost{name}", f"Recall against cost, per index{title}"),
            _costs(part, "gold_recall@k", f"gold_against_cost{name}", f"Gold found against cost, per index{title}"),
        ]
    return made


def _costs(rows: pd.DataFrame, recall: str, name: str, title: str) -> Figure | None:
    made = cost_chart(rows, {k: color_of(k, rows) for k in _kinds(rows)}, recall)
    if made is None:
        return None
    chart, caption = made
    return Figure(name, title, caption, theme.configure(chart))


def _arms(rows: pd.DataFrame, metric: str) -> Figure | None:
    made = arms_chart(rows, metric)
    if made is None:
        return None
    chart, caption = made
    return Figure("arms", "What the reader is given", caption, theme.configure(chart))


def _residuals(fits: StudyFits) -> Figure | None:
    joint = fits.joint()
    if joint is None or joint.law is None:
        return None
    chart, caption = residuals_chart(joint.law)
    return Figure("residuals", "What the law leaves over", caption, theme.configure(chart))
