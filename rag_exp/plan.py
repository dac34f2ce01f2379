"""``rag-exp plan``: what a run or a study takes before it is run, as a table. What the store holds costs nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from rag_exp.calibration import disk_rate, embedding_rates, index_speeds, matrix_rate
from rag_exp.core.errors import ConfigError, did_you_mean
from rag_exp.planning import PlanOptions, Rates, Stage, bytes_in_words, time_in_words
from rag_exp.retrieval.speed import KMeans, Speed, Trial
from rag_exp.stages import stages
from rag_exp.study import Study

_SHARES_OF_INDEXES = 4  # of the time of measuring: there are several kinds, and each is built
_UNCOUNTED = "questions and their embeddings, tokenizer, tuning, ranking; training's activations"


def plan_options(words: Sequence[str], stated: dict[str, Any]) -> PlanOptions:
    """The options of a study's ``plan``, those of ``plan.memory=64e9 ...`` in front.

    Raises:
        ConfigError: with every unknown key and bad value.
    """
    given: dict[str, Any] = dict(stated)
    for word in words:
        key, _, value = word.removeprefix("plan.").partition("=")
        given[key] = None if value == "null" else value
    unknown = [key for key in given if key not in PlanOptions.model_fields]
    problems = [
        f"plan.{key}: unknown key.{did_you_mean(key, PlanOptions.model_fields)} Known: "
        f"{', '.join(PlanOptions.model_fields)}."
        for key in unknown
    ]
    try:
        options = PlanOptions.model_validate({k: v for k, v in given.items() if k not in unknown})
    except ValidationError as e:
        problems += [f"plan.{x['loc'][0]}: {x['msg']} (given: {x['input']!r})." for x in e.errors()]
    if problems:
        raise ConfigError(problems)
    return options


def describe(plan: Study, options: PlanOptions) -> Iterator[str]:
    """The table, line by line.

    Raises:
        ConfigError: the size of a corpus is not known.
        DataError: a rate cannot be measured.
    """
    found = stages(plan, options)
    rates = measured_rates(plan, options, found)
    yield f"{plan.name}: {len(plan.points)} runs, what is not yet in the store"
    yield (
        f"reckoned with {options.tokens_per_passage:g} tokens a passage of {options.bytes_per_token:g} bytes, "
        f"{options.tokens_per_question:g} a question, {options.tokens_per_answer:g} an answer, "
        f"{options.questions:,.0f} questions of a whole split, {options.utilization:.0%} of the "
        "machine in training, reading and building indexes"
    )
    yield from _said_rates(options, rates, found)
    yield ""
    head = ("n", "stage", "disk", "memory", "FLOPs", "time", *(["shards"] if options.memory else []), "each by")
    rows = [head, *(_row(stage, count, rates, options) for stage, count in Counter(found).items())]
    rows.append(_total(found, rates, options))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head) - 1)]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=False)]
        cells[1] = row[1].ljust(widths[1])
        yield "  ".join([*cells, row[-1]]).rstrip()
    yield ""
    yield f"Not counted: {_UNCOUNTED}. Times are of one machine. ?: not known before."


def measured_rates(plan: Study, options: PlanOptions, found: Sequence[Stage]) -> Rates:
    """The rates that are stated; those that are not, as this machine has them."""
    encoders = {s.encoder for s in found if s.encoder}
    embedding: dict[str, float] = {}
    by_flops = options.flops_per_second is not None or options.encoder_parameters is not None
    if options.tokens_per_second is not None:
        embedding = dict.fromkeys(encoders, options.tokens_per_second)
    measured = {}
    if not (embedding or by_flops):
        known = [config for p in plan.points for config in (p.config, p.config.ordering) if config.encoder is not None]
        measured = {name: config for config in known if (name := config.encoder.model_dump_json()) in encoders}
    tried = set()
    if options.flops_per_second is None and options.index_flops_per_second is None:
        tried = {unit if isinstance(unit, KMeans) else unit[0] for s in found for unit, _ in s.work}
    missing = [options.flops_per_second, options.bytes_per_second].count(None) + bool(measured)
    each = options.seconds / max(missing + _SHARES_OF_INDEXES * bool(tried), 1)
    config = plan.points[0].config
    return Rates(
        flops=options.flops_per_second or matrix_rate(each, config.trainer.threads),
        bytes=options.bytes_per_second or disk_rate(each, config.paths.store),
        tokens=embedding or embedding_rates(measured, each),
        index_flops=options.index_flops_per_second,
        speeds=index_speeds(tried, _SHARES_OF_INDEXES * each) if tried else {},
    )


def _said_rates(options: PlanOptions, rates: Rates, found: Sequence[Stage]) -> Iterator[str]:
    how = {None: "measured here"}
    flops, disk = how.get(options.flops_per_second, "stated"), how.get(options.bytes_per_second, "stated")
    yield f"rates: {rates.flops:.3g} FLOPs a second ({flops}), {bytes_in_words(rates.bytes)} a second of disk ({disk})"
    if rates.tokens:
        said = ", ".join(f"{rate:,.0f}" for rate in dict.fromkeys(rates.tokens.values()))
        yield f"       {said} tokens embedded a second ({how.get(options.tokens_per_second, 'stated')})"
    if rates.index_flops is not None:
        yield f"       indexes and exact search by their FLOPs, {rates.index_flops:.3g} a second (stated)"
    elif not rates.speeds and any(s.searches for s in found):
        yield "       indexes and exact search by their FLOPs, at the same rate"
    for unit, speed in rates.speeds.items():
        yield f"       {_said_speed(unit, speed)} (measured here)"


def _said_speed(unit: Trial | KMeans, speed: Speed | float) -> str:
    if isinstance(speed, float):
        return f"k-means {unit.dims} x {unit.centroids:,}, {unit.points:,} points: {1 / speed:.3g} FLOPs a second"
    add, ask, compared = (f"{1e6 * value:.3g}" for value in (speed.add, speed.ask, speed.compare))
    if unit.walks:
        add, ask = f"{add} log2(M / 128)", f"{ask} log2(M / 128)"
    named = f"{unit.string} of {unit.dims} dimensions, {unit.queries:,} queries"
    return f"{named}: us to add {add}, to ask {ask}, to compare {compared}"


def _row(stage: Stage, count: int, rates: Rates, options: PlanOptions) -> tuple[str, ...]:
    seconds = stage.seconds(rates)
    flops = "?" if stage.flops is None else ("<= " if stage.at_most else "") + _flops(count * stage.flops)
    return (
        str(count),
        stage.name,
        "?" if stage.disk is None else bytes_in_words(count * stage.disk),
        "?" if stage.memory is None else bytes_in_words(stage.memory),
        flops,
        "?" if seconds is None else time_in_words(count * seconds),
        *(["" if stage.shards is None else f"{stage.shards:,}"] if options.memory else []),
        stage.formula,
    )


def _total(found: Sequence[Stage], rates: Rates, options: PlanOptions) -> tuple[str, ...]:
    """Sums of what is known, and the most memory that a stage takes; a ``+`` where something is not known."""

    def summed(values: Sequence[float | None], say: Callable[[float], str]) -> str:
        return say(sum(v for v in values if v is not None)) + ("+?" if None in values else "")

    memory = [s.memory for s in found]
    return (
        str(len(found)),
        "total (memory: most)",
        summed([s.disk for s in found], bytes_in_words),
        bytes_in_words(max((m for m in memory if m is not None), default=0)) + ("+?" if None in memory else ""),
        summed([s.flops for s in found], _flops),
        summed([s.seconds(rates) for s in found], time_in_words),
        *([""] if options.memory else []),
        "",
    )


def _flops(value: float) -> str:
    return f"{value:.3g}" if value else "0"
