"""Vectors of passages: a job that any process can do which sees the store."""

from __future__ import annotations

import time
from contextlib import contextmanager
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
    from collections.abc import Callable, Iterator

    import numpy as np

    from rag_exp.builders.workers import Seat
    from rag_exp.config import RunConfig
    from rag_exp.data.passages import PassageTable
    from rag_exp.retrieval.encoder import Encoder
    from rag_exp.retrieval.encoders import EncoderOptions
    from rag_exp.retrieval.vector_file import GrowingVectors
    from rag_exp.training.options import TrainerOptions

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
        partial=build.partial.resolve(),
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

    from rag_exp.retrieval.embeddings import embedding_stats
    from rag_exp.retrieval.exact import as_vectors
    from rag_exp.retrieval.precomputed import PrecomputedVectors
    from rag_exp.retrieval.vector_file import VECTORS, write_vectors

    start = time.perf_counter()
    known = PrecomputedVectors(config.encoder.passages, config.encoder.passage_ids, "passage")
    end = min(first + SHARD_ROWS, len(table))
    starts = range(first, end, _READ_ROWS)
    ids = (table.ids(np.arange(at, min(at + _READ_ROWS, end))) for at in starts)
    vectors = (as_vectors(block, first_row=at) for at, block in zip(starts, known.blocks(ids), strict=True))
    shape = (end - first, known.dims)
    write_vectors(folder / VECTORS, shape, vectors, config.encoder.storage, first)
    return embedding_stats(shape, tokens=0, flops=0, seconds=time.perf_counter() - start)


def _moved(config: RunConfig, known: Callable[[int], Step], first: int, build: Build) -> dict[str, Any]:
    """Write the vectors of a shard that are there in hash order.

    Tokens and operations are noted as if they were spent here, as they would be of average passages.
    """
    import numpy as np

    from rag_exp.data.passages import PassageTable
    from rag_exp.retrieval.embeddings import embedding_stats, take_vectors
    from rag_exp.retrieval.vector_file import VECTORS, write_vectors

    table, by_hash = passage_table(build), PassageTable.open(build.ensure(known(0).parents["passages"]).path)
    blocks, made = vector_blocks(config, build, known, len(table))
    start, end = time.perf_counter(), min(first + SHARD_ROWS, len(table))
    ranges = (np.arange(at, min(at + _READ_ROWS, end)) for at in range(first, end, _READ_ROWS))
    vectors = (take_vectors(blocks, table.rows_in(by_hash, rows)) for rows in ranges)
    shape = (end - first, blocks[0].shape[1])
    write_vectors(build.folder / VECTORS, shape, vectors, config.encoder.storage, first)
    tokens, flops = (round(sum(a.stats[name] for a in made) * shape[0] / len(table)) for name in ("tokens", "flops"))
    return embedding_stats(shape, tokens, flops, time.perf_counter() - start)


@dataclass(frozen=True)
class EmbedJob:
    """The vectors of passages ``first`` to ``end``, written into ``folder``.

    Attributes:
        encoder, weights, tokenizer: the encoder's options and what it is loaded from.
        passages: of a :class:`~rag_exp.data.passages.PassageTable`.
        partial: where they are in the making: what a killed process left there is gone on with.
        trainer: device and threads, as they are where the job is done.
    """

    encoder: EncoderOptions
    weights: Path
    tokenizer: Path | None
    passages: Path
    first: int
    end: int
    folder: Path
    partial: Path
    trainer: TrainerOptions

    def build(self) -> dict[str, Any]:
        """Write them; what it took.

        However many processes share the work, they read the same batches: with as many threads each the vectors are
        the same bits, and otherwise the same up to rounding.

        Raises:
            DataError: a vector is not finite (its passage is named), or a process that shared the work died.
        """
        devices = self.trainer.embedding_devices()
        return self._alone() if len(devices) == 1 else self._shared(devices)

    def _alone(self) -> dict[str, Any]:
        import numpy as np

        from rag_exp.data.passages import PassageTable
        from rag_exp.retrieval.embeddings import encoded

        table = PassageTable.open(self.passages)
        with (
            on_device(self.trainer, self.encoder.load(self.weights, self.tokenizer)) as made,
            self._growing(made.dims) as (out, progress),
        ):
            first = self.first + out.rows
            starts = range(first, self.end, _READ_ROWS)
            texts = (pair for at in starts for pair in table.texts(np.arange(at, min(at + _READ_ROWS, self.end))))
            for vectors, tokens in encoded(made, texts, first, progress):
                out.add(vectors, tokens)
            return self._finished(out, made.flops(out.tokens, out.rows))

    def _shared(self, devices: tuple[str, ...]) -> dict[str, Any]:
        from concurrent.futures.process import BrokenProcessPool

        from rag_exp.builders.workers import workers
        from rag_exp.retrieval.embeddings import BLOCK_ROWS
        from rag_exp.training.threads import shared_threads

        try:
            with (
                self._growing(self.encoder.known_dims(), len(devices)) as (out, progress),
                workers(devices, shared_threads(self.trainer.threads, len(devices))) as processes,
            ):
                first = self.first + out.rows
                tasks = [(self, at, min(at + BLOCK_ROWS, self.end)) for at in range(first, self.end, BLOCK_ROWS)]
                for vectors, tokens in processes.map(_encode, tasks, progress):
                    out.add(vectors, tokens)
                return self._finished(out, processes.ask(_flops, self, out.tokens, out.rows))
        except BrokenProcessPool as e:
            raise DataError(
                f"Passages {self.first:,} to {self.end - 1:,} are not all embedded: one of the {len(devices)} "
                "processes that shared them died (killed, or out of memory?). What was whole is kept: run it again, "
                "with a smaller trainer.embedders if memory was short."
            ) from e

    @contextmanager
    def _growing(self, dims: int, processes: int = 1) -> Iterator[tuple[GrowingVectors, Callable[[int], None]]]:
        """The vectors in the making, and what is to be told how many passages this process has done."""
        from rag_exp.retrieval.vector_file import GrowingVectors
        from rag_exp.training.progress import Ticker

        count = self.end - self.first
        label = f"embedding from passage {self.first:,}" + (f" by {processes}" if processes > 1 else "")
        with (
            GrowingVectors(self.partial, (count, dims), self.encoder.storage, self.first) as out,
            Ticker(label, count, self.trainer.progress, "passages", start=out.rows) as ticker,
        ):
            before = out.rows
            yield out, lambda done: ticker.at(before + done)

    def _finished(self, out: GrowingVectors, flops: int) -> dict[str, Any]:
        from rag_exp.retrieval.embeddings import embedding_stats

        out.finish(self.folder)
        return embedding_stats(out.shape, out.tokens, flops, out.seconds)


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
