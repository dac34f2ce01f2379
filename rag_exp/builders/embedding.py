"""Vectors of passages: a job that any process can do which sees the store."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.builders.parents import (
    SHARD_ROWS,
    encoder_folder,
    on_device,
    passage_table,
    run_on,
    tokenizer_folder,
    vector_blocks,
)
from rag_exp.core.errors import DataError
from rag_exp.core.store import Build, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from rag_exp.builders.workers import Seat
    from rag_exp.config import RunConfig
    from rag_exp.data.passages import PassageTable
    from rag_exp.retrieval.encoder import Encoder
    from rag_exp.retrieval.encoders import EncoderOptions
    from rag_exp.training.options import TrainerOptions
    from rag_exp.training.progress import Ticker

_READ_ROWS = 8_192


def embeddings(config: RunConfig, shard: int, known: Callable[[int], Step] | None, build: Build) -> None:
    """Shard ``shard`` of a corpus's vectors; ``known``: those in hash order, where they are the same but for that."""
    size = len(passage_table(build))
    if config.encoder.precomputed:
        build.stats |= _looked_up(config, passage_table(build), shard * SHARD_ROWS, build.folder)
        return
    if known is not None:
        build.stats |= _moved(config, known, shard * SHARD_ROWS, build)
        return
    tokenizer = tokenizer_folder(build)
    job = EmbedJob(
        encoder=config.encoder,
        weights=encoder_folder(build, "passage").resolve(),
        tokenizer=None if tokenizer is None else tokenizer.resolve(),
        passages=build.parent("passages").path.resolve(),
        first=shard * SHARD_ROWS,
        end=min((shard + 1) * SHARD_ROWS, size),
        folder=build.folder.resolve(),
        trainer=embedding_trainer(config),
    )
    build.stats |= run_on(config.retrieval.on_ray, job)


def embedding_trainer(config: RunConfig) -> TrainerOptions:
    """What a job that embeds is to use: on a cluster one process, of which there are as many as it has room for."""
    alone = {"embedders": 1} if config.retrieval.on_ray is not None else {}
    return config.trainer.model_copy(update=alone)


def _looked_up(config: RunConfig, table: PassageTable, first: int, folder: Path) -> dict[str, Any]:
    """Write the vectors of a shard that were made elsewhere."""
    import numpy as np

    from rag_exp.retrieval.embeddings import embedding_stats, write_vectors
    from rag_exp.retrieval.exact import as_vectors
    from rag_exp.retrieval.precomputed import PrecomputedVectors

    start = time.perf_counter()
    known = PrecomputedVectors(config.encoder.passages, config.encoder.passage_ids, "passage")
    end = min(first + SHARD_ROWS, len(table))
    starts = range(first, end, _READ_ROWS)
    ids = (table.ids(np.arange(at, min(at + _READ_ROWS, end))) for at in starts)
    vectors = (as_vectors(block, first_row=at) for at, block in zip(starts, known.blocks(ids), strict=True))
    shape = (end - first, known.dims)
    write_vectors(folder / "vectors.npy", shape, vectors, config.encoder.storage, first)
    return embedding_stats(shape, tokens=0, flops=0, seconds=time.perf_counter() - start)


def _moved(config: RunConfig, known: Callable[[int], Step], first: int, build: Build) -> dict[str, Any]:
    """Write the vectors of a shard that are there in hash order.

    Tokens and operations are noted as if they were spent here, as they would be of average passages.
    """
    import numpy as np

    from rag_exp.data.passages import PassageTable
    from rag_exp.retrieval.embeddings import embedding_stats, take_vectors, write_vectors

    table, by_hash = passage_table(build), PassageTable.open(build.ensure(known(0).parents["passages"]).path)
    blocks, made = vector_blocks(config, build, known, len(table))
    start, end = time.perf_counter(), min(first + SHARD_ROWS, len(table))
    ranges = (np.arange(at, min(at + _READ_ROWS, end)) for at in range(first, end, _READ_ROWS))
    vectors = (take_vectors(blocks, table.rows_in(by_hash, rows)) for rows in ranges)
    shape = (end - first, blocks[0].shape[1])
    write_vectors(build.folder / "vectors.npy", shape, vectors, config.encoder.storage, first)
    tokens, flops = (round(sum(a.stats[name] for a in made) * shape[0] / len(table)) for name in ("tokens", "flops"))
    return embedding_stats(shape, tokens, flops, time.perf_counter() - start)


