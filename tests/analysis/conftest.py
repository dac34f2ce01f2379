"""Synthetic studies: records as a run writes them, from a world whose law is known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from rag_exp.core.record import RunRecord, write_record

N_OF = {"s0": 131_072, "s1": 311_296, "s2": 786_432, "s3": 1_966_080}
M_OF = {"1000": 997, "2400": 2391, "5700": 5688, "13600": 13_577, "null": 32_380}
QUESTIONS = 400
INDEX = {"flat": (1.0, 900, 768), "hnsw": (0.985, 9000, 1080), "ivf": (0.93, 21_000, 776), "bm25": (None, 2500, 410)}


class World:
    """A question is answered at ``3 + 160 N^-0.25`` nats with its gold passage, at ``19`` without."""

    def __init__(self, seed=0, noise=0.006):
        rng = np.random.default_rng(seed)
        self.noise, self.seed = noise, seed
        self.hard = rng.gamma(4, 0.25, QUESTIONS)
        self.rank = rng.permutation(QUESTIONS) / QUESTIONS

    def losses(self, n, m, arm="dense", index="flat", growth="coverage", seed=0):
        hit = np.full(QUESTIONS, 1.0)
        if arm in ("dense", "bm25"):
            inside = self.rank < m / 32_380 if growth == "coverage" else np.full(QUESTIONS, True)
            found = {"bm25": 0.93}.get(index, 0.86 * (INDEX[index][0] or 1)) - 0.05 * np.log10(m / 1000)
            hit = inside * found
        if arm in ("random", "closed_book"):
            hit = np.zeros(QUESTIONS)
        read, miss = 2.2 + 160 * n**-0.25, 14.5 + 160 * n**-0.25
        miss += {"random": 0.8, "closed_book": 0.0}.get(arm, 0.0)
        shake = np.random.default_rng([self.seed, int(n), int(m or 0), len(arm), len(index), seed]).normal(
            0, self.noise
        )
        return (hit * read + (1 - hit) * miss) * self.hard / self.hard.mean() * np.exp(shake)


def record(
    world, size="s2", corpus="null", arm="dense", index="flat", growth="coverage", seed=0, status="finished", k=4
):
    n, m = N_OF[size], M_OF[corpus]
    asked = None if arm in ("closed_book", "oracle", "random") else index
    nll = world.losses(n, m, arm, index, growth, seed)
    recall, speed, width = INDEX[index]
    gold = float(np.mean(world.rank < m / 32_380)) if growth == "coverage" else 1.0
    metrics = {
        "questions": float(QUESTIONS),
        "nll": float(nll.mean()),
        "nll_se": float(nll.std(ddof=1) / np.sqrt(QUESTIONS)),
        "em": 0.3,
        "f1": 0.42,
        "gold_recall@k": None
        if arm == "closed_book"
        else 1.0
        if arm == "oracle"
        else gold * (0.93 if index == "bm25" else 0.86 * (recall or 1)),
        "gold_in_corpus": gold if arm != "closed_book" else None,
        "index_recall@k": recall if asked else None,
        "queries_per_second": speed * (32_380 / m) ** 0.7 if asked else None,
        "index_bytes_per_passage": float(width) if asked else None,
    }
    nulls = {}
    if asked is None:
        nulls |= {
            x: f"arm {arm} searches no index"
            for x in ("index_recall@k", "queries_per_second", "index_bytes_per_passage")
        }
    elif recall is None:
        nulls["index_recall@k"] = "BM25 has no exact search to compare with"
    if arm == "closed_book":
        nulls |= {"M": "a closed-book run reads no corpus", "gold_recall@k": "no passages are read"}
    evaluation = {
        "split": "dev",
        "corpus_size": None if corpus == "null" else int(corpus),
        "growth": None if growth == "coverage" else growth,
        "source": {"dense": None, "bm25": None, "closed_book": None}.get(arm, arm),
        "index": None if index == "flat" else {"kind": index},
        "k": None,
    }
    return RunRecord(
        run_id=f"{size}-{corpus}-{arm}-{index}-{growth}-{seed}".replace("null", "all"),
        status=status,
        arm=arm,
        seed=seed,
        config={
            "seed": seed,
            "corpus": {"kind": "factbook", "size": None, "growth": "coverage"},
            "index": {"kind": "flat"},
            "retrieval": {"source": "none" if arm == "closed_book" else "index", "k": k},
            "generator": {"kind": "ladder", "size": size, "layers": [1, 2]},
            "evaluation": evaluation,
            "paths": {"root": f"/somewhere/{size}", "store": "/somewhere/store"},
        },
        artifacts={
            "checkpoint": f"checkpoint-{size}-{arm == 'closed_book'}-{seed}",
            "evaluation": f"evaluation-{size}-{corpus}-{seed}",
        },
        sizes={
            "N": n,
            "N_total": n + 800_000,
            "D": 40_000_000,
            "M": None if arm == "closed_book" else m,
            "M_train": None if arm == "closed_book" else 32_380,
            "K": 0 if arm == "closed_book" else k,
            "K_train": 0 if arm == "closed_book" else k,
            "questions": QUESTIONS,
        },
        flops={"training": 6.0 * n * 4e7, "search": None if asked is None else 2.0 * m * 192 * QUESTIONS},
        bytes={"checkpoint": 4 * n, **({"index": int(width * m)} if asked else {})},
        seconds={"checkpoint": 40.0 + n / 1e5, "run": 3.0},
        metrics=metrics if status == "finished" else {},
        nulls=nulls,
        versions={"python": "3.11.7", "torch": "2.9.0"},
        commit="0123456789abcdef0123456789abcdef01234567",
        command="rag-exp run -m study=quickstart",
        created="2026-01-01T00:00:00Z",
        error=None if status == "finished" else "Traceback\nTrainingError: the loss is NaN at step 40",
    )


def quickstart(world, seeds=(0,)):
    runs = [record(world, s, c, seed=seed) for seed in seeds for s in N_OF for c in M_OF]
    runs += [record(world, s, arm=a) for s in N_OF for a in ("oracle", "random")]
    runs += [record(world, "s2", arm="closed_book")]
    runs += [
        record(world, "s2", c, "bm25" if i == "bm25" else "dense", i)
        for i in ("bm25", "ivf", "hnsw")
        for c in ("1000", "5700", "null")
    ]
    runs += [record(world, "s2", c, growth="distractor") for c in ("1000", "5700")]
    return runs


def plan_of(runs, **more):
    points = []
    for r in runs:
        where = {"generator.size": r.config["generator"]["size"]}
        where |= {
            f"evaluation.{k}": str(v)
            for k, v in r.config["evaluation"].items()
            if k == "corpus_size" or (v and k in ("growth", "source"))
        }
        points.append({"run_id": r.run_id, "overrides": [f"{k}={v}" for k, v in where.items()], "point": where})
    return {
        "study": "quickstart",
        "metric": "nll",
        "description": "From-scratch readers of four sizes over corpora of five sizes.",
        "command": "rag-exp run -m study=quickstart",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "overrides": ["study=quickstart"],
        "runs": points,
        **more,
    }


@pytest.fixture(scope="session")
def synthetic():
    """The names above, for tests: a tests folder is no package to import from."""
    return SimpleNamespace(World=World, record=record, quickstart=quickstart, plan_of=plan_of)


@pytest.fixture(scope="session")
def quick(synthetic):
    """A small quickstart, fitted: its world, runs, table and laws."""
    from rag_exp.analysis.study_fitting import fit_table
    from rag_exp.analysis.tables import records_to_table
    from rag_exp.laws import LawOptions

    world = World()
    runs = quickstart(world)
    table = records_to_table(runs, plan_of(runs))
    return SimpleNamespace(world=world, runs=runs, table=table, fits=fit_table(table, LawOptions(bootstrap=80)))


@pytest.fixture
def write_study():
    """Write runs and their plan as a study's folder."""

    def write(folder, runs, **more):
        for r in runs:
            write_record(r, folder / "records" / f"{r.run_id}.json")
        (folder / "plan.json").write_text(json.dumps(plan_of(runs, **more)), encoding="utf-8")
        return folder

    return write
