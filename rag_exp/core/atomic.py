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
    with disk_errors(path):
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
    """Turn a full or unwritable disk into a :class:`StoreError` that says where and what to do."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"The disk that holds {where} is full. Nothing half-written is kept and finished work is safe: "
                "free some space (`rag-exp store gc` frees what no record needs) and issue the command again."
            ) from e
        if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StoreError(
                f"{where} cannot be written ({e.strerror}). Choose another place with paths.root=DIR."
            ) from e
        raise