@dataclass(frozen=True)
class EmbedJob:
    """The vectors of passages ``first`` to ``end``, written into ``folder``.

    Attributes:
        encoder, weights, tokenizer: the encoder's options and what it is loaded from.
        passages: of a :class:`~rag_exp.data.passages.PassageTable`.
        trainer: device and threads, as they are where the job is done.
    """

    encoder: EncoderOptions
    weights: Path
    tokenizer: Path | None
    passages: Path
    first: int
    end: int
    folder: Path
    trainer: TrainerOptions

    def build(self) -> dict[str, Any]:
        """Write them; what it took.

        However many processes share the work, they read the same batches: with as many threads each the vectors are
        the same bits, and otherwise the same up to rounding.

        Raises:
            DataError: a vector is not finite (its passage is named), or a process that shared the work died.
        """
        from rag_exp.training.progress import Ticker

        devices = self.trainer.embedding_devices()
        label = f"embedding from passage {self.first:,}" + (f" by {len(devices)}" if len(devices) > 1 else "")
        with Ticker(label, self.end - self.first, self.trainer.progress, "passages") as ticker:
            return self._alone(ticker) if len(devices) == 1 else self._shared(devices, ticker)

    def _alone(self, ticker: Ticker) -> dict[str, Any]:
        import numpy as np

        from rag_exp.data.passages import PassageTable
        from rag_exp.retrieval.embeddings import embed_passages

        table, count = PassageTable.open(self.passages), self.end - self.first
        starts = range(self.first, self.end, _READ_ROWS)
        texts = (pair for at in starts for pair in table.texts(np.arange(at, min(at + _READ_ROWS, self.end))))
        with on_device(self.trainer, self.encoder.load(self.weights, self.tokenizer)) as made:
            return embed_passages(made, texts, count, self.folder, ticker.at, self.encoder.storage, self.first)

    def _shared(self, devices: tuple[str, ...], ticker: Ticker) -> dict[str, Any]:
        from concurrent.futures.process import BrokenProcessPool

        from rag_exp.builders.workers import workers
        from rag_exp.retrieval.embeddings import BLOCK_ROWS, embedding_stats, write_embeddings
        from rag_exp.training.threads import shared_threads

        start, shape = time.perf_counter(), (self.end - self.first, self.encoder.known_dims())
        tasks = [(self, at, min(at + BLOCK_ROWS, self.end)) for at in range(self.first, self.end, BLOCK_ROWS)]
        try:
            with workers(devices, shared_threads(self.trainer.threads, len(devices))) as processes:
                blocks = processes.map(_encode, tasks, ticker.at)
                tokens = write_embeddings(blocks, shape, self.folder, self.encoder.storage, self.first)
                flops = processes.ask(_flops, self, tokens, shape[0])
        except BrokenProcessPool as e:
            raise DataError(
                f"Passages {self.first:,} to {self.end - 1:,} are not embedded: one of the {len(devices)} processes "
                "that shared them died (killed, or out of memory?). Shards before them are kept: run it again, with a "
                "smaller trainer.embedders if memory was short."
            ) from e
        return embedding_stats(shape, tokens, flops, time.perf_counter() - start)


def _encode(seat: Seat, job: EmbedJob, first: int, end: int) -> tuple[np.ndarray, int]:
    """Vectors of passages ``first`` to ``end`` and the tokens read, in a process that shares the work."""
    import numpy as np

    from rag_exp.retrieval.embeddings import encode_block

    counted = 0

    def progress(done: int) -> None:
        nonlocal counted
        seat.count(done - counted)
        counted = done

    made, table = _loaded(seat, job)
    return encode_block(made, table.texts(np.arange(first, end)), first, progress)


def _flops(seat: Seat, job: EmbedJob, tokens: int, texts: int) -> int:
    return _loaded(seat, job)[0].flops(tokens, texts)


def _loaded(seat: Seat, job: EmbedJob) -> tuple[Encoder, PassageTable]:
    """What a process needs for ``job``; it is kept for the next part and the next shard."""
    return _load(job.encoder, job.weights, job.tokenizer, job.passages, seat.device, seat.threads)


@lru_cache(maxsize=1)
def _load(
    options: EncoderOptions, weights: Path, tokenizer: Path | None, passages: Path, device: str, threads: int
) -> tuple[Encoder, PassageTable]:
    import torch

    from rag_exp.data.passages import PassageTable

    torch.set_num_threads(threads)
    return options.load(weights, tokenizer).to(device), PassageTable.open(passages)
