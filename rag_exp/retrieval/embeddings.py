"""Passage vectors: encoded block by block, and opened from disk without reading them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.core.errors import DataError
from rag_exp.retrieval.encoders import Storage, passage_text
from rag_exp.retrieval.vector_file import VECTORS, GrowingVectors

if TYPE_CHECKING:
    import numpy as np

    from rag_exp.retrieval.encoder import Encoder

BLOCK_ROWS = 2_048  # passages encoded and written at once, or by one process of several


def embed_passages(
    encoder: Encoder,
    passages: Iterable[tuple[str, str]],
    count: int,
    folder: Path,
    progress: Callable[[int], None] | None = None,
    storage: Storage = "float32",
    first_row: int = 0,
) -> dict[str, Any]:
    """Write the vectors of ``passages`` to ``folder/vectors.npy``, [count, D], in their order.

    Memory holds one block of texts and vectors, whatever ``count`` is.

    Args:
        encoder: in whatever mode; it is put back into it.
        passages: (title, text) pairs, exactly ``count`` of them.
        count: how many.
        folder: made if missing.
        progress: called with the number of passages done after each batch.
        storage: numbers that they are written as.
        first_row: what the first of them is called in an error.

    Returns:
        ``passages``, ``dims``, ``tokens``, ``flops``, ``encode_seconds``.

    Raises:
        DataError: more or fewer passages than ``count``, or a vector that is not finite, or beyond ``storage`` (the
            row is named).
    """
    with GrowingVectors(folder, (count, encoder.dims), storage, first_row, resume=False) as out:
        for vectors, tokens in encoded(encoder, passages, first_row, progress):
            out.add(vectors, tokens)
        out.finish(folder)
    return embedding_stats(out.shape, out.tokens, encoder.flops(out.tokens, count), out.seconds)


def encode_block(
    encoder: Encoder,
    passages: Sequence[tuple[str, str]],
    first_row: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, int]:
    """Vectors of ``passages``, float32 [N, D], and the number of tokens read. An error says which passages it met."""
    try:
        return encoder.encode_counted([passage_text(*pair) for pair in passages], "passage", progress)
    except Exception as e:
        last = first_row + len(passages) - 1
        e.add_note(f"while embedding passages {first_row:,} to {last:,}: {type(e).__name__}: {e}")
        raise


def embedding_stats(shape: tuple[int, int], tokens: int, flops: int, seconds: float) -> dict[str, Any]:
    """What is noted of embeddings: ``passages``, ``dims``, ``tokens``, ``flops``, ``encode_seconds``."""
    return {"passages": shape[0], "dims": shape[1], "tokens": tokens, "flops": flops, "encode_seconds": seconds}


def storage_of(blocks: Sequence[np.ndarray]) -> Storage:
    """What holds the numbers of all ``blocks`` in the fewest bytes."""
    return "float16" if blocks and all(block.dtype == "float16" for block in blocks) else "float32"


def encoded(
    encoder: Encoder,
    passages: Iterable[tuple[str, str]],
    first_row: int,
    progress: Callable[[int], None] | None,
) -> Iterator[tuple[np.ndarray, int]]:
    """Vectors and tokens of ``passages``, a block at a time; an error says which it met, the first ``first_row``."""
    left, done = iter(passages), 0
    while block := list(islice(left, BLOCK_ROWS)):
        more = None if progress is None else lambda count, before=done: progress(before + count)
        yield encode_block(encoder, block, first_row + done, more)
        done += len(block)


def load_blocks(folders: Sequence[Path], size: int) -> list[np.ndarray]:
    """The first ``size`` vectors of consecutive shards, memory-mapped read-only: one array per shard touched.

    Raises:
        DataError: a shard is missing or unreadable, or all of them hold fewer than ``size`` vectors.
    """
    import numpy as np

    blocks: list[np.ndarray] = []
    left = size
    for folder in folders:
        if left <= 0:
            break
        try:
            shard = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as e:
            raise DataError(f"{folder}: no readable embeddings there ({e}).") from e
        blocks.append(shard[:left])
        left -= len(blocks[-1])
    if left > 0:
        raise DataError(f"These embeddings hold {size - left} passages, {size} are wanted.")
    return blocks


def take_vectors(blocks: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Vectors of ``rows`` (any shape; ids run on over the blocks), float32 [*rows.shape, D]; zeros where negative."""
    import numpy as np

    flat = np.asarray(rows, dtype=np.int64).reshape(-1)
    ends = np.cumsum([len(b) for b in blocks])
    if flat.size and flat.max() >= ends[-1]:
        raise IndexError(f"row {flat.max()} of {ends[-1]} vectors")
    out = np.zeros((len(flat), blocks[0].shape[1]), np.float32)
    block_of = np.searchsorted(ends, flat, side="right")
    for n, block in enumerate(blocks):
        here = np.flatnonzero((block_of == n) & (flat >= 0))
        if len(here):
            out[here] = block[flat[here] - (ends[n] - len(block))]
    return out.reshape(*np.shape(rows), -1)
