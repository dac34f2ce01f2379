from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from rag_exp.retrieval.encoders import Static, passage_text
from rag_exp.retrieval.hop2 import SecondHop
from rag_exp.retrieval.indexes import BM25, IVF, Flat
from rag_exp.retrieval.live import LiveRetriever
from rag_exp.retrieval.paths import second_hop
from rag_exp.retrieval.static import StaticEncoder

QUESTIONS = ["What is the capital of Bake?", "the highest point of Limo Nura", "area"]


@pytest.fixture
def encoder(tokenizer_folder: Path, toy) -> StaticEncoder:
    made = Static(dims=10, scale=5.0).create(tokenizer_folder, 512, seed=1)
    made.prepare([made.features([passage_text(*p) for p in toy.pairs], "passage")])
    return made


def live(encoder: StaticEncoder, toy, tmp_path: Path, both: bool, options=None, size: int = 240) -> LiveRetriever:
    vectors = encoder.encode([passage_text(*p) for p in toy.pairs[:size]], "passage")
    passage_encoder = copy.deepcopy(encoder) if both else None
    return LiveRetriever(
        copy.deepcopy(encoder),
        passage_encoder,
        toy,
        [vectors[:100], vectors[100:]],
        options or Flat(),
        seed=0,
        folder=tmp_path / "live",
    )


def expected(retriever: LiveRetriever, toy, rows_BK: np.ndarray) -> np.ndarray:
    """Scores by the encoders as they are, pair by pair."""
    passage_encoder = retriever.passage_encoder or retriever.question_encoder
    scores = np.empty(rows_BK.shape)
    for b, rows in enumerate(rows_BK):
        question = retriever.question_encoder.encode([QUESTIONS[b]], "question")[0]
        for k, row in enumerate(rows):
            scores[b, k] = question @ passage_encoder.encode([passage_text(*toy.pairs[row])], "passage")[0]
    return scores


@pytest.mark.parametrize("both", [False, True])
def test_finds_the_best_with_their_scores(encoder: StaticEncoder, toy, tmp_path: Path, both: bool):
    retriever = live(encoder, toy, tmp_path, both)
    rows_BK, scores_BK = retriever.search(QUESTIONS, 4)
    np.testing.assert_allclose(scores_BK.detach().numpy(), expected(retriever, toy, rows_BK), rtol=1e-4, atol=1e-5)
    vectors = encoder.encode([passage_text(*p) for p in toy.pairs], "passage")
    exact = encoder.encode(QUESTIONS, "question") @ vectors.T
    assert rows_BK.tolist() == [[int(i) for i in np.argsort(-row, kind="stable")[:4]] for row in exact]
    assert rows_BK.dtype == np.int64


def test_a_look_finds_the_same_without_gradients_and_is_counted(encoder: StaticEncoder, toy, tmp_path: Path):
    retriever = live(encoder, toy, tmp_path, True)
    found = retriever.find(QUESTIONS, 4)
    looked = retriever.flops
    rows_BK, scores_BK = retriever.search(QUESTIONS, 4)
    np.testing.assert_array_equal(found.ids_QK, rows_BK)
    np.testing.assert_allclose(found.scores_QK, scores_BK.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert 0 < looked < retriever.flops - looked


@pytest.mark.parametrize("both", [False, True])
def test_gradients_are_those_of_the_scores(encoder: StaticEncoder, toy, tmp_path: Path, both: bool):
    """Finite differences of a smooth function of all scores, in the parameters of each encoder that trains."""
    retriever = live(encoder.double(), toy, tmp_path, both)
    weights = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)

    def loss() -> torch.Tensor:
        return (retriever.search(QUESTIONS, 4)[1] * weights).sum()

    loss().backward()
    token = int(retriever.question_encoder.features(QUESTIONS, "question")["ids"][1])
    checked = [("question_encoder", "question_log_weight_V", token), ("question_encoder", "log_scale", ())]
    if both:
        first = int(retriever.search(QUESTIONS, 4)[0][0, 0])
        read = retriever.passage_encoder.features([passage_text(*toy.pairs[first])], "passage")
        checked += [("passage_encoder", "passage_log_weight_V", int(read["ids"][1])), ("passage_encoder", "log_mix", 0)]
    for network, name, place in checked:
        parameter = getattr(getattr(retriever, network), name)
        with torch.no_grad():
            parameter[place] += 1e-5
            up = loss().item()
            parameter[place] -= 2e-5
            down = loss().item()
            parameter[place] += 1e-5
        assert parameter.grad[place].item() == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=1e-6)
        assert parameter.grad[place].item() != 0


