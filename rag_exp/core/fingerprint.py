"""Canonical config -> digest. Equal meaning gives an equal digest, on every machine and Python.

Files and folders enter by content. Reading a large corpus only to name it is slow, so content
digests are cached by (path, size, mtime) in a small JSON file that may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rag_exp.core.errors import DataError

DIGEST_CHARS = 32  # 128 bits of BLAKE2b: collisions are out of the question, names stay readable
_CHUNK = 1 << 20


def canonical(value: Any) -> str:
    """``value`` as canonical JSON: sorted keys, no spaces, floats by shortest repr, integral floats as such.

    Raises:
        TypeError: for anything that is not None, bool, int, float, str, list, tuple or dict with string keys.
        ValueError: for NaN and infinities, which are equal to nothing and so can identify nothing.
    """
    return json.dumps(_check(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _check(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be part of an identity")
        return value
    if isinstance(value, (list, tuple)):
        return [_check(v) for v in value]
    if isinstance(value, dict):
        if not all(isinstance(k, str) for k in value):
            raise TypeError("identity keys must be strings")
        return {k: _check(v) for k, v in value.items()}
    raise TypeError(f"{type(value).__name__} cannot be part of an identity: {value!r}")


def digest(value: Any) -> str:
    """Hex digest of :func:`canonical` ``(value)``."""
    return hashlib.blake2b(canonical(value).encode(), digest_size=DIGEST_CHARS // 2).hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """Hex digest of a file's bytes, read in chunks."""
    h = hashlib.blake2b(digest_size=DIGEST_CHARS // 2)
    with open(path, "rb") as f:
        while chunk := f.read(_CHUNK):
            h.update(chunk)
    return h.hexdigest()


class ContentDigests:
    """Content digests of files and folders, cached by (path, size, mtime in ns).

    Args:
        cache: the cache file, or None to cache in this process only.
    """

    def __init__(self, cache: Path | None = None):
        self._cache_path = cache
        self._known: dict[str, list[Any]] = {}
        self._dirty = False
        if cache is not None:
            try:
                known = json.loads(cache.read_text())
                self._known = known if isinstance(known, dict) else {}
            except (OSError, ValueError):
                pass  # a cache: absent or damaged means only that digests are computed again

    def of(self, path: str | os.PathLike[str], patterns: Iterable[str] = ("**/*",)) -> str:
        """Digest of a file's content, or of a folder's files (relative names and contents, sorted).

        Args:
            path: file or folder.
            patterns: for a folder, the globs whose files count.

        Raises:
            DataError: the path is missing, or a file cannot be read (it is named).
        """
        path = Path(path)
        try:
            found = self._of(path, patterns)
        except OSError as e:
            raise DataError(f"{e.filename or path}: cannot be read ({e.strerror}).") from e
        self.save()
        return found

    def _of(self, path: Path, patterns: Iterable[str]) -> str:
        if path.is_file():
            return self._file(path.resolve())
        if path.is_dir():
            path = path.resolve()  # once, not for each file
            files = sorted({f for p in patterns for f in path.glob(p) if f.is_file() and "__pycache__" not in f.parts})
            return digest([[f.relative_to(path).as_posix(), self._file(f)] for f in files])
        raise DataError(f"{path}: no such file or folder. Check the path (it is relative to {Path.cwd()}).")

    def _file(self, path: Path) -> str:
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        name = str(path)
        known = self._known.get(name)
        if known is not None and known[:2] == stamp:
            return str(known[2])
        found = file_digest(path)
        self._known[name] = [*stamp, found]
        self._dirty = True
        return found

    def save(self) -> None:
        """Write the cache by rename. Failing to write it is not an error: it only saves time."""
        if self._cache_path is None or not self._dirty:
            return
        try:
            self._cache_path.parent.mkdir(parents=True, exist_ok=True)
            fd, temporary = tempfile.mkstemp(dir=self._cache_path.parent, prefix=".digests-")
            with os.fdopen(fd, "w") as f:
                json.dump(self._known, f)
            os.replace(temporary, self._cache_path)
            self._dirty = False
        except OSError:
            pass
