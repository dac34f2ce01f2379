"""One run: resolve its steps, build what is missing, evaluate, write the record.

``runs/<run id>/record.json`` is written last. A run that is finished is printed and left; a killed one
goes on from what the store holds; two processes that start one run at once do it once.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rag_exp import config as configs
from rag_exp.config import RunConfig
from rag_exp.core.atomic import disk_errors
from rag_exp.core.errors import ConfigError, RagExpError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.record import RunRecord, read_record, write_record
from rag_exp.core.store import Artifact, Store
from rag_exp.steps import RunSteps, plan_run, setting_problems

log = logging.getLogger(__name__)

PLAN = "RAG_EXP_PLAN"  # environment variable: the plan.json of the study in progress

PACKAGES = (  # those whose version can change a number
    "rag-exp",
    "torch",
    "pytorch-lightning",
    "transformers",
    "tokenizers",
    "faiss-cpu",
    "bm25s",
    "numpy",
    "scipy",
    "pyarrow",
    "sentence-transformers",
)


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
        _say(f"run {steps.run_id[:12]}: another process is at it; waiting")
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
    store = Store(config.paths.store if config.paths.reuse else folder.path / "store", report=_say)
    if not config.paths.reuse:
        shutil.rmtree(store.root, ignore_errors=True)
    facts: dict[str, Any] = {
        "run_id": steps.run_id,
        "arm": arm(steps),
        "seed": config.seed,
        "config": plain,
        "versions": versions(),
        "commit": commit(),
        "command": " ".join(sys.argv),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    try:
        store.ensure(steps.evaluation)
        record = RunRecord(status="finished", artifacts=_keys(steps), **facts, **_measured(config, steps, store))
        record.seconds["run"] = time.perf_counter() - start
        record.notes.extend(e for e in store.events if "damaged" in e)
        record.notes.extend(_left_out(steps, store))
    except Exception as e:
        # A run's failure belongs into its record, so that the rest of a study goes on and `status` can show it.
        text = str(e) if isinstance(e, RagExpError) else traceback.format_exc()
        record = RunRecord(
            status="failed",
            artifacts=_keys(steps),
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


def arm(steps: RunSteps) -> str:
    """What the reader is given: ``closed_book``, ``oracle``, ``random``, ``bm25`` or ``dense``."""
    asked = steps.asked
    if asked.source == "none":
        return "closed_book"
    if asked.source in ("oracle", "random"):
        return asked.source
    return "bm25" if asked.index.kind == "bm25" else "dense"


def _left_out(steps: RunSteps, store: Store) -> list[str]:
    """What was not read as the recipe has it: a reader of the record should know."""
    found = []
    for role in ("reader_warmup", "checkpoint"):
        made = store.info(steps.roles[role]) if role in steps.roles else None
        if made is not None and made.stats["left_out"]:
            found.append(f"{role}: {made.stats['left_out']} questions were left out, having no passage to read")
    asked = store.info(steps.evaluation)
    if asked is not None and asked.stats["closed_book"] and steps.asked.source != "none":
        found.append(f"evaluation: {asked.stats['closed_book']} questions had no passage and were asked closed book")
    return found


def _keys(steps: RunSteps) -> dict[str, str]:
    return {role: step.key for role, step in steps.roles.items()}


def _measured(config: RunConfig, steps: RunSteps, store: Store) -> dict[str, Any]:
    """Sizes, parameters, FLOPs, bytes, seconds and metrics, from what each step noted when it was built."""
    made: dict[str, Artifact] = {role: a for role, step in steps.roles.items() if (a := store.info(step)) is not None}
    stats = {role: a.stats for role, a in made.items()}
    evaluation = stats["evaluation"]
    trained = [stats[r] for r in ("reader_warmup", "checkpoint") if r in stats]
    topk, index = stats.get("topk", {}), stats.get("index", {})
    nulls = dict(evaluation["nulls"])
    metrics: dict[str, float | None] = dict(evaluation["metrics"])
    _add_search(metrics, nulls, topk, index, arm(steps))
    parameters = dict(evaluation["parameters"])
    retriever = 0
    if index.get("parameters"):
        parameters["encoder"] = index["parameters"]
        retriever = sum(index["parameters"].values())
    flops: dict[str, float | None] = {
        "reader_warmup": float(stats.get("reader_warmup", {}).get("flops", 0)),
        "marginal": float(stats.get("checkpoint", {}).get("flops", 0)),
        "retriever_warmup": float(sum(stats.get("encoder", {}).get("flops", {}).values())),
        "embedding": float(index.get("embedding_flops", 0)),
        "index_build": index.get("build_flops"),
        "search": 2.0 * topk["distances"] * topk["dims"] if topk.get("distances") and topk.get("dims") else None,
        "reading": float(evaluation["flops"]),
    }
    flops["training"] = sum(flops[n] or 0.0 for n in ("reader_warmup", "marginal", "retriever_warmup"))
    if "index" in stats and flops["index_build"] is None:
        nulls["flops.index_build"] = index.get("flops_null", "not counted for this kind of index")
    if "topk" in stats and flops["search"] is None:
        nulls["flops.search"] = topk.get("flops_null", "not counted for this kind of index")
    if "index" not in stats:
        reason = f"arm {arm(steps)} searches no index"
        for name in ("index_build", "search"):
            flops[name] = None
            nulls[f"flops.{name}"] = reason
    sizes: dict[str, int | None] = {
        "N": evaluation["non_embedding"],
        "N_total": sum(parameters["generator"].values()),
        "retriever_parameters": retriever,
        "D": sum(s["tokens"] for s in trained),
        "D_target": sum(s["target_tokens"] for s in trained),
        "M": evaluation["M"],
        "M_train": stats.get("train_topk", stats.get("train_index", {})).get("M"),
        "K": steps.asked.k,
        "K_train": steps.train.k,
        "questions": evaluation["questions"],
    }
    if sizes["M"] is None:
        nulls["M"] = "a closed-book run reads no corpus"
    if sizes["M_train"] is None:
        nulls["M_train"] = "no passages were retrieved in training"
    return {
        "sizes": sizes,
        "parameters": parameters,
        "flops": flops,
        "bytes": {role: a.bytes for role, a in made.items()},
        "seconds": {role: a.seconds for role, a in made.items()},
        "metrics": metrics,
        "nulls": nulls,
    }


def _add_search(
    metrics: dict[str, float | None], nulls: dict[str, str], topk: dict[str, Any], index: dict[str, Any], which: str
) -> None:
    """Add what is known of the search (recall against exact search, speed, size), or why it is not."""
    recall = topk.get("recall") or {}
    found = {
        "index_recall@1": recall.get("1"),
        "index_recall@k": recall.get(str(topk.get("k"))),
        "queries_per_second": topk.get("queries_per_second"),
        "index_bytes_per_passage": index["bytes"] / index["M"] if index.get("bytes") and index.get("M") else None,
    }
    unsearched = f"arm {which} searches no index"
    for name, value in found.items():
        metrics[name] = value
        if value is None:
            reason = (
                topk.get("recall_reason", "unknown") if name.startswith("index_recall") else "unknown for this index"
            )
            nulls[name] = reason if index else unsearched


def prepare(points: Sequence[tuple[RunConfig, RunSteps]]) -> None:
    """Read and check the data of every run before the first one starts.

    Builds passages and questions (malformed lines, duplicate ids and absent gold passages end here) and
    holds the exact corpus sizes against k and the index.

    Raises:
        ConfigError, DataError: what is wrong, before any long work.
    """
    problems: dict[str, None] = {}
    stores: dict[Path, Store] = {}
    for config, steps in points:
        if not config.paths.reuse or RunFolder(config.paths.root, steps.run_id).record.is_file():
            continue
        store = stores.setdefault(config.paths.store, Store(config.paths.store, report=_say))
        for problem in _data_problems(config, steps, store):
            problems.setdefault(problem)
    if problems:
        raise ConfigError(list(problems))


def _data_problems(config: RunConfig, steps: RunSteps, store: Store) -> list[str]:
    from rag_exp.data.passages import PassageTable

    found: list[str] = []
    for where, setting, role in (
        ("corpus.size", steps.train, "passages"),
        ("evaluation.corpus_size", steps.asked, "evaluation_passages"),
    ):
        passages = store.ensure(steps.roles.get(role, steps.roles["passages"]))
        store.ensure(steps.roles.get(role.replace("passages", "questions"), steps.roles["questions"]))
        if setting.source != "none":
            size = PassageTable.open(passages.path).prefix_size(setting.size)
            found += setting_problems(setting, size, where)
    return found


def announce(plan: Any, records: Sequence[RunRecord | None]) -> None:
    """Say what came of a study or a run, and what to do next."""
    failed = [(p, r) for p, r in zip(plan.points, records, strict=True) if r is None or r.status == "failed"]
    if len(records) > 1:
        _say(f"{plan.name}: {len(records) - len(failed)} of {len(records)} runs finished")
    for point, record in failed:
        last = (
            (record.error or "").strip().splitlines()[-1] if record is not None and record.error else "left no record"
        )
        _say(f"failed: {point.run_id[:12]} {' '.join(f'{k}={v}' for k, v in point.axes.items())}: {last}")
    if len(records) == 1 and records[0] is not None:
        print(RunFolder(plan.root, records[0].run_id).record)
    elif plan.name != "sweep" and not failed:
        _say(f"next: rag-exp fit study={plan.name} && rag-exp report study={plan.name}")


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
        _say(f"{count}run {record.run_id[:12]} FAILED: {(record.error or '').strip().splitlines()[-1]}")
        return
    s, m = record.sizes, record.metrics
    shown = ", ".join(f"{n} {m[n]:.3f}" for n in ("nll", "em", "f1", "gold_recall@k") if m.get(n) is not None)
    _say(f"{count}run {record.run_id[:12]} {record.arm} N={s['N']} M={s['M']} K={s['K']}: {shown} ({how})")


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


@lru_cache(maxsize=1)
def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that can change a number."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The git commit of rag_exp's own source, ``+changes`` where the tree is not clean; None outside a checkout."""
    here = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != here:
        return None  # installed from a wheel inside somebody else's repository
    head = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--", "rag_exp", "configs")
    return f"{head}+changes" if head and changed else head
