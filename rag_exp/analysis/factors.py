"""The factorised law of a study: its rows, its card, and what it says in words and in the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from rag_exp.analysis.page import GREEK, Cell, Page, mathed
from rag_exp.core.errors import LawError
from rag_exp.laws.options import LawOptions

if TYPE_CHECKING:
    import pandas as pd

    from rag_exp.laws.factor import Factor
    from rag_exp.laws.factor_rows import Answers
    from rag_exp.laws.factorised import FactorisedFit

# What the factors themselves stand for: a run's index, how it was searched, and how much is read.
_THROUGH_FACTORS = ("config.index.", "config.evaluation.index.", "config.retrieval.k", "config.evaluation.k")


@dataclass
class StudyFactors:
    """A study's factorised law, or why there is none.

    Attributes:
        held_out: rows of :func:`rag_exp.laws.leave_index_out`.
        largest: rows of :func:`rag_exp.laws.leave_largest_out`, beside the joint law: the largest N and M, and the two
            largest where three are left.
        run_ids: the run of every row given to the fit.
    """

    law: FactorisedFit | None
    reason: str | None = None
    held_out: list[dict[str, Any]] = field(default_factory=list)
    largest: list[dict[str, Any]] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "law": self.law.to_dict() if self.law else None}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> StudyFactors:
        from rag_exp.laws.factorised import FactorisedFit

        law = FactorisedFit.from_dict(value["law"]) if value["law"] else None
        return cls(**{**value, "law": law})


def fit_factors(
    rows: pd.DataFrame, metric: str, conditions: list[str], options: LawOptions, answers: Mapping[str, Answers]
) -> StudyFactors:
    """Fit the factorised law to the runs of one arm.

    All index types, corpora and K go together, since each enters through what was measured of it. Runs that differ
    otherwise (another objective, say) are other curves: the largest group is taken.

    Args:
        rows: finished runs of the arm.
        conditions: the columns that make other curves.
        answers: per run id its answers, where they are at hand.
    """
    from rag_exp.laws.factor_rows import CASES
    from rag_exp.laws.factoring import fit_factorised
    from rag_exp.laws.factors_held_out import leave_index_out, leave_largest_out
    from rag_exp.laws.rows import MIN_LEVELS

    apart = [c for c in conditions if c not in ("index", "growth", "K") and not c.startswith(_THROUGH_FACTORS)]
    if "K_train" in apart and (rows["K_train"] == rows["K"]).all():
        apart.remove("K_train")
    if apart and len(rows):
        rows = max((g for _, g in rows.groupby([rows[c].map(str) for c in apart], sort=False)), key=len)
    found = StudyFactors(None, run_ids=rows["run_id"].tolist())
    checkpoints = rows["artifacts.checkpoint"].map(str).tolist() if "artifacts.checkpoint" in rows else None
    given: dict[str, Any] = {
        "metric": metric,
        "loss": options.loss,
        "delta": options.delta,
        "level": options.level,
        "seed": options.seed,
    }
    by_row = {i: answers[run] for i, run in enumerate(found.run_ids) if run in answers}
    if metric == "nll":
        cases = [by_row[i].cases() if i in by_row else {} for i in range(len(rows))]
        rows = rows.assign(**{name: [c.get(name) for c in cases] for name in CASES})
    own = by_row if len(by_row) == len(rows) and options.resample in ("auto", "questions") else None
    try:
        found.law = fit_factorised(rows, bootstrap=options.bootstrap, cluster=checkpoints, answers=own, **given)
    except LawError as e:
        found.reason = str(e)
        return found
    given |= {"cluster": checkpoints, "joint": options.joint}
    found.held_out = leave_index_out(rows, **given)
    for axis in ("N", "M"):
        spare = rows[axis].nunique() - MIN_LEVELS
        found.largest += [
            leave_largest_out(rows, axis, levels, **given) for levels in (1, 2) if levels <= max(1, spare)
        ]
    return found


def factor_lines(found: StudyFactors) -> Iterator[str]:
    """For the terminal: a line per factor and one per index type that was held out."""
    if found.law is None:
        yield f"factorised: no law: {found.reason}"
        return
    yield f"factorised: {found.law.metric} = {found.law.equation}"
    for name, factor in found.law.factors.items():
        yield f"  {name}: {_said(factor, found.law.level)}"
    for row in found.largest:
        words = ("it errs there by", "where retrieval is measured by", f"the joint law ({row.get('form')}) by")
        yield f"  without {held_words(row)}: {_errors_said(row, words, ('rmse', 'rmse_measured', 'rmse_joint'))}"
    for row in found.held_out:
        words = ("from its measured recall it errs by", "where retrieval is measured by", "as exact search by")
        words += ("the joint law of exact search by",)
        columns = ("rmse", "rmse_measured", "rmse_as_exact", "rmse_joint")
        yield f"  unseen {row['index']}: {_errors_said(row, words, columns)}"
    yield from (f"  {sentence}" for sentence in ahead_of_the_data(found))


def held_words(row: Mapping[str, Any]) -> str:
    """``the two largest N``."""
    return f"the {'' if row['levels'] == 1 else 'two '}largest {row['axis']}"


def ahead_of_the_data(found: StudyFactors) -> Iterator[str]:
    """Which of the two laws, this one or the joint one, says more of what neither was shown; none without a joint law.

    Errors within the factor that makes two forms alike (see ``rag_exp.laws.choice``) are called so.
    """
    from rag_exp.laws.choice import ACCEPTABLE

    cases = [
        ("the largest levels", found.largest, "rmse"),
        ("the largest levels, where retrieval is measured there", found.largest, "rmse_measured"),
        ("an unseen index, from its measured recall", found.held_out, "rmse"),
        ("an unseen index, where retrieval is measured", found.held_out, "rmse_measured"),
    ]
    for where, rows, own in cases:
        pairs = [(r[own], r["rmse_joint"]) for r in rows if r[own] is not None and r.get("rmse_joint") is not None]
        if not pairs:
            continue
        nearer = sum(a < b for a, b in pairs)
        alike = sum(max(a, b) <= ACCEPTABLE * min(a, b) for a, b in pairs)
        counts = f"the factorised law errs less in {nearer} of {len(pairs)}, the joint law in {len(pairs) - nearer}"
        yield f"{where}: {counts}" + (f"; in {alike} they are alike (within {ACCEPTABLE:g} times)" if alike else "")


def factors_section(page: Page, found: StudyFactors) -> None:
    """The report's section."""
    page.heading("Through what was retrieved")
    if found.law is None:
        page.paragraph(f"No factorised law: {found.reason}")
        return
    law = found.law
    page.paragraph(
        "A question is answered with all the gold it needs among what is read, or without: the loss is "
        "P u₁ + (1 − P) u₀, where P = coverage × rank × index. Each factor is fitted on its own logged metric, so that "
        "an index enters through its measured recall and the passages read through how often they hold gold."
    )
    for sentence in recall_sentences(law):
        page.paragraph(sentence)
    rows = []
    for name, factor in law.factors.items():
        rows.append(
            [Cell(escape(name)), Cell(escape(factor.metric)), _equation(factor), Cell(_intervals(factor, law.level))]
        )
    page.table(["factor", "of", "law", f"{law.level:.0%} intervals"], rows)
    if found.largest:
        page.paragraph(
            "Fitted without the largest levels and asked about them, beside the best joint law in N and M of the same "
            "curve; measured: how often gold is read is measured there too, which takes a search and no reader.",
            "note",
        )
        columns = ("rmse", "rmse_measured", "rmse_joint")
        shown = [
            [Cell(held_words(r)), Cell(str(r["rows"]), r["rows"], True), *_errors(r, columns)] for r in found.largest
        ]
        page.table(["held out", "runs", "factorised", "factorised, measured", "joint"], shown)
    if found.held_out:
        page.paragraph(
            "Each index type was also left out and then predicted from its measured recall alone. A law with a dummy "
            "per index type knows nothing of a new one; taking it for exact search is the best it can do. "
            "Errors as above; measured: of how often it finds gold, and not of its recall.",
            "note",
        )
        columns = ("rmse", "rmse_measured", "rmse_as_exact", "rmse_joint")
        shown = [
            [Cell(escape(r["index"])), Cell(str(r["rows"]), r["rows"], True), *_errors(r, columns)]
            for r in found.held_out
        ]
        page.table(["index", "runs", "from its recall", "measured", "as exact search", "joint"], shown)
    for sentence in ahead_of_the_data(found):
        page.paragraph(f"{sentence[0].upper()}{sentence[1:]}.")
    for warning in law.warnings:
        page.paragraph(f"Note: {warning}.", "note")


