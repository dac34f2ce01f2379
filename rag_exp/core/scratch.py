"""Folders for work in progress, under the system's temporary folder (``TMPDIR``).

A process removes its own when it ends. What a killed one left, which can be as large as an index, is removed when
another process makes its first: every folder holds a lock that its owner keeps, and that the system takes back from the
dead, whatever their machine's or container's numbers for processes are.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from functools import cache
from pathlib import Path

_PREFIX, _LOCK = "rag-exp-", ".lock"
_YOUNG = 60.0  # seconds within which a folder may not be locked yet


class ScratchFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder that lives as long as this object.

    Args:
        what: it is for, as a part of its name.
    """

    def __init__(self, what: str):
        from filelock import FileLock

        _sweep_once(tempfile.gettempdir())
        super().__init__(prefix=f"{_PREFIX}{what}-")
        self._lock = FileLock(Path(self.name) / _LOCK)
        self._lock.acquire()


@cache
def _sweep_once(place: str) -> None:
    sweep(Path(place))


def sweep(place: Path) -> list[Path]:
    """Remove the folders in ``place`` whose owners are dead.

    Returns:
        what was removed.
    """
    from filelock import FileLock, Timeout

    gone = []
    for file in place.glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            if time.time() - file.stat().st_mtime < _YOUNG:
                continue
            with FileLock(file, timeout=0):
                shutil.rmtree(file.parent, ignore_errors=True)
                gone.append(file.parent)
        except (Timeout, OSError):  # its owner lives, or it is another user's
            continue
    return gone
