"""Fitting a study: a law for each condition and axis, by the form that holds best on what it was not shown.

Rows that differ in anything but model size, corpus size and seed are different curves (another index, another
growth of the corpus). For each such condition a law is fitted in N at every corpus size, in M at every model
size, and in both together. Rows that were trained for different lengths are different curves, too; where there are
enough lengths, a law is also fitted to all of them, in N and D or in N, D and M.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from rag_exp.analysis.conditions import LENGTHS, conditions_of, groups
from rag_exp.analysis.known_floor import known_floor, with_floor
from rag_exp.analysis.study_fits import StudyFit, StudyFits, details, summary
from rag_exp.core.errors import LawError
from rag_exp.core.fingerprint import digest
from rag_exp.laws.options import LawOptions

if TYPE_CHECKING:
    import pandas as pd

    from rag_exp.laws.card import LawFit
    from rag_exp.laws.factor_rows import Answers

FITS_VERSION = 6  # of what a fit card holds; cards of another version are made anew
FACTORS_VERSION = 4  # the same of the factorised law's card
MIN_LEVELS = 3
MIN_CLUSTERS = 4


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
