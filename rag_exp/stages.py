"""The stages of a run or a study that are still to be done, and what each takes by the formulas of ``planning.py``.

Stages that runs share are counted once: a step by its key, embeddings and exact search by what they are made of, at
the largest corpus that reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rag_exp.config import RunConfig
from rag_exp.core.errors import ConfigError
from rag_exp.core.store import Step, Store
from rag_exp.dry import passages_of, reading_counts, second_reading_bound, writing_bound
from rag_exp.models.flops import TokenCounts, forward_flops, training_flops
from rag_exp.planning import BYTES_PER_NUMBER, Layout, PlanOptions, Stage, bytes_in_words, embedding_flops, layout
from rag_exp.retrieval.embeddings import BLOCK_ROWS
from rag_exp.retrieval.numbering import ROW_BYTES
from rag_exp.retrieval.speed import EXACT, Trial
from rag_exp.settings import Setting
from rag_exp.study import Point, Study

_ROW_BYTES = 4 * 4 + 4 * 8  # where four strings end; a document's end and words, an id's hash and row
_TRAINING_BYTES = 16  # a parameter: weight, gradient and AdamW's two moments, float32


def stages(plan: Study, options: PlanOptions) -> list[Stage]:
    """Every stage that is still to be done, once."""
    found: dict[str, tuple[int, Stage]] = {}
    for point in plan.points:
        for key, size, stage in _stages(point, options):
            if key not in found or size > found[key][0]:
                found[key] = size, stage
    return [stage for _, stage in found.values()]


def _stages(point: Point, options: PlanOptions) -> Iterator[tuple[str, int, Stage]]:
    """(key, passages, stage) of one run; of equal keys that of the most passages is meant."""
    config, steps = point.config, point.steps
    store = Store(config.paths.store)
    if store.has(steps.last):
        return
    total = _whole_corpus(point, store, options)
    for role, step in steps.roles.items():
        if store.has(step):
            continue
        setting = steps.train if role.startswith("train_") else steps.asked
        size = total if setting.size is None else min(setting.size, total)
        if step.kind == "passages":
            yield step.key, 0, _passages(config, total, options)
        elif step.kind == "nearness":
            yield _vectors(step.parents), total, _embeddings(config.ordering, total, options)
            yield step.key, 0, _nearness(config.ordering, total, options)
        elif step.kind == "released_encoder":
            yield step.key, 0, _encoder(config.ordering, 0, options)
        elif step.kind == "encoder":
            yield step.key, 0, _encoder(config, config.retriever.warmup.resolved(config.encoder).steps, options)
        elif step.kind == "index":
            held = total if setting.selected else size
            if setting.uses_vectors and setting.index.reads_vectors:
                moved = steps.embeds_once and "checkpoint" not in step.parents
                yield _vectors(step.parents), held, _embeddings(config, held, options, moved)
            yield step.key, 0, _index(config, setting, held, options)
        elif step.kind in ("topk", "paths", "tuning") and setting.source == "index":
            yield from _searches(config, setting, role, step, size, options)
        elif step.kind in ("reader_warmup", "checkpoint"):
            yield step.key, 0, _training(config, steps.train, step.kind, options)
        elif step.kind == "evaluation":
            yield step.key, 0, _evaluation(config, steps.asked, options)


def _whole_corpus(point: Point, store: Store, options: PlanOptions) -> int:
    """Passages of a run's whole corpus. Raises ConfigError where that is neither known nor stated."""
    config = point.config
    if options.passages is not None:
        return int(options.passages)
    known = None
    if config.passages.kind == "whole" or store.has(point.steps.roles["passages"]):  # else they are cut into more
        known = passages_of(point.steps, config, store)
    if known is None:
        raise ConfigError("plan.passages: how many passages the corpus has is not known before it is read; state it.")
    return known


