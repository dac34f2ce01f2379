"""What the reader's steps build: its warm-up, its training with the retriever, its evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rag_exp.builders.parents import (
    encoder_of,
    learned_prior,
    listed_paths,
    passage_table,
    tokenizer_folder,
    training_questions,
    vector_blocks,
)
from rag_exp.core.rng import derive
from rag_exp.core.store import Build, Step

if TYPE_CHECKING:
    from rag_exp.config import RunConfig
    from rag_exp.data.passages import PassageTable
    from rag_exp.models.packing import Packer
    from rag_exp.models.reader import Generator
    from rag_exp.retrieval.live import LiveRetriever
    from rag_exp.settings import Setting
    from rag_exp.training.stages import Trainee

NULL_QUESTIONS = 256  # a live retriever searches so many training questions to see where a null score may begin


def reader_warmup(config: RunConfig, reads: bool, hops: int, build: Build) -> None:
    """A new reader after its warm-up: on gold passages (with two hops on both together), or on questions alone."""
    from rag_exp.training.stages import warm_up_reader

    reader = config.generator.create(tokenizer_folder(build), derive(config.seed, "generator"))
    with _trainee(config, build, reader) as trainee:
        table = passage_table(build) if reads else None
        build.stats |= warm_up_reader(trainee, training_questions(config, build), table, hops)
    reader.save(build.folder)


def checkpoint(config: RunConfig, setting: Setting, shard: Callable[[int], Step] | None, build: Build) -> None:
    """The reader after end-to-end training, with the encoders and the prior that trained beside it."""
    from rag_exp.retrieval.results import SearchResult
    from rag_exp.training.stages import train_marginal

    reader, prior = _reader(config, build, "reader_warmup"), learned_prior(config, setting, build)
    table = passage_table(build) if setting.source != "none" else None
    topk = live = listed = None
    if "paths" in build.step.parents:
        build.stats["M"] = build.parent("paths").stats["M"]
        listed = listed_paths(config, setting, prior, build)
    elif "topk" in build.step.parents:
        found = build.parent("topk")
        build.stats["M"] = found.stats["M"]
        topk = SearchResult.load(found.path)
    elif table is not None:
        live = _live(config, setting, shard, table, build)
    asked = training_questions(config, build)
    if prior.has_null and config.retriever.null_score == "auto":
        prior.begin_null(topk if live is None else live.find(asked.questions[:NULL_QUESTIONS], setting.k))
    with _trainee(config, build, reader) as trainee:
        build.stats |= train_marginal(
            trainee,
            config.objective,
            asked,
            table,
            topk,
            prior=prior,
            live=live,
            k=setting.k,
            refresh_every=config.retriever.refresh_every if live and config.retriever.train == "both" else None,
            retriever_lr=config.training.retriever_lr or config.encoder.warmup_lr,
            paths=listed,
            hop2=setting.hop2,
        )
    reader.save(build.folder)
    prior.save(build.folder)
    if live is not None:
        live.save(build.folder)


def evaluation(config: RunConfig, setting: Setting, build: Build) -> None:
    """predictions.parquet: every question of the split, asked in the evaluation setting."""
    from rag_exp.data.questions import QuestionTable
    from rag_exp.evaluation.evaluate import Asked, Reader, evaluate
    from rag_exp.evaluation.hosted import HostedReader
    from rag_exp.retrieval.results import SearchResult

    reader, prior = _reader(config, build, "checkpoint"), learned_prior(config, setting, build)
    options = config.evaluation
    questions = QuestionTable.open(build.parent("questions").path, options.split, options.questions)
    table = topk = size = listed = None
    if setting.source != "none":
        table = passage_table(build)
        size = table.prefix_size(setting.size)
        if setting.hop2 is not None:
            listed = listed_paths(config, setting, prior, build)
        else:
            topk = SearchResult.load(build.parent("topk").path)
    asked = Asked(questions, table, topk, size, prior, listed)
    build.stats |= evaluate(
        reader, config.objective, _packer(config, reader), asked, options, config.generator.sizes(), build.folder,
        config.trainer, config.training.resolved_precision(config.trainer.accelerator),
        HostedReader if config.generator.hosted else Reader,
    )  # fmt: skip
    build.stats["M"] = size
    build.stats["prior"] = prior.values() if setting.scored else None
    build.stats["documents"] = None if table is None or size is None else table.documents_in(size)
    build.stats["parameters"] = {"generator": config.generator.parameter_counts()}
    build.stats["non_embedding"] = config.generator.non_embedding()


@contextmanager
def _trainee(config: RunConfig, build: Build, reader: Generator) -> Iterator[Trainee]:
    from rag_exp.training.loggers import Mirror
    from rag_exp.training.stages import Trainee

    mirror = Mirror.build(config.logger, config.paths.root / "logs", f"{build.step.kind}-{build.step.key[:12]}")
    try:
        yield Trainee(
            generator=reader,
            packer=_packer(config, reader),
            # What a hosted reader read is counted where it is, and in evaluation alone.
            sizes=None if config.generator.hosted else config.generator.sizes(),
            options=config.training.resolved(config.generator.peak_lr()),
            optim=config.optim,
            seed=config.seed,
            trainer=config.trainer,
            precision=config.training.resolved_precision(config.trainer.accelerator),
            partial=build.partial,
            mirror=mirror,
        )
    finally:
        mirror.close()


def _live(
    config: RunConfig, setting: Setting, shard: Callable[[int], Step] | None, table: PassageTable, build: Build
) -> LiveRetriever:
    from rag_exp.retrieval.live import LiveRetriever

    assert shard is not None
    size = table.prefix_size(setting.size)
    build.stats["M"] = size
    blocks, _ = vector_blocks(config, build, shard, size)
    passage_encoder = encoder_of(config, build, "passage") if config.retriever.train == "both" else None
    return LiveRetriever(
        encoder_of(config, build, "question"),
        passage_encoder,
        table,
        blocks,
        setting.index,
        derive(config.seed, "index"),
        folder=build.partial,
    )


def _reader(config: RunConfig, build: Build, parent: str) -> Generator:
    """The generator that ``parent`` holds; where there is no such step, the generator as it comes."""
    folder = tokenizer_folder(build)
    if parent in build.step.parents:
        return config.generator.load(build.parent(parent).path, folder)
    return config.generator.create(folder, derive(config.seed, "generator"))


def _packer(config: RunConfig, reader: Generator) -> Packer:
    from rag_exp.models.packing import Packer

    return Packer(reader.tokenizer, config.prompt, reader.context, reader.seq2seq)
