from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.index import VectorIndexOptions
from rag_exp.retrieval.indexes import HNSW, IVF, IVFPQ, Factory, Flat
from rag_exp.retrieval.recall import recall_against
from rag_exp.retrieval.tuning import Tuning, least, tune


def clustered(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((30, 32))
    vectors = centres[rng.integers(30, size=n)] + 0.5 * rng.standard_normal((n, 32))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@given(shares=st.lists(st.integers(0, 20), min_size=1, max_size=200), target=st.integers(0, 21))
def test_the_least_value_that_reaches_is_found_and_none_is_tried_twice(shares: list[int], target: int):
    rising, tried = sorted(shares), []

    def measure(value: int) -> int:
        tried.append(value)
        return rising[value - 5]

    value, reached = least(measure, range(5, 5 + len(rising)), target)
    wanted = next((v for v, share in enumerate(rising, 5) if share >= target), None)
    assert (value, reached) == ((4 + len(rising), False) if wanted is None else (wanted, True))
    assert len(tried) == len(set(tried)) <= 2 * math.log2(len(rising)) + 2
    if reached:
        assert max(tried) - 4 <= 2 * (value - 4)  # nothing much dearer than needed was searched


TUNABLE = [
    IVF(nlist=32),
    HNSW(m=4, ef_construction=20),
    Factory(string="IVF32,SQ8"),
    Factory(string="RR32,IVF32,Flat"),
    Factory(string="HNSW4,SQ8"),
]


@pytest.mark.parametrize("target", [0.8, 0.94])
@pytest.mark.parametrize("options", TUNABLE, ids=lambda o: getattr(o, "string", o.kind))
def test_the_target_is_reached_with_the_least_value(options: VectorIndexOptions, target: float):
    vectors, asked = clustered(3000), clustered(150, seed=1)
    exact = exact_topk(asked, [vectors], 10)
    options = options.model_copy(update={"mode": "iso_recall", "recall_target": target})
    built = options.create([vectors], 0)
    tuned = tune(built, options, asked, exact, 5)
    assert tuned.reached
    assert (tuned.dial, tuned.target, tuned.k, tuned.questions) == (options.dial, target, 5, 150)

    def recall(value: int) -> float:
        built.turn(value)
        return recall_against(built.search(asked, 5), exact, 5, built.exact_scores)

    assert recall(tuned.value) == tuned.recall >= target
    least_value = options.dial_values(3000, 5)[0]
    assert tuned.value == least_value or recall(tuned.value - 1) < target
    assert [t.value for t in tuned.tried] == list(dict.fromkeys(t.value for t in tuned.tried))
    assert all(t.search_seconds > 0 for t in tuned.tried)
    assert Tuning.of(json.loads(json.dumps(tuned.facts()))) == tuned


def test_a_target_out_of_reach_is_told_with_the_best_there_is():
    vectors, asked = clustered(2000), clustered(100, seed=1)
    options = IVFPQ(string="IVF16,PQ4x4", mode="iso_recall", recall_target=0.99)
    tuned = tune(options.create([vectors], 0), options, asked, exact_topk(asked, [vectors], 10), 10)
    assert not tuned.reached
    assert (tuned.value, tuned.recall) == (16, max(t.recall for t in tuned.tried))
    assert tuned.shortfall().startswith("recall@10 of 0.99 is out of reach: at nprobe=16, its largest value, it is 0.")


def test_every_corpus_size_gets_a_value_of_its_own():
    """Lists grow with the corpus, and so does the number of them that holds a share of the neighbours."""
    vectors, asked = clustered(6000), clustered(150, seed=1)
    options = IVF(mode="iso_recall", recall_target=0.95)
    values = []
    for size in (500, 6000):
        part = vectors[:size]
        tuned = tune(options.create([part], 0), options, asked, exact_topk(asked, [part], 10), 10)
        assert tuned.reached
        values.append((options.derived(size)["nlist"], tuned.value))
    assert values[0][0] < values[1][0]
    assert values[0][1] < values[1][1]


def test_what_identifies_a_tuned_search():
    """The value that a dial has before it is turned changes nothing; the other search parameters do."""
    fixed, tuned = IVF(nprobe=3), IVF(nprobe=3, mode="iso_recall")
    assert fixed.searched_by() == {"nprobe": 3} == IVF(nprobe=3, recall_target=0.5).searched_by()
    assert tuned.searched_by() == {} == IVF(nprobe=9, mode="iso_recall").searched_by()
    assert tuned.tuned_by() != IVF(mode="iso_recall", recall_target=0.9).tuned_by()
    assert fixed.identity("rag_exp:search") == tuned.identity("rag_exp:search") == {"kind": "ivf", "nlist": "auto"}
    both = Factory(string="IVF8_HNSW4,Flat", search="nprobe=2,quantizer_efSearch=9", mode="iso_recall")
    assert both.searched_by() == {"search": "quantizer_efSearch=9"}


def test_an_exact_index_has_nothing_to_tune():
    exact = Flat(mode="iso_recall")
    assert not exact.tuned
    assert exact.searched_by() == {}
    assert exact.problems(100) == []


def test_no_lists_are_asked_for_beyond_those_there_are_when_they_are_tuned():
    assert IVF(nlist=4, nprobe=5).problems(10_000)
    assert IVF(nlist=4, nprobe=5, mode="iso_recall").problems(10_000) == []
