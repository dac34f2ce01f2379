"""The laws of a study: which rows go together, which form holds best on what it was not shown, and the fit cards.

Rows that differ in anything but model size, corpus size and seed are different curves (another index, another
growth of the corpus). For each such condition a law is fitted in N at every corpus size, in M at every model
size, and in both together. Rows that were trained for different lengths are different curves, too; where there are
enough lengths, a law is also fitted to all of them, in N and D or in N, D and M.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.analysis.ahead import ahead_sentences
from rag_exp.analysis.known_floor import floor_sentence, known_floor, with_floor
from rag_exp.analysis.trust import coverage_sentence, loss_sentence
from rag_exp.core.atomic import write_text
from rag_exp.core.errors import DataError, LawError
from rag_exp.core.fingerprint import digest
from rag_exp.laws.options import LawOptions

if TYPE_CHECKING:
    import pandas as pd

    from rag_exp.analysis.factors import StudyFactors
    from rag_exp.laws.card import LawFit
    from rag_exp.laws.factor_rows import Answers

FOLDER = "fits"
FITS_VERSION = 6  # of what a fit card holds; cards of another version are made anew
FACTORISED = "factorised"
FACTORS_VERSION = 4  # the same of the factorised law's card
MIN_LEVELS = 3
MIN_CLUSTERS = 4
SETTINGS = ("index", "growth", "K", "K_train")
# Configuration that the columns N, M, K, index, growth and arm already stand for.
_STOOD_FOR = ("config.seed", "config.evaluation.corpus_size", "config.evaluation.growth", "config.evaluation.source")
LENGTHS = ("config.training.steps", "config.training.warmup.steps")  # what D is set by


@dataclass
class StudyFit:
    """One law of a study, or why there is none.

    Attributes:
        name: unique in the study, fit for a file's name.
        axes: ``("N",)``, ``("M",)``, ``("N", "M")``, ``("N", "D")`` or ``("N", "D", "M")``.
        where: what its rows have in common (index, growth, K, and N or M for a law in one axis).
        law: the fit; None where ``reason`` says why not.
        comparison: rows of ``rag_exp.laws.compare`` over the candidate forms.
        nearest: error of repeating the nearest kept level, per hold-out.
        run_ids: the run of every row fitted.
        floor: the law with its floor held where it is known exactly (see ``rag_exp.analysis.known_floor``), or None.
    """

    name: str
    axes: tuple[str, ...]
    where: dict[str, Any]
    law: LawFit | None
    reason: str | None = None
    comparison: list[dict[str, Any]] = field(default_factory=list)
    nearest: dict[str, float | None] = field(default_factory=dict)
    run_ids: list[str] = field(default_factory=list)
    floor: dict[str, Any] | None = None

    @property
    def title(self) -> str:
        """``Loss in N and M (flat index, coverage growth)``."""
        return f"in {' and '.join(self.axes)}" + (f", {described(self.where)}" if self.where else "")

    def to_dict(self) -> dict[str, Any]:
        plain = {k: v for k, v in self.__dict__.items() if k not in ("law", "axes")}
        return {**plain, "axes": list(self.axes), "card": self.law.to_dict() if self.law else None}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> StudyFit:
        from rag_exp.laws.card import LawFit

        rest = {k: v for k, v in value.items() if k not in ("card", "axes")}
        return cls(axes=tuple(value["axes"]), law=LawFit.from_dict(value["card"]) if value["card"] else None, **rest)


@dataclass
class StudyFits:
    """All laws of a study, of one arm and metric. ``basis`` names the rows and options that they stand on."""

    metric: str
    arm: str
    fits: list[StudyFit]
    notes: list[str]
    basis: str
    factorised: StudyFactors | None = None

    def joint(self) -> StudyFit | None:
        """The law in N and M with the most rows."""
        found = [f for f in self.fits if f.axes == ("N", "M") and f.law is not None]
        return max(found, key=lambda f: len(f.run_ids), default=None)

    def widest(self) -> StudyFit | None:
        """The law in N and as many of D and M as any has, of those the one with the most rows or the largest corpus."""
        found = [f for f in self.fits if len(f.axes) > 1 and f.law is not None]
        return max(found, key=lambda f: (len(f.axes), "M" in f.axes, len(f.run_ids), f.where.get("M", 0)), default=None)

    def law_named(self, name: str) -> Any:
        """The law of this name (``factorised``: that one); None where there is none."""
        if name == FACTORISED:
            return None if self.factorised is None else self.factorised.law
        return next((f.law for f in self.fits if f.name == name), None)

    def of(self, *axes: str, **where: Any) -> list[StudyFit]:
        """The laws in these axes whose conditions include ``where``."""
        return [
            f
            for f in self.fits
            if f.axes == axes and f.law and all(str(f.where.get(k)) == str(v) for k, v in where.items())
        ]

    def save(self, folder: Path) -> list[Path]:
        """Write one fit card per law into ``folder/fits``; cards of laws that are no more are deleted."""
        from rag_exp.laws.card import card_text

        files = []
        for f in self.fits:
            path = folder / FOLDER / f"{f.name}.json"
            write_text(path, card_text(f.to_dict()) + "\n")
            files.append(path)
        if self.factorised is not None:
            files.append(folder / FOLDER / f"{FACTORISED}.json")
            write_text(files[-1], card_text(self.factorised.to_dict()) + "\n")
        index = {
            "metric": self.metric,
            "arm": self.arm,
            "notes": self.notes,
            "basis": self.basis,
            "laws": [f.name for f in self.fits],
            "factorised": self.factorised is not None,
        }
        write_text(folder / FOLDER / "index.json", json.dumps(index, indent=2, ensure_ascii=False) + "\n")
        for stale in set((folder / FOLDER).glob("*.json")) - {*files, folder / FOLDER / "index.json"}:
            stale.unlink()
        return files

    @classmethod
    def load(cls, folder: str | Path) -> StudyFits:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: there are no fit cards, or one is damaged.
        """
        from rag_exp.analysis.factors import StudyFactors

        folder = Path(folder)
        try:
            index = json.loads((folder / FOLDER / "index.json").read_text(encoding="utf-8"))
            cards = [_card(folder, name) for name in index["laws"]]
            fits = [StudyFit.from_dict(card) for card in cards]
            factors = StudyFactors.from_dict(_card(folder, FACTORISED)) if index.get("factorised") else None
            return cls(index["metric"], index["arm"], fits, index["notes"], index["basis"], factors)
        except (OSError, ValueError, KeyError, TypeError, LawError) as e:
            raise DataError(f"{folder / FOLDER}: no readable fit cards ({e}). Fit first: rag-exp fit study=NAME") from e


