from __future__ import annotations

import collections
import errno
from pathlib import Path

import numpy as np
import pytest

from rag_exp.core.errors import DataError
from rag_exp.retrieval import disk_lists, faiss_index
from rag_exp.retrieval.index import VectorIndexOptions
from rag_exp.retrieval.indexes import IVF, IVFPQ, PQ, SQ, Factory, FastScan, RaBitQ
from rag_exp.retrieval.sharded import LocalShards

VECTORS = np.random.default_rng(0).standard_normal((2500, 16)).astype(np.float32)
ASKED = np.random.default_rng(1).standard_normal((40, 16)).astype(np.float32)
KINDS = [
    IVF(nlist=16, nprobe=5),
    IVFPQ(string="IVF16,PQ4x4np", search="nprobe=5"),
    RaBitQ(string="IVF16,RaBitQ", search="nprobe=5"),
    Factory(string="RR{dims},IVF16,SQ8", search="nprobe=5"),
]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(disk_lists, "PART_BYTES", 10_000)
    monkeypatch.setattr(faiss_index, "ADD_ROWS", 300)


def on_disk(options: VectorIndexOptions) -> VectorIndexOptions:
    return options.model_copy(update={"lists": "disk"})


@pytest.mark.parametrize("options", KINDS, ids=lambda o: o.kind)
def test_the_same_is_found_as_in_memory_also_from_where_the_store_moved_it(
    options: VectorIndexOptions, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    memory, disk = options.create([VECTORS], 3), on_disk(options).create([VECTORS[:999], VECTORS[999:]], 3)
    disk.save(tmp_path / "building")
    (tmp_path / "building").rename(tmp_path / "kept")
    wanted = memory.search(ASKED, 10)
    loaded = on_disk(options).load(tmp_path / "kept")
    for index in (disk, loaded, options.load(tmp_path / "kept")):
        found = index.search(ASKED, 10)
        np.testing.assert_array_equal(found.ids_QK, wanted.ids_QK)
        np.testing.assert_array_equal(found.scores_QK, wanted.scores_QK)
        assert index.size == 2500
        assert index.distances == memory.distances
    assert (tmp_path / "kept" / "index.ivfdata").stat().st_size > 10 * (tmp_path / "kept" / "index.json").stat().st_size
    assert capfd.readouterr().out == ""  # faiss says there what it does with its files


def test_lists_that_were_built_in_memory_can_be_left_on_disk(tmp_path: Path):
    memory = IVF(nlist=16, nprobe=5).create([VECTORS], 3)
    memory.save(tmp_path)
    assert not (tmp_path / "index.ivfdata").exists()
    found = IVF(nlist=16, nprobe=5, lists="disk").load(tmp_path).search(ASKED, 10)
    np.testing.assert_array_equal(found.ids_QK, memory.search(ASKED, 10).ids_QK)


def test_shards_are_filled_on_disk_from_what_was_learnt(shard_files):
    options = IVF(nlist=16, nprobe=5)
    whole = options.create([VECTORS], shard_files.SEED).search(ASKED, 10)
    cut = LocalShards(shard_files.write(on_disk(options), VECTORS, 3)).search(ASKED, 10)
    np.testing.assert_array_equal(cut.ids_QK, whole.ids_QK)


def test_a_disk_that_is_too_full_is_an_error_and_not_the_end_of_the_process(monkeypatch: pytest.MonkeyPatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(disk_lists.shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(OSError, match="do not fit") as error:
        IVF(nlist=16, lists="disk").create([VECTORS], 3)
    assert error.value.errno == errno.ENOSPC


def test_what_is_found_does_not_depend_on_it():
    assert IVF(lists="disk").identity() == IVF().identity()
    assert on_disk(KINDS[1]).identity() == KINDS[1].identity()


@pytest.mark.parametrize(
    "options", [SQ(), PQ(string="PQ4x4"), FastScan(), Factory(string="HNSW8")], ids=lambda o: o.kind
)
def test_what_has_no_lists_for_a_disk_is_refused(options: VectorIndexOptions):
    assert not any("index.lists" in problem for problem in options.problems(10_000))
    (problem,) = on_disk(options).problems(10_000)
    assert problem.startswith("index.lists: disk: faiss keeps no lists of")


def test_lists_that_are_gone_are_a_data_error(tmp_path: Path):
    IVF(nlist=16, lists="disk").create([VECTORS], 3).save(tmp_path)
    (tmp_path / "index.ivfdata").unlink()
    with pytest.raises(DataError, match="no readable index"):
        IVF(nlist=16).load(tmp_path)
