"""Small indexes that are timed: how long they take is this machine's; that all of them can be is checked."""

import pytest

from rag_exp.core.errors import DataError
from rag_exp.retrieval.speed import COARSE, EXACT, FLAT, KMeans, Trial, kmeans_speed, trial_speed

SCANNED = (COARSE, "SQ8", "SQfp16", "PQ2", "PQ2x4", "PQ2x4fs", "PQ2x11", "RaBitQ")
LISTED = ("IVF64,Flat", "IVF64,SQ8", "IVF64,PQ2", "IVF64,PQ2x4fs", "IVF64,RaBitQ")


@pytest.mark.parametrize("string", [FLAT, EXACT, *SCANNED, *LISTED])
def test_every_kind_is_tried(string):
    found = trial_speed(Trial(string, 16), 0)
    assert found.add > 0
    assert found.ask >= 0
    assert found.ask + found.compare > 0


def test_what_faiss_cannot_make_is_said():
    with pytest.raises(DataError, match=r"index\.string: faiss cannot make PQ2x8fs over 16 dimensions"):
        trial_speed(Trial("PQ2x8fs", 16), 0)


def test_a_graph_is_tried():
    found = trial_speed(Trial("HNSW4", 16, "efConstruction=8,efSearch=8", threads=1), 0)
    assert found.add > 0
    assert found.ask > 0
    assert found.compare == 0


@pytest.mark.parametrize(("size", "steps"), [(0, 1), (100, 1), (256, 1), (1_024, 3), (2**20, 13)])
def test_a_graph_takes_steps_and_nothing_else_does(size, steps):
    assert Trial("HNSW16", 8).steps(size) == steps
    assert Trial("PQ2", 8).steps(size) == 1


def test_a_round_of_kmeans_is_timed(capfd):
    assert 0 < kmeans_speed(KMeans(4, 16, 500)) < 1e-3
    assert capfd.readouterr().err == ""  # faiss warns of few points
