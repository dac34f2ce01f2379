"""Passage vectors on disk: written block by block, opened without reading them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.core.errors import DataError
from rag_exp.retrieval.encoders import Storage, passage_text

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
    start = time.perf_counter()
    blocks = _encoded(encoder, passages, first_row, progress)
    tokens = write_embeddings(blocks, (count, encoder.dims), folder, storage, first_row)
    flops = encoder.flops(tokens, count)
    return embedding_stats((count, encoder.dims), tokens, flops, time.perf_counter() - start)


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


def write_embeddings(
    blocks: Iterable[tuple[np.ndarray, int]], shape: tuple[int, int], folder: Path, storage: Storage, first_row: int
) -> int:
    """Write encoded ``blocks``, in their order, to ``folder/vectors.npy``, [rows, D] as ``shape`` says.

    Returns:
        the tokens of all of them.

    Raises:
        DataError: as :func:`embed_passages`.
    """
    from rag_exp.retrieval.exact import as_vectors

    count, done, tokens = shape[0], 0, 0

    def finite() -> Iterator[np.ndarray]:
        nonlocal done, tokens
        for vectors, read in blocks:
            if done + len(vectors) > count:
                raise DataError(f"{folder}: more passages than the {count} that were announced.")
            yield as_vectors(vectors, first_row=first_row + done)
            done, tokens = done + len(vectors), tokens + read

    folder.mkdir(parents=True, exist_ok=True)
    write_vectors(folder / "vectors.npy", shape, finite(), storage, first_row)
    if done != count:
        raise DataError(f"{folder}: {done} passages came, {count} were announced.")
    return tokens


def embedding_stats(shape: tuple[int, int], tokens: int, flops: int, seconds: float) -> dict[str, Any]:
    """What is noted of embeddings: ``passages``, ``dims``, ``tokens``, ``flops``, ``encode_seconds``."""
    return {"passages": shape[0], "dims": shape[1], "tokens": tokens, "flops": flops, "encode_seconds": seconds}


def write_vectors(
    file: Path,
    shape: tuple[int, int],
    blocks: Iterable[np.ndarray],
    storage: Storage = "float32",
    first_row: int = 0,
) -> None:
    """Write ``blocks`` one after the other as one ``.npy`` file, [rows, D] as ``shape`` says.

    Plain writes, because a full disk raises ``OSError`` from them; under a memory map it kills the process (SIGBUS).

    Raises:
        DataError: a number is too large for float16 (its row is named, the first one ``first_row``).
    """
    import numpy as np

    number, row = np.dtype(storage).newbyteorder("<"), first_row
    with open(file, "wb") as out:
        np.lib.format.write_array_header_1_0(out, {"descr": number.str, "fortran_order": False, "shape": shape})
        for block in blocks:
            with np.errstate(over="ignore"):
                stored = np.ascontiguousarray(block, number)
            if storage == "float16" and not (finite := np.isfinite(stored).all(axis=1)).all():
                raise DataError(
                    f"encoder.storage: float16 ends at 65,504, and the vector of passage {row + int(finite.argmin())} "
                    "goes beyond: use float32, or an encoder of unit vectors."
                )
            out.write(stored.data)
            row += len(stored)


def storage_of(blocks: Sequence[np.ndarray]) -> Storage:
    """What holds the numbers of all ``blocks`` in the fewest bytes."""
    return "float16" if blocks and all(block.dtype == "float16" for block in blocks) else "float32"


def _encoded(
    encoder: Encoder,
    passages: Iterable[tuple[str, str]],
    first_row: int,
    progress: Callable[[int], None] | None,
) -> Iterator[tuple[np.ndarray, int]]:
    """Vectors and tokens of ``passages``, a block at a time."""
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
            shard = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
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