def recall_sentences(law: FactorisedFit) -> Iterator[str]:
    """What a tenth of index recall and of coverage are worth, for the largest reader over the largest corpus."""
    from rag_exp.laws.intervals import percentiles

    top = {axis: high for axis, (_, high) in law.ranges.items()}
    growth = next(iter(law.coverage))
    names = {
        "index_recall@k": "a tenth of the best passages lost by an index",
        "gold_in_corpus": "a tenth less coverage",
    }
    for column, words in names.items():
        both = {a: [v, v] for a, v in top.items()} | {"growth": [growth, growth], column: [1.0, 0.9]}
        if column == "index_recall@k":
            both |= {beside: [1.0, 0.9] for beside in ("index_recall@1", "hop2_recall@j")}
        try:
            value = law.predict(both)
        except LawError:
            continue
        text = f"{words[0].upper()}{words[1:]} changes {law.metric} by {value[1] - value[0]:+.2g}"
        if law.resampling["draws"]:
            draws = law.predict_draws(both)
            low, high = percentiles(draws[:, 1] - draws[:, 0], law.level)
            text += f" [{low:+.2g}, {high:+.2g}]"
        yield f"{text} ({top['N']:,.0f} parameters, {top['M']:,.0f} passages, {top['K']:g} read)."


def _said(factor: Factor, level: float) -> str:
    if factor.law is not None:
        numbers = ", ".join(f"{k} {v:.4g}{_range(factor.law.intervals.get(k))}" for k, v in factor.law.params.items())
        return f"{factor.metric} = {factor.law.form.equation}: {numbers}"
    if factor.constant is not None:
        return f"{factor.metric} = {factor.constant:.4g}{_range(_constant_interval(factor, level))}"
    return f"{factor.metric}: no law: {factor.reason}"


