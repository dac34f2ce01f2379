"""``rag-exp fit`` and ``rag-exp report``: a study's folder in, fit cards and a report out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rag_exp.analysis.factors import factor_lines
from rag_exp.analysis.study_fits import StudyFits, details, summary
from rag_exp.analysis.study_fitting import basis_of, fit_table
from rag_exp.analysis.tables import load_study
from rag_exp.core.errors import ConfigError, DataError
from rag_exp.core.fingerprint import digest
from rag_exp.core.record import RunRecord
from rag_exp.data.gold import gold_recall
from rag_exp.laws.options import LawOptions

if TYPE_CHECKING:
    import pandas as pd

    from rag_exp.laws.factor_rows import Answers

PER_QUESTION = ("nll", "nll_any")
"""Metrics that are plain means over questions and stand in the predictions under the same name."""


class Plan(Protocol):
    """What an expanded study offers here (see ``rag_exp.study.Study``)."""

    @property
    def folder(self) -> Path: ...

    root: Path
    name: str
    metric: str
    law: dict[str, Any]
    forms: dict[str, Any]


def fit_study(plan: Plan, records: Sequence[RunRecord]) -> Iterator[str]:
    """Fit the study's laws to its finished runs, write a fit card each, and say what came out, line by line.

    Raises:
        DataError: no run has the metric.
        ConfigError: ``law`` or the study's ``forms`` hold what the options do not know.
    """
    options = law_options(plan.law, plan.forms)
    table = load_study(plan.folder)
    known = _saved(plan, table, options)
    if known is not None:
        for f in known.fits:
            yield from (summary(f), *details(f, known.metric))
        if known.factorised is not None:
            yield from factor_lines(known.factorised)
        yield from (f"note: {n}" for n in known.notes)
        yield f"{len(known.fits)} fit cards, as they were (the same runs and options): {plan.folder / 'fits'}"
        return
    metric = options.metric or plan.metric
    losses, reason = question_losses(records, plan.root, metric)
    lines: list[str] = []
    answers = question_answers(records, plan.root, metric) if options.factorised else {}
    fits = fit_table(table, options, losses, lines.append, answers)
    yield from lines
    if reason and options.bootstrap:
        fits.notes.append(f"Intervals come from the runs' residuals alone: {reason}.")
    yield from (f"note: {n}" for n in fits.notes)
    files = fits.save(plan.folder)
    yield f"{len(files)} fit cards: {plan.folder / 'fits'}"


def report_study(plan: Plan, records: Sequence[RunRecord]) -> Path:
    """Write the study's report, fitting its laws first where that was not done for these very runs.

    Returns:
        ``report.html`` in the study's folder.
    """
    from rag_exp.analysis.allocations import saved_frontier
    from rag_exp.analysis.report import FILE, REPORT_VERSION, mark_of, write_report

    table = load_study(plan.folder)
    options = law_options(plan.law, plan.forms)
    fits = current_fits(plan, records, table, options)
    states = [[run, state] for run, state in zip(table["run_id"], table["status"], strict=True)]
    stands_on: dict[str, Any] = {"fits": fits.basis, "runs": states, "version": REPORT_VERSION}
    saved = saved_frontier(plan.folder, fits)
    basis = digest(stands_on | ({"frontier": saved} if saved else {}))
    path = plan.folder / FILE
    if path.is_file() and mark_of(path) == basis:
        return path
    return write_report(table, fits, table.attrs["plan"], plan.folder, basis)


def current_fits(plan: Plan, records: Sequence[RunRecord], table: pd.DataFrame, options: LawOptions) -> StudyFits:
    """The fit cards in the study's folder where they stand on these runs and options, else new ones."""
    known = _saved(plan, table, options)
    if known is not None:
        return known
    for _ in fit_study(plan, records):
        pass
    return StudyFits.load(plan.folder)


def _saved(plan: Plan, table: pd.DataFrame, options: LawOptions) -> StudyFits | None:
    """The study's fit cards, where there are any and they stand on these runs and options."""
    try:
        fits = StudyFits.load(plan.folder)
    except DataError:
        return None
    return fits if fits.basis == basis_of(table, options) else None


