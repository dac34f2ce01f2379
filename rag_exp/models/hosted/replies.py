"""What an endpoint answered, kept on disk under the digest of all that can change the answer.

One small JSON file an answer, written by rename, so that a killed run finds all it has paid for. A file that cannot
be read, or whose content does not match its checksum, is asked again and written anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rag_exp.core.atomic import write_text
from rag_exp.core.fingerprint import digest

FORMAT = 1  # raise it when what is kept of a reply changes


class Replies:
    """The replies under ``folder``; None keeps nothing."""

    def __init__(self, folder: Path | None):
        self.folder = folder

    @staticmethod
    def key(asked: dict[str, Any]) -> str:
        """The name of the reply to ``asked``: who is asked, and what."""
        return digest({"format": FORMAT, "asked": asked})

    def get(self, key: str) -> dict[str, Any] | None:
        """The reply of that name; None where there is none that is whole."""
        if self.folder is None:
            return None
        try:
            kept = json.loads(self._file(key).read_text(encoding="utf-8"))
            reply = kept["reply"]
            return reply if isinstance(reply, dict) and kept["digest"] == digest(reply) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, reply: dict[str, Any]) -> None:
        """Keep a reply of plain JSON values.

        Raises:
            StoreError: the disk is full or not writable.
        """
        if self.folder is not None:
            write_text(self._file(key), json.dumps({"digest": digest(reply), "reply": reply}) + "\n")

    def _file(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.json"
