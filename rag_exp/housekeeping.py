"""``rag-exp store ls`` and ``gc``: what the store holds, which runs need it, and freeing what nothing needs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rag_exp.core.errors import DataError, StoreError
from rag_exp.core.record import RunRecord, read_record
from rag_exp.core.store import Store
from rag_exp.retrieval.milvus_collections import collections_of, drop
from rag_exp.run import RunFolder


def list_store(root: Path, store_folder: Path, kind: str | None = None) -> str:
    """Every artifact with its size, age and the number of runs that stand on it; then the records that are damaged."""
    return "\n".join(_listed(root, store_folder, kind))


def _listed(root: Path, store_folder: Path, kind: str | None) -> Iterator[str]:
    entries = list(Store(store_folder).entries())
    records, damaged = _records(root)
    users = _users(records, entries)
    entries = [e for e in entries if kind in (None, e["kind"])]
    yield f"{'kind':14} {'key':12} {'MB':>10} {'built in':>10} {'runs':>5}  created"
    for e in sorted(entries, key=lambda e: (e["kind"], e.get("created", ""))):
        seconds = f"{e['seconds']:.1f} s" if "seconds" in e else "damaged"
        mb = e["bytes"] / 1e6
        used = len(users.get(e["key"], ()))
        yield f"{e['kind']:14} {e['key'][:12]} {mb:>10.2f} {seconds:>10} {used:>5}  {e.get('created', '')}"
    total = sum(e["bytes"] for e in entries) / 1e6
    free = sum(e["bytes"] for e in entries if not users.get(e["key"])) / 1e6
    yield f"{len(entries)} artifacts, {total:,.1f} MB in {store_folder}; {free:,.1f} MB that no record needs"
    for damage in damaged:
        yield f"not counted: {damage}"


def collect_garbage(
    root: Path, store_folder: Path, kind: str | None = None, force: bool = False, dry: bool = False
) -> str:
    """Delete what no kept record needs; with ``force`` (best with ``kind``) also what records need.

    A record needs its artifacts and all that those were built from. To free a run's artifacts, delete its
    folder under runs/ first. Of unfinished builds the half-written files are deleted; the progress that a
    killed run would go on from only with ``force``, and never where a kept record names its artifact.
    What a live process is building is left alone. Collections that artifacts have on a Milvus server are dropped with
    them; an artifact whose collection cannot be dropped stays, but with ``force``.

    Raises:
        StoreError: without ``force``, when what is needed cannot be told: a run is in progress, a record
            is damaged, or the store is not below ``root`` and so may serve runs of other roots.
    """
    records, damaged = _records(root)
    if not force:
        _refuse_if_needs_are_unknown(root, store_folder, damaged)
    store = Store(store_folder)
    entries = list(store.entries())
    users = _users(records, entries)
    doomed = [e for e in entries if kind in (None, e["kind"]) and (force or not users.get(e["key"]))]
    held, said = _drop_collections(doomed, entries, force, dry)
    doomed = [e for e in doomed if e["path"] not in held]
    for e in doomed:
        if not dry:
            store.delete(e["path"])
    left = [d for d in _leftovers(store_folder, kind, users, force) if _is_dead(d, delete=not dry)]
    progress = len([d for d in store_folder.glob("partial/*") if d not in left])
    freed = sum(e["bytes"] for e in doomed) / 1e6
    verb = "would delete" if dry else "deleted"
    summary = (
        f"{verb} {len(doomed)} of {len(entries)} artifacts ({freed:,.1f} MB) and {len(left)} leftovers of unfinished "
        f"builds; kept {len(entries) - len(doomed)}, and the progress of {progress} unfinished builds"
    )
    return "\n".join([summary, *said])


def _drop_collections(
    doomed: list[dict[str, Any]], entries: list[dict[str, Any]], force: bool, dry: bool
) -> tuple[set[Path], list[str]]:
    """Drop from Milvus servers what the artifacts that are to go have there.

    Returns:
        the artifacts that stay because theirs could not be dropped (none with ``force``), and what is to be said.
    """
    owned = {e["path"]: collections_of(e["path"]) for e in doomed}
    collections = [c for cs in owned.values() for c in cs]
    if not collections:
        return set(), []
    if dry:
        return set(), [f"would drop {len(collections)} collections from Milvus"]
    kept = [c for e in entries if e["path"] not in owned for c in collections_of(e["path"])]
    found = drop(collections, kept)
    said = [f"dropped {len(found.dropped)} collections from Milvus; {len(found.absent)} were not there any more"]
    for collection, why in found.stuck.items():
        left = "is left there" if force else "is left there with its artifact (--force deletes that)"
        said.append(f"collection {collection.name} {left}: {why}")
    if found.strangers:
        said.append(
            f"{len(found.strangers)} collections there belong to no artifact of this store, and may to one of another "
            f"or to a build that was killed: {', '.join(found.strangers[:5])}"
        )
    return {path for path, cs in owned.items() if not force and found.stuck.keys() & set(cs)}, said


def _refuse_if_needs_are_unknown(root: Path, store_folder: Path, damaged: list[str]) -> None:
    running = [f.name for f in (root / "runs").glob("*") if RunFolder(root, f.name).is_running()]
    if running:
        raise StoreError(
            f"{len(running)} runs are in progress ({running[0][:12]}); what they use cannot be told yet. "
            "Wait for them, or use --force."
        )
    if damaged:
        raise StoreError(f"What this run uses cannot be told. {damaged[0]} Or use --force.")
    if not store_folder.resolve().is_relative_to(root.resolve()):
        raise StoreError(
            f"The store {store_folder} is not below the root {root}: runs of other roots may use it, and their records "
            "are not seen from here. Give the root that holds it (--root), or use --force, which deletes all the same."
        )


def _leftovers(store_folder: Path, kind: str | None, users: dict[str, set[str]], force: bool) -> Iterator[Path]:
    """Folders of unfinished builds that may go, if nothing is building there."""
    for folder in (*store_folder.glob("tmp/*"), *store_folder.glob("partial/*")):
        its_kind, _, key = folder.name.rpartition("-")
        may_go = folder.parent.name == "tmp" or (force and not users.get(key))
        if may_go and kind in (None, its_kind):
            yield folder


def _is_dead(folder: Path, delete: bool) -> bool:
    """Whether no live process is at the build of ``folder``; with ``delete`` it is deleted then, under its lock."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder.parent.parent / "locks" / f"{folder.name}.lock", timeout=0):
            if delete:
                shutil.rmtree(folder, ignore_errors=True)
            return True
    except Timeout:
        return False


def _records(root: Path) -> tuple[list[RunRecord], list[str]]:
    """The records below ``root``, and for each damaged one what is wrong and how to mend it."""
    records: list[RunRecord] = []
    damaged: list[str] = []
    for file in sorted((root / "runs").glob("*/record.json")):
        try:
            records.append(read_record(file))
        except DataError as e:
            damaged.append(str(e))
    return records, damaged


def _users(records: Iterable[RunRecord], entries: Iterable[dict[str, Any]]) -> dict[str, set[str]]:
    """For each artifact's key the ids of the runs that stand on it, directly or through what was built from it."""
    parents = {e["key"]: [*e.get("parents", {}).values(), *e.get("used", {})] for e in entries}
    users: dict[str, set[str]] = {}
    for record in records:
        stack = list(record.artifacts.values())
        seen: set[str] = set()
        while stack:
            key = stack.pop()
            if key not in seen:
                seen.add(key)
                users.setdefault(key, set()).add(record.run_id)
                stack += parents.get(key, [])
    return users
