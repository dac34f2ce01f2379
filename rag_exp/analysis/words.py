"""What the curves mean, in words made from the numbers: with intervals, with the range that they hold in, and with
what is not known said as plainly as what is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rag_exp.analysis.ahead import ahead_sentences
from rag_exp.analysis.known_floor import floor_sentence
from rag_exp.analysis.study_fits import StudyFit, StudyFits, described
from rag_exp.analysis.tables import finished, missing_runs
from rag_exp.analysis.theme import si, unit
from rag_exp.analysis.trust import coverage_sentence, loss_sentence
from rag_exp.laws.effects import Effect, Exchange, effect, exchange

if TYPE_CHECKING:
    import pandas as pd

    from rag_exp.laws.card import LawFit

NAMES = {"N": "the parameters", "M": "the corpus", "D": "the training tokens", "K": "the passages read"}
UNITS = {"N": "parameters", "M": "passages", "D": "tokens", "K": "passages read"}
RESAMPLED = {
    "case": "resampled runs",
    "cluster": "resampled checkpoints",
    "wild": "the runs' residuals",
    "given": "resampled questions",
    "given and wild": "resampled questions and the runs' residuals",
    "hierarchical": "resampled questions and seeds",
}


_WITHOUT = {
    "largest_N": "without the largest models it misses them",
    "largest_params": "without the largest models it misses them",
    "largest_M": "without the largest corpus it misses those runs",
    "largest_D": "without the longest training it misses those runs",
    "largest_compute": "without the fifth of the runs with the most training compute it misses them",
    "leave_one_level_out_N": "without each model size in turn it misses that one",
    "leave_one_level_out_M": "without each corpus size in turn it misses that one",
    "leave_one_level_out_D": "without each length of training in turn it misses that one",
}


def held_out(name: str) -> str:
    """A hold-out for a head or a legend: ``largest N``, ``each N in turn``."""
    axis = name.removeprefix("leave_one_level_out_")
    return name.replace("_", " ") if axis == name else f"each {axis} in turn"


def paragraphs(table: pd.DataFrame, fits: StudyFits) -> list[str]:
    """The report's reading: what was run, what each axis is worth, how far to trust it, and what stands beside it."""
    found = [" ".join(_runs(table, fits.metric))]
    joint = fits.joint()
    if joint is not None and joint.law is not None:
        found.append(" ".join(_worth(joint.law, fits.metric, joint.where)))
        found.append(" ".join(_trust(joint, fits.metric)))
    else:
        found.append(" ".join(_without_law(table, fits)))
    found.append(" ".join(_beside(table, fits.metric)))
    found.append(" ".join(fits.notes))
    return [p for p in found if p]


def amount(value: float, low: float | None = None, high: float | None = None) -> str:
    """``3.14 [2.9, 3.4]``: a value with as many digits as its interval carries."""
    if low is None or high is None:
        return f"{value:.3g}"
    digits = _decimals(high - low)
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def effect_sentence(e: Effect, metric: str) -> str:
    """``Ten times the parameters (197k to 1.97M) lower the loss by 3.1 nats [2.9, 3.4] at 32,380 passages.``"""
    times = _times(e.factor)
    span = f"{si(e.start)} to {si(e.stop)}"
    where = "".join(f" at {v:,.0f} {UNITS.get(a, a)}" for a, v in e.at.items())
    verb = "lower" if e.axis in ("N", "D", "K") else "lowers"
    subject = f"{times} {NAMES.get(e.axis, e.axis)} ({span})"
    subject = subject[0].upper() + subject[1:]
    if e.sign > 0:
        return f"{subject} {verb} the loss by {amount(e.fall, e.low, e.high)} {unit(metric)}{where}."
    if e.sign < 0:
        verb = verb.replace("lower", "raise")
        low, high = (None, None) if e.low is None or e.high is None else (-e.high, -e.low)
        return f"{subject} {verb} the loss by {amount(-e.fall, low, high)} {unit(metric)}{where}."
    if e.low is None:
        return f"{subject} {'change' if verb == 'lower' else 'changes'} the loss by nothing{where}."
    change = "change" if verb == "lower" else "changes"
    return (
        f"{subject} {change} the loss by {amount(-e.fall, -e.high, -e.low)} {unit(metric)}{where}: the interval "
        "includes zero, so these runs do not show which way."
    )


