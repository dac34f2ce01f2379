"""How fast the closed world streams, and in how much memory.

    python scripts/bench_closed_world.py [PASSAGES ...]     (default: 10000 100000 1000000)

Prints, per world size, passages per second (text made, documents counted and dropped), questions per
second and the peak resident memory of a fresh process. The last lines compare, side by side in one
process, the hashed draws of the generator with one numpy generator per entity.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from multiprocessing.connection import Connection

QUESTIONS = 100_000


def _peak_mb() -> float:
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / 1024 if sys.platform != "darwin" else kilobytes / 2**20


def _stream(passages: int, out: Connection) -> None:
    from rag_exp.data.closed_world import ClosedWorldCorpus, ClosedWorldQuestions

    before = _peak_mb()
    corpus = ClosedWorldCorpus(passages=passages)
    start = time.perf_counter()
    count = words = 0
    for document in corpus.documents():
        for passage in document.passages:
            count += 1
            words += passage.text.count(" ") + 1
    corpus_seconds = time.perf_counter() - start
    assert count == corpus.count()
    rates = []
    for hops in (1, 2):
        options = ClosedWorldQuestions(passages=passages, hops=hops, train=QUESTIONS, dev=0, test=0, seen=0)
        start = time.perf_counter()
        asked = sum(1 for _ in options.questions())
        rates.append(asked / (time.perf_counter() - start))
    out.send((count, words / count, corpus_seconds, rates, before, _peak_mb()))


def _draws_side_by_side(entities: int = 20_000) -> float:
    import numpy as np

    from rag_exp.core.rng import numpy_rng
    from rag_exp.data.closed_world.draws import Streams

    start = time.perf_counter()
    for i in range(entities):
        numpy_rng(0, "entity", i).random()
    per_object = time.perf_counter() - start
    start = time.perf_counter()
    Streams(0).uniform("entity", np.arange(entities))
    return per_object / (time.perf_counter() - start)


def main(sizes: list[int]) -> None:
    """Measure each size in its own process, so that peaks do not mix."""
    print("passages   words/passage   passages/s   seconds   1-hop q/s   2-hop q/s   peak RSS MB (before)")
    context = multiprocessing.get_context("spawn")
    for size in sizes:
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=_stream, args=(size, sender))
        worker.start()
        sender.close()
        count, words, seconds, (one, two), before, peak = receiver.recv()
        worker.join()
        print(
            f"{count:>8,}   {words:>13.1f}   {count / seconds:>10,.0f}   {seconds:>7.2f}   {one:>9,.0f}   {two:>9,.0f}"
            f"   {peak:>6.0f} ({before:.0f})"
        )
    print(f"one hashed draw against one numpy generator per entity: {_draws_side_by_side():,.0f}x faster")


if __name__ == "__main__":
    main([int(argument.replace("_", "")) for argument in sys.argv[1:]] or [10_000, 100_000, 1_000_000])
