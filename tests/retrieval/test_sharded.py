"""Shards find what one index finds, and never a part of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_exp.core.errors import DataError
from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.indexes import HNSW, IVF, IVFPQ, OPQ, SQ, Factory, FastScan, Flat, IndexOptions, RaBitQ
from rag_exp.retrieval.recall import recall_against
from rag_exp.retrieval.sharded import LocalShards, Shard, ShardJob, ShardPlace, Share

EXACTLY: list[IndexOptions] = [
    Flat(),
    IVF(nlist=8, nprobe=3),
    SQ(),
    IVFPQ(string="IVF8,PQ4x4", search="nprobe=4"),
    OPQ(string="PCA8,IVF8,PQ4x4", search="nprobe=4"),
    FastScan(string="IVF8,PQ4x4fs", search="nprobe=4"),
    RaBitQ(string="IVF8,RaBitQ", search="nprobe=4"),
    Factory(string="IVF8_HNSW8,Flat", search="nprobe=3"),
]


@given(size=st.integers(0, 200), shards=st.integers(1, 40), cuts=st.lists(st.integers(0, 200), max_size=4))
def test_shares_cut_the_corpus_without_gap_or_overlap(size: int, shards: int, cuts: list[int]):
    rows = np.arange(size)[:, None]
    blocks = np.split(rows, sorted(min(c, size) for c in cuts))
    shares = [Share(n, shards, size) for n in range(shards)]
    held = [np.concatenate([np.empty((0, 1), int), *share.of(blocks)]) for share in shares]
    np.testing.assert_array_equal(np.concatenate(held), rows)
    assert {len(h) for h in held} <= {size // shards, size // shards + 1}


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
@pytest.mark.parametrize("options", EXACTLY, ids=lambda o: o.kind)
def test_shards_find_what_one_index_finds(options: IndexOptions, shards: int, shard_files):
    vectors, queries = shard_files.clustered(700), 3 * shard_files.clustered(40, seed=1)
    whole = options.create([vectors], shard_files.SEED)
    cut = LocalShards(shard_files.write(options, vectors, shards))
    expected, found = whole.search(queries, 10), cut.search(queries, 10)
    np.testing.assert_allclose(found.scores_QK, expected.scores_QK, rtol=1e-5)
    if options.kind == "opq":  # passages are rotated in batches, so that a score may move by its rounding
        assert (found.ids_QK == expected.ids_QK).mean() > 0.99
    else:
        np.testing.assert_array_equal(found.ids_QK, expected.ids_QK)
    assert (cut.size, cut.is_exact, cut.exact_scores) == (700, whole.is_exact, whole.exact_scores)
    stats = cut.stats()
    assert stats["shards"] == shards
    assert stats["build_flops"] == whole.stats()["build_flops"]
    for name in ("passages", "dims", "reproducible"):
        assert stats[name] == whole.stats()[name]


def held_to(places: Sequence[ShardPlace], first: int) -> list[ShardPlace]:
    return [replace(place, selected=first) for place in places if place.share.first < first]


@pytest.mark.parametrize("options", EXACTLY[1:], ids=lambda o: o.kind)
def test_shards_are_held_to_a_prefix_as_one_index_is(options: IndexOptions, shard_files):
    """Within the first shard, at the end of one, within the last, and all of them."""
    vectors, queries = shard_files.clustered(700), 3 * shard_files.clustered(40, seed=1)
    whole, places = options.create([vectors], shard_files.SEED), shard_files.write(options, vectors, 7)
    for first, reached in ((3, 1), (99, 1), (300, 3), (650, 7), (700, 7)):
        whole.select(first)
        cut = LocalShards(held_to(places, first))
        expected, found = whole.search(queries, 10), cut.search(queries, 10)
        assert (cut.size, len(cut._shards)) == (700, reached)  # no other shard is opened
        np.testing.assert_allclose(found.scores_QK, expected.scores_QK, rtol=1e-5)
        if options.kind == "opq":  # as above
            assert (found.ids_QK == expected.ids_QK).mean() > 0.99
        else:
            np.testing.assert_array_equal(found.ids_QK, expected.ids_QK)
        if options.assigns:
            assert cut.distances == whole.distances


def test_ties_at_the_edge_of_a_prefix_are_settled_in_every_shard(shard_files):
    rng = np.random.default_rng(0)
    rows = rng.integers(-2, 3, size=(40, 16)).astype(np.float32)
    rows[:, 3:] = 0
    queries = rng.integers(-2, 3, size=(5, 16)).astype(np.float32)
    places = shard_files.write(IVF(nlist=2, nprobe=2), rows, 4)
    for first in range(1, 41):
        for k in (1, 4, 12):
            found, exact = (
                LocalShards(held_to(places, first)).search(queries, k),
                exact_topk(queries, [rows[:first]], k),
            )
            np.testing.assert_array_equal(found.ids_QK, exact.ids_QK)
            np.testing.assert_array_equal(found.scores_QK, exact.scores_QK)


def test_the_dial_turns_shards_that_are_held_to_a_prefix(shard_files):
    vectors, queries = shard_files.clustered(400), shard_files.clustered(30, seed=1)
    exact = exact_topk(queries, [vectors[:250]], 10)
    index = LocalShards(held_to(shard_files.write(IVF(nlist=8, nprobe=1), vectors, 3), 250))
    before = recall_against(index.search(queries, 10), exact, 10, True)
    index.turn(8)
    assert before < recall_against(index.search(queries, 10), exact, 10, True) == 1.0


def test_shards_of_a_graph_find_passages_of_the_prefix_alone(shard_files):
    vectors, queries = shard_files.clustered(600), shard_files.clustered(50, seed=1)
    places = shard_files.write(HNSW(), vectors, 4)
    found, exact = LocalShards(held_to(places, 400)).search(queries, 10), exact_topk(queries, [vectors[:400]], 10)
    assert found.ids_QK[found.mask_QK].max() < 400
    assert recall_against(found, exact, 10, True) > 0.95


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 60),
    shards=st.integers(1, 80),
    k=st.integers(1, 70),
    ceiling=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_flat_shards_are_exact_where_ties_are_real(size: int, shards: int, k: int, ceiling: int, seed: int):
    """Integer-valued vectors: any shard count, shards smaller than k, more shards than passages."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-ceiling, ceiling + 1, (size, 3)).astype(np.float32)
    queries = rng.integers(-ceiling, ceiling + 1, (5, 3)).astype(np.float32)
    index = _flat_in_memory(vectors, shards)
    found, expected = index.search(queries, k), exact_topk(queries, [vectors], k)
    np.testing.assert_array_equal(found.ids_QK, expected.ids_QK)
    np.testing.assert_array_equal(found.scores_QK, expected.scores_QK)


