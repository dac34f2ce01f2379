"""``rag-exp store ls`` and ``gc``: what the store holds, which runs need it, and freeing what nothing needs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rag_exp.core.errors import StoreError
from rag_exp.core.record import read_record
from rag_exp.core.store import Store
from rag_exp.run import RunFolder


def list_store(root: Path, store_folder: Path, kind: str | None = None) -> str:
    """Every artifact with its size, age and the number of runs that stand on it."""
    return "\n".join(_listed(root, store_folder, kind))


def _listed(root: Path, store_folder: Path, kind: str | None) -> Iterator[str]:
    entries = [e for e in Store(store_folder).entries() if kind in (None, e["kind"])]
    users = _users(root, entries)
    yield f"{'kind':14} {'key':12} {'MB':>10} {'built in':>10} {'runs':>5}  created"
    for e in sorted(entries, key=lambda e: (e["kind"], e.get("created", ""))):
        seconds = f"{e['seconds']:.1f} s" if "seconds" in e else "damaged"
        mb = e["bytes"] / 1e6
        used = len(users.get(e["key"], ()))
        yield f"{e['kind']:14} {e['key'][:12]} {mb:>10.2f} {seconds:>10} {used:>5}  {e.get('created', '')}"
    total = sum(e["bytes"] for e in entries) / 1e6
    free = sum(e["bytes"] for e in entries if not users.get(e["key"])) / 1e6
    yield f"{len(entries)} artifacts, {total:,.1f} MB in {store_folder}; {free:,.1f} MB that no record needs"


def collect_garbage(
    root: Path, store_folder: Path, kind: str | None = None, force: bool = False, dry: bool = False
) -> str:
    """Delete what no kept record needs; with ``force`` (best with ``kind``) also what records need.

    A record needs its artifacts and all that those were built from. To free a run's artifacts, delete its
    folder under runs/ first.

    Raises:
        StoreError: a run is in progress, whose artifacts no record names yet.
    """
    running = [f.name for f in (root / "runs").glob("*") if RunFolder(root, f.name).is_running()]
    if running and not force:
        raise StoreError(
            f"{len(running)} runs are in progress ({running[0][:12]}); what they use cannot be told yet. "
            "Wait for them, or use --force."
        )
    store = Store(store_folder)
    entries = list(store.entries())
    users = _users(root, entries)
    doomed = [e for e in entries if kind in (None, e["kind"]) and (force or not users.get(e["key"]))]
    for e in doomed:
        if not dry:
            store.delete(e["path"])
    left = [d for d in (*store_folder.glob("tmp/*"), *store_folder.glob("partial/*"))] if not running else []
    for folder in left:
        if not dry:
            shutil.rmtree(folder, ignore_errors=True)
    freed = sum(e["bytes"] for e in doomed) / 1e6
    verb = "would delete" if dry else "deleted"
    return (
        f"{verb} {len(doomed)} of {len(entries)} artifacts ({freed:,.1f} MB) and {len(left)} leftovers of unfinished "
        f"builds; kept {len(entries) - len(doomed)}"
    )


def _users(root: Path, entries: list[dict[str, Any]]) -> dict[str, set[str]]:
    """For each artifact's key the ids of the runs that stand on it, directly or through what was built from it."""
    parents = {e["key"]: [*e.get("parents", {}).values(), *e.get("used", {})] for e in entries}
    users: dict[str, set[str]] = {}
    for file in (root / "runs").glob("*/record.json"):
        record = read_record(file)
        stack = list(record.artifacts.values())
        seen: set[str] = set()
        while stack:
            key = stack.pop()
            if key not in seen:
                seen.add(key)
                users.setdefault(key, set()).add(record.run_id)
                stack += parents.get(key, [])
    return users