def _card(folder: Path, name: str) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((folder / FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return card


def fit_table(
    table: pd.DataFrame,
    options: LawOptions | None = None,
    losses: Mapping[str, Any] | None = None,
    report: Callable[[str], None] | None = None,
    answers: Mapping[str, Answers] | None = None,
) -> StudyFits:
    """Fit every law that the table can carry.

    Args:
        table: as from ``rag_exp.load_study``.
        losses: per run id its losses on the same questions in the same order; where they are at hand, replicates
            resample the questions (see ``LawOptions.resample``).
        report: called with a line per law.
        answers: per run id its answers question by question, for the factorised law's replicates.

    Returns:
        the laws; one that cannot be fitted stands there with its reason.

    Raises:
        DataError: the metric is in no run.
    """
    options = options or LawOptions()
    from rag_exp.analysis.factors import factor_lines, fit_factors
    from rag_exp.analysis.tables import finished

    metric = options.metric or table.attrs["metric"]
    rows = finished(table, metric)
    rows = rows[(rows["arm"] == options.arm) & rows["N"].notna() & rows["M"].notna()]
    fitter = _Fitter(options, metric, dict(losses or {}), report or (lambda line: None))
    conditions = conditions_of(rows)
    names = {k: len(set(rows[k].map(str))) > 1 for k in conditions}
    for where, group in groups(rows, conditions):
        shown = {k: v for k, v in where.items() if names[k] or k in ("index", "growth")}
        fitter.condition(shown, group)
    lengths = [c for c in conditions if c in LENGTHS]
    for where, group in groups(rows, [c for c in conditions if c not in lengths]) if lengths else ():
        shown = {k: v for k, v in where.items() if names[k] or k in ("index", "growth")}
        fitter.trained(shown, group, lengths)
    factors = None
    if options.factorised:
        factors = fit_factors(rows, metric, conditions, options, answers or {})
        for line in factor_lines(factors):
            fitter.report(line)
    notes = list(fitter.notes)
    if not len(rows):
        notes.append(f"No finished run of arm {options.arm} has N, M and {metric}.")
    elif not fitter.fits:
        notes.append(f"No curve has {MIN_LEVELS} levels of N or of M; a law needs as many.")
    seeds = rows.groupby(["N"])["seed"].nunique() if len(rows) else None
    if seeds is not None and len(seeds) and (seeds < 2).all():
        notes.append("Each model size was trained with one seed: what another seed would change is in no interval.")
    return StudyFits(metric, options.arm, fitter.fits, notes, basis_of(table, options), factors)


def basis_of(table: pd.DataFrame, options: LawOptions) -> str:
    """A digest of the options and of the finished runs, with their values of the metric."""
    metric = options.metric or table.attrs["metric"]
    done = table[table["status"] == "finished"]
    values = [[r, None if v is None or v != v else float(v)] for r, v in zip(done["run_id"], done[metric], strict=True)]
    stands_on = {"options": options.identity(), "rows": sorted(values), "version": FITS_VERSION}
    if any(c in done and done[c].map(str).nunique() > 1 for c in LENGTHS):
        stands_on["in_D"] = True
    return digest(stands_on | ({"factors": FACTORS_VERSION} if options.factorised else {}))


def conditions_of(rows: pd.DataFrame) -> list[str]:
    """The columns that make another curve: the evaluation's setting, and configuration that varies on its own."""
    from rag_exp.analysis.tables import varying

    base = [c for c in SETTINGS if c in rows]
    if "M_train" in rows and not (rows["M_train"] == rows["M"]).all():
        base.append("M_train")
    axes = [rows[c].map(str) for c in (*base, "N", "M")]
    extra = []
    for column in varying(rows):
        if not column.startswith("config.") or column.startswith(_STOOD_FOR):
            continue
        if len(rows) and rows[column].map(str).groupby(axes).nunique().max() > 1:
            extra.append(column)
    return base + extra


def groups(rows: pd.DataFrame, conditions: list[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The rows of every condition, largest first. The whole corpus is the same under either growth: it is in both."""
    import pandas as pd

    found = []
    for _, group in rows.groupby([rows[c].map(str) for c in conditions], sort=False):
        where = {c: _plain(group[c].iloc[0]) for c in conditions}
        if "growth" in where and "whole_corpus" in rows:
            rest = [c for c in conditions if c != "growth"]
            same = (rows[rest].map(str) == group[rest].map(str).iloc[0]).all(axis=1) if rest else rows["run_id"].notna()
            whole = rows[same & rows["whole_corpus"].astype(bool) & ~rows["run_id"].isin(group["run_id"])]
            size = group[~group["whole_corpus"].astype(bool)]
            whole = whole[whole["N"].isin(size["N"])]
            if len(size):
                group = pd.concat([group, whole])
        found.append((where, group))
    return iter(sorted(found, key=lambda pair: -len(pair[1])))


@dataclass
class _Fitter:
    options: LawOptions
    metric: str
    losses: dict[str, Any]
    report: Callable[[str], None]
    fits: list[StudyFit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def condition(self, where: dict[str, Any], group: pd.DataFrame) -> None:
        sizes = {axis: sorted(group[axis].unique()) for axis in ("N", "M")}
        if all(len(levels) >= MIN_LEVELS for levels in sizes.values()):
            self.one(("N", "M"), where, group, self.options.joint)
        for axis, other, forms in (("N", "M", self.options.over_N), ("M", "N", self.options.over_M)):
            for level in sizes[other]:
                rows = group[group[other] == level]
                if rows[axis].nunique() >= MIN_LEVELS:
                    self.one((axis,), {**where, other: int(level)}, rows, forms)

    def trained(self, where: dict[str, Any], group: pd.DataFrame, lengths: list[str]) -> None:
        """Laws in N and D: in M, too, where it has levels, else at each of its levels."""

        def enough(rows: pd.DataFrame) -> bool:
            # Of one length, D may differ a little from seed to seed.
            return min(len(rows[lengths].map(str).drop_duplicates()), rows["N"].nunique()) >= MIN_LEVELS

        def of(*axes: str) -> list[str]:
            return [f for f in self.options.trained if set(form_by_name(f).variables) == set(axes)]

        from rag_exp.laws.forms import form_by_name

        if not enough(group) or group["D"].isna().any():
            return
        if group["M"].nunique() >= MIN_LEVELS and of("N", "D", "M"):
            self.one(("N", "D", "M"), where, group, of("N", "D", "M"))
            return
        for level in sorted(group["M"].unique()) if of("N", "D") else ():
            rows = group[group["M"] == level]
            if enough(rows):
                self.one(("N", "D"), {**where, "M": int(level)}, rows, of("N", "D"))

    def one(self, axes: tuple[str, ...], where: dict[str, Any], rows: pd.DataFrame, forms: Sequence[str]) -> None:
        from rag_exp.laws.choice import compare
        from rag_exp.laws.chosen import chosen_law
        from rag_exp.laws.holdout import LARGEST, for_axes

        data = {k: rows[k].to_numpy(dtype=float) for k in dict.fromkeys(("N", "M", *axes))} | {
            "loss": rows[self.metric].to_numpy(dtype=float)
        }
        data |= {k: rows[k].tolist() for k in ("N_definition", "M_definition") if k in rows}
        found = StudyFit(_name(axes, where), axes, where, None, run_ids=rows["run_id"].tolist())
        try:
            held = for_axes(self.options.holdout, axes)
            shown = data | ({"D": _tokens(rows)} if "largest_compute" in held else {})
            table = compare(forms, shown, held, loss=self.options.loss, delta=self.options.delta)
            found.comparison, found.nearest = table.to_dict("records"), table.attrs["nearest"]
            if (
                len(forms) > 1
                and all(e is None for e in table["heldout"])
                and any(r is not None for r in table["rmse"])
            ):
                without = "the largest" if all(h.startswith(LARGEST) for h in held) else "what is held out"
                raise LawError(
                    f"{_levels(axes, rows)}: without {without}, too few are left to choose among {len(forms)} forms. "
                    "Add a level, or name a single form."
                )
            law_of = partial(self.law, axes=axes, data=data, rows=rows)
            found.law = chosen_law(table, law_of, self.options.acceptable, self.options.coverage)
            known = known_floor(rows, self.metric)
            if known is not None:
                chosen = found.law.form.label
                found.floor = with_floor(found.law, *known, lambda held: law_of(chosen, fixed=held))
        except LawError as e:
            found.reason = str(e)
        self.fits.append(found)
        for line in (summary(found), *details(found, self.metric)):
            self.report(line)

    def law(
        self,
        form: str,
        axes: tuple[str, ...],
        data: dict[str, Any],
        rows: pd.DataFrame,
        fixed: Mapping[str, float] | None = None,
        coverage: int = 0,
    ) -> LawFit:
        """The law with intervals; without them, and saying so, where the replicates could not all be fitted."""
        from rag_exp.laws.fitting import fit

        o = self.options
        options: dict[str, Any] = {"loss": o.loss, "delta": o.delta, "level": o.level, "seed": o.seed, "fixed": fixed}
        checkpoints = rows["artifacts.checkpoint"].map(str) if "artifacts.checkpoint" in rows else rows["run_id"]
        count = checkpoints.nunique()
        if len(axes) > 1 and MIN_CLUSTERS <= count < len(rows):
            options["cluster"] = checkpoints.tolist()
        how = self.resampling(rows, "cluster" in options)
        try:
            how |= {"bootstrap": o.bootstrap, "coverage": coverage, "unconverged": o.unconverged}
            law = fit(form, data, **{**options, **how})
        except LawError as e:
            law = fit(form, data, **options)
            law.warnings.append(f"no intervals: {e}")
        if law.draws_Rp is not None and len(axes) > 1 and count < min(MIN_CLUSTERS, len(rows)):
            law.warnings.append(
                f"{count} checkpoints are too few to tell what is common to the rows of one: intervals take rows for "
                "independent, and are narrow where another training would move the rows of its checkpoint together"
            )
        law.definitions["loss"] = self.metric
        return law

    def resampling(self, rows: pd.DataFrame, clusters: bool) -> dict[str, Any]:
        """The arguments of ``fit`` that say what a replicate is."""
        import numpy as np

        from rag_exp.laws.uncertainty import question_bootstrap

        o = self.options
        wanted = o.resample
        there = all(run in self.losses for run in rows["run_id"])
        if wanted == "hierarchical":
            # Within a condition a run is a model size, and where it was trained over several corpora, one of those.
            run = [rows["N"].map(str), *([rows["M_train"].map(str)] if "M_train" in rows else [])]
            questions = np.stack([self.losses[r] for r in rows["run_id"]], axis=1) if there else None
            labels = {"cluster": list(zip(*run, strict=True)), "seeds": rows["seed"].tolist(), "questions": questions}
            return {"bootstrap_kind": "hierarchical", **labels}
        if wanted in ("auto", "questions") and there and o.bootstrap:
            by_row = {str(i): self.losses[run] for i, run in enumerate(rows["run_id"])}
            replicates = question_bootstrap(by_row, o.bootstrap, o.seed)
            return {"bootstrap_kind": "wild" if wanted == "auto" else "case", "replicates": replicates}
        if wanted == "questions":
            raise LawError(
                "law.resample=questions needs the losses of every question, which are not at hand for all runs."
            )
        if wanted == "cluster" and not clusters:
            return {"bootstrap_kind": "case"}
        # The runs' residuals need no second seed, and hold how far the form is off beside what seeds change.
        return {"bootstrap_kind": "wild" if wanted == "auto" else wanted}


def summary(found: StudyFit) -> str:
    """One line for the terminal: the law with its numbers, or why there is none."""
    if found.law is None:
        return f"{found.name}: no law: {found.reason}"
    law = found.law
    numbers = []
    for p, value in law.params.items():
        interval = law.intervals.get(p)
        numbers.append(f"{p} {value:.4g}" + (f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else ""))
    line = f"{found.name}: {law.form.equation}: {', '.join(numbers)}"
    chosen = next((r for r in found.comparison if r["form"] == law.form.label), None)
    if chosen and chosen["heldout"] is not None:
        line += f"; held-out error {chosen['heldout']:.2%}"
    rest = [s for s in (loss_sentence(law), coverage_sentence(law), floor_sentence(law, found.floor)) if s]
    return " ".join([f"{line}.", *rest]) if rest else line


def details(found: StudyFit, metric: str) -> list[str]:
    """Lines under the summary of a law in several axes: which forms are as acceptable, and what it says ahead."""
    law = found.law
    if law is None or len(found.axes) < 2:
        return []
    lines = [f"acceptable too: {other.form.equation}" for other in law.alternatives]
    return [f"  {line}" for line in [*lines, *ahead_sentences(law, metric)]]


def described(where: Mapping[str, Any]) -> str:
    """``flat index, coverage growth, M = 32,380``."""
    words = []
    for key, value in where.items():
        if value is None:
            continue
        if key in ("index", "growth"):
            words.append(f"{value} {key}")
        elif key in ("N", "M", "K", "M_train", "K_train"):
            words.append(f"{key.replace('_', ' in ').replace('train', 'training')} = {int(value):,}")
        else:
            words.append(f"{key.removeprefix('config.')} = {value}")
    return ", ".join(words)


def _name(axes: tuple[str, ...], where: Mapping[str, Any]) -> str:
    parts = ["loss_in_" + "_and_".join(axes)]
    parts += [f"{k.removeprefix('config.')}={v}" for k, v in where.items() if v is not None]
    return "".join(c if c.isalnum() or c in "=._-" else "_" for c in "__".join(parts))


def _tokens(rows: pd.DataFrame) -> Any:
    """D of every row.

    Raises:
        LawError: a run has none.
    """
    absent = len(rows) if "D" not in rows else int(rows["D"].isna().sum())
    if absent:
        raise LawError(
            f"law.holdout=largest_compute needs D, the tokens that a run was trained on; {absent} of {len(rows)} runs "
            "have none."
        )
    return rows["D"].to_numpy(dtype=float)


def _levels(axes: tuple[str, ...], rows: pd.DataFrame) -> str:
    return " and ".join(f"{rows[a].nunique()} levels of {a}" for a in axes)


def _plain(value: Any) -> Any:
    if value is None or value != value:
        return None
    return (
        value.item()
        if hasattr(value, "item")
        else int(value)
        if isinstance(value, float) and value.is_integer()
        else value
    )