def _flat_in_memory(vectors: np.ndarray, shards: int) -> LocalShards:
    class InMemory(ShardPlace):
        def open(self) -> Shard:
            return Shard(self.share, Flat().create(self.share.of([vectors]), 0))

    return LocalShards([InMemory(Share(n, shards, len(vectors)), Flat()) for n in range(shards)])


@pytest.mark.parametrize("options", [Flat(), IVF(nlist=1, nprobe=1), SQ(), HNSW()], ids=lambda o: o.kind)
def test_more_shards_than_passages(options: IndexOptions, shard_files):
    vectors = shard_files.clustered(5)
    index = LocalShards(shard_files.write(options, vectors, 8))
    found = index.search(vectors, 7)
    assert found.ids_QK[:, 0].tolist() == list(range(5))
    assert [sorted(row[:5]) for row in found.ids_QK.tolist()] == [list(range(5))] * 5
    assert not found.mask_QK[:, 5:].any()
    assert index.stats()["dims"] == 16


def test_an_empty_corpus(shard_files):
    found = LocalShards(shard_files.write(IVF(), np.empty((0, 16), np.float32), 3)).search(shard_files.clustered(2), 4)
    assert found.ids_QK.shape == (2, 4)
    assert not found.mask_QK.any()


def test_shards_of_a_graph_are_graphs_of_their_own(shard_files):
    vectors, queries = shard_files.clustered(600), shard_files.clustered(50, seed=1)
    options = HNSW(m=4, ef_construction=20, ef_search=12)
    assert not options.splits_exactly
    assert not Factory(string="HNSW16").splits_exactly
    assert not Factory(string="IVF{nlist}_HNSW16,NSG8").splits_exactly
    assert not Factory(string="IVF{nlist},PQ8,RFlat").splits_exactly
    assert Factory(string="IVF{nlist}_HNSW16,PQ8").splits_exactly
    exact = exact_topk(queries, [vectors], 10)
    whole = options.create([vectors], shard_files.SEED).search(queries, 10)
    cut = LocalShards(shard_files.write(options, vectors, 4)).search(queries, 10)
    assert (cut.ids_QK != whole.ids_QK).any()
    assert recall_against(cut, exact, 10, True) > recall_against(whole, exact, 10, True)


