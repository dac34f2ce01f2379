from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rag_exp.core.errors import DataError
from rag_exp.retrieval import embeddings, flat
from rag_exp.retrieval.embeddings import embed_passages, load_blocks, take_vectors
from rag_exp.retrieval.encoders import Static, passage_text
from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.fidelity import true_scores
from rag_exp.retrieval.flat import Flat
from rag_exp.retrieval.static import StaticEncoder
from rag_exp.retrieval.vector_file import write_vectors


@pytest.fixture
def encoder(tokenizer_folder: Path) -> StaticEncoder:
    return Static(dims=12).create(tokenizer_folder, 512, seed=1)


def test_writes_the_vectors_in_order(encoder: StaticEncoder, toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embeddings, "BLOCK_ROWS", 70)
    done: list[int] = []
    stats = embed_passages(encoder, iter(toy.pairs), len(toy), tmp_path, progress=done.append)
    vectors = np.load(tmp_path / "vectors.npy")
    assert vectors.dtype == np.float32
    texts = [passage_text(*p) for p in toy.pairs]
    np.testing.assert_allclose(vectors, encoder.encode(texts, "passage"), atol=1e-6)
    assert done == [70, 140, 210, 240]
    tokens = encoder.tokens(encoder.features(texts, "passage"))
    assert (stats["passages"], stats["dims"], stats["tokens"]) == (240, 12, tokens)
    assert stats["flops"] == encoder.flops(tokens, 240)


@pytest.mark.parametrize("count", [239, 241])
def test_a_wrong_count_is_refused(encoder: StaticEncoder, toy, tmp_path: Path, count: int):
    with pytest.raises(DataError, match=str(count)):
        embed_passages(encoder, iter(toy.pairs), count, tmp_path)


def test_a_diverged_encoder_is_refused_with_the_row(encoder: StaticEncoder, toy, tmp_path: Path):
    mark = int(encoder.features(["?"], "question")["ids"][-1])
    with torch.no_grad():
        encoder.embedding_VD[mark] = float("nan")
    pairs = [("", "!"), ("", "!"), ("", "?"), ("", "!")]
    with pytest.raises(DataError, match="passage 2 "):
        embed_passages(encoder, iter(pairs), len(pairs), tmp_path)
    with pytest.raises(DataError, match="passage 1002 "):  # of the corpus, not of its shard
        embed_passages(encoder, iter(pairs), len(pairs), tmp_path, first_row=1_000)


