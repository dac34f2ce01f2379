"""One run: resolve its steps, build what is missing, evaluate, write the record.

``runs/<run id>/record.json`` is written last. A run that is finished is printed and left; a killed one
goes on from what the store holds; two processes that start one run at once do it once.
"""

from __future__ import annotations

import json
import os
import shlex
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
from rag_exp.core.store import Store
from rag_exp.settings import setting_problems
from rag_exp.steps import RunSteps, plan_run

PLAN = "RAG_EXP_PLAN"  # environment variable: the plan.json of the study in progress
UNKNOWN_SIZE = "the size of the generator, which is hosted elsewhere, is not known here"
TRAINED = ("reader_warmup", "checkpoint")  # roles whose step is a stage of training
COMMAND = "RAG_EXP_COMMAND"  # environment variable: the command as it was typed

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
        "config": config.model_dump(mode="json"),
        "versions": versions(),
        "commit": commit(),
        "command": os.environ.get(COMMAND),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    try:
        if config.trainer.accelerator not in ("auto", "cpu"):
            config.trainer.resolved_device()  # an accelerator that is not there is said now, not after the data
        store.ensure(steps.evaluation)
        record = RunRecord(status="finished", **facts, **_measured(config, steps, store))
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
    return found + ([f"evaluation: {note}" for note in asked.stats["notes"]] if asked is not None else [])


def _keys(steps: RunSteps) -> dict[str, str]:
    return {role: step.key for role, step in steps.roles.items()}


def _measured(config: RunConfig, steps: RunSteps, store: Store) -> dict[str, Any]:
    """Sizes, parameters, FLOPs, bytes, seconds and metrics, from what each step noted when it was built.

    A step whose artifact is no longer in the store (a finished run never needs its parents) leaves nulls.
    """
    made = {role: a for role, step in steps.roles.items() if (a := store.info(step)) is not None}
    stats = {role: a.stats for role, a in made.items()}
    gone = sorted(set(steps.roles) - set(made))
    evaluation, index, topk = stats["evaluation"], stats.get("index", {}), stats.get("topk", {})
    nulls = dict(evaluation["nulls"])
    metrics: dict[str, float | None] = dict(evaluation["metrics"])
    searches = "index" in steps.roles

    def total(key: str, *roles: str) -> float | None:
        """The sum of ``key`` over those of ``roles`` that the run has; None where one of them is gone, or unknown."""
        of_run = [r for r in roles if r in steps.roles]
        values = [stats[r][key] for r in of_run if r not in gone]
        return None if any(r in gone for r in of_run) or None in values else sum(values)

    def known(name: str, value: Any, reason: str) -> Any:
        """``value``, its absence explained."""
        if value is None:
            nulls[name] = f"no longer in the store: {', '.join(gone)}" if gone else reason
        return value

    def sized(name: str, value: Any) -> Any:
        """``value``, which only a generator of unknown size lacks."""
        if value is None:
            nulls[name] = UNKNOWN_SIZE
        return value

    unsearched = f"arm {arm(steps)} searches no index"
    warmup = stats["encoder"]["flops"] if "encoder" in stats else None if "encoder" in steps.roles else {}
    flops: dict[str, float | None] = {
        "reader_warmup": known("flops.reader_warmup", total("flops", "reader_warmup"), ""),
        "marginal": known("flops.marginal", total("flops", "checkpoint"), UNKNOWN_SIZE),
        "retriever_warmup": known("flops.retriever_warmup", None if warmup is None else sum(warmup.values()), ""),
        # BM25 embeds nothing, which is no cost and no gap.
        "embedding": known("flops.embedding", index.get("embedding_flops", 0.0) if index else None, unsearched),
        "index_build": known(
            "flops.index_build", index.get("build_flops"), index.get("build_flops_reason") or unsearched
        ),
        "search": known(
            "flops.search",
            _search_flops(topk, stats.get("paths") if searches else None),
            "this index does not count its comparisons" if searches else unsearched,
        ),
        "reading": sized("flops.reading", evaluation["flops"]),
    }
    stages = [flops[name] for name in ("reader_warmup", "marginal", "retriever_warmup")]
    training = None if None in stages else sum(s for s in stages if s is not None)
    flops["training"] = known("flops.training", training, UNKNOWN_SIZE)
    _add_search(metrics, nulls, topk, index, unsearched if not searches else None)
    parameters = dict(evaluation["parameters"])
    if index.get("parameters"):
        parameters["encoder"] = index["parameters"]
    trained = steps.train.source != "none" and config.training.steps > 0
    train_side = stats.get("train_topk", stats.get("checkpoint", {}))
    untrained = "no passages were retrieved in training"
    sizes: dict[str, int | None] = {
        "N": sized("N", evaluation["non_embedding"]),
        "N_total": sized("N_total", sum(parameters["generator"].values()) or None),
        "retriever_parameters": known(
            "retriever_parameters", None if searches and not index else sum(parameters.get("encoder", {}).values()), ""
        ),
        "D": known("D", total("tokens", "reader_warmup", "checkpoint"), ""),
        "D_target": known("D_target", total("target_tokens", "reader_warmup", "checkpoint"), ""),
        "M": known("M", evaluation["M"], "a closed-book run reads no corpus"),
        "M_train": known("M_train", train_side.get("M") if trained else None, untrained),
        "K": steps.asked.k,
        "J": known("J", steps.asked.hop2.j if steps.asked.hop2 and searches else None, "there is no second hop"),
        "paths": known("paths", steps.asked.prompts if steps.asked.hop2 else None, "no paths are read"),
        "K_train": known("K_train", steps.train.k if trained else None, untrained),
        "questions": evaluation["questions"],
    }
    shards = {f"embeddings/{i}": shard for i, shard in enumerate(index.get("embeddings", []))}
    # A stage that was killed and resumed knows its whole time; the artifact's is that of the last process.
    seconds = {role: a.stats["seconds"] if role in TRAINED else a.seconds for role, a in made.items()}
    return {
        "artifacts": {**_keys(steps), **{role: shard["key"] for role, shard in shards.items()}},
        "sizes": sizes,
        "parameters": parameters,
        "flops": flops,
        "bytes": {**{role: a.bytes for role, a in made.items()}, **{r: s["bytes"] for r, s in shards.items()}},
        "seconds": {**seconds, **{role: shard["seconds"] for role, shard in shards.items()}},
        "metrics": metrics,
        "nulls": nulls,
    }


