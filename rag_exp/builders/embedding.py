"""Vectors of passages: a job that any process can do which sees the store."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.builders.parents import SHARD_ROWS, encoder_folder, on_device, passage_table, run_on, tokenizer_folder
from rag_exp.core.store import Build

if TYPE_CHECKING:
    from rag_exp.config import RunConfig
    from rag_exp.data.passages import PassageTable
    from rag_exp.retrieval.encoders import EncoderOptions
    from rag_exp.training.options import TrainerOptions

_READ_ROWS = 8_192


def embeddings(config: RunConfig, shard: int, build: Build) -> None:
    size = len(passage_table(build))
    if config.encoder.precomputed:
        build.stats |= _looked_up(config, passage_table(build), shard * SHARD_ROWS, build.folder)
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
        trainer=config.trainer,
    )
    build.stats |= run_on(config.retrieval.on_ray, job)


def _looked_up(config: RunConfig, table: PassageTable, first: int, folder: Path) -> dict[str, Any]:
    """Write the vectors of a shard that were made elsewhere."""
    import numpy as np

    from rag_exp.retrieval.embeddings import write_vectors
    from rag_exp.retrieval.exact import as_vectors
    from rag_exp.retrieval.precomputed import PrecomputedVectors

    start = time.perf_counter()
    known = PrecomputedVectors(config.encoder.passages, config.encoder.passage_ids, "passage")
    end = min(first + SHARD_ROWS, len(table))
    starts = range(first, end, _READ_ROWS)
    ids = (table.ids(np.arange(at, min(at + _READ_ROWS, end))) for at in starts)
    vectors = (as_vectors(block, first_row=at) for at, block in zip(starts, known.blocks(ids), strict=True))
    write_vectors(folder / "vectors.npy", (end - first, known.dims), vectors, config.encoder.storage)
    seconds = time.perf_counter() - start
    return {"passages": end - first, "dims": known.dims, "tokens": 0, "flops": 0, "encode_seconds": seconds}


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
        """Write them; what it took."""
        import numpy as np

        from rag_exp.data.passages import PassageTable
        from rag_exp.retrieval.embeddings import embed_passages
        from rag_exp.training.progress import Ticker

        table = PassageTable.open(self.passages)
        starts = range(self.first, self.end, _READ_ROWS)
        texts = (pair for at in starts for pair in table.texts(np.arange(at, min(at + _READ_ROWS, self.end))))
        count, label = self.end - self.first, f"embedding from passage {self.first:,}"
        with (
            on_device(self.trainer, self.encoder.load(self.weights, self.tokenizer)) as made,
            Ticker(label, count, self.trainer.progress, "passages") as ticker,
        ):
            return embed_passages(made, texts, count, self.folder, ticker.at, self.encoder.storage)
