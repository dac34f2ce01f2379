"""One run: resolve its steps, build what is missing, evaluate, write the record.

``runs/<run id>/record.json`` is written last. A run that is finished is printed and left; a killed one
goes on from what the store holds; two processes that start one run at once do it once.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_exp import config as configs
from rag_exp.config import RunConfig
from rag_exp.core.atomic import disk_errors
from rag_exp.core.errors import RagExpError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.provenance import commit, versions
from rag_exp.core.record import RunRecord, read_record, write_record
from rag_exp.core.store import Store
from rag_exp.measuring import arm, keys, left_out, measured
from rag_exp.steps import RunSteps, plan_run

PLAN = "RAG_EXP_PLAN"  # environment variable: the plan.json of the study in progress
COMMAND = "RAG_EXP_COMMAND"  # environment variable: the command as it was typed


@dataclass(frozen=True)
class RunFolder:
    """Where a run's record and lock are."""

    root: Path
    run_id: str

    @property
    def path(self) -> Path:
        return self.root / "runs" / self.run_id

    @property
    def record(self) -> Path:
        return self.path / "record.json"

    @property
    def lock_file(self) -> Path:
        return self.path / "lock"

    def is_running(self) -> bool:
        """Whether a live process holds the run (the lock dies with its process)."""
        if not self.lock_file.exists():
            return False
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.lock_file, timeout=0):
                return False
        except Timeout:
            return True


def job(cfg: Any) -> dict[str, str | None]:
    """What Hydra calls for each run. Never raises for a failed run: the record says it."""
    plain = configs.plain_of(cfg)
    run = configs.validate(plain)
    digests = ContentDigests(run.paths.store / "digests.json")
    record = execute(run, plain, plan_run(run, digests))
    return {"run_id": record.run_id, "status": record.status, "error": record.error}


def execute(config: RunConfig, plain: dict[str, Any], steps: RunSteps) -> RunRecord:
    """Bring one run to its record.

    Returns:
        the record, finished or failed.
    """
    from filelock import FileLock, Timeout

    folder = RunFolder(config.paths.root, steps.run_id)
    with disk_errors(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.lock_file)
    try:
        lock.acquire(timeout=0.05)
    except Timeout:
        say(f"run {steps.run_id[:12]}: another process is at it; waiting")
        lock.acquire()
    try:
        if folder.record.is_file():
            known = read_record(folder.record)
            if known.status == "finished":
                _tell(known, "was finished already", folder.root)
                return known
        return _execute(config, plain, steps, folder)
    finally:
        lock.release()


def _execute(config: RunConfig, plain: dict[str, Any], steps: RunSteps, folder: RunFolder) -> RunRecord:
    start = time.perf_counter()
    store = Store(config.paths.store if config.paths.reuse else folder.path / "store", report=say)
    if not config.paths.reuse:
        shutil.rmtree(store.root, ignore_errors=True)
    facts: dict[str, Any] = {
        "run_id": steps.run_id,
        "arm": arm(steps),
        "seed": config.seed,
        "config": config.model_dump(mode="json"),
        "versions": versions(),
        "commit": commit(),
        "command": os.environ.get(COMMAND),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    try:
        if config.trainer.accelerator not in ("auto", "cpu"):
            config.trainer.resolved_device()  # an accelerator that is not there is said now, not after the data
        store.ensure(steps.last)
        for step in steps.manifests.values():
            # A run that is there may outlive its corpus, which is not built again to be counted.
            if store.has(step) or all(store.has(parent) for parent in step.parents.values()):
                store.ensure(step)
        record = RunRecord(status="finished", **facts, **measured(config, steps, store))
        record.seconds["run"] = time.perf_counter() - start
        record.notes.extend(e for e in store.events if "damaged" in e)
        record.notes.extend(left_out(steps, store))
    except Exception as e:
        # A run's failure belongs into its record, so that the rest of a study goes on and `status` can show it.
        text = str(e) if isinstance(e, RagExpError) else traceback.format_exc()
        record = RunRecord(
            status="failed",
            artifacts=keys(steps),
            **facts,
            error=text,
            seconds={"run": time.perf_counter() - start},
        )
    write_record(record, folder.record)
    _tell(record, f"took {record.seconds['run']:.1f} s", folder.root)
    if record.status == "finished":
        from rag_exp.training.loggers import mirror

        mirror(config.logger, record, config.paths.root / "logs")
    return record


def announce(plan: Any, records: Sequence[RunRecord | None]) -> None:
    """Say what came of a study or a run, and what to do next."""
    failed = [(p, r) for p, r in zip(plan.points, records, strict=True) if r is None or r.status == "failed"]
    if len(records) > 1:
        say(f"{plan.name}: {len(records) - len(failed)} of {len(records)} runs finished")
    for point, record in failed:
        last = (
            (record.error or "").strip().splitlines()[-1] if record is not None and record.error else "left no record"
        )
        say(f"failed: {point.run_id[:12]} {' '.join(f'{k}={v}' for k, v in point.axes.items())}: {last}")
    if len(records) == 1 and records[0] is not None:
        print(RunFolder(plan.root, records[0].run_id).record)
    elif plan.name != "sweep" and not failed:
        words = shlex.join(plan.overrides)
        say(f"next: rag-exp fit {words} && rag-exp report {words}")


def _count(root: Path) -> str:
    """``[3/24] ``: how many runs of the study in progress have a record. The plan is found by an environment
    variable, which the processes of any launcher on this machine inherit."""
    plan = os.environ.get(PLAN)
    if plan is None or not Path(plan).is_file():
        return ""
    ids = [run["run_id"] for run in json.loads(Path(plan).read_text(encoding="utf-8"))["runs"]]
    return f"[{sum(RunFolder(root, id).record.is_file() for id in ids)}/{len(ids)}] "


def _tell(record: RunRecord, how: str, root: Path) -> None:
    count = _count(root)
    if record.status == "failed":
        say(f"{count}run {record.run_id[:12]} FAILED: {(record.error or '').strip().splitlines()[-1]}")
        return
    s, m = record.sizes, record.metrics
    reads = "evaluation" in record.artifacts
    names = ("nll", "em", "f1", "gold_recall@k") if reads else ("index_recall@k", "gold_recall@k", "queries_per_second")
    shown = ", ".join(f"{n} {m[n]:.3f}" for n in names if m.get(n) is not None)
    size = f"N={s['N']} " if reads else ""
    say(f"{count}run {record.run_id[:12]} {record.arm} {size}M={s['M']} K={s['K']}: {shown} ({how})")


def say(line: str) -> None:
    """One line of progress with the time, on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