def test_comparisons_of_all_shards_are_counted(shard_files, tmp_path: Path):
    vectors, queries = shard_files.clustered(600), shard_files.clustered(9, seed=1)
    index = LocalShards(shard_files.write(IVF(nlist=4, nprobe=4), vectors, 3))
    index.search(queries, 5)
    assert index.distances == 9 * (600 + 4)  # the centroids are looked through once for all shards
    silent = LocalShards(type(shard_files)(tmp_path).write(Factory(string="SQ8,RFlat"), vectors, 3))
    silent.search(queries, 5)
    assert silent.distances is None


@pytest.mark.parametrize(
    "options", [IVF(nlist=8, nprobe=1), HNSW(m=4, ef_construction=20, ef_search=10)], ids=lambda o: o.kind
)
def test_the_dial_turns_every_shard(options: IndexOptions, shard_files):
    vectors, queries = shard_files.clustered(400), shard_files.clustered(30, seed=1)
    exact = exact_topk(queries, [vectors], 10)
    index = LocalShards(shard_files.write(options, vectors, 3))
    before = recall_against(index.search(queries, 10), exact, 10, True)
    index.turn(options.dial_values(400, 10)[-1])
    assert before < recall_against(index.search(queries, 10), exact, 10, True) == 1.0


@pytest.mark.parametrize("damage", ["missing", "broken", "another"])
def test_a_shard_that_cannot_be_opened_is_named(damage: str, shard_files):
    places = shard_files.write(IVF(nlist=4, nprobe=2), shard_files.clustered(400), 4)
    folder = places[2].folder
    assert folder is not None
    if damage == "missing":
        shutil.rmtree(folder)
    elif damage == "broken":
        (folder / "index.faiss").write_bytes(b"IwFlgarbage")
    else:
        facts = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps(facts | {"passages": 99}))
    with pytest.raises(DataError, match=r"shard 3 of 4 \(passages 200 to 299\)"):
        LocalShards(places)


def test_missing_embeddings_name_the_shard(shard_files):
    places = shard_files.write(Flat(), shard_files.clustered(90), 3)
    shutil.rmtree(places[0].embeddings[2])
    with pytest.raises(DataError, match=r"shard 3 of 3 \(passages 60 to 89\) cannot be opened"):
        LocalShards(places)


def test_a_shard_that_cannot_be_built_is_named(shard_files, tmp_path: Path):
    embeddings = shard_files.embeddings(shard_files.clustered(60))
    job = ShardJob(Share(1, 2, 60), IVF(), tmp_path / "nothing", embeddings, tmp_path / "shard", shard_files.SEED)
    with pytest.raises(DataError, match=r"shard 2 of 2 \(passages 30 to 59\) cannot be built"):
        job.build()
    with pytest.raises(DataError, match=r"shard 2 of 2 .* 70 are wanted"):
        ShardJob(Share(1, 2, 70), HNSW(), None, embeddings, tmp_path / "shard", shard_files.SEED).build()


def test_queries_of_another_width_are_refused(shard_files):
    index = LocalShards(shard_files.write(IVF(nlist=2), shard_files.clustered(100), 2))
    with pytest.raises(DataError, match="one encoder"):
        index.search(np.ones((2, 5)), 1)