def _passages(config: RunConfig, total: int, options: PlanOptions) -> Stage:
    if config.corpus.kind == "points" and options.encoder_parameters is None:  # else they stand for texts
        row = _ROW_BYTES + 3 * len(str(total - 1))  # id, document and text are its number
        return Stage("passages", f"{total:,} x {row} bytes of a number", disk=total * row, moved=total * row)
    disk = total * options.tokens_per_passage * options.bytes_per_token
    formula = f"{total:,} x {options.tokens_per_passage:g} tokens x {options.bytes_per_token:g} bytes"
    return Stage("passages", formula, disk=disk, moved=disk)


def _nearness(config: RunConfig, total: int, options: PlanOptions) -> Stage:
    """The exact search of all questions of a split by which distractors are put in order."""
    dims = config.encoder.known_dims()
    return Stage(
        "nearness",
        f"2 x {dims} x {total:,} x {options.questions:,.0f} queries",
        flops=2 * dims * total * options.questions,
        moved=config.encoder.bytes_per_number * dims * total,
        searches=True,
    )


def _encoder(config: RunConfig, steps: int, options: PlanOptions) -> Stage:
    """An encoder, and its warm-up of so many steps."""
    counted = sum(config.encoder.parameter_counts(config.tokenizer.vocab_size).values())
    held = counted if options.encoder_parameters is None else options.encoder_parameters
    disk = BYTES_PER_NUMBER * held
    sizes = f"{BYTES_PER_NUMBER} x {held:,.0f} parameters"
    if steps == 0:
        return Stage("encoder", sizes, disk=disk, memory=disk, moved=disk)
    formula = f"{sizes}; {steps} steps of warm-up, whose mining depends on the training questions"
    return Stage("encoder", formula, disk=disk, memory=_TRAINING_BYTES * held, flops=None)


def _embeddings(config: RunConfig, size: int, options: PlanOptions, moved: bool = False) -> Stage:
    """``moved``: they are there in another order."""
    dims, tokens = config.encoder.known_dims(), _tokens(config, options)
    number = config.encoder.bytes_per_number
    disk, memory = number * dims * size, BYTES_PER_NUMBER * dims * min(size, BLOCK_ROWS)
    if moved:
        formula = f"{size:,} x {dims} x {number} bytes, moved from hash order"
        return Stage("embeddings", formula, disk=disk, memory=memory, moved=2 * disk)
    stand_in = options.encoder_parameters
    flops = embedding_flops(config.encoder, size, tokens, stand_in)
    return Stage(
        "embeddings",
        f"{size:,} x {dims} x {number} bytes; {flops / size:.4g} FLOPs each, of {tokens:g} tokens",
        disk=disk,
        memory=memory,
        flops=flops,
        moved=disk,
        tokens=tokens * size,
        encoder="" if config.encoder.precomputed else config.encoder.model_dump_json(),  # nothing to measure
    )


def _tokens(config: RunConfig, options: PlanOptions) -> float:
    """Tokens that the encoder reads of a passage."""
    if config.encoder.kind == "points" and options.encoder_parameters is None:
        return 1
    most = getattr(config.encoder, "max_length", None)
    return options.tokens_per_passage if most is None else min(options.tokens_per_passage, most)


