"""A progress display with rate and time left: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

BAR_EVERY = 0.25  # seconds between redraws of the bar
LINE_EVERY = 15.0  # seconds between lines where there is no terminal


class Ticker:
    """Shows how far a stage is. Calling :meth:`at` costs a clock reading until it is time to draw.

    Args:
        label: what is going on ("reader warm-up").
        total: its number of units.
        show: False draws nothing at all.
        unit: what is counted, in the plural.
        start: units done before (a resumed stage).
    """

    def __init__(self, label: str, total: int, show: bool, unit: str = "steps", start: int = 0):
        self.label, self.total, self.unit, self.start = label, total, unit, start
        self._terminal = sys.stderr.isatty()
        self._show = show
        self._every = BAR_EVERY if self._terminal else LINE_EVERY
        self._began = self._drawn = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Ticker:
        self._began = self._drawn = time.monotonic()
        if self._show and self._terminal:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[status]}"))
            # No thread of its own (auto_refresh): on two cores that costs training time.
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
            self._bar.add_task(self.label, total=self.total, completed=self.start, status="")
            self._bar.start()
            self._draw(self.start, "")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def due(self) -> bool:
        """Whether :meth:`at` would draw now, so that a note that costs something is made only then."""
        return self._show and time.monotonic() - self._drawn >= self._every

    def at(self, done: int, note: str = "") -> None:
        """``done`` units of ``total`` are finished."""
        if self.due():
            self._draw(done, note)

    def status(self, done: int, note: str, seconds: float) -> str:
        """``120/400 steps, 12.3/s, 23 s left, loss 9.41``."""
        rate = (done - self.start) / seconds if seconds > 0 else 0.0
        parts = [f"{done}/{self.total} {self.unit}"]
        if rate > 0:
            parts += [f"{rate:.3g}/s", f"{duration((self.total - done) / rate)} left"]
        return ", ".join([*parts, note] if note else parts)

    def _draw(self, done: int, note: str) -> None:
        self._drawn = time.monotonic()
        status = self.status(done, note, self._drawn - self._began)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, status=status, refresh=True)
        elif self._show:
            print(f"{time.strftime('%H:%M:%S')} {self.label}: {status}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
