"""Vectors that were made elsewhere: an ``.npy`` matrix and the ids of its rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rag_exp.core.errors import DataError

if TYPE_CHECKING:
    import numpy as np

_NAMED = 5  # how many offending ids an error names


class PrecomputedVectors:
    """Rows of ``vectors`` by id; the matrix stays on disk.

    Args:
        vectors: an ``.npy`` file, floats [n, D].
        ids: the id of each row: a text file, one a line, or an ``.npy`` file of strings.
        what: "passage" or "question", for messages.

    Raises:
        DataError: a file is missing or of another shape, or an id comes twice.
    """

    def __init__(self, vectors: str, ids: str, what: str):
        import pyarrow as pa

        self._file, self._what = vectors, what
        self._vectors_ND = matrix(vectors)
        names = read_names(ids)
        if len(names) != len(self._vectors_ND):
            raise DataError(
                f"{ids}: {len(names)} ids for the {len(self._vectors_ND)} rows of {vectors}; each row needs one."
            )
        self._ids = pa.array(names, pa.string())
        if len(self._ids.unique()) < len(self._ids):
            seen: set[str] = set()
            twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise DataError(f"{ids}: the id {twice!r} comes twice.")

    @property
    def dims(self) -> int:
        return int(self._vectors_ND.shape[1])

    def of(self, ids: Sequence[str]) -> np.ndarray:
        """Vectors of ``ids`` in their order, as they are stored.

        Raises:
            DataError: an id has none, or one with NaN or infinity.
        """
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = pc.index_in(pa.array(ids, pa.string()), value_set=self._ids)
        if rows.null_count:
            absent = [id for id, row in zip(ids, rows.to_pylist(), strict=True) if row is None]
            raise DataError(
                f"{self._file}: no vector for {len(absent)} of {len(ids)} {self._what}s, first {named(absent)}. "
                "Passages that are cut here (passages=words) have none: embed what was cut, or use passages=whole."
            )
        found = self._vectors_ND[rows.to_numpy()]
        finite = np.isfinite(found).all(axis=1)
        if not finite.all():
            broken = ids[int(finite.argmin())]
            raise DataError(f"{self._file}: the vector of {self._what} {broken!r} holds NaN or infinity.")
        return found

    def blocks(self, ids: Iterator[Sequence[str]]) -> Iterator[np.ndarray]:
        """Vectors of one batch of ids after the other."""
        for batch in ids:
            yield self.of(batch)


def matrix(file: str) -> np.ndarray:
    """The memory map of an ``.npy`` file of vectors.

    Raises:
        DataError: it is missing, or holds no floats [n, D].
    """
    import numpy as np

    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as e:
        raise DataError(f"{file}: no readable .npy file there ({e}; looked from {Path.cwd()}).") from e
    if found.ndim != 2 or found.dtype.kind != "f":
        raise DataError(f"{file}: floats of shape [rows, dims] are wanted, this holds {found.dtype} {found.shape}.")
    return found


def named(ids: Iterable[str]) -> str:
    """The first few of ``ids``, as an error names them."""
    return ", ".join(map(repr, islice(ids, _NAMED)))


def read_names(file: str) -> list[str]:
    """The ids in a text file, one a line, or in an ``.npy`` file of strings.

    Raises:
        DataError: it is missing or unreadable.
    """
    import numpy as np

    try:
        if file.endswith(".npy"):
            return [str(name) for name in np.load(file, allow_pickle=False)]
        return Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as e:
        raise DataError(f"{file}: no readable ids there ({e}; looked from {Path.cwd()}).") from e