def exchange_sentence(x: Exchange) -> str:
    """What the effect is worth on the other axis, or that nothing there is worth as much."""
    change = f"{_times(x.effect.factor)} {NAMES.get(x.effect.axis, x.effect.axis)}"
    other = NAMES.get(x.other, x.other)
    be, do = ("is", "does") if x.effect.axis == "M" else ("are", "do")
    if x.effect.sign <= 0:
        return f"No exchange rate follows, since {change} {do} not lower the loss for certain."
    if x.factor is None:
        return f"No growth of {other} alone, up to a millionfold, would bring as much as {change} by this law."
    start = f"from {si(x.base)} {UNITS.get(x.other, x.other)}"
    text = f"{change[0].upper()}{change[1:]} {be} worth {_factor(x.factor)} times {other}"
    if x.effect.low is not None:
        low = _factor(x.low) if x.low is not None else "unknown"
        high = _factor(x.high) if x.high is not None else "no bound"
        text += f" [{low}, {high}]"
    text += f", {start}"
    return text + ("." if x.within else ", which leaves what was measured.")


def trust_sentences(fit: StudyFit) -> Iterator[str]:
    """How the law did on levels that it was not shown, beside what repeating the nearest level would have done."""
    law = fit.law
    row = next((r for r in fit.comparison if law is not None and r["form"] == law.form.label), None)
    if law is None or row is None:
        return
    parts = []
    for name, near in fit.nearest.items():
        error = row.get(f"{name}.rmse")
        if error is None:
            continue
        text = f"{_WITHOUT.get(name) or f'without {held_out(name)} it misses those'} by {error:.1%}"
        if near is not None:
            text += f" (repeating the nearest level would by {near:.1%})"
            if error >= near:
                text += ", no better than that"
        parts.append(text)
    if parts:
        yield f"Fitted {', and '.join(parts)}."
    others = [r for r in fit.comparison if r["form"] != law.form.label and r["heldout"] is not None]
    if others and row["heldout"] is not None:
        second = min(others, key=lambda r: r["heldout"])
        both = " over both" if len(fit.nearest) > 1 else ""
        yield (
            f"{_counted(len(fit.comparison), 'form')} were tried and this one erred least on held-out runs: "
            f"{row['heldout']:.1%}{both}, against {second['heldout']:.1%} of the next best, {second['equation']}."
        )


def equation_with_numbers(law: LawFit) -> str:
    """``loss = 13.8 + 133 N^-0.227 - 0.00059 M^0.934``."""
    parts = []
    if law.form.floor:
        parts.append(f"{law.params[law.form.floor]:.4g}")
    for t in law.form.terms:
        factors = []
        for f in t.factors:
            power = law.params[f.exponent] * f.direction if f.exponent else None
            factors.append(f"ln {f.variable}" if power is None else f"{f.variable}^{power:.3g}")
        sign = "" if not parts and t.sign > 0 else "+ " if t.sign > 0 else "- "
        parts.append(f"{sign}{law.params[t.coefficient]:.3g} {' '.join(factors)}")
    return "loss = " + " ".join(parts)


