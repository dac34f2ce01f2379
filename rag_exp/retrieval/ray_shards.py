"""Shards on a Ray cluster: each is searched by an actor, and built by a task. Ray carries, and nothing else.

What runs there is what runs here: :class:`~rag_exp.retrieval.sharded.Shard` in an actor, a job's ``build`` in a task.
All machines must see the store under the same path. Queries are put into Ray's object store once and read from there
by every shard of a machine; what a shard found is small.

A shard whose process or machine dies is opened again from the store, on whatever machine is left, and asked again.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from rag_exp.core.errors import DataError, RagExpError
from rag_exp.core.options import Options
from rag_exp.retrieval.sharded import Answer, Facts, Question, Shard, ShardedIndex, ShardPlace

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 128 * 2**20  # of a cluster that is started here: queries and results are small
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what its processes print stays in its logs
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # one shard's error is raised; the same of the others would only be printed
}


class RayOptions(Options):
    """Which cluster carries the shards. Nothing here changes a result."""

    address: str = Field(
        "local",
        description="local: a cluster of this machine alone, started for this command; auto: the one that this machine "
        "belongs to; HOST:PORT: the one whose head is there",
    )
    threads: int = Field(1, ge=1, description="threads of each shard's search and of each task that builds")
    restarts: int = Field(
        3, ge=0, description="times that a shard (or a task) whose process or machine died is tried again"
    )
    patience: float = Field(300.0, gt=0, description="seconds without any answer after which a search gives up")

    def problems(self) -> list[str]:
        if find_spec("ray") is None:
            return ["retrieval.backend: ray needs Ray: pip install 'rag-exp[ray]'."]
        return []


def connect(options: RayOptions) -> Any:
    """The module ``ray``, connected to the cluster. One that is started here ends with the thread that started it.

    Raises:
        DataError: there is no such cluster.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    local = options.address == "local"
    if local and not os.environ.keys() & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        # Else Ray makes a token of its own and leaves it in the user's home.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    if ray.is_initialized():
        return ray
    here = {
        "num_cpus": len(os.sched_getaffinity(0)),
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    try:
        ray.init(address=options.address, log_to_driver=False, logging_level=logging.ERROR, **(here if local else {}))
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as e:
        raise DataError(
            f"retrieval.ray.address: {options.address}: no Ray cluster answers there ({_first_line(e)}). Start one "
            "(ray start --head), use its RAY_AUTH_TOKEN_PATH, or retrieval.ray.address=local."
        ) from e
    return ray


class RayShards(ShardedIndex):
    """Shards that are searched by one actor each, all at once.

    Args:
        places: of all shards of one corpus, in order; absolute paths.
        options: which cluster, and what to do when a part of it dies.

    Raises:
        DataError: a shard cannot be opened; it is named.
    """

    def __init__(self, places: Sequence[ShardPlace], options: RayOptions):
        self._ray, self._options, self._places = connect(options), options, tuple(places)
        self._actors = [self._start(place) for place in places]
        super().__init__(places, self._call("facts"))

    def ask(self, question: Question) -> list[Answer]:
        return self._call("search", self._ray.put(question))

    def work(self) -> list[float]:
        """Seconds of CPU time of each shard's process until now."""
        return self._call("work")

    def _start(self, place: ShardPlace) -> Any:
        # An actor that waits takes no processor; spread, because what it takes is memory.
        actor = self._ray.remote(num_cpus=0, scheduling_strategy="SPREAD", max_restarts=0)(ShardActor)
        return actor.remote(place, self._options.threads)

    def _call(self, method: str, *arguments: Any) -> list[Any]:
        """What ``method`` of every shard's actor returns; one that dies meanwhile is started and asked again."""
        errors = self._ray.exceptions
        answers: dict[int, Any] = {}
        deaths = [0] * len(self._places)
        asked = {getattr(actor, method).remote(*arguments): n for n, actor in enumerate(self._actors)}
        while asked:
            done, _ = self._ray.wait(list(asked), num_returns=1, timeout=self._options.patience)
            if not done:
                silent = ", ".join(str(self._places[n].share) for n in sorted(asked.values()))
                raise DataError(f"No answer within {self._options.patience:g} s (retrieval.ray.patience) of {silent}.")
            n = asked.pop(done[0])
            try:
                answers[n] = self._ray.get(done[0])
            except errors.RayTaskError as e:  # it answers, with an error of its own
                raise _cause(e) from e
            except errors.RayError as e:
                share = self._places[n].share
                if deaths[n] == self._options.restarts:
                    raise DataError(
                        f"{share} died {deaths[n] + 1} times, so it is given up ({_first_line(e)}). Is there memory "
                        "for it? More and smaller shards (retrieval.shards) need less each."
                    ) from e
                deaths[n] += 1
                log.warning("%s died (%s); it is opened again from the store", share, _first_line(e))
                self._actors[n] = self._start(self._places[n])
                asked[getattr(self._actors[n], method).remote(*arguments)] = n
        return [answers[n] for n in range(len(self._places))]


class ShardActor:
    """A shard in a process of its own, opened when it is first asked."""

    def __init__(self, place: ShardPlace, threads: int):
        import faiss

        faiss.omp_set_num_threads(threads)
        self._place = place
        self._opened: Shard | None = None

    def facts(self) -> Facts:
        return self._shard.facts()

    def search(self, question: Question) -> Answer:
        return self._shard.search(question)

    def work(self) -> float:
        return time.process_time()

    @property
    def _shard(self) -> Shard:
        if self._opened is None:
            self._opened = self._place.open()
        return self._opened


class Job(Protocol):
    """Work that needs nothing of this process: paths and options in, files and plain facts out."""

    folder: Path

    def build(self) -> dict[str, Any]: ...


def run_on_ray(job: Job, options: RayOptions) -> dict[str, Any]:
    """``job.build()`` as a task of the cluster; tried again where its process or machine dies.

    Raises:
        DataError: it failed, or died too often.
    """
    ray = connect(options)
    task = ray.remote(num_cpus=options.threads, max_retries=options.restarts, scheduling_strategy="SPREAD")(_run)
    try:
        return ray.get(task.remote(job, options.threads))
    except ray.exceptions.RayTaskError as e:
        raise _cause(e) from e
    except ray.exceptions.RayError as e:
        raise DataError(f"{job.folder}: what builds it died {options.restarts + 1} times ({_first_line(e)}).") from e


def _run(job: Job, threads: int) -> dict[str, Any]:
    import faiss

    faiss.omp_set_num_threads(threads)
    return job.build()


def _cause(error: Any) -> Exception:
    """What went wrong there, as it would have been raised here; Ray's account of it where it is no error of ours."""
    return error.cause if isinstance(error.cause, RagExpError) else error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