def _index(config: RunConfig, setting: Setting, size: int, options: PlanOptions) -> Stage:
    index = setting.index
    known = _layout(config, setting, size)
    name = f"index {index.kind}"
    if known is None:
        return Stage(name, f"{size:,} passages: no formula", disk=None, memory=None, flops=None)
    if index.made_elsewhere:
        return _opened(name, known.bytes(size), size, options)
    total, flops = known.bytes(size), known.build_flops(size)
    on_disk = getattr(index, "lists", "memory") == "disk"
    formula = f"{size:,} x {known.per_vector:.5g} bytes" + (
        f" + {bytes_in_words(known.learnt)}" if known.learnt else ""
    )
    dims = config.encoder.known_dims()
    sample, read = BYTES_PER_NUMBER * dims * known.train_points, config.encoder.bytes_per_number * dims * size
    if sample:
        formula += f"; learnt from {known.train_points:,} vectors ({bytes_in_words(sample)}"
        formula += ", more than a machine holds)" if options.memory is not None and sample > options.memory else ")"
    if known.learning:
        formula += f"; k-means {' + '.join(f'{k.flops:.3g} ({k.dims} x {k.centroids:,})' for k in known.learning)}"
        formula += f" + rotation {known.turned_flops:.3g}" if known.turned_flops else ""
        formula += f" + {size:,} x {known.add_flops:.3g} FLOPs"
    if known.trial is not None and known.trial.walks:
        formula += f"; each linked in by {known.trial.steps(size):.3g} steps"
    if not index.stores_vectors:
        formula += ", the embeddings themselves"
    shards = None
    if options.memory is not None:
        whole = 1 if known.learnt <= options.memory else None
        shards = whole if on_disk else known.shards(size, options.memory)
        if shards is None:
            formula += f"; no shard fits: each holds {bytes_in_words(known.learnt + known.per_vector)}"
    disk = total if index.stores_vectors else 0
    return Stage(
        name,
        formula,
        disk=disk,
        memory=max(sample, known.learnt if on_disk else total),
        flops=flops,
        moved=disk + read if index.stores_vectors else 0,
        share=options.utilization,
        work=known.build_work(size),
        whole=known.whole_flops(size),
        searches=True,
        shards=shards,
    )


def _opened(name: str, total: float, size: int, options: PlanOptions) -> Stage:
    """An index that was made elsewhere: it is read once, and mapped; of each vector it is kept which passage it is."""
    formula = f"{size:,} x {total / size:.5g} bytes, made elsewhere and mapped; {ROW_BYTES} each on disk"
    fits = options.memory is None or total <= options.memory
    return Stage(
        name,
        formula if fits else f"{formula}; more than a machine holds, and it is not cut",
        disk=ROW_BYTES * size,
        memory=total,
        moved=total,
        shards=1 if options.memory is not None and fits else None,
    )


def _layout(config: RunConfig, setting: Setting, size: int) -> Layout | None:
    """The layout of the setting's index, where it is one of vectors and a formula is known."""
    encoder = config.encoder
    return layout(setting.index, size, encoder.known_dims(), encoder.bytes_per_number) if setting.uses_vectors else None


def _searches(
    config: RunConfig, setting: Setting, role: str, step: Step, size: int, options: PlanOptions
) -> Iterator[tuple[str, int, Stage]]:
    """The search of a step, and exact search beside it where it is held against that."""
    index = setting.index
    if step.kind == "tuning":
        asked, split = float(index.tuning_questions), "tuning"
    elif role.startswith("train_"):
        asked, split = float(config.training.questions or options.questions), "train"
    else:
        whole = float(config.questions.queries) if config.questions.kind == "points" else None
        asked, split = float(config.evaluation.questions or whole or options.questions), config.evaluation.split
        asked = asked if whole is None else min(asked, whole)
    dims = config.encoder.known_dims() if setting.uses_vectors else 0
    known = _layout(config, setting, size)
    if step.kind != "tuning":
        queries = asked * setting.k if step.kind == "paths" else asked
        name = f"search {index.kind}" if step.kind == "topk" else f"second hop {index.kind}"
        yield step.key, 0, _search(name, index, known, queries, size)
    if known is not None and split != "train" and step.kind != "paths" and index.no_exact is None:
        flops, read = 2.0 * dims * size * asked, config.encoder.bytes_per_number * dims * size
        formula = f"2 x {dims} x {size:,} x {asked:,.0f} queries"
        key = f"exact {_vectors(step.parents['index'].parents)} {split} {asked:g}"
        work = (((Trial(EXACT, dims), "compare"), asked * size),)
        yield key, size, Stage("exact search", formula, flops=flops, moved=float(read), work=work, searches=True)


