"""Processes that work side by side on one machine, each with its device and its part of the threads.

They are spawned, since a fork would copy locks that threads of this process hold, and so a script that starts them must
keep what it does behind ``if __name__ == "__main__"``. They end with the scope that they were opened in, or with this
process, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.sharedctypes import Synchronized

_AHEAD = 4  # tasks of each process that may wait, or be done before an earlier one is
_LOOK = 0.25  # seconds between looks at how far they are


@dataclass(frozen=True)
class Seat:
    """A process's own place.

    Attributes:
        device, threads: what torch is to use.
        done: units that all processes have done since they were started.
    """

    device: str
    threads: int
    done: Synchronized

    def count(self, units: int) -> None:
        """So many units more are done."""
        with self.done.get_lock():
            self.done.value += units


class Workers:
    """Processes, started as there are tasks for them.

    Args:
        devices: the torch device of each.
        threads: of each.
    """

    def __init__(self, devices: Sequence[str], threads: int):
        spawned = multiprocessing.get_context("spawn")
        seats, self._done = spawned.SimpleQueue(), spawned.Value("q", 0)
        for device in devices:
            seats.put(device)
        # Whoever waits for the other end of this pipe ends when this one is closed, by a kill too.
        ends, self._lifeline = spawned.Pipe(duplex=False)
        self._ahead = _AHEAD * len(devices)
        self._pool = ProcessPoolExecutor(
            len(devices), spawned, initializer=_sit_down, initargs=(seats, self._done, ends, threads)
        )

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._lifeline.close()  # what they are at is not waited for
        self._pool.shutdown(cancel_futures=True)
        self._lifeline.close()

    def map(
        self, work: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], progress: Callable[[int], None]
    ) -> Iterator[Any]:
        """What ``work(seat, *task)`` returns of each task, in their order.

        Args:
            work: a function of a module, as every process finds it.
            tasks: what can be pickled.
            progress: called a few times a second with the units that were counted (:meth:`Seat.count`).

        Raises:
            BrokenProcessPool: a process died.
            Exception: whatever the work raises, with its own traceback in that of the process.
        """
        before = self._done.value
        waiting: deque[Future[Any]] = deque()

        def first() -> Any:
            future = waiting.popleft()
            while not wait([future], timeout=_LOOK).done:
                progress(self._done.value - before)
            return future.result()

        for task in tasks:
            waiting.append(self._pool.submit(_at_work, work, task))
            if len(waiting) > self._ahead:
                yield first()
        while waiting:
            yield first()

    def ask(self, work: Callable[..., Any], *task: Any) -> Any:
        """What ``work(seat, *task)`` returns of one of the processes."""
        return self._pool.submit(_at_work, work, task).result()


_kept: ContextVar[tuple[ExitStack, dict[Any, Workers]] | None] = ContextVar("_kept", default=None)


@contextmanager
def workers_kept() -> Iterator[None]:
    """Inside, workers that one asks for are kept for the next who asks for the same."""
    with ExitStack() as stack:
        token = _kept.set((stack, {}))
        try:
            yield
        finally:
            _kept.reset(token)


@contextmanager
def workers(devices: tuple[str, ...], threads: int) -> Iterator[Workers]:
    """Workers, ended afterwards where they are not kept."""
    kept = _kept.get()
    if kept is None:
        with Workers(devices, threads) as own:
            yield own
        return
    stack, known = kept
    if (devices, threads) not in known:
        known[devices, threads] = stack.enter_context(Workers(devices, threads))
    yield known[devices, threads]


_seat: Seat | None = None  # of this process, where it is a worker


def _sit_down(devices: SimpleQueue, done: Synchronized, ends: Connection, threads: int) -> None:
    global _seat
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends its workers
    threading.Thread(target=_end_with_parent, args=(ends,), daemon=True).start()
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))  # of tokenizers
    _seat = Seat(devices.get(), threads, done)


def _end_with_parent(ends: Connection) -> None:
    ends.poll(None)
    os._exit(1)


def _at_work(work: Callable[..., Any], task: tuple[Any, ...]) -> Any:
    assert _seat is not None
    return work(_seat, *task)
