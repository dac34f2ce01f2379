"""Run on the first of two nodes: a search over shards on both, during which the second node dies. Prints JSON.

python two_nodes.py SHARDS_FOLDER CLUSTER_SCRIPT
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rag_exp.retrieval.indexes import IVF
from rag_exp.retrieval.ray_shards import RayOptions, RayShards
from rag_exp.retrieval.sharded import LocalShards, Shard, ShardPlace, Share


class Slow(Shard):
    """A search that takes long enough to be cut off."""

    def search(self, asked):
        time.sleep(2)
        return super().search(asked)


class SlowPlace(ShardPlace):
    def open(self) -> Shard:
        shard = super().open()
        shard.__class__ = Slow
        return shard


def nodes_of(index: RayShards) -> list[str]:
    """The address of each shard's node."""
    import ray

    def where(_) -> str:
        return ray.util.get_node_ip_address() + " " + ray.get_runtime_context().get_node_id()

    return ray.get([actor.__ray_call__.remote(where) for actor in index._actors])


def main(folder: Path, script: str) -> None:
    queries = np.load(folder / "queries.npy")
    shards = sorted(folder.glob("shard_*"))
    size = json.loads((folder / "size.json").read_text())
    places: Sequence[ShardPlace] = [
        SlowPlace(Share(n, len(shards), size), IVF(nlist=8, nprobe=3), shard) for n, shard in enumerate(shards)
    ]
    expected = LocalShards([ShardPlace(p.share, p.options, p.folder) for p in places]).search(queries, 10)
    index = RayShards(places, RayOptions(address="auto", patience=120))
    before = nodes_of(index)
    timer = threading.Timer(0.7, lambda: subprocess.run(["bash", script, "kill"], check=True))
    timer.start()
    start = time.perf_counter()
    found = index.search(queries, 10)
    seconds = time.perf_counter() - start
    timer.join()
    print(
        json.dumps(
            {
                "before": before,
                "after": nodes_of(index),
                "seconds": seconds,
                "same_ids": bool((found.ids_QK == expected.ids_QK).all()),
                "same_scores": bool((found.scores_QK == expected.scores_QK).all()),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