def _search(name: str, index: Any, known: Layout | None, queries: float, size: int) -> Stage:
    asked = f"{queries:,.0f} queries"
    if known is None:
        return Stage(name, f"{asked}: no formula", memory=None, flops=None)
    each = [] if known.query_flops is None else [f"{known.query_flops:.4g} FLOPs"]
    if known.compared:
        each.append(f"({f'{known.coarse:,} + ' if known.coarse else ''}{known.compared:,.5g} compared)")
    why_not = "its dial is set first" if index.tuned else "no formula"
    most = index.kind == "hnsw" or (index.made_elsewhere and index.dial == "efSearch")
    return Stage(
        name,
        f"{asked} x {' '.join(each)} over {size:,}" if each else f"{asked} over {size:,}: {why_not}",
        memory=known.bytes(size),
        flops=None if known.query_flops is None else queries * known.query_flops,
        at_most=most,
        moved=known.bytes(size),
        work=known.query_work(queries, size),
        searches=True,
    )


def _vectors(parents: Mapping[str, Step]) -> str:
    """What embeddings are known by: the steps that an index over them is made of, whatever its kind and size."""
    return "embeddings " + " ".join(sorted(p.key for name, p in parents.items() if name != "quantizer"))


def _read(config: RunConfig, questions: int, k: int, options: PlanOptions) -> TokenCounts:
    """What a forward pass counts over prompts of the stated lengths, cut to the context."""
    passages = config.objective.in_one_prompt(k)
    prompt = options.tokens_per_question + passages * options.tokens_per_passage
    return reading_counts(config, questions, k, round(prompt), round(options.tokens_per_answer))


def _training(config: RunConfig, train: Setting, kind: str, options: PlanOptions) -> Stage:
    training = config.training
    first = kind == "reader_warmup"
    stage = training.warmup if first else training
    k = min(train.prompts, 1) if first else train.prompts
    rows = f"{stage.steps} steps x {stage.batch_size} questions x {config.objective.prompts(k)} prompts"
    if config.generator.hosted:
        return Stage(kind, f"{rows}: hosted elsewhere", flops=None)
    count = stage.steps * stage.batch_size
    read, sizes = _read(config, count, k, options), config.generator.sizes()
    flops = training_flops(read, sizes)
    twice = 0.0 if first else forward_flops(second_reading_bound(config, count, k), sizes)
    flops += twice
    held = sum(config.generator.parameter_counts().values())
    own = ", the retriever's own beside" if not first and config.retriever.train != "frozen" else ""
    return Stage(
        kind,
        f"{rows} = {read.tokens:,} tokens x {flops / read.tokens:.3g} FLOPs; {held:,} parameters x {BYTES_PER_NUMBER} "
        f"bytes on disk, x {_TRAINING_BYTES} in memory{own}",
        disk=BYTES_PER_NUMBER * held,
        memory=_TRAINING_BYTES * held,
        flops=flops,
        at_most=twice > 0,
        moved=BYTES_PER_NUMBER * held,
        share=options.utilization,
    )


def _evaluation(config: RunConfig, asked: Setting, options: PlanOptions) -> Stage:
    count, k = int(config.evaluation.questions or options.questions), asked.prompts
    rows = f"{count:,} questions x {config.objective.prompts(k)} prompts"
    if config.generator.hosted:
        return Stage("evaluation", f"{rows}: hosted elsewhere", flops=None)
    sizes, held = config.generator.sizes(), sum(config.generator.parameter_counts().values())
    read = forward_flops(_read(config, count, k, options), sizes)
    written = forward_flops(writing_bound(config, count, k), sizes)
    return Stage(
        "evaluation",
        f"{rows}: {read:.3g} FLOPs for one accepted answer each, at most {written:.3g} to write one",
        memory=BYTES_PER_NUMBER * held,
        flops=read + written,
        moved=BYTES_PER_NUMBER * held,
        share=options.utilization,
    )
