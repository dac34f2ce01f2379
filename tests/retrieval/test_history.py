from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_exp.core.errors import DataError
from rag_exp.retrieval import history
from rag_exp.retrieval.exact import exact_topk_nested
from rag_exp.retrieval.history import History, exact_prefix, grow


def parts_of(queries: np.ndarray, blocks: list[np.ndarray], k: int, temperature: float = 1.0) -> list[History]:
    parts: list[History] = []
    for block in blocks:
        parts.append(grow(queries, block, k, temperature, parts[-1] if parts else None))
    return parts


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(0, 80),
    queries=st.integers(1, 30),
    k=st.integers(1, 40),
    cut=st.integers(0, 80),
    rising=st.booleans(),
)
def test_every_prefix_is_exact_with_real_ties(seed: int, rows: int, queries: int, k: int, cut: int, rising: bool):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-1, 2, (rows, 3)).astype(np.float32)
    asked = rng.integers(-1, 2, (queries, 3)).astype(np.float32)
    if rising:  # the worst order: every passage enters
        vectors = vectors[np.argsort(vectors @ asked[0])]
    blocks = [vectors[:cut], vectors[cut:]]
    parts = parts_of(asked, blocks, k, 0.5)
    sizes = range(rows + 1)
    expected = exact_topk_nested(asked, [vectors], k, sizes, log_partition=True, temperature=0.5)
    for size in sizes:
        found = exact_prefix(parts, asked, blocks, size, k, 0.5)
        np.testing.assert_array_equal(found.ids_QK, expected[size].ids_QK)
        np.testing.assert_array_equal(found.scores_QK, expected[size].scores_QK)
        np.testing.assert_allclose(found.log_partition_Q, expected[size].log_partition_Q, atol=1e-5)


@pytest.fixture(scope="module")
def grown() -> tuple[np.ndarray, list[np.ndarray], list[History]]:
    rng = np.random.default_rng(1)
    queries, vectors = rng.standard_normal((300, 16), np.float32), rng.standard_normal((30_000, 16), np.float32)
    blocks = [vectors[:20_000], vectors[20_000:]]
    return queries, blocks, parts_of(queries, blocks, 16)


@pytest.mark.parametrize("size", [3, 8192, 8193, 19_999, 20_000, 26_000, 30_000])
def test_sizes_between_the_cuts(grown: tuple[np.ndarray, list[np.ndarray], list[History]], size: int):
    queries, blocks, parts = grown
    (expected,) = exact_topk_nested(queries, blocks, 10, [size], log_partition=True).values()
    found = exact_prefix(parts, queries, blocks, size, 10)
    np.testing.assert_allclose(found.scores_QK, expected.scores_QK, rtol=1e-5, atol=1e-5)
    assert (found.ids_QK == expected.ids_QK).mean() > 0.999
    np.testing.assert_allclose(found.log_partition_Q, expected.log_partition_Q, rtol=1e-6)


def test_little_is_kept_and_nothing_is_kept_twice(grown: tuple[np.ndarray, list[np.ndarray], list[History]]):
    queries, _, parts = grown
    kept = sum(len(p.query_E) for p in parts) / len(queries)
    assert 16 * (1 + np.log(30_000 / 16)) * 0.8 < kept < 16 * (1 + np.log2(30_000 / 16)) * 1.2
    assert parts[1].ids_E.min() >= 20_000


def test_rows_between_the_last_cut_and_the_size_alone_are_read(grown: tuple):
    queries, blocks, parts = grown
    poisoned = [np.full_like(blocks[0], np.nan), blocks[1]]
    assert exact_prefix(parts, queries, poisoned, 20_500, 4).mask_QK.all()


def test_save_and_load(grown: tuple, tmp_path: Path):
    parts = grown[2]
    parts[0].save(tmp_path)
    again = History.load(tmp_path)
    for name, array in vars(parts[0]).items():
        np.testing.assert_array_equal(getattr(again, name), array)
    (tmp_path / "cuts.npy").unlink()
    with pytest.raises(DataError, match="no readable search history"):
        History.load(tmp_path)


def test_histories_that_do_not_reach_are_refused(grown: tuple):
    queries, blocks, parts = grown
    for some, size, k in ((parts, 30_001, 4), (parts[:1], 20_001, 4), (parts, 100, 17), ([], 0, 1)):
        with pytest.raises(ValueError, match="do not hold"):
            exact_prefix(some, queries, blocks, size, k)


def test_a_bad_vector_is_named(grown: tuple):
    queries, blocks, parts = grown
    bad = blocks[1].copy()
    bad[7, 0] = np.inf
    with pytest.raises(DataError, match="passage 20007 "):
        grow(queries, bad, 16, before=parts[0])


def test_tiles_change_nothing_but_rounding(grown: tuple, monkeypatch: pytest.MonkeyPatch):
    queries, blocks, parts = grown
    monkeypatch.setattr(history, "TILE", (7, 500))
    other = grow(queries[:50], blocks[0][:3000], 16)
    found = exact_prefix([other], queries[:50], blocks, 2500, 16)
    usual = exact_prefix(parts, queries, blocks, 2500, 16)
    np.testing.assert_allclose(found.scores_QK, usual.scores_QK[:50], rtol=1e-5, atol=1e-5)
