from __future__ import annotations

import numpy as np
import pytest

from rag_exp.retrieval.indexes import Factory
from rag_exp.retrieval.rescore import RescoredIndex

N, D, Q = 2000, 16, 30
VECTORS = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
ASKED = np.random.default_rng(1).standard_normal((Q, D)).astype(np.float32)


def searched(string: str, search: str = "") -> int | None:
    index = Factory(string=string, search=search).create([VECTORS], 0)
    index.search(ASKED, 5)
    return index.distances


@pytest.mark.parametrize("codes", ["Flat", "SQ8", "PQ4x4np", "PQ4x4fs", "RaBitQ"])
def test_lists_compare_what_they_hold_and_all_centroids(codes: str):
    assert searched(f"IVF8,{codes}", "nprobe=8") == Q * (N + 8)
    assert Q * 8 < searched(f"IVF8,{codes}", "nprobe=2") < Q * (N + 8) / 2


@pytest.mark.parametrize("string", ["Flat", "SQ8", "PQ4x4np", "PQ4x4fs", "RaBitQ", "RR16,PQ4x4np", "PCA8,Flat"])
def test_every_code_is_compared_where_there_are_no_lists(string: str):
    assert searched(string) == Q * N


def test_graphs_compare_some_and_centroids_in_a_graph_fewer_than_all():
    assert Q * 10 < searched("HNSW8") < Q * N / 2
    assert Q * N < searched("IVF16_HNSW4,Flat", "nprobe=16,quantizer_efSearch=16") < Q * (N + 5 * 16)


def test_what_is_refined_is_not_counted_by_faiss():
    assert searched("IVF8,SQ8,RFlat") is None
    assert searched("NSG8") is None


def test_a_search_is_counted_for_itself():
    index = Factory(string="IVF8,SQ8", search="nprobe=8").create([VECTORS], 0)
    for queries in (Q, 1, Q):
        index.search(ASKED[:queries], 5)
        assert index.distances == queries * (N + 8)
    index.search(ASKED[:0], 5)
    assert index.distances == 0


POINTS = N  # all are trained on, there being few
LISTS = 2 * D * 8 * 10 * POINTS  # k-means of 8 lists, 10 iterations
CODES = 2 * D * 16 * 25 * POINTS  # k-means of 16 centroids of every part of the dimensions, 25 iterations


@pytest.mark.parametrize(
    ("string", "flops"),
    [
        ("Flat", 0),
        ("SQ8", 0),
        ("IVF8,Flat", LISTS + 2 * D * 8 * N),
        ("IVF8,SQ8", LISTS + 2 * D * 8 * N),
        ("PQ4x4np", CODES + 2 * D * 16 * N),
        ("IVF8,PQ4x4np", LISTS + CODES + 2 * D * 8 * POINTS + 2 * D * (8 + 16) * N),
        ("RR16,SQ8", 2 * D * D * N),
    ],
)
def test_operations_of_a_build_by_hand(string: str, flops: int):
    assert Factory(string=string).create([VECTORS], 0).stats()["build_flops"] == flops


@pytest.mark.parametrize("string", ["HNSW8", "PCA8,Flat", "IVF8_HNSW4,Flat", "RQ2x4", "IVF8,SQ8,RFlat"])
def test_operations_that_are_not_known_are_null_with_a_reason(string: str):
    stats = Factory(string=string).create([VECTORS], 0).stats()
    assert stats["build_flops"] is None
    assert stats["build_flops_reason"]


@pytest.mark.parametrize(
    ("string", "codes"), [("Flat", False), ("IVF8,SQ8", False), ("IVF8,PQ4x4np", True), ("RaBitQ", True)]
)
def test_it_is_known_whether_codes_are_compared(string: str, codes: bool):
    index = Factory(string=string).create([VECTORS], 0)
    assert index.compares_codes is codes
    assert RescoredIndex(index, [VECTORS], 4).compares_codes is codes