def test_query_training_leaves_passages_alone(encoder: StaticEncoder, toy, tmp_path: Path):
    retriever = live(encoder, toy, tmp_path, both=False)
    assert {n.split(".")[0] for n, _ in retriever.named_parameters()} == {"question_encoder"}
    rows, before = retriever.search(QUESTIONS, 3)
    with torch.no_grad():
        retriever.question_encoder.log_scale.add_(1.0)
    again, after = retriever.search(QUESTIONS, 3)
    np.testing.assert_array_equal(rows, again)
    torch.testing.assert_close(after, before * torch.e)
    assert retriever.state().keys() == {"flops"}


def test_a_corpus_smaller_than_k_is_masked(encoder: StaticEncoder, toy, tmp_path: Path):
    for both in (False, True):
        retriever = live(encoder, toy, tmp_path, both, size=102)
        retriever._blocks = [retriever._blocks[1]]
        retriever._size = 2
        rows_BK, scores_BK = retriever.search(QUESTIONS, 4)
        assert (rows_BK[:, 2:] == -1).all()
        assert torch.isneginf(scores_BK[:, 2:]).all()
        torch.logsumexp(scores_BK, 1).sum().backward()
        grads = [p.grad for p in retriever.parameters() if p.grad is not None]
        assert all(torch.isfinite(g).all() for g in grads)


def test_refresh_rebuilds_from_the_passage_encoder(encoder: StaticEncoder, toy, tmp_path: Path):
    retriever = live(encoder, toy, tmp_path, both=True)
    retriever.search(QUESTIONS, 3)
    with torch.no_grad():
        retriever.passage_encoder.embedding_VD.copy_(torch.randn_like(retriever.passage_encoder.embedding_VD))
    stale, _ = retriever.search(QUESTIONS, 3)
    flops = retriever.flops
    stats = retriever.refresh()
    assert stats["tokens"] > 1000
    assert retriever.flops == flops + stats["flops"]
    rows_BK, scores_BK = retriever.search(QUESTIONS, 3)
    assert (rows_BK != stale).any()
    vectors = retriever.passage_encoder.encode([passage_text(*p) for p in toy.pairs], "passage")
    best = -np.sort(-(retriever.question_encoder.encode(QUESTIONS, "question") @ vectors.T), axis=1)[:, :3]
    np.testing.assert_allclose(scores_BK.detach().numpy(), best, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [Flat(), IVF(nlist=4, nprobe=1)])
def test_a_resumed_retriever_searches_the_same_index(encoder: StaticEncoder, toy, tmp_path: Path, options):
    first = live(encoder, toy, tmp_path / "a", both=True, options=options)
    with torch.no_grad():
        first.passage_encoder.embedding_VD.mul_(torch.linspace(0.1, 3, 512)[:, None])
    first.refresh()
    with torch.no_grad():  # training goes on after the refresh
        first.passage_encoder.embedding_VD.add_(0.05)
        first.question_encoder.embedding_VD.add_(0.02)
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    weights = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    expected_rows, expected_scores = first.search(QUESTIONS, 5)

    second = live(encoder, toy, tmp_path / "b", both=True, options=options)
    second.load_state_dict(weights)
    second.load_state(state)
    rows, scores = second.search(QUESTIONS, 5)
    np.testing.assert_array_equal(rows, expected_rows)
    assert torch.equal(scores, expected_scores)
    assert second.flops - first.flops == 0
    for name, tensor in second.state_dict().items():
        assert torch.equal(tensor, weights[name])  # the present weights are back
    forgetful = live(encoder, toy, tmp_path / "c", both=True, options=options)
    forgetful.load_state_dict(weights)
    assert (forgetful.search(QUESTIONS, 5)[0] != expected_rows).any()