def test_whatever_goes_wrong_is_told_with_the_passages_it_met(
    encoder: StaticEncoder, toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(embeddings, "BLOCK_ROWS", 70)
    encode, calls = encoder.encode_counted, []

    def fails(texts, role, progress):
        calls.append(texts)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return encode(texts, role, progress)

    monkeypatch.setattr(encoder, "encode_counted", fails)
    with pytest.raises(RuntimeError) as caught:
        embed_passages(encoder, iter(toy.pairs), len(toy), tmp_path, first_row=1_000)
    assert caught.value.__notes__ == ["while embedding passages 1,070 to 1,139: RuntimeError: out of memory"]


def test_no_more_is_claimed_than_is_written(encoder: StaticEncoder, toy, tmp_path: Path, monkeypatch):
    """A file with holes, filled under a memory map, would kill the process on a full disk."""
    monkeypatch.setattr(embeddings, "BLOCK_ROWS", 70)
    claimed: list[bool] = []

    def look(done: int) -> None:
        claimed.append((tmp_path / "vectors.npy").stat().st_size > 128 + done * encoder.dims * 4)

    embed_passages(encoder, iter(toy.pairs), len(toy), tmp_path, progress=look)
    assert claimed == [False] * 4


def test_written_vectors_are_what_numpy_would_write(tmp_path: Path):
    vectors = np.arange(12, dtype=np.float64).reshape(4, 3)
    write_vectors(tmp_path / "a.npy", (4, 3), [vectors[:1], vectors[1:1], vectors[1:]])
    np.save(tmp_path / "b.npy", vectors.astype(np.float32))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


@pytest.fixture
def unit() -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((500, 64), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_float16_is_half_the_bytes_and_what_numpy_rounds_to(unit: np.ndarray, tmp_path: Path):
    for storage in ("float32", "float16"):
        write_vectors(tmp_path / f"{storage}.npy", unit.shape, [unit[:200], unit[200:]], storage)
    np.save(tmp_path / "expected.npy", unit.astype(np.float16))
    assert (tmp_path / "float16.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    header = (tmp_path / "float32.npy").stat().st_size - unit.nbytes
    assert (tmp_path / "float16.npy").stat().st_size - header == unit.nbytes // 2


def test_float16_is_searched_where_it_lies(unit: np.ndarray, tmp_path: Path, monkeypatch):
    folders = []
    for n, part in enumerate((unit[:300], unit[300:])):
        folders.append(tmp_path / str(n))
        folders[-1].mkdir()
        write_vectors(folders[-1] / "vectors.npy", part.shape, [part], "float16")
    blocks, queries = load_blocks(folders, len(unit)), unit[::25]
    assert {b.dtype for b in blocks} == {np.dtype(np.float16)}
    monkeypatch.setattr(flat, "_BLOCK", 70)
    built = Flat().create(blocks, 0)
    found, expected = built.search(queries, 500), exact_topk(queries, [unit], 500)
    assert built.stats()["bytes"] == unit.nbytes // 2
    by_id = [np.take_along_axis(r.scores_QK, r.ids_QK.argsort(axis=1), axis=1) for r in (found, expected)]
    assert 0 < np.abs(by_id[0] - by_id[1]).max() < 1e-3
    assert take_vectors(blocks, np.arange(500)).dtype == np.float32
    np.testing.assert_allclose(true_scores(queries, blocks, found.ids_QK), found.scores_QK, rtol=1e-5, atol=1e-6)
    built.save(tmp_path / "flat")
    assert np.load(tmp_path / "flat" / "vectors.npy").dtype == np.float16
    np.testing.assert_array_equal(Flat().load(tmp_path / "flat").search(queries, 9).ids_QK, found.ids_QK[:, :9])


def test_what_float16_cannot_hold_is_refused_with_the_row(tmp_path: Path):
    vectors = np.ones((5, 3), np.float32)
    vectors[4, 1] = 7e4
    write_vectors(tmp_path / "a.npy", (5, 3), [vectors])
    with pytest.raises(DataError, match=r"encoder.storage.*passage 14 .*float32"):
        write_vectors(tmp_path / "b.npy", (5, 3), [vectors[:3], vectors[3:]], "float16", first_row=10)


def shards(folder: Path, sizes: list[int]) -> tuple[list[Path], np.ndarray]:
    vectors = np.arange(sum(sizes) * 3, dtype=np.float32).reshape(-1, 3)
    folders, start = [], 0
    for n, size in enumerate(sizes):
        (folder / str(n)).mkdir()
        np.save(folder / str(n) / "vectors.npy", vectors[start : start + size])
        folders.append(folder / str(n))
        start += size
    return folders, vectors


@pytest.mark.parametrize(("size", "blocks"), [(10, 3), (9, 3), (8, 2), (4, 1), (1, 1), (0, 0)])
def test_load_blocks_takes_a_prefix_and_no_shard_more(tmp_path: Path, size: int, blocks: int):
    folders, vectors = shards(tmp_path, [4, 4, 2])
    found = load_blocks(folders, size)
    assert len(found) == blocks
    assert all(isinstance(b, np.memmap) for b in found)
    if found:
        np.testing.assert_array_equal(np.concatenate(found), vectors[:size])


def test_load_blocks_says_what_is_missing(tmp_path: Path):
    folders, _ = shards(tmp_path, [4])
    with pytest.raises(DataError, match="hold 4 passages, 5 are wanted"):
        load_blocks(folders, 5)
    with pytest.raises(DataError, match="no readable embeddings"):
        load_blocks([tmp_path / "gone"], 1)


def test_take_vectors_across_blocks(tmp_path: Path):
    folders, vectors = shards(tmp_path, [4, 0, 2])
    blocks = load_blocks(folders, 6)
    rows = np.array([[5, 0, -1], [3, 4, 5]])
    found = take_vectors(blocks, rows)
    assert found.shape == (2, 3, 3)
    np.testing.assert_array_equal(found[1], vectors[[3, 4, 5]])
    np.testing.assert_array_equal(found[0], [vectors[5], vectors[0], np.zeros(3)])
    with pytest.raises(IndexError, match="row 6"):
        take_vectors(blocks, np.array([6]))