def _search_flops(topk: dict[str, Any], paths: dict[str, Any] | None) -> float | None:
    """Operations of all comparisons; a second hop's with the encoding of its queries. None where an index is silent."""
    found = 0.0
    for hop in (topk, *([paths] if paths is not None else [])):
        if not (hop.get("distances") and hop.get("dims")):
            return None
        found += 2.0 * hop["distances"] * hop["dims"] + hop.get("encode_flops", 0)
    return found


def _add_search(
    metrics: dict[str, float | None],
    nulls: dict[str, str],
    topk: dict[str, Any],
    index: dict[str, Any],
    unsearched: str | None,
) -> None:
    """Add what is known of the search (what exact search would have found, speed, size), or why it is not.

    Args:
        unsearched: the reason, for a run that searches no index.
    """
    recall, latency = topk.get("recall") or {}, topk.get("latency_ms") or {}
    uncompared = topk.get("recall_reason", "unknown")
    counted = "this index does not count its comparisons"
    distances = topk["distances"] / topk["queries"] if topk.get("distances") and topk.get("queries") else None
    found = {
        "index_recall@1": (recall.get("1"), uncompared),
        "index_recall@k": (recall.get(str(topk.get("k"))), uncompared),
        "prior_kl": (topk.get("prior_kl"), uncompared),
        "prior_mass_missed": (topk.get("prior_mass_missed"), uncompared),
        "distances_per_query": (distances, counted),
        "queries_per_second": (topk.get("queries_per_second"), "no questions were searched"),
        "latency_p50_ms": (latency.get("p50"), "no questions were searched"),
        "latency_p95_ms": (latency.get("p95"), "no questions were searched"),
        "search_threads": (topk.get("threads"), "unknown"),
        "index_bytes_per_passage": (
            index["bytes"] / index["M"] if index.get("bytes") and index.get("M") else None,
            "unknown for this index",
        ),
    }
    for name, (value, reason) in found.items():
        metrics[name] = value
        if value is None:
            nulls[name] = reason if index else unsearched


