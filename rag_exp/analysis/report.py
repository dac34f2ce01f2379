"""``report.html``: what a study found, on one page that needs no network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.analysis.allocations import saved_figures, saved_frontier
from rag_exp.analysis.factors import factors_section
from rag_exp.analysis.figures import Figure, figures_of, save_figures, vega_libraries
from rag_exp.analysis.frontier_words import frontier_section
from rag_exp.analysis.law_figures import holdout_figure
from rag_exp.analysis.page import GREEK, Cell, Page, mathed
from rag_exp.analysis.study_fits import StudyFit, StudyFits, described
from rag_exp.analysis.tables import missing_runs
from rag_exp.analysis.theme import unit
from rag_exp.analysis.words import equation_with_numbers, held_out, paragraphs
from rag_exp.core.atomic import write_text
from rag_exp.laws.effects import effect

if TYPE_CHECKING:
    import pandas as pd

    from rag_exp.laws.card import LawFit

FILE = "report.html"
REPORT_VERSION = 4  # raise it when the page is made differently from the same runs
_SHOWN = ("em", "f1", "gold_recall@k", "index_recall@k", "queries_per_second")
_BLANK = '<abbr title="{}">–</abbr>'


def write_report(table: pd.DataFrame, fits: StudyFits, plan: Mapping[str, Any], folder: Path, basis: str = "") -> Path:
    """Write ``report.html``, and every figure as ``figures/NAME.png`` and ``.pdf``.

    Args:
        table: as from ``rag_exp.load_study``; failed runs are listed with their reason.
        fits: the study's laws (``fit_table`` or ``StudyFits.load``).
        plan: the study's ``plan.json``: study, description, metric, command, commit, runs.
        basis: a name of what the report stands on, found again by :func:`mark_of`.

    Returns:
        the page's path.

    Raises:
        DataError: no run has the metric.
        StoreError: the disk is full or cannot be written.
    """
    figures = figures_of(table, fits)
    joint = fits.joint()
    held = None if joint is None else holdout_figure(joint)
    save_figures([*figures, *([held] if held else [])], folder / "figures")
    page = Page(f"{plan.get('study', 'study')}: what the runs say")
    _head(page, table, fits, plan)
    _tiles(page, fits)
    page.heading("What the curves mean")
    for text in paragraphs(table, fits):
        page.paragraph(text)
    if figures:
        page.heading("Figures")
        for figure in figures:
            page.chart(figure.drawn())
        page.paragraph("Each figure is also in figures/ as PNG and PDF. Point at a mark to read its values.", "note")
    _laws(page, fits)
    _heldout(page, fits, held)
    if fits.factorised is not None:
        factors_section(page, fits.factorised)
    saved = saved_frontier(folder, fits)
    if saved is not None:
        frontier_section(page, saved)
        for figure in saved_figures(saved, fits):
            page.chart(figure.drawn())
    _runs(page, table, fits.metric)
    _nulls(page, table)
    _source(page, table, plan)
    path = folder / FILE
    write_text(path, page.html(vega_libraries(), basis))
    return path


def mark_of(path: Path) -> str | None:
    """The ``basis`` that a report was written with; None where it has none."""
    with path.open(encoding="utf-8") as f:
        found = re.search(r'<meta name="basis" content="([0-9a-f]+)">', f.read(2_000))
    return found.group(1) if found else None


def _head(page: Page, table: pd.DataFrame, fits: StudyFits, plan: Mapping[str, Any]) -> None:
    page.add(f"<h1>{escape(str(plan.get('study', 'study')))}</h1>")
    if plan.get("description"):
        page.paragraph(str(plan["description"]), "lead")
    done = int((table["status"] == "finished").sum())
    planned = len(table) + len(missing_runs(table))
    facts = {
        "runs": f"{done} of {planned} finished",
        "metric": f"{fits.metric} ({unit(fits.metric)})",
        "model sizes": str(table["N"].nunique()),
        "corpus sizes": str(table["M"].nunique()),
        "seeds": str(table["seed"].nunique()),
        "commit": str(plan.get("commit") or "unknown")[:12],
    }
    items = "".join(f"<span>{escape(k)} <b>{escape(v)}</b></span>" for k, v in facts.items())
    page.add(f'<div class="facts">{items}</div>')


def _tiles(page: Page, fits: StudyFits) -> None:
    """What the joint law says in a few numbers."""
    joint = fits.joint()
    if joint is None or joint.law is None:
        return
    tiles = []
    for axis, name in (("N", "parameters"), ("M", "corpus")):
        e = effect(joint.law, axis)
        interval = f"{-e.high:.3g} to {-e.low:.3g}" if e.low is not None and e.high is not None else "no interval"
        times = "10×" if abs(e.factor - 10) < 1e-6 else f"{e.factor:.2g}×"
        tiles.append((f"{times} the {name}", f"{-e.fall:+.3g} nats".replace("-", "−"), interval.replace("-", "−")))
    row = next((r for r in joint.comparison if r["form"] == joint.law.form.label), None)
    if row and row["heldout"] is not None:
        near = [v for v in joint.nearest.values() if v is not None]
        under = f"repeating the nearest level: {(sum(v * v for v in near) / len(near)) ** 0.5:.1%}" if near else ""
        largest = "largest " * all(name.startswith("largest_") for name in joint.nearest)
        tiles.append((f"error on held-out {largest}runs", f"{row['heldout']:.1%}", under))
    page.tiles(tiles)


def _laws(page: Page, fits: StudyFits) -> None:
    page.heading("Laws")
    if not fits.fits:
        page.paragraph("No law was fitted. " + " ".join(fits.notes))
        return
    page.paragraph(
        f"N: generator parameters without embeddings; M: passages in the index; loss in {unit(fits.metric)}. Brackets "
        "are intervals; a cautious reader also looks at the held-out errors.",
        "note",
    )
    for fit in fits.fits:
        if len(fit.axes) > 1:
            _joint(page, fit)
    for axis, name in (("N", "the parameters alone"), ("M", "the corpus size alone")):
        _single(page, [f for f in fits.fits if f.axes == (axis,)], axis, f"In {name}")
    certified = [f.law.certificate for f in fits.fits if f.law]
    if certified:
        worst = max(c["gradient"] for c in certified)
        page.paragraph(
            f"{len(certified)} optima, certified: from {certified[0]['starts']} starts each, the largest gradient (a "
            f"cosine, 0 at an optimum) is {worst:.1e}. Fit cards, with their draws, are in fits/.",
            "note",
        )


def _joint(page: Page, fit: StudyFit) -> None:
    where = f" ({described(fit.where)})" if fit.where else ""
    page.add(f"<h3>In the parameters and the corpus size{escape(where)}</h3>")
    law = fit.law
    if law is None:
        page.paragraph(f"No law: {fit.reason}")
        return
    page.add('<div class="law">')
    page.paragraph(f"The loss is {law.form.summary}.")
    page.add(f'<span class="equation">{mathed(equation_with_numbers(law))}</span>')
    rows = []
    for name, value in law.params.items():
        interval = law.intervals.get(name)
        text = "not identified" if name in law.unidentified else "held fixed" if name in law.fixed else "none"
        shown = f"{interval[0]:.3g} to {interval[1]:.3g}" if interval else text
        rows.append([Cell(f"<i>{GREEK.get(name, name)}</i>"), Cell(f"{value:.4g}", value, True), Cell(shown)])
    page.table(["", "value", f"{law.level:.0%} interval"], rows)
    for warning in law.warnings:
        page.paragraph(f"Note: {warning}.", "note")
    page.add("</div>")


def _single(page: Page, fits: list[StudyFit], axis: str, title: str) -> None:
    if not fits:
        return
    page.add(f"<h3>{escape(title)}</h3>")
    other = "M" if axis == "N" else "N"
    settings = [{k: v for k, v in f.where.items() if k != other} for f in fits]
    several = any(w != settings[0] for w in settings)
    heads = [*(["with"] if several else []), f"at {other}", "law", "floor", "exponent", "held-out error"]
    rows, said = [], Counter[str]()
    for fit, where in zip(fits, settings, strict=True):
        first = [Cell(escape(", ".join(str(v) for v in where.values() if v is not None)))] if several else []
        level = fit.where.get(other)
        first.append(Cell(f"{level:,.0f}", level, True) if level is not None else _blank("all"))
        law = fit.law
        if law is None:
            blank = [_blank("no law"), _blank("no law"), _blank("no law", True)]
            rows.append(
                [*first, Cell(f'<span class="note">no law: {escape(fit.reason or "")}</span>', wide=True), *blank]
            )
            continue
        said.update(law.warnings)
        row = next((r for r in fit.comparison if r["form"] == law.form.label), {})
        floor, exponents = law.form.floor, law.form.exponents
        rows.append(
            [
                *first,
                Cell(f'<span class="equation">{mathed(equation_with_numbers(law))}</span>'),
                _estimate(law, floor) if floor else _blank("this form has no floor"),
                _estimate(law, exponents[0]) if exponents else _blank("this form has no exponent"),
                _percent(row.get("heldout"), row.get("reason")),
            ]
        )
    page.table(heads, rows)
    for warning, count in said.most_common():
        which = "All laws above" if count == len(fits) else f"{count} of the {len(fits)} laws above"
        page.paragraph(f"{which}: {warning}.", "note")


def _estimate(law: LawFit, name: str) -> Cell:
    interval = law.intervals.get(name)
    shown = f"{law.params[name]:.4g}"
    if interval:
        shown += f' <span class="range">[{interval[0]:.3g}, {interval[1]:.3g}]</span>'
    return Cell(shown, law.params[name])


def _where(fit: StudyFit) -> str:
    return f"in {' and '.join(fit.axes)}" + (f" ({described(fit.where)})" if fit.where else "")


def _heldout(page: Page, fits: StudyFits, figure: Figure | None) -> None:
    compared = [f for f in fits.fits if f.comparison and any(r["heldout"] is not None for r in f.comparison)]
    if not compared:
        return
    page.heading("Held-out check")
    page.paragraph(
        "Each form is fitted without what a column's head says and asked for it; the error is the root mean square of "
        "log(prediction / loss), about the relative error. The form with the smallest error is the law. Beside it "
        "stands what repeating the nearest measured level would err. AICc is in sample, and decides nothing.",
    )
    for fit in compared[:1] if fits.joint() else compared[:3]:
        columns = list(fit.nearest)
        rows, chosen = [], []
        for i, r in enumerate(fit.comparison):
            if fit.law is not None and r["form"] == fit.law.form.label:
                chosen.append(i)
            errors = [_percent(r.get(f"{c}.rmse"), r.get("reason")) for c in columns]
            aicc = r["aicc"]
            cell = Cell(f"{aicc:.1f}", aicc, True) if aicc is not None else _blank("too few rows for AICc", True)
            rows.append(
                [
                    Cell(
                        f'<span class="equation">{mathed(r["equation"])}</span> <span class="range">{r["form"]}</span>'
                    ),
                    *errors,
                    _percent(r["heldout"], r.get("reason")),
                    cell,
                ]
            )
        nearest = [_percent(v, "nothing to repeat") for v in fit.nearest.values()]
        rows.append(
            [Cell("repeat the nearest level"), *nearest, _blank("not a form", True), _blank("not a form", True)]
        )
        page.paragraph(f"Law {_where(fit)}:", "note")
        heads = ["Form", *(f"without {held_out(c)}" for c in columns), "together", "AICc"]
        page.table(heads, rows, chosen)
    if figure is not None:
        page.chart(figure.drawn())


def _percent(value: float | None, reason: str | None) -> Cell:
    if value is None:
        return _blank(reason or "unknown", True)
    return Cell(f"{value:.2%}", value, True)


def _blank(reason: str, number: bool = False) -> Cell:
    return Cell(_BLANK.format(escape(reason, quote=True)), None, number)


def _runs(page: Page, table: pd.DataFrame, metric: str) -> None:
    page.heading("Runs")
    page.paragraph("Click a head to sort. A dash is a missing value; point at it for the reason.", "note")
    shown = [m for m in dict.fromkeys([metric, *_SHOWN]) if m in table]
    heads = ["run", "arm", "N", "M", "K", "index", "growth", "seed", *shown, "seconds", "status"]
    rows = []
    for row in table.to_dict("records"):
        nulls = row.get("nulls") or {}
        cells = [
            Cell(f"<code>{escape(str(row['run_id'])[:12])}</code>", row["run_id"]),
            Cell(escape(row["arm"]), row["arm"]),
        ]
        cells += [_number(row.get(c), nulls.get(c), ",.0f") for c in ("N", "M", "K")]
        for c in ("index", "growth"):
            reason = f"arm {row['arm']} has no {c}"
            cells.append(Cell(escape(str(row[c])), row[c]) if isinstance(row.get(c), str) else _blank(reason))
        cells.append(Cell(str(row["seed"]), row["seed"], True))
        cells += [_number(row.get(m), nulls.get(m), ",.0f" if m == "queries_per_second" else ".4g") for m in shown]
        cells.append(_number(row.get("seconds.run"), None, ",.1f"))
        if row["status"] == "failed":
            last = (str(row.get("error") or "").strip().splitlines() or ["no reason was kept"])[-1]
            cells.append(
                Cell(
                    f'<span class="failed" title="{escape(last, quote=True)}">failed: {escape(last[:90])}</span>',
                    "failed",
                )
            )
        else:
            cells.append(Cell(escape(row["status"]), row["status"]))
        rows.append(cells)
    page.table(heads, rows, sortable=True)
    absent = missing_runs(table)
    if absent:
        which = "; ".join(
            " ".join(f"{k}={v}" for k, v in r.get("point", {}).items()) or r["run_id"][:12] for r in absent[:12]
        )
        more = f" and {len(absent) - 12} more" if len(absent) > 12 else ""
        page.paragraph(f"{len(absent)} planned run{'s' * (len(absent) != 1)} left no record: {which}{more}.", "note")


def _number(value: Any, reason: str | None, form: str) -> Cell:
    if value is None or value != value:
        return _blank(reason or "not recorded", True)
    return Cell(format(value, form), value, True)


def _nulls(page: Page, table: pd.DataFrame) -> None:
    reasons: Counter[tuple[str, str]] = Counter()
    for nulls in table["nulls"]:
        reasons.update((nulls or {}).items())
    if not reasons:
        return
    page.heading("Why values are missing")
    by_reason: dict[str, list[str]] = {}
    for (name, reason), count in sorted(reasons.items()):
        by_reason.setdefault(reason, []).append(f"{name} ({count} {'run' if count == 1 else 'runs'})")
    items = "".join(
        f"<li>{escape(r)}: <span class=range>{escape(', '.join(n))}</span></li>" for r, n in by_reason.items()
    )
    page.add(f'<ul class="note">{items.replace("class=range", "")}</ul>')


def _source(page: Page, table: pd.DataFrame, plan: Mapping[str, Any]) -> None:
    page.heading("Where this comes from")
    command = plan.get("command") or "unknown"
    page.add(f"<pre>{escape(str(command))}</pre>")
    commits = sorted({str(c) for c in table["commit"] if isinstance(c, str)})
    made = sorted(str(c) for c in table["created"])
    text = f"Commit {', '.join(commits) or 'unknown'}."
    if len(commits) > 1:
        text += " The runs come from several commits."
    if made:
        text += f" Records written from {made[0]} to {made[-1]}."
    page.paragraph(text, "note")
