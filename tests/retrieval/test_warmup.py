from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rag_exp.core.errors import DataError, TrainingError
from rag_exp.retrieval.encoders import Static, passage_text
from rag_exp.retrieval.options import RetrieverWarmup
from rag_exp.retrieval.pool import PassagePool
from rag_exp.retrieval.warmup import _split_by_document, _Warmup, warm_up

OPTIONS = Static(dims=48)
SHORT = RetrieverWarmup(steps=25, batch_size=24, lr=3e-3, pool=1000, mined=6, held_out=64)


def train(toy, tokenizer_folder: Path, warmup: RetrieverWarmup = SHORT, seed: int = 0, **more):
    encoder = OPTIONS.create(tokenizer_folder, 512, seed)
    questions, gold = toy.questions()
    return encoder, warm_up(encoder, questions, gold, toy, warmup.resolved(OPTIONS), seed, **more)


def recall(encoder, toy, rows: np.ndarray) -> float:
    questions, gold = toy.questions()
    vectors = encoder.encode([passage_text(*p) for p in toy.pairs], "passage")
    best = (encoder.encode([questions[i] for i in rows], "question") @ vectors.T).argmax(1)
    return float(np.mean(best == np.array(gold)[rows, 0]))


def test_lowers_the_loss_and_ranks_unseen_documents_better(toy, tokenizer_folder: Path):
    big = type(toy)(120)
    seen = {i for i in range(len(big)) if i // 4 >= 30}
    questions, gold = big.questions()
    encoders = []
    for steps in (0, 25):
        encoder = OPTIONS.create(tokenizer_folder, 512, 0)
        warmup = SHORT.model_copy(update={"steps": steps, "held_out": 0})
        stats = warm_up(encoder, questions, [g if i in seen else [] for i, g in enumerate(gold)], big, warmup, 0)
        encoders.append(encoder)
    assert len(stats["losses"]) == 25
    assert np.mean(stats["losses"][-5:]) < 0.5 * np.mean(stats["losses"][:5])
    unseen = np.arange(120)
    assert recall(encoders[1], big, unseen) > recall(encoders[0], big, unseen) + 0.2


def test_is_deterministic(toy, tokenizer_folder: Path):
    one, stats_one = train(toy, tokenizer_folder)
    torch.manual_seed(99)  # the global stream has no say
    two, stats_two = train(toy, tokenizer_folder)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    assert stats_one["losses"] == stats_two["losses"]
    assert train(toy, tokenizer_folder, seed=1)[1]["losses"] != stats_one["losses"]


def test_leaves_the_global_random_state_alone(toy, tokenizer_folder: Path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(toy, tokenizer_folder)
    assert torch.equal(torch.rand(3), expected)


def test_zero_steps_still_count_rarity_and_train_nothing(toy, tokenizer_folder: Path):
    encoder, stats = train(toy, tokenizer_folder, SHORT.model_copy(update={"steps": 0}))
    fresh = OPTIONS.create(tokenizer_folder, 512, 0)
    assert torch.equal(encoder.embedding_VD, fresh.embedding_VD)
    assert not torch.equal(encoder.passage_log_weight_V, fresh.passage_log_weight_V)
    assert stats["losses"] == []
    assert stats["flops"]["train"] == stats["tokens"]["train"] == 0


@pytest.mark.parametrize("source", ["encoder", "bm25", "document"])
def test_every_source_gives_negatives_that_are_not_gold(toy, tokenizer_folder: Path, source: str):
    _, stats = train(toy, tokenizer_folder, SHORT.model_copy(update={"negatives_from": (source,), "steps": 3}))
    per_question = 3 if source == "document" else 6  # a document has three other passages
    assert stats["mined"] == 3 * 24 * per_question


def test_no_hard_negatives(toy, tokenizer_folder: Path):
    _, stats = train(toy, tokenizer_folder, SHORT.model_copy(update={"hard_negatives": 0, "steps": 3}))
    assert stats["mined"] == 0
    assert stats["flops"]["mine"] == 0
    assert stats["losses"][0] < np.log(24) + 3


def test_held_out_questions_are_of_other_documents(toy):
    big = type(toy)(500)
    questions, gold = big.questions()
    usable = list(range(len(questions)))
    training, held = _split_by_document(usable, gold, big, 40, seed=3)
    assert len(held) == 40
    assert not set(training) & set(held)
    assert not {i // 4 for i in training} & {i // 4 for i in held}
    assert {i // 4 for i in usable} - {i // 4 for i in training} >= {i // 4 for i in held}
    assert _split_by_document(usable, gold, big, 31, seed=3) == (usable, [])  # too few to set a scale by
    assert _split_by_document([], [], big, 40, seed=3) == ([], [])


def test_calibration_sets_the_scale_and_is_measured(tokenizer_folder: Path, toy):
    big = type(toy)(120)
    questions, gold = big.questions()
    encoder = OPTIONS.create(tokenizer_folder, 512, 0)
    stats = warm_up(encoder, questions, gold, big, SHORT.model_copy(update={"steps": 2}).resolved(OPTIONS), 0)
    assert stats["held_out"] == 48
    assert set(stats["held_out_recall"]) == {"1", "4", "20"}
    assert stats["held_out_nll"] <= stats["held_out_nll_before"] + 0.05
    assert stats["scale"] != stats["scale_before"]
    assert stats["scale"] == encoder.scale
    assert stats["seconds"].keys() == {"tokenize", "mine", "train", "calibrate"}


def test_too_few_questions_to_hold_out_is_said(toy, tokenizer_folder: Path):
    _, stats = train(toy, tokenizer_folder, SHORT.model_copy(update={"held_out": 0, "steps": 1}))
    assert stats["held_out_recall"] is None
    assert "held out" in stats["held_out_reason"]


def test_work_is_counted(toy, tokenizer_folder: Path):
    warmup = SHORT.model_copy(update={"steps": 2, "held_out": 0, "hard_negatives": 0})
    _, stats = train(toy, tokenizer_folder, warmup)
    assert stats["tokens"]["train"] > 2 * 24 * 5
    assert stats["flops"]["train"] > 3 * 2 * 48 * stats["tokens"]["train"]


def test_without_gold_it_cannot_train(toy, tokenizer_folder: Path):
    encoder = OPTIONS.create(tokenizer_folder, 512, 0)
    with pytest.raises(DataError, match="1 of 2 have one"):
        warm_up(encoder, ["a", "b"], [[], [3]], toy, SHORT, 0)
    stats = warm_up(encoder, ["a"], [[]], toy, SHORT.model_copy(update={"steps": 0}), 0)
    assert stats["questions"] == 0


def test_a_loss_that_is_not_finite_stops(toy, tokenizer_folder: Path):
    with pytest.raises(TrainingError, match=r"Lower retriever\.warmup\.lr"):
        train(toy, tokenizer_folder, SHORT.model_copy(update={"lr": 1e4}))


def test_options_must_be_resolved(toy, tokenizer_folder: Path):
    with pytest.raises(TypeError, match="resolved"):
        warm_up(OPTIONS.create(tokenizer_folder, 512, 0), [], [], toy, RetrieverWarmup(), 0)


def test_answer_matches_can_be_left_out(toy, tokenizer_folder: Path):
    warmup = SHORT.model_copy(update={"steps": 2, "drop_answer_matches": True, "negatives_from": ("document",)})
    answers = [["here"]] * len(toy)  # in every passage
    _, stats = train(toy, tokenizer_folder, warmup, answers=answers)
    assert stats["mined"] == 0
    with pytest.raises(DataError, match="without answers"):
        train(toy, tokenizer_folder, warmup)


def test_progress_is_told(toy, tokenizer_folder: Path):
    seen: list[tuple[int, float]] = []
    _, stats = train(
        toy,
        tokenizer_folder,
        SHORT.model_copy(update={"steps": 3}),
        progress=lambda step, loss: seen.append((step, loss)),
    )
    assert seen == list(enumerate(stats["losses"], start=1))


def test_a_pool_smaller_than_the_corpus_keeps_the_gold(toy, tokenizer_folder: Path):
    encoder = OPTIONS.create(tokenizer_folder, 512, 0)
    pool = PassagePool.draw(encoder, toy, [7, 200, 7], 20, seed=0, batch_size=6)
    assert len(pool) == 20
    assert {7, 200} <= set(pool.rows.tolist())
    assert (np.diff(pool.rows) > 0).all()
    texts = [passage_text(*p) for p in toy.texts(pool.rows)]
    np.testing.assert_allclose(pool.vectors(encoder), encoder.encode(texts, "passage"), atol=1e-6)
    assert [p.tolist() for p in pool.positions([[200], [7, 10**6]])] == [
        [pool.rows.tolist().index(200)],
        [pool.rows.tolist().index(7)],
    ]
    everything = PassagePool.draw(encoder, toy, [1], 10_000, seed=0)
    assert everything.rows.tolist() == list(range(len(toy)))
    more_gold = PassagePool.draw(encoder, toy, range(30), 20, seed=0)
    assert more_gold.rows.tolist() == list(range(30))


def test_a_gold_passage_is_never_its_questions_negative(toy, tokenizer_folder: Path):
    """Both questions have passage 1 as gold, the first also 0: where 0 is the target, 1 must not count against it."""
    encoder = OPTIONS.create(tokenizer_folder, 512, 0)
    questions, gold = ["what is the capital", "the highest point"], [[0, 1], [1]]
    pool = PassagePool.draw(encoder, toy, [0, 1], 10_000, seed=0)
    options = SHORT.model_copy(update={"hard_negatives": 0, "batch_size": 2})
    vectors = encoder.encode([passage_text(*toy.pairs[r]) for r in (0, 1)], "passage")
    scores = encoder.encode(questions[1:], "question")[0] @ vectors.T
    other = -np.log(np.exp(scores[1]) / np.exp(scores).sum())  # the second question's loss against 0 and 1
    seen = set()
    for step in range(12):
        job = _Warmup(encoder, questions, gold, toy, pool, options, seed=0)
        loss = job._loss(step, [0, 1], np.empty((2, 0), np.int64)).item()
        target_is_0 = loss > 1e-6
        assert loss == pytest.approx(other / 2 if target_is_0 else 0.0, abs=1e-5)
        seen.add(target_is_0)
    assert seen == {True, False}
