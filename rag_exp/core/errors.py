"""The errors a user can meet. A message says what is wrong, where, and how to mend it.

Errors are for users' mistakes and the world's failures; ``assert`` is for our own invariants.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class RagExpError(Exception):
    """Base of every error that rag_exp raises on purpose. The CLI prints it without a traceback."""


class ConfigError(RagExpError):
    """The configuration is wrong. Holds every problem found, not only the first.

    Args:
        problems: one finished sentence per problem, each starting with the full config path.
    """

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        count = len(self.problems)
        head = "1 problem in the configuration" if count == 1 else f"{count} problems in the configuration"
        super().__init__(head + ":\n" + "\n".join(f"  - {p}" for p in self.problems))

    def __reduce__(self) -> tuple[Any, ...]:  # by which it comes whole out of another process
        return type(self), (self.problems,), self.__dict__


class DataError(RagExpError):
    """Input data is missing, malformed or inconsistent (file, line and reason in the message)."""


class StoreError(RagExpError):
    """The artifact store cannot be read or written (disk full, permissions, damaged beyond rebuilding)."""


class TrainingError(RagExpError):
    """Training cannot go on (a NaN loss, say). What was computed before is kept."""


class EndpointError(RagExpError):
    """A hosted generator's endpoint cannot be asked, refuses, or answers with what cannot be read.

    Args:
        message: what is wrong and how to mend it.
        status: of its HTTP reply; None where there is none.
        field: the option of the generator that it is about, where that is known.
    """

    def __init__(self, message: str, status: int | None = None, field: str | None = None):
        super().__init__(message)
        self.status, self.field = status, field


class LawError(RagExpError):
    """A law cannot be fitted to these data (too few levels, bad losses, no convergence)."""


def did_you_mean(name: str, known: Iterable[str], n: int = 3) -> str:
    """Return ``" Did you mean 'x' or 'y'?"``, or ``""`` where nothing in ``known`` is close to ``name``."""
    close = difflib.get_close_matches(name, sorted(known), n=n, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