def test_saves_the_encoders_that_trained(encoder: StaticEncoder, toy, tmp_path: Path, tokenizer_folder: Path):
    retriever = live(encoder, toy, tmp_path, both=True)
    with torch.no_grad():
        retriever.passage_encoder.embedding_VD.add_(1.0)
    retriever.save(tmp_path / "saved")
    options = Static(dims=10, scale=5.0)
    for name in ("question_encoder", "passage_encoder"):
        again = options.load(tmp_path / "saved" / name, tokenizer_folder)
        assert torch.equal(again.embedding_VD, getattr(retriever, name).embedding_VD)
    live(encoder, toy, tmp_path, both=False).save(tmp_path / "query")
    assert [f.name for f in (tmp_path / "query").iterdir()] == ["question_encoder"]


def test_needs_no_folder(encoder: StaticEncoder, toy, tmp_path: Path):
    retriever = live(encoder, toy, tmp_path, both=True)
    retriever._folder = None
    retriever.refresh()
    where = retriever._folder
    assert where.is_dir()
    del retriever
    import gc

    gc.collect()
    assert not where.exists()


def test_words_do_not_train(encoder: StaticEncoder, toy):
    with pytest.raises(AssertionError, match="nothing that trains"):
        LiveRetriever(encoder, None, toy, [], BM25(), 0)
    with pytest.raises(AssertionError, match="two networks"):
        LiveRetriever(encoder, encoder, toy, [], Flat(), 0)


HOP2 = SecondHop(j=3)


@pytest.mark.parametrize("both", [False, True])
def test_paths_are_those_of_a_search_that_does_not_train(encoder: StaticEncoder, toy, tmp_path: Path, both: bool):
    retriever = live(encoder, toy, tmp_path, both)
    asked = [*QUESTIONS, QUESTIONS[0]]
    paths, scores_BK, scores_BKJ = retriever.search_paths(asked, 4, HOP2)
    index = retriever.index
    wanted, _ = second_hop(index, index.search(encoder.encode(asked, "question"), 4), asked, toy, HOP2, encoder)
    np.testing.assert_array_equal(paths.hop1.ids_QK, wanted.hop1.ids_QK)
    np.testing.assert_array_equal(paths.ids_QKJ, wanted.ids_QKJ)
    np.testing.assert_allclose(scores_BK.detach().numpy(), wanted.hop1.scores_QK, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores_BKJ.detach().numpy(), wanted.scores_QKJ, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("both", [False, True])
def test_gradients_reach_the_question_encoder_through_both_hops(encoder, toy, tmp_path: Path, both: bool):
    """Finite differences in the weight of a word that the question holds, and of one that only the passage found by
    the first hop holds: its gradient can come through the second hop alone."""
    retriever = live(encoder.double(), toy, tmp_path, both)

    def loss() -> torch.Tensor:
        _, scores_BK, scores_BKJ = retriever.search_paths(QUESTIONS, 4, HOP2)
        first, second = torch.linspace(-1, 1, 12).view(3, 4), torch.linspace(1, -2, 36).view(3, 4, 3)
        return (scores_BK * first).sum() + (scores_BKJ * second).sum()

    loss().backward()
    network = retriever.question_encoder
    of_questions = network.features(QUESTIONS, "question")["ids"]
    found = retriever.search(QUESTIONS, 1)[0][0, 0]
    of_passage = network.features([toy.pairs[found][1]], "question")["ids"]
    only_second = [int(t) for t in of_passage if t not in of_questions]
    weight = network.question_log_weight_V
    for place in (int(of_questions[1]), only_second[0]):
        with torch.no_grad():
            weight[place] += 1e-5
            up = loss().item()
            weight[place] -= 2e-5
            down = loss().item()
            weight[place] += 1e-5
        assert weight.grad[place].item() == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=1e-6)
        assert abs(weight.grad[place].item()) > 1e-4


def test_paths_over_fewer_passages_than_asked_for(encoder: StaticEncoder, toy, tmp_path: Path):
    retriever = live(encoder, toy, tmp_path, both=False, size=2)
    paths, scores_BK, scores_BKJ = retriever.search_paths(QUESTIONS, 3, HOP2)
    assert torch.isneginf(scores_BK).sum(1).tolist() == [1, 1, 1]
    assert torch.isfinite(scores_BKJ).sum((1, 2)).tolist() == [2, 2, 2]
    assert ((paths.ids_QKJ >= 0) == torch.isfinite(scores_BKJ).numpy()).all()
