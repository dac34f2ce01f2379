"""``.npy`` files of vectors, written block by block: at once, or going on after a kill where they were whole."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from rag_exp.core.atomic import write_json
from rag_exp.core.errors import DataError
from rag_exp.retrieval.encoders import Storage

if TYPE_CHECKING:
    import numpy as np

VECTORS = "vectors.npy"
_MARK = "written.json"
MARK_EVERY = 5.0  # seconds between marks, which wait for the disk


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
    row = first_row
    with open(file, "wb") as out:
        header(out, shape, storage)
        for block in blocks:
            out.write(stored(block, storage, row).data)
            row += len(block)


def header(out: BinaryIO, shape: tuple[int, int], storage: Storage) -> int:
    """Write what an ``.npy`` file of vectors begins with.

    Returns:
        bytes of one row.
    """
    import numpy as np

    number = np.dtype(storage).newbyteorder("<")
    np.lib.format.write_array_header_1_0(out, {"descr": number.str, "fortran_order": False, "shape": shape})
    return number.itemsize * shape[1]


def stored(block: np.ndarray, storage: Storage, row: int) -> np.ndarray:
    """``block`` as it is written; its first vector is called ``row`` in an error.

    Raises:
        DataError: a number is too large for float16.
    """
    import numpy as np

    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(block, np.dtype(storage).newbyteorder("<"))
    if storage == "float16" and not (finite := np.isfinite(found).all(axis=1)).all():
        raise DataError(
            f"encoder.storage: float16 ends at 65,504, and the vector of passage {row + int(finite.argmin())} "
            "goes beyond: use float32, or an encoder of unit vectors."
        )
    return found


class GrowingVectors:
    """Vectors in the making.

    Args:
        folder: holds the file and, beside it, a mark of how far it is whole. It outlives a kill.
        shape: rows and dimensions in the end.
        storage: numbers that they are written as.
        first_row: what the first of them is called in an error.
        resume: False: nothing that is there is gone on with, and no marks are made.

    Attributes:
        rows: that are written, by this process or by one before it.
        tokens: that were read for them.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], storage: Storage, first_row: int = 0, resume: bool = True):
        folder.mkdir(parents=True, exist_ok=True)
        self.shape, self._storage, self._first, self._resume = shape, storage, first_row, resume
        self._folder, self._file = folder, folder / VECTORS
        head = io.BytesIO()
        width = header(head, shape, storage)
        mark = self._marked(len(head.getvalue()), width)
        self.rows, self.tokens, self._before = mark["rows"], mark["tokens"], mark["seconds"]
        self._start = self._synced = time.monotonic()
        self._out = open(self._file, "r+b" if self.rows else "wb")  # noqa: SIM115 (closed by __exit__)
        if not self.rows:
            (folder / _MARK).unlink(missing_ok=True)  # or it would be believed once the file is as long again
            self._out.write(head.getvalue())
        self._out.seek(len(head.getvalue()) + self.rows * width)
        self._out.truncate()

    @property
    def seconds(self) -> float:
        """That it took so far, of all processes."""
        return self._before + time.monotonic() - self._start

    def add(self, vectors: np.ndarray, tokens: int) -> None:
        """Write the next vectors, float [n, D], for which ``tokens`` were read.

        Raises:
            DataError: more than were announced, or one that is not finite or beyond ``storage`` (its row is named).
        """
        from rag_exp.retrieval.exact import as_vectors

        assert vectors.shape[1] == self.shape[1]
        row = self._first + self.rows
        if self.rows + len(vectors) > self.shape[0]:
            raise DataError(f"{self._folder}: more passages than the {self.shape[0]} that were announced.")
        self._out.write(stored(as_vectors(vectors, first_row=row), self._storage, row).data)
        self.rows, self.tokens = self.rows + len(vectors), self.tokens + tokens
        if self._resume and time.monotonic() - self._synced >= MARK_EVERY:
            self._mark()

    def finish(self, folder: Path) -> None:
        """Move the whole file to ``folder``.

        Raises:
            DataError: fewer rows than were announced.
        """
        if self.rows != self.shape[0]:
            raise DataError(f"{self._folder}: {self.rows} passages came, {self.shape[0]} were announced.")
        self._out.close()
        folder.mkdir(parents=True, exist_ok=True)
        (self._folder / _MARK).unlink(missing_ok=True)
        os.replace(self._file, folder / VECTORS)

    def __enter__(self) -> GrowingVectors:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.close()

    def _mark(self) -> None:
        self._out.flush()
        os.fsync(self._out.fileno())  # rows before their mark
        facts = {"rows": self.rows, "tokens": self.tokens, "seconds": self.seconds}
        write_json(self._folder / _MARK, {**facts, "shape": list(self.shape), "storage": self._storage})
        self._synced = time.monotonic()

    def _marked(self, start: int, width: int) -> dict[str, Any]:
        """What the mark says, where it is of this file and the file holds as much; nothing else is believed."""
        none = {"rows": 0, "tokens": 0, "seconds": 0.0}
        if not self._resume:
            return none
        try:
            mark = json.loads((self._folder / _MARK).read_text(encoding="utf-8"))
            same = (mark["shape"], mark["storage"]) == (list(self.shape), self._storage)
            whole = self._file.stat().st_size >= start + mark["rows"] * width
            return mark if same and whole else none
        except (OSError, ValueError, KeyError, TypeError):
            return none
