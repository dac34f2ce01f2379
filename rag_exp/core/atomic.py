"""Writing a file so that a reader sees all of it or none of it."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rag_exp.core.errors import StoreError


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` by a temporary file beside it, synced, then renamed over it."""
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as f:
                f.write(text)
                f.flush()
                os.fsync(f.fileno())
            os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide shared records from colleagues
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NaN and infinity are refused (``ValueError``)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn a full disk, or a refused access to ``where``, into a :class:`StoreError` that says where and what to do.

    Args:
        where: the folder that is written. Access refused elsewhere (an input file, say) is no fault of it and passes.
    """
    try:
        yield
    except Exception as e:
        if _is_full(e):
            raise StoreError(
                f"The disk that holds {where} is full. Nothing half-written is kept and finished work is safe: "
                "free some space (`rag-exp store gc` frees what no record needs) and issue the command again."
            ) from e
        if _is_refused(e, where):
            raise StoreError(f"{where} cannot be written ({e}). Choose another place with paths.root=DIR.") from e
        raise


def _is_full(e: Exception) -> bool:
    """Whether a full disk is behind ``e``. Native code (safetensors, faiss) tells it only in its message."""
    if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(e) for words in ("No space left on device", "os error 28"))


def _is_refused(e: Exception, where: Path) -> bool:
    """Whether ``e`` is an access refused to ``where``, to what is below it, or to a folder above it (not made yet)."""
    if not isinstance(e, OSError) or e.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
        return False
    if not isinstance(e.filename, (str, os.PathLike)):
        return False
    file, folder = Path(e.filename).absolute(), where.absolute()
    return file.is_relative_to(folder) or folder.is_relative_to(file)
