"""Inverted lists that lie on disk: built in parts that fit into memory, merged into one file, searched where they lie.

The parts, and the merged lists until the index is saved, are in a temporary folder (of ``TMPDIR``: one in memory would
defeat the purpose). What is found is what lists in memory find.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.core.scratch import ScratchFolder

if TYPE_CHECKING:
    import numpy as np

FILE = "index.ivfdata"
PART_BYTES = 1 << 28  # codes and ids that are held in memory before they are written as a part


class DiskLists:
    """The lists of one index in a file of their own, kept for as long as this object lives."""

    def __init__(self) -> None:
        self._home = ScratchFolder("lists")
        self._folder = Path(self._home.name)
        self.file = self._folder / FILE

    def fill(self, native: Any, blocks: Iterable[np.ndarray]) -> None:
        """Add ``blocks`` to a trained, empty index with inverted lists; its lists are then those of :attr:`file`.

        Raises:
            OSError: the disk is full.
        """
        import faiss
        import numpy as np

        lists = faiss.extract_index_ivf(native)
        assert lists.ntotal == 0, "lists on disk are filled once"
        _replace(lists, faiss.ArrayInvertedLists(lists.nlist, lists.code_size))
        row_bytes, parts, row = lists.code_size + 8, [], 0
        for block in blocks:
            native.add_with_ids(block, np.arange(row, row + len(block)))
            row += len(block)
            if lists.ntotal * row_bytes >= PART_BYTES:
                parts.append(self._part(native, len(parts)))
        parts.append(self._part(native, len(parts)))
        self._merge(native, lists, parts)

    def keep(self, folder: Path) -> None:
        """Put the file into ``folder`` too: as the same file where the disk is the same, else a copy."""
        target = folder / FILE
        target.unlink(missing_ok=True)
        try:
            os.link(self.file, target)
        except OSError:
            shutil.copyfile(self.file, target)

    def _part(self, native: Any, number: int) -> Path:
        import faiss

        file = self._folder / f"part-{number}.faiss"
        faiss.write_index(native, str(file))
        native.reset()
        return file

    def _merge(self, native: Any, lists: Any, files: list[Path]) -> None:
        import faiss

        needed, free = sum(file.stat().st_size for file in files), shutil.disk_usage(self._folder).free
        if needed > free:  # the file is written through a memory map, where a full disk would kill the process
            raise OSError(errno.ENOSPC, f"lists of {needed:,} bytes do not fit into {free:,}", str(self._folder))
        parts = [faiss.read_index(str(file), faiss.IO_FLAG_MMAP) for file in files]
        images = faiss.InvertedListsPtrVector()
        for part in parts:
            images.push_back(faiss.extract_index_ivf(part).invlists)
        merged = faiss.OnDiskInvertedLists(lists.nlist, lists.code_size, str(self.file))
        with _silence():
            total = merged.merge_from_multiple(images.data(), images.size())
        _replace(lists, merged)
        native.ntotal = lists.ntotal = total
        calm(native)
        del parts
        for file in files:
            file.unlink()


def calm(native: Any) -> None:
    """Let a search read lists on disk by itself: faiss starts 32 threads for that, in every search."""
    import faiss

    lists = faiss.try_extract_index_ivf(native)
    found = None if lists is None else faiss.downcast_InvertedLists(lists.invlists)
    if isinstance(found, faiss.OnDiskInvertedLists):
        found.prefetch_nthread = 0


def has_lists_beside(file: Path) -> bool:
    """Whether the lists of the index in ``file`` are in a file of their own."""
    return file.with_name(FILE).exists()


def read_where_it_lies(file: Path) -> Any:
    """The index in ``file``, its lists left on disk, whether they are in this file or in one beside it."""
    import faiss

    beside = faiss.IO_FLAG_ONDISK_SAME_DIR | faiss.IO_FLAG_READ_ONLY
    flags = beside if has_lists_beside(file) else faiss.IO_FLAG_MMAP
    with _silence():
        native = faiss.read_index(str(file), flags)
    calm(native)
    return native


@contextmanager
def _silence() -> Iterator[None]:
    """Keep from standard output what faiss prints there about its files."""
    libc = ctypes.CDLL(None)
    libc.fflush(None)
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        libc.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _replace(lists: Any, inverted: Any) -> None:
    lists.replace_invlists(inverted, True)
    inverted.this.disown()
