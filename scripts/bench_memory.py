"""Peak memory of a build: passages, embeddings, index, search, each in a process of its own (Linux).

    python scripts/bench_memory.py                                # 10^6 passages x 256 dims, ivf: some 10 minutes
    python scripts/bench_memory.py --passages 100000 --index hnsw

Text and vectors are memory-mapped, so two numbers are given: *anonymous* memory, which a process needs, and pages of
mapped files, which the system may take back at any time. The goal is a peak of both together under 3 GB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

GOAL_MB = 3_000
VOCABULARY = 4_096
QUERIES = 512


def passages(folder: Path, a: argparse.Namespace) -> dict[str, int]:
    from rag_exp.data.closed_world import ClosedWorldCorpus
    from rag_exp.data.passages import Whole, write_passages

    out = folder / "passages"
    out.mkdir()
    return {"passages": write_passages(ClosedWorldCorpus(passages=a.passages), Whole(), out)["passages"]}


def tokenizer(folder: Path, a: argparse.Namespace) -> dict[str, int]:
    from rag_exp.data.passages import PassageTable
    from rag_exp.data.tokenizer import train_bpe

    batches = PassageTable.open(folder / "passages").batches(20_000)
    train_bpe((f"{title}\n{text}" for _, batch in batches for title, text in batch), VOCABULARY, folder)
    return {}


def embed(folder: Path, a: argparse.Namespace) -> dict[str, int]:
    from rag_exp.data.passages import PassageTable
    from rag_exp.retrieval.embeddings import embed_passages
    from rag_exp.retrieval.encoders import Static

    table = PassageTable.open(folder / "passages")
    encoder = Static(dims=a.dims).create(folder, VOCABULARY, seed=0)
    pairs = (pair for _, batch in table.batches() for pair in batch)
    return {"tokens": embed_passages(encoder, pairs, len(table), folder / "vectors")["tokens"]}


def index(folder: Path, a: argparse.Namespace) -> dict[str, int]:
    from rag_exp.data.passages import PassageTable
    from rag_exp.retrieval.embeddings import load_blocks
    from rag_exp.retrieval.encoders import passage_text
    from rag_exp.retrieval.indexes import INDEXES

    options = INDEXES.kinds[a.index]()
    table = PassageTable.open(folder / "passages")
    if options.needs == "texts":
        content = (passage_text(*pair) for _, batch in table.batches() for pair in batch)
    else:
        content = load_blocks([folder / "vectors"], len(table))
    built = options.create(content, seed=0)
    if options.stores_vectors:
        built.save(folder / "index")
    return {"index_mb": built.stats()["bytes"] // 1_000_000}


def search(folder: Path, a: argparse.Namespace) -> dict[str, int]:
    import numpy as np

    from rag_exp.data.passages import PassageTable
    from rag_exp.retrieval.embeddings import load_blocks, take_vectors
    from rag_exp.retrieval.indexes import INDEXES

    options = INDEXES.kinds[a.index]()
    table = PassageTable.open(folder / "passages")
    rows = np.linspace(0, len(table) - 1, QUERIES).astype(np.int64)
    if options.needs == "texts":
        queries = [title for title, _ in table.texts(rows)]
    else:
        queries = take_vectors(load_blocks([folder / "vectors"], len(table)), rows)
    if options.stores_vectors:
        built = options.load(folder / "index")
    else:
        built = options.create(load_blocks([folder / "vectors"], len(table)), seed=0)
    return {"found": int(built.search(queries, 10).mask_QK.sum())}


STAGES: dict[str, Callable[[Path, argparse.Namespace], dict[str, int]]] = {
    stage.__name__: stage for stage in (passages, tokenizer, embed, index, search)
}


class Peak(threading.Thread):
    """The largest anonymous and file-backed resident memory of this process, looked at every 20 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.anonymous = self.mapped = 0
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.02):
            self.look()

    def look(self) -> None:
        now = resident()
        self.anonymous = max(self.anonymous, now["RssAnon"] + now["RssShmem"])
        self.mapped = max(self.mapped, now["RssFile"])

    def stop(self) -> None:
        self._done.set()
        self.join()
        self.look()


def resident() -> dict[str, int]:
    """MB by kind, and ``VmHWM``, the kernel's own record of the peak of all together."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return {k: int(found[k].split()[0]) // 1_000 for k in ("RssAnon", "RssFile", "RssShmem", "VmHWM")}


def measure(stage: str, folder: Path, a: argparse.Namespace) -> None:
    """Run one stage in this process and print its numbers as JSON."""
    peak = Peak()
    peak.start()
    start = time.perf_counter()
    facts = STAGES[stage](folder, a)
    seconds = time.perf_counter() - start
    peak.stop()
    print(
        json.dumps(
            {
                "seconds": seconds,
                "anonymous": peak.anonymous,
                "mapped": peak.mapped,
                "peak": resident()["VmHWM"],
                "facts": facts,
            }
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--dims", type=int, default=256)
    parser.add_argument("--index", default="ivf", help="flat, ivf, hnsw or bm25")
    parser.add_argument("--folder", type=Path, help="where files are written (default: a temporary folder)")
    parser.add_argument("--stage", choices=list(STAGES), help=argparse.SUPPRESS)
    a = parser.parse_args()
    if not Path("/proc/self/status").is_file():
        sys.exit("bench_memory reads /proc/self/status, which only Linux has.")
    if a.stage:
        measure(a.stage, a.folder, a)
        return 0
    with tempfile.TemporaryDirectory(dir=a.folder, prefix="bench-memory-") as folder:
        print(f"{a.passages:,} passages x {a.dims} dims, index={a.index}; MB, each stage in its own process")
        print(f"{'stage':10} {'seconds':>8} {'anonymous':>10} {'mapped':>8} {'peak':>8}")
        worst = 0
        for stage in STAGES:
            if a.index == "bm25" and stage in ("tokenizer", "embed"):
                continue
            command = [sys.executable, __file__, "--stage", stage, "--folder", folder, "--index", a.index]
            command += ["--passages", str(a.passages), "--dims", str(a.dims)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            m = json.loads(done.stdout.splitlines()[-1])
            worst = max(worst, m["peak"])
            facts = ", ".join(f"{k} {v:,}" for k, v in m["facts"].items())
            print(
                f"{stage:10} {m['seconds']:8.1f} {m['anonymous']:10,} {m['mapped']:8,} {m['peak']:8,}  {facts}",
                flush=True,
            )
    print(f"peak of all stages: {worst:,} MB; goal: under {GOAL_MB:,} MB: {'met' if worst < GOAL_MB else 'MISSED'}")
    return 0 if worst < GOAL_MB else 1


if __name__ == "__main__":
    sys.exit(main())