def law_options(law: dict[str, Any], forms: dict[str, Any]) -> LawOptions:
    """The options of the law group, with the study's own ``forms`` (over_N, over_M, joint) in place of the candidates.

    Raises:
        ConfigError: with every unknown key and bad value.
    """
    from pydantic import ValidationError

    try:
        return LawOptions.model_validate({**law, **forms})
    except ValidationError as e:
        found = [f"law.{'.'.join(str(p) for p in x['loc'])}: {x['msg']}." for x in e.errors()]
        raise ConfigError([p.replace("..", ".") for p in found]) from e


def question_losses(records: Sequence[RunRecord], root: Path, metric: str) -> tuple[dict[str, Any], str | None]:
    """The losses of every question, per run id, in one order of the questions.

    Returns:
        the losses, and why there are none, or why not for all runs.
    """
    if metric not in PER_QUESTION:
        return {}, f"{metric} is no plain mean over questions"
    found: dict[str, dict[str, float]] = {}
    absent = 0
    for record in records:
        file = _predictions(record, root)
        if file is None:
            absent += 1
            continue
        import pyarrow.parquet as pq

        table = pq.read_table(file, columns=["id", metric])
        values = zip(table["id"].to_pylist(), table[metric].to_pylist(), strict=True)
        found[record.run_id] = {k: v for k, v in values if v is not None}
    if not found:
        return {}, "the answers' losses are not in the store any more"
    order = list(next(iter(found.values())))
    wanted = set(order)
    same = {run: [v[q] for q in order] for run, v in found.items() if v.keys() == wanted}
    reason = None
    if len(same) < len(found):
        reason = f"{len(found) - len(same)} of {len(records)} runs were asked other questions"
    elif absent:
        reason = f"the answers of {absent} of {len(records)} runs are not in the store any more"
    return same, reason


def question_answers(records: Sequence[RunRecord], root: Path, metric: str) -> dict[str, Answers]:
    """Per run id whose answers are in the store: the metric, whether all gold was read and covered, in one order.

    Runs that were asked other questions than the first one, or questions without gold passages, are passed over.
    """
    import numpy as np

    from rag_exp.laws.factor_rows import Answers

    found: dict[str, Answers] = {}
    order: list[str] = []
    wanted = ["id", metric, "gold_in_corpus", "rows", "gold", "gold_of", "hops", "paths", "hop1"]
    for record in records:
        file = _predictions(record, root)
        if file is None:
            continue
        import pyarrow.parquet as pq

        if not set(wanted) <= set(pq.read_schema(file).names):
            continue
        by_id = {row["id"]: row for row in pq.read_table(file, columns=wanted).to_pylist()}
        order = order or list(by_id)
        if by_id.keys() != set(order) or any(r[metric] is None or r["gold_in_corpus"] is None for r in by_id.values()):
            continue
        rows = [by_id[q] for q in order]
        covered = np.array([r["gold_in_corpus"] for r in rows], dtype=bool)
        began = None
        if all(r["hop1"] is not None for r in rows):
            began = covered & np.array([bool(set(r["hop1"]) & set(r["gold"])) for r in rows])
        found[record.run_id] = Answers(
            np.array([r[metric] for r in rows], dtype=float), np.array([_read(r) for r in rows]), covered, began
        )
    return found


def _read(row: Mapping[str, Any]) -> bool:
    """Whether all gold passages that a question needs were read, in one path where paths are read."""
    together = [row["rows"]] if row["paths"] is None else row["paths"]
    return any(gold_recall(rows, row["gold"], row["gold_of"], row["hops"]) == 1.0 for rows in together)


def _predictions(record: RunRecord, root: Path) -> Path | None:
    key = record.artifacts.get("evaluation")
    store = (record.config.get("paths") or {}).get("store")
    places = [root / "store", root / "runs" / record.run_id / "store", *([Path(store)] if store else [])]
    files = [p / "objects" / "evaluation" / str(key) / "predictions.parquet" for p in places]
    return next((f for f in files if f.is_file()), None)