def _equation(factor: Factor) -> Cell:
    from rag_exp.analysis.words import equation_with_numbers

    if factor.law is not None:
        text = mathed(equation_with_numbers(factor.law).removeprefix("loss = ").removeprefix("0 + "))
        return Cell(f'<span class="equation">{text}</span>')
    if factor.constant is not None:
        return Cell(f"{factor.constant:.4g}")
    return Cell(f'<span class="note">no law: {escape(factor.reason or "")}</span>', wide=True)


def _intervals(factor: Factor, level: float) -> str:
    if factor.law is not None:
        return ", ".join(
            f"<i>{GREEK.get(k, k)}</i>{_range(v)}" for k, v in factor.law.intervals.items() if v is not None
        )
    return _range(_constant_interval(factor, level)).strip()


def _constant_interval(factor: Factor, level: float) -> tuple[float, float] | None:
    import numpy as np

    from rag_exp.laws.intervals import percentiles

    if factor.draws_R is None or not np.ptp(factor.draws_R):
        return None
    low, high = percentiles(factor.draws_R, level)
    return float(low), float(high)


def _range(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:.3g}, {interval[1]:.3g}]"


def _errors_said(row: Mapping[str, Any], words: tuple[str, ...], columns: tuple[str, ...]) -> str:
    said = [f"{text} {row[k]:.2%}" for text, k in zip(words, columns, strict=True) if row.get(k) is not None]
    return ", ".join([*said, *([f"not predicted: {row['reason']}"] if "reason" in row else [])])


def _errors(row: Mapping[str, Any], columns: tuple[str, ...]) -> list[Cell]:
    """Errors in percent, or why there are none."""
    reasons = {"rmse_joint": row.get("reason_joint", "")}
    return [
        Cell(f'<span class="note">{escape(reasons.get(k, row.get("reason", "")))}</span>')
        if row.get(k) is None
        else Cell(f"{row[k]:.2%}", row[k], True)
        for k in columns
    ]
