"""``rag-exp run --dry``: what a run or a study would do, by formula and by looking into the store; nothing is built.

Imports no torch. Numbers that follow from the configuration are exact; what depends on texts that have
not been read is an upper bound and marked with ``<=``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rag_exp import config as configs
from rag_exp.core.store import Step, Store
from rag_exp.measuring import arm
from rag_exp.models.flops import TokenCounts, forward_flops, training_flops
from rag_exp.run import RunFolder
from rag_exp.settings import Setting
from rag_exp.steps import RunSteps
from rag_exp.study import Point, Study, status


def describe(plan: Study, reference: dict[str, Any]) -> str:
    """The text that ``--dry`` prints.

    Args:
        plan: the expanded study, or the single run.
        reference: the plain configuration without overrides, to tell what was changed.
    """
    lines = list(_point(plan.points[0], plan, reference) if len(plan.points) == 1 else _study(plan))
    return "\n".join(lines)


def _point(point: Point, plan: Study, reference: dict[str, Any]) -> Iterator[str]:
    config, steps = point.config, point.steps
    store = Store(config.paths.store)
    state = status(plan)[0][1]
    yield f"run {point.run_id}  ({arm(steps)}, {state}; record: {RunFolder(plan.root, point.run_id).record})"
    yield ""
    changed = list(configs.defaults_of(point.composed.plain, reference))
    yield "changed from the defaults" if changed else "changed from the defaults: nothing"
    for key, value in changed:
        yield f"  {key} = {configs.quoted(value)}"
    yield ""
    yield "sizes"
    for line in sizes(point, store):
        yield f"  {line}"
    yield ""
    yield "steps"
    for role, step in steps.roles.items():
        made = store.info(step)
        known = f"in the store ({made.bytes / 1e6:,.1f} MB, {made.seconds:.1f} s)" if made else "to be built"
        yield f"  {role:22} {step.key[:12]}  {known}"


def sizes(point: Point, store: Store) -> Iterator[str]:
    """One line per derived size."""
    config, steps = point.config, point.steps
    counts = config.generator.parameter_counts()
    body = config.generator.non_embedding()
    if config.task == "retrieval":
        yield "generator     none: task=retrieval measures a search alone"
    elif counts:
        groups = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        yield f"generator     {sum(counts.values()):,} parameters, {body:,} of them non-embedding ({groups})"
    else:
        known = "its size is not known" if body is None else f"{body:,} non-embedding parameters"
        yield f"generator     hosted; {known}"
    if steps.asked.uses_vectors or steps.train.uses_vectors:
        encoder = config.encoder.parameter_counts(config.tokenizer.vocab_size)
        yield f"encoder       {sum(encoder.values()):,} parameters"
    total = passages_of(steps, config, store)
    for name, setting in (("trained with", steps.train), ("asked with", steps.asked)):
        yield f"{name:13} {_setting(setting, total)}"
    if steps.asked.uses_vectors and steps.asked.index.reads_vectors:
        known = steps.asked.size if steps.asked.size is not None else total
        dims = config.encoder.known_dims()
        if known is not None:
            megabytes = known * dims * config.encoder.bytes_per_number / 1e6
            yield f"embeddings    <= {megabytes:,.1f} MB ({known:,} x {dims} {config.encoder.storage})"
    if config.task == "rag":
        yield from _training(config, steps, store)
        yield from _evaluation(config, steps, store)


def passages_of(steps: RunSteps, config: configs.RunConfig, store: Store) -> int | None:
    """Number of passages of the whole corpus: from the store, else from the source where it is cheap to know."""
    made = store.info(steps.roles["passages"])
    return int(made.stats["passages"]) if made is not None else config.corpus.count()


def _setting(setting: Setting, total: int | None) -> str:
    if setting.source == "none":
        return "no passages (closed book)"
    size = f"at most {setting.size:,}" if setting.size is not None else "all"
    of = f" of {total:,}" if total is not None else " (their number is known once the corpus is read)"
    how = setting.index.kind if setting.source == "index" else setting.source
    derived = (
        setting.index.derived(indexed)
        if setting.source == "index" and (indexed := setting.indexed_size or total)
        else {}
    )
    more = "".join(f", {k} {v}" for k, v in derived.items())
    more += ", selected in an index over all" if setting.selected else ""
    if setting.source == "index" and setting.index.tuned:
        more += f", {setting.index.dial} tuned to recall@{setting.k} of {setting.index.recall_target:g}"
    hop2 = setting.hop2
    paths = "" if hop2 is None else f", j = {hop2.j}, {hop2.paths} of {setting.k * hop2.j} paths read"
    return f"{size}{of} passages, {setting.growth} growth, {how}{more}, k = {setting.k}{paths}"


def _training(config: configs.RunConfig, steps: RunSteps, store: Store) -> Iterator[str]:
    """Tokens and FLOPs of each training stage: as measured where it is in the store, else at most."""
    training = config.training
    plan = (
        ("reader_warmup", training.warmup.steps, training.warmup.batch_size, min(steps.train.prompts, 1)),
        ("checkpoint", training.steps, training.batch_size, steps.train.prompts),
    )
    live = config.retriever.train != "frozen" and steps.train.source == "index"
    for role, count, batch, k in plan:
        if role not in steps.roles:
            continue
        made = store.info(steps.roles[role])
        if made is not None:
            flops = "unknown" if made.stats["flops"] is None else f"{made.stats['flops']:.3g}"
            yield f"{role:13} {made.stats['tokens']:,} tokens, {flops} FLOPs, {made.seconds:.0f} s"
            continue
        what = f"{count} steps x {batch} questions x {config.objective.prompts(k)} prompts"
        if config.generator.hosted:
            yield f"{role:13} {what}: a request for each"
            continue
        most = reading_bound(config, count * batch, k)
        flops = training_flops(most, config.generator.sizes())
        if role == "checkpoint":
            flops += forward_flops(second_reading_bound(config, count * batch, k), config.generator.sizes())
        beside = " beside the retriever's own" if live and role == "checkpoint" else ""
        bounds = f"<= {most.tokens:,} tokens, <= {flops:.3g} FLOPs{beside}"
        yield f"{role:13} {what}: {bounds}"


def _evaluation(config: configs.RunConfig, steps: RunSteps, store: Store) -> Iterator[str]:
    """Tokens and FLOPs of asking: as measured where it is in the store, else at most."""
    made = store.info(steps.last)
    if made is not None:
        flops = "unknown" if made.stats["flops"] is None else f"{made.stats['flops']:.3g}"
        tokens = "unknown" if made.stats["tokens"] is None else f"{made.stats['tokens']:,}"
        yield f"evaluation    {tokens} tokens, {flops} FLOPs, {made.seconds:.0f} s"
        return
    options, k = config.evaluation, steps.asked.prompts
    asked, prompts = options.questions or 1, config.objective.prompts(k)
    what = f"{asked} questions" if options.questions else "each question"
    own_choices = options.decode == "choices" and options.choices is None
    if config.generator.hosted:
        listed = "its" if own_choices else len(options.choices or ())
        more = {
            "none": "",
            "choices": f" and one for each of {listed} choices",
            "thorough": f", one to write one and up to {prompts} to weigh those written",
        }.get(options.decode, " and one to write one")
        yield f"evaluation    {what} x {prompts} prompts: for each a request to score an answer{more}"
        return
    reading = forward_flops(reading_bound(config, asked, k), config.generator.sizes())
    writing = forward_flops(writing_bound(config, asked, k), config.generator.sizes())
    yield (
        f"evaluation    {what} x {prompts} prompts: <= {reading:.3g} FLOPs for each accepted answer that is scored "
        f"(at most {options.max_answers}), <= {writing:.3g} {'for each choice' if own_choices else 'to write one'}"
    )


def reading_bound(config: configs.RunConfig, questions: int, k: int) -> TokenCounts:
    """The most that a forward pass over ``questions``, each with ``k`` passages and an answer, can count."""
    return _bound(config, *_rows(config, questions, k))


def _bound(config: configs.RunConfig, rows: int, answers: int) -> TokenCounts:
    """The most that a forward pass over so many prompts, with so many answers after them, can count."""
    return _counts(config, rows, answers, config.generator.context_length(), config.prompt.max_answer_tokens)


def reading_counts(config: configs.RunConfig, questions: int, k: int, prompt: int, answer: int) -> TokenCounts:
    """What a forward pass counts over prompts of ``prompt`` tokens, as far as they fit, and answers of ``answer``."""
    context, answer = config.generator.context_length(), min(answer, config.prompt.max_answer_tokens)
    length = prompt if config.generator.is_seq2seq() else prompt + answer  # an answer is part of a decoder's context
    return _counts(config, *_rows(config, questions, k), min(length, context), answer)


def _counts(config: configs.RunConfig, rows: int, answers: int, context: int, answer: int) -> TokenCounts:
    decoder = answer if config.generator.is_seq2seq() else 0  # else the answer is part of the context
    return TokenCounts(
        rows=rows,
        tokens=rows * context + answers * decoder,
        target_tokens=answers * answer,
        input_tokens=rows * context,
        decoder_tokens=answers * decoder,
        input_squares=rows * context**2,
        decoder_squares=answers * decoder**2,
        cross=rows * context * decoder,
    )


def second_reading_bound(config: configs.RunConfig, questions: int, k: int) -> TokenCounts:
    """The most that is read once more to teach a retriever; nothing where the objective needs no second reading."""
    if k and config.objective.attends:
        return replace(reading_bound(config, questions, k), target_tokens=0)
    if k and config.objective.evidence == "each":
        return _bound(config, questions * k, questions * k)
    return reading_bound(config, questions * k, k) if config.objective.evidence == "without_one" else TokenCounts()


def writing_bound(config: configs.RunConfig, questions: int, k: int) -> TokenCounts:
    """The most that writing after prompts were read can count; every token but the last is fed back.

    Thorough decoding also feeds each reading the answers of all others' beams; ranking choices feeds each all of them.
    Where each question has choices of its own, this is for one of them: how many there are is not known here.
    """
    options, answer = config.evaluation, config.prompt.max_answer_tokens
    if options.decode == "none":
        return TokenCounts()
    rows, answers = _rows(config, questions, k)
    most = answer if options.decode == "choices" else min(options.max_new_tokens, answer)
    choices = 1 if options.choices is None else len(options.choices)
    each = {"greedy": 1, "choices": choices}.get(options.decode, options.beam)
    if options.decode == "thorough":
        each *= answers // questions
    context = config.generator.context_length()
    fed = answers * each * (most - 1)
    if config.generator.is_seq2seq():
        squares, cross = fed * (most - 1), rows * each * (most - 1) * context
        return TokenCounts(
            tokens=fed, target_tokens=answers + fed, decoder_tokens=fed, decoder_squares=squares, cross=cross
        )
    prompt = context - answer  # its longest
    squares = rows * each * ((prompt + most - 1) ** 2 - prompt**2)
    return TokenCounts(tokens=fed, target_tokens=answers + fed, input_tokens=fed, input_squares=squares)


def _rows(config: configs.RunConfig, questions: int, k: int) -> tuple[int, int]:
    """Prompts that are read, and answers that are scored or written after them: one for all that a decoder fuses."""
    rows = questions * config.objective.prompts(k)
    return rows, questions if config.objective.reading == "fid" else rows


def _study(plan: Study) -> Iterator[str]:
    rows = status(plan)
    yield f"study {plan.name}: {len(plan.points)} runs"
    for point, state, _ in rows:
        where = " ".join(f"{k}={v}" for k, v in point.axes.items())
        body = point.config.generator.non_embedding()
        size = f"N={'unknown' if body is None else format(body, ','):<10}" if point.config.task == "rag" else ""
        yield f"  {point.run_id[:12]}  {state:8} {arm(point.steps):12} {size} {where}"
    yield ""
    yield "artifacts"
    store = Store(plan.points[0].config.paths.store)
    unique: dict[str, Step] = {}
    uses = 0
    for point in plan.points:
        uses += len(point.steps.roles)
        unique |= {step.key: step for step in point.steps.roles.values()}
    kinds: dict[str, list[Step]] = {}
    for step in unique.values():
        kinds.setdefault(step.kind, []).append(step)
    for kind, members in kinds.items():
        there = sum(store.has(s) for s in members)
        yield f"  {kind:14} {len(members):4}  {there} in the store, {len(members) - there} to be built"
    yield f"  {uses} uses of {len(unique)} artifacts: the store saves {uses - len(unique)} of {uses} builds"
