"""Vectors of numbered points: the same however they are made, clustered, and with neighbours worth finding."""

import numpy as np
import pytest

from rag_exp.core.errors import DataError
from rag_exp.retrieval.encoders import Points
from rag_exp.retrieval.points import PointsEncoder

SMALL = Points(dims=32, clusters=20, inner_dims=8)


@pytest.fixture(scope="module")
def encoder():
    return SMALL.create(None, None, seed=0)


@pytest.fixture(scope="module")
def vectors(encoder):
    return encoder.encode([str(i) for i in range(2_000)], "passage")


def test_a_vector_depends_on_its_number_alone(encoder, vectors):
    some = [1_999, 0, 77]
    assert np.array_equal(encoder.encode([f"\n{i}" for i in some], "passage"), vectors[some])


def test_vectors_have_length_one_and_questions_are_other_points(encoder, vectors):
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    queries = encoder.encode([str(i) for i in range(50)], "question")
    assert not np.isclose((queries * vectors[:50]).sum(1), 1.0).any()


def test_there_are_near_neighbours_as_noise_has_none(encoder, vectors):
    noise = np.random.default_rng(0).standard_normal(vectors.shape).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)

    def nearest(points):
        scores = points[:100] @ points.T
        scores[np.arange(100), np.arange(100)] = -1
        return float(scores.max(1).mean())

    assert nearest(vectors) > nearest(noise) + 0.2


def test_another_seed_is_another_set(vectors):
    other = SMALL.model_copy(update={"seed": 1}).create(None, None, 0).encode(["0", "1"], "passage")
    assert not np.allclose(other, vectors[:2])


def test_save_and_load(encoder, vectors, tmp_path):
    encoder.save(tmp_path)
    assert np.array_equal(PointsEncoder.load(tmp_path, SMALL).encode(["5"], "passage"), vectors[5:6])
    with pytest.raises(DataError, match="no readable points encoder"):
        PointsEncoder.load(tmp_path / "nowhere", SMALL)


def test_words_are_refused(encoder):
    with pytest.raises(DataError, match="corpus=points"):
        encoder.encode(["Paris"], "passage")