def _runs(table: pd.DataFrame, metric: str) -> Iterator[str]:
    done = finished(table, metric)
    failed = int((table["status"] == "failed").sum())
    absent = len(missing_runs(table))
    planned = len(table) + absent
    verb = "is" if len(done) == 1 else "are"
    yield f"{len(done)} of {planned} planned run{'s' * (planned != 1)} {verb} finished" + (
        f"; {failed} failed" * bool(failed) + f"; {absent} left no record" * bool(absent) + "."
    )
    if "questions" in done and len(done) and done["questions"].nunique() == 1:
        yield f"Each asks the same {done['questions'].iloc[0]:,.0f} questions; the loss is in {unit(metric)}."
    seeds = table["seed"].nunique()
    if seeds > 1:
        yield f"There are {seeds} seeds; each run is a row of the fit, none is averaged away."


def _worth(law: LawFit, metric: str, where: dict[str, Any]) -> Iterator[str]:
    setting = described({k: v for k, v in where.items() if k not in ("N", "M")})
    yield f"One law describes the runs{f' with {setting}' if setting else ''}: {law.form.equation}, {law.form.summary}."
    if law.draws_Rp is None:
        yield "It has no intervals, so what follows is without them."
    else:
        how = RESAMPLED.get(law.resampling["kind"], law.resampling["kind"])
        yield f"Brackets are {law.level:.0%} intervals over {len(law.draws_Rp):,} refits to {how}."
    effects = {axis: effect(law, axis) for axis in law.form.variables}
    for e in effects.values():
        yield effect_sentence(e, metric)
    if {"N", "M"} <= effects.keys():
        worth = exchange(law, effects["M"], "N")
        yield exchange_sentence(worth)
        if worth.factor is None and worth.effect.sign > 0:
            yield exchange_sentence(exchange(law, effects["N"], "M"))
        mixed = any(len(term.variables) > 1 for term in law.form.terms)
        yield (
            "The law has a term in both, so that what a larger corpus is worth depends on the model that reads it."
            if mixed
            else "The law adds its terms, so that it gives the corpus the same worth at every model size; the "
            "residuals would show where that is wrong."
        )


def _trust(fit: StudyFit, metric: str) -> Iterator[str]:
    law = fit.law
    assert law is not None
    yield from trust_sentences(fit)
    ends = " and ".join(f"{law.ranges[a][1]:,.0f} {UNITS.get(a, a)}" for a in law.form.variables)
    forms = _counted(1 + len(law.alternatives), "form")
    spans = f"spans the {forms.lower()} that held-out runs do not tell apart, and no other" * bool(law.alternatives)
    yield (
        f"It was not tested beyond {ends}: a prediction there is an extrapolation, whose interval "
        + (spans or "does not cover a form that is wrong")
        + "."
    )
    yield from ahead_sentences(law, metric)
    yield from (s for s in (loss_sentence(law), coverage_sentence(law), floor_sentence(law, fit.floor)) if s)
    for warning in law.warnings:
        yield f"Note that {warning}."


def _without_law(table: pd.DataFrame, fits: StudyFits) -> Iterator[str]:
    failed = next((f for f in fits.fits if f.axes == ("N", "M")), None)
    if failed is not None:
        yield f"No law in both axes could be fitted: {failed.reason}"
    else:
        yield "No law in both axes was fitted, since no setting has three model sizes and three corpus sizes."
    single = [f for f in fits.fits if f.law is not None]
    for axis in ("N", "M"):
        other = "M" if axis == "N" else "N"
        found = [f for f in single if f.axes == (axis,)]
        if not found:
            continue
        best = max(found, key=lambda f: (f.where.get(other) or 0, len(f.run_ids)))
        law = best.law
        assert law is not None
        e = effect(law, axis)
        sentence = effect_sentence(e, fits.metric).rstrip(".")
        yield f"{sentence} ({described(best.where)}; {law.form.equation})." if best.where else f"{sentence}."
        yield from trust_sentences(best)
    if not single:
        yield from _observed(table, fits)


