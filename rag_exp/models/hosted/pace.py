"""Keeping to an endpoint's limits: requests and tokens per minute, over all threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pace:
    """Spaces requests evenly, so that no minute holds more of them, or more tokens, than is allowed.

    Args:
        requests_per_minute, tokens_per_minute: the limits; None: none.
        clock, sleep: seconds that pass, and how to let them.
    """

    def __init__(
        self, requests_per_minute: float | None, tokens_per_minute: float | None,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
    ):  # fmt: skip
        self._requests, self._tokens = requests_per_minute, tokens_per_minute
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._free = clock()  # when the next request may be sent

    def wait(self, tokens: int) -> None:
        """Return when a request of so many tokens (prompt and answer) may be sent."""
        takes = 60.0 / self._requests if self._requests else 0.0
        if self._tokens:
            takes = max(takes, 60.0 * tokens / self._tokens)
        with self._lock:
            now = self._clock()
            at = max(now, self._free)
            self._free = at + takes
        if at > now:
            self._sleep(at - now)

    def hold(self, seconds: float) -> None:
        """Send nothing for so long: the endpoint said so."""
        with self._lock:
            self._free = max(self._free, self._clock() + seconds)