def prepare(points: Sequence[tuple[RunConfig, RunSteps]]) -> None:
    """Read and check the data of every run before the first one starts.

    Builds passages and questions (malformed lines, duplicate ids and absent gold passages end here) and
    holds the exact corpus sizes against k and the index. A hosted generator is asked whether it answers.

    Raises:
        ConfigError, DataError: what is wrong, before any long work.
    """
    problems: dict[str, None] = {}
    stores: dict[Path, Store] = {}
    asked: list[Any] = []  # generators, each once
    for config, steps in points:
        if not config.paths.reuse or RunFolder(config.paths.root, steps.run_id).record.is_file():
            continue
        store = stores.setdefault(config.paths.store, Store(config.paths.store, report=_say))
        for problem in _data_problems(config, steps, store):
            problems.setdefault(problem)
        if not store.has(steps.evaluation) and config.generator not in asked:
            asked.append(config.generator)
            problems |= dict.fromkeys(config.generator.unready())
    if problems:
        raise ConfigError(list(problems))


def _data_problems(config: RunConfig, steps: RunSteps, store: Store) -> list[str]:
    from rag_exp.data.passages import PassageTable
    from rag_exp.data.questions import QuestionTable

    found: list[str] = []
    splits: dict[str, QuestionTable] = {}
    roles = steps.roles
    for setting, role, split in (
        (steps.train, "", "train"),
        (steps.asked, "evaluation_", config.evaluation.split),
    ):
        made = store.ensure(roles.get(f"{role}passages", roles["passages"]))
        questions = store.ensure(roles.get(f"{role}questions", roles["questions"]))
        if split == "train" and not any(r in roles for r in TRAINED):
            continue
        limit = config.training.questions if split == "train" else config.evaluation.questions
        splits[split] = QuestionTable.open(questions.path, split, limit)  # an unknown split is an error that names them
        if setting.source == "none":
            continue
        table = PassageTable.open(made.path)
        size = table.prefix_size(setting.size)
        found += setting_problems(config, setting, size, asked=bool(role))
        golds = made.stats.get("gold_documents")
        if setting.growth == "distractor" and golds and size < int(table.doc_ends[golds - 1]):
            key = "evaluation.corpus_size" if role else "corpus.size"
            found.append(
                f"{key}: growth=distractor keeps the {int(table.doc_ends[golds - 1])} passages of the documents that "
                f"hold gold passages of split {split}; {size} cannot hold them. Raise it."
            )
        if setting.source == "oracle" and not any(splits[split].gold):
            found.append(f"source=oracle: no question of split {split} names a gold passage.")
    return found + _room_problems(config, steps, store, splits)


def _room_problems(config: RunConfig, steps: RunSteps, store: Store, splits: dict[str, Any]) -> list[str]:
    """Prompts and answers that cannot fit the generator, where its vocabulary is the corpus' own."""
    if config.generator.own_vocabulary:
        return []
    from rag_exp.data.tokenizer import TextTokenizer
    from rag_exp.models.packing import Packer

    tokenizer = TextTokenizer.load(store.ensure(steps.roles["tokenizer"]).path)
    packer = Packer(tokenizer, config.prompt, config.generator.context_length(), config.generator.is_seq2seq())
    found = []
    for split, questions in splits.items():
        k = steps.train.prompts if split == "train" else steps.asked.prompts
        asked, answers = packer.tokens(questions.questions, "question"), packer.tokens(questions.targets, "answer")
        found += packer.room_problems(asked, answers, config.objective.in_one_prompt(k))
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
        words = shlex.join(plan.overrides)
        _say(f"next: rag-exp fit {words} && rag-exp report {words}")


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