def _observed(table: pd.DataFrame, fits: StudyFits) -> Iterator[str]:
    """Plain differences where no law stands."""
    metric = fits.metric
    rows = finished(table, metric)
    rows = rows[(rows["arm"] == fits.arm) & rows["M"].notna()]
    if len(rows) < 2:
        return
    largest = rows[rows["M"] == rows["M"].max()]
    means = largest.groupby("N")[metric].mean()
    if len(means) > 1:
        yield (
            f"Observed, without a law: from {si(means.index[0])} to {si(means.index[-1])} parameters the loss goes "
            f"from {means.iloc[0]:.3g} to {means.iloc[-1]:.3g} {unit(metric)} over the largest corpus."
        )


def _beside(table: pd.DataFrame, metric: str) -> Iterator[str]:
    """Controls, indexes: how much of what the gold passage would bring retrieval brings, and what speed costs."""
    rows = finished(table, metric)
    largest = rows[rows["M"].isna() | (rows["M"] == rows["M"].max())]
    shared = [n for n, g in largest.groupby("N") if {"dense", "oracle"} <= set(g["arm"]) and _floor_arm(g)]
    if shared:
        n = max(shared)
        at = largest[largest["N"] == n]
        mean = at[(at["arm"] != "dense") | (at["index"].isin(["flat"]) if "flat" in set(at["index"]) else True)]
        loss = mean.groupby("arm")[metric].mean()
        arm = _floor_arm(at)
        assert arm is not None
        named = {"closed_book": "no passage at all", "random": "random passages"}[arm]
        gap = loss[arm] - loss["oracle"]
        text = (
            f"Over the largest corpus the model of {si(n)} parameters loses {loss[arm]:.3g} {unit(metric)} with "
            f"{named}, {loss['dense']:.3g} with what it retrieves and {loss['oracle']:.3g} with the gold passage"
        )
        if gap > 0:
            text += f": retrieval brings {(loss[arm] - loss['dense']) / gap:.0%} of what the gold passage brings"
        yield text + "."
        if "bm25" in loss.index:
            less = loss["bm25"] - loss["dense"]
            yield f"BM25 in its place {'loses' if less > 0 else 'saves'} {abs(less):.2g} {unit(metric)}."
    yield from _indexes(largest, metric)


def _floor_arm(rows: pd.DataFrame) -> str | None:
    return next((a for a in ("closed_book", "random") if a in set(rows["arm"])), None)


def _indexes(rows: pd.DataFrame, metric: str) -> Iterator[str]:
    dense = rows[(rows["arm"] == "dense") & rows["index"].notna()]
    flat = dense[dense["index"] == "flat"]
    for kind in sorted(set(dense["index"]) - {"flat"}):
        part = dense[dense["index"] == kind].merge(flat, on=["N", "M", "K", "seed"], suffixes=("", ".flat"))
        if not len(part):
            continue
        costs = (part[metric] - part[f"{metric}.flat"]).mean()
        text = f"The {kind} index in place of exact search "
        if abs(costs) < 1e-4 * part[metric].mean():
            text += "does not change the loss"
        else:
            text += f"changes the loss by {costs:+.2g} {unit(metric)}"
        if "index_recall@k" in part and part["index_recall@k"].notna().any():
            text += f" at a recall of {part['index_recall@k'].mean():.1%}"
        if "queries_per_second" in part and part["queries_per_second"].notna().all():
            faster = (part["queries_per_second"] / part["queries_per_second.flat"]).mean()
            text += f" and answers {_factor(faster)} times as fast"
        yield text + "."


def _times(factor: float) -> str:
    return "ten times" if abs(factor - 10) < 1e-6 else f"{_factor(factor)} times"


def _factor(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:,.0f}" if value < 1e4 else f"{value:.1e}"


def _counted(n: int, noun: str) -> str:
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six")
    return f"{words[n] if n < len(words) else n} {noun}{'s' * (n != 1)}"


def _decimals(width: float) -> int:
    """Decimals that show an interval of this width in two digits."""
    import math

    return 3 if width <= 0 else min(6, max(0, 1 - math.floor(math.log10(width))))
