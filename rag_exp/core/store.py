"""A content-addressed store: every artifact is built once, under the name of all that can affect it.

A :class:`Step` says what is to be built: its own fields, its VERSION and its parent steps. Its key is
the digest of those (a Merkle tree), known before anything is built. :meth:`Store.ensure` returns the
finished artifact: from disk when it is there and its checksums hold, otherwise built now, under a
lock, in a temporary folder that is renamed into place with its ``artifact.json`` written last. A kill
at any point leaves either nothing or a whole artifact. Parents are built only when a build asks for
them, so a finished checkpoint never needs its index again.

Layout under the root::

    objects/<kind>/<key>/    files of the artifact and artifact.json
    partial/<kind>-<key>/    progress of a long build, so that it can go on after a kill
    tmp/<kind>-<key>/        a build in progress
    locks/                   one lock file a build
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rag_exp.core.atomic import disk_errors, write_json
from rag_exp.core.errors import StoreError
from rag_exp.core.fingerprint import digest, file_digest

log = logging.getLogger(__name__)

RECORD = "artifact.json"


@dataclass(frozen=True)
class Step:
    """One thing that can be built.

    Attributes:
        kind: what it is ("passages", "index", "checkpoint"); a folder name.
        version: raise it when the code of ``build`` changes its output for the same fields.
        fields: everything else that can change the output, as plain JSON values.
        parents: the steps whose output ``build`` may read, by the name it calls them.
        build: writes the artifact's files into ``Build.folder``. Not part of the key.
    """

    kind: str
    version: int
    fields: Mapping[str, Any]
    parents: Mapping[str, Step]
    build: Callable[[Build], None] = field(compare=False)

    @cached_property
    def key(self) -> str:
        """The Merkle key: digest of kind, version, fields and the parents' keys."""
        return digest(
            {
                "kind": self.kind,
                "version": self.version,
                "fields": dict(self.fields),
                "parents": {name: step.key for name, step in self.parents.items()},
            }
        )

    @property
    def name(self) -> str:
        """Short name for messages: kind and the first eight letters of the key."""
        return f"{self.kind} {self.key[:8]}"

    def closure(self) -> dict[str, Step]:
        """This step and all its ancestors, by key, parents first."""
        found: dict[str, Step] = {}
        for parent in self.parents.values():
            found.update(parent.closure())
        found[self.key] = self
        return found


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on disk.

    Attributes:
        path: its folder; read only.
        kind, key: of the step that made it.
        stats: what the build noted (counts, FLOPs, measured seconds), plain JSON.
        bytes: size of all its files.
        seconds: wall time of the build itself, without its parents'.
    """

    path: Path
    kind: str
    key: str
    stats: dict[str, Any]
    bytes: int
    seconds: float


class Build:
    """What a step's ``build`` function works with.

    Attributes:
        folder: an empty folder; files written here become the artifact.
        partial: a folder that outlives a kill; progress left here is found by the next try.
        stats: plain JSON facts to keep with the artifact (``build.stats["tokens"] = 12``).
    """

    def __init__(self, store: Store, step: Step, folder: Path, partial: Path):
        self.store, self.step, self.folder = store, step, folder
        self.stats: dict[str, Any] = {}
        self.used: dict[str, str] = {}
        self._partial = partial
        self.parent_seconds = 0.0

    @property
    def partial(self) -> Path:
        self._partial.mkdir(parents=True, exist_ok=True)
        return self._partial

    def say(self, line: str) -> None:
        """Report what whoever waits for the build should know at once."""
        self.store._say(f"{self.step.name}: {line}")

    def parent(self, name: str) -> Artifact:
        """The finished artifact of parent ``name``, built now if it is not there yet."""
        start = time.perf_counter()
        found = self.store.ensure(self.step.parents[name])
        self.parent_seconds += time.perf_counter() - start
        return found

    def ensure(self, step: Step) -> Artifact:
        """The artifact of a step that follows from the same parents but is not one of them (a shard of embeddings)."""
        start = time.perf_counter()
        found = self.store.ensure(step)
        self.parent_seconds += time.perf_counter() - start
        self.used[step.key] = step.kind
        return found

    def ensure_all(self, steps: Sequence[Step]) -> list[Artifact]:
        """:meth:`ensure` of several steps of the same parents at the same time, each in a thread.

        For builds that wait for work that is done elsewhere.
        """
        start = time.perf_counter()
        for parent in steps[0].parents.values():  # first, so that they don't wait for each other to build it
            self.store.ensure(parent)
        with ThreadPoolExecutor(len(steps)) as threads:
            found = list(threads.map(self.store.ensure, steps))
        self.parent_seconds += time.perf_counter() - start
        self.used |= {step.key: step.kind for step in steps}
        return found


class Store:
    """The store under ``root``.

    Args:
        root: created on first write.
        report: called with one line whenever something is built, waited for, or found damaged.
    """

    def __init__(self, root: Path, report: Callable[[str], None] | None = None):
        self.root = Path(root)
        self._report = report or log.info
        self._verified: dict[str, Artifact] = {}
        self.events: list[str] = []

    def folder(self, step: Step) -> Path:
        """Where the finished artifact of ``step`` is or would be."""
        return self.root / "objects" / step.kind / step.key

    def has(self, step: Step) -> bool:
        """Whether ``step`` is finished (its record exists; checksums are held against it by :meth:`ensure`)."""
        return (self.folder(step) / RECORD).is_file()

    def ensure(self, step: Step) -> Artifact:
        """The finished artifact of ``step``: opened if it is there and whole, built otherwise.

        Raises:
            StoreError: the disk is full or not writable.
            Exception: whatever the build raises; nothing but its ``partial`` folder is left behind.
        """
        found = self.open(step)
        if found is not None:
            return found
        from filelock import FileLock, Timeout

        name = f"{step.kind}-{step.key}"
        with disk_errors(self.root):
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / "locks" / f"{name}.lock")
        try:
            lock.acquire(timeout=0.05)
        except Timeout:
            self._say(f"{step.name}: another process is building it; waiting")
            lock.acquire()
        try:
            checked = self._check(step)  # again: another process may have built it meanwhile
            if isinstance(checked, Artifact):
                return checked
            if checked is not None:
                self._say(f"{step.name}: damaged ({checked}); it is built again")
            return self._build(step, name)
        finally:
            lock.release()

    def info(self, step: Step) -> Artifact | None:
        """What is known of ``step``'s artifact, without reading its files; None where it is not finished."""
        try:
            record = json.loads((self.folder(step) / RECORD).read_text(encoding="utf-8"))
            size = sum(f[0] for f in record["files"].values())
            return Artifact(self.folder(step), step.kind, step.key, record["stats"], size, record["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def open(self, step: Step) -> Artifact | None:
        """The finished artifact of ``step`` with its checksums held, or None. Changes nothing on disk."""
        checked = self._check(step)
        return checked if isinstance(checked, Artifact) else None

    def _check(self, step: Step) -> Artifact | str | None:
        """The artifact of ``step``, or what is wrong with it, or None where there is none."""
        known = self._verified.get(step.key)
        if known is not None and (known.path / RECORD).is_file():
            return known
        folder = self.folder(step)
        if not (folder / RECORD).is_file():
            return None
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            damage = _damage(folder, record)
        except (OSError, ValueError, KeyError, TypeError) as e:
            return f"{RECORD} cannot be read ({e})"
        if damage:
            return damage
        found = Artifact(
            folder, step.kind, step.key, record["stats"], sum(f[0] for f in record["files"].values()), record["seconds"]
        )
        self._verified[step.key] = found
        return found

    def _build(self, step: Step, name: str) -> Artifact:
        temporary = self.root / "tmp" / name
        partial = self.root / "partial" / name
        with disk_errors(self.root):
            # Only the holder of the lock comes here, so what is there already was left by a kill or is damaged.
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(self.folder(step), ignore_errors=True)
            temporary.mkdir(parents=True)
        build = Build(self, step, temporary, partial)
        start = time.perf_counter()
        try:
            with disk_errors(self.root):
                step.build(build)
                seconds = time.perf_counter() - start - build.parent_seconds
                files = {
                    f.relative_to(temporary).as_posix(): [f.stat().st_size, file_digest(f)]
                    for f in sorted(temporary.rglob("*"))
                    if f.is_file()
                }
                write_json(
                    temporary / RECORD,
                    {
                        "kind": step.kind,
                        "key": step.key,
                        "version": step.version,
                        "fields": dict(step.fields),
                        "parents": {n: p.key for n, p in step.parents.items()},
                        "used": build.used,
                        "files": files,
                        "stats": build.stats,
                        "seconds": seconds,
                        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    },
                )
                target = self.folder(step)
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        shutil.rmtree(partial, ignore_errors=True)
        found = Artifact(target, step.kind, step.key, build.stats, sum(f[0] for f in files.values()), seconds)
        self._verified[step.key] = found
        self._say(f"{step.name}: built in {seconds:.1f} s, {found.bytes / 1e6:.1f} MB")
        return found

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every finished artifact's record, with ``path`` and ``bytes`` added, in no set order."""
        for file in sorted((self.root / "objects").glob(f"*/*/{RECORD}")):
            try:
                record = json.loads(file.read_text(encoding="utf-8"))
                record["bytes"] = sum(f[0] for f in record["files"].values())
            except (OSError, ValueError, KeyError, TypeError):
                record = {"kind": file.parent.parent.name, "key": file.parent.name, "parents": {}, "bytes": 0}
            yield {**record, "path": file.parent}

    def delete(self, path: Path) -> None:
        """Delete one artifact's folder; its record first, so that a kill leaves no artifact that looks whole."""
        if self.root.resolve() not in path.resolve().parents:
            raise StoreError(f"{path} is not in the store {self.root}; nothing was deleted.")
        (path / RECORD).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)

    def _say(self, line: str) -> None:
        self.events.append(line)
        self._report(line)


def _damage(folder: Path, record: Mapping[str, Any]) -> str | None:
    """What is wrong with the artifact in ``folder``, or None. Sizes first: they are free."""
    record["stats"], record["seconds"]  # a record without them is damaged: KeyError
    for name, (size, _) in record["files"].items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, not {size}"
    for name, (_, wanted) in record["files"].items():
        if file_digest(folder / name) != wanted:
            return f"{name} fails its checksum"
    return None
