"""Shards on Ray answer as they do here, also when what holds them dies."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from rag_exp.core.errors import DataError
from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.indexes import HNSW, IVF, Flat, IndexOptions
from rag_exp.retrieval.ray_shards import RayOptions, RayShards, connect, run_on_ray
from rag_exp.retrieval.recall import recall_against
from rag_exp.retrieval.sharded import LocalShards, Shard, ShardJob, ShardPlace, Share

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'rag-exp[ray]'")
RAY = RayOptions(patience=120)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One cluster for all tests of this process; the classes of this file are sent to it as they stand here."""
    ray = connect(RAY)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield ray
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class Watched(Shard):
    """Notes its process before each search; the first time it then waits to be killed."""

    note: Path

    def search(self, asked):
        first = not self.note.exists()
        self.note.write_text(str(os.getpid()))
        if first:
            time.sleep(300)
        return super().search(asked)


@dataclass(frozen=True)
class WatchedPlace(ShardPlace):
    note: Path | None = None

    def open(self) -> Shard:
        shard = super().open()
        shard.__class__, shard.note = Watched, self.note
        return shard


@dataclass(frozen=True)
class DeadlyPlace(ShardPlace):
    def open(self) -> Shard:
        os._exit(1)


@pytest.mark.parametrize(
    ("options", "shards"), [(Flat(), 3), (IVF(nlist=16, nprobe=1), 1), (HNSW(m=6), 2)], ids=["flat", "ivf", "hnsw"]
)
def test_the_answer_is_the_same_as_in_this_process(options: IndexOptions, shards: int, shard_files):
    vectors, queries = shard_files.clustered(700), shard_files.clustered(40, seed=1)
    places = shard_files.write(options, vectors, shards)
    here, there = LocalShards(places), RayShards(places, RAY)
    expected, found = here.search(queries, 10), there.search(queries, 10)
    np.testing.assert_array_equal(found.ids_QK, expected.ids_QK)
    np.testing.assert_array_equal(found.scores_QK, expected.scores_QK)
    assert there.distances == here.distances
    assert there.stats() == here.stats()
    assert (there.size, there.is_exact, there.exact_scores) == (700, here.is_exact, here.exact_scores)
    if isinstance(options, IVF):
        there.turn(16)
        exact = exact_topk(queries, [vectors], 10)
        assert recall_against(found, exact, 10, True) < recall_against(there.search(queries, 10), exact, 10, True) == 1


def test_a_shard_killed_in_mid_search_is_opened_again_and_the_query_answered(
    shard_files, tmp_path, caplog, capfd, monkeypatch
):
    # Runs of other tests in this process leave handlers whose streams are closed.
    monkeypatch.setattr(logging.getLogger(), "handlers", [caplog.handler])
    vectors, queries = shard_files.clustered(500), shard_files.clustered(20, seed=1)
    places = shard_files.write(IVF(nlist=8, nprobe=3), vectors, 2)
    expected = LocalShards(places).search(queries, 10)
    note = tmp_path / "process"
    places[1] = WatchedPlace(**vars(places[1]), note=note)
    index = RayShards(places, RAY)

    def kill() -> None:
        while not (note.exists() and note.read_text()):
            time.sleep(0.02)
        killed.append(int(note.read_text()))
        os.kill(killed[0], signal.SIGKILL)

    killed: list[int] = []
    killer = threading.Thread(target=kill)
    killer.start()
    found = index.search(queries, 10)
    killer.join()
    np.testing.assert_array_equal(found.ids_QK, expected.ids_QK)
    np.testing.assert_array_equal(found.scores_QK, expected.scores_QK)
    assert int(note.read_text()) != killed[0]
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("shard 2 of 2 (passages 250 to 499) died (")
    assert "".join(capfd.readouterr()) == "", "Ray's own account belongs into its logs"


def test_a_shard_that_dies_again_and_again_is_named(shard_files):
    places = shard_files.write(Flat(), shard_files.clustered(90), 2)
    places[1] = DeadlyPlace(**vars(places[1]))
    with pytest.raises(DataError, match=r"shard 2 of 2 \(passages 45 to 89\) died 2 times"):
        RayShards(places, RAY.model_copy(update={"restarts": 1}))


def test_a_shard_that_cannot_be_opened_again_is_named(shard_files, cluster):
    queries = shard_files.clustered(5)
    places = shard_files.write(IVF(nlist=2), shard_files.clustered(90), 2)
    index = RayShards(places, RAY)
    index.search(queries, 3)
    cluster.kill(index._actors[0])
    (places[0].folder / "index.faiss").unlink()
    with pytest.raises(DataError, match=r"shard 1 of 2 \(passages 0 to 44\) cannot be opened"):
        index.search(queries, 3)


def test_a_shard_that_is_silent_is_named(shard_files, tmp_path):
    places = shard_files.write(Flat(), shard_files.clustered(60), 2)
    places[0] = WatchedPlace(**vars(places[0]), note=tmp_path / "process")
    index = RayShards(places, RAY)
    index._options = RAY.model_copy(update={"patience": 0.5})
    with pytest.raises(DataError, match=r"within 0.5 s .* of shard 1 of 2 \(passages 0 to 29\)\."):
        index.search(shard_files.clustered(2), 3)


def test_errors_of_a_shard_are_raised_as_they_are(shard_files):
    index = RayShards(shard_files.write(IVF(nlist=2), shard_files.clustered(90), 2), RAY)
    with pytest.raises(DataError, match="both must come from one encoder"):
        index.search(np.ones((2, 5)), 3)


def test_a_shard_is_built_there_as_here(shard_files, tmp_path):
    (place,) = shard_files.write(IVF(nlist=4), shard_files.clustered(200), 1)
    job = ShardJob(
        place.share, place.options, shard_files.folder / "quantizer",
        tuple(sorted(shard_files.folder.glob("embeddings_*"))), tmp_path / "there", 0,
    )  # fmt: skip
    stats = run_on_ray(job, RAY)
    for name in ("index.faiss", "index.json"):
        assert (tmp_path / "there" / name).read_bytes() == (place.folder / name).read_bytes()
    assert stats == IVF().load(place.folder).stats()
    with pytest.raises(DataError, match=r"shard 2 of 2 \(passages 200 to 399\) cannot be built"):
        run_on_ray(replace(job, share=Share(1, 2, 400)), RAY)
