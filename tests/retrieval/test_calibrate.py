from __future__ import annotations

import math

import pytest
import torch

from rag_exp.retrieval.calibrate import best_factor, gold_nll, gold_recall


def sampled(scale: float, questions: int = 4000, passages: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores whose gold passage is truly drawn from softmax(scale * score)."""
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(questions, passages, generator=draw)
    gold = torch.multinomial((scale * scores).softmax(1), 1, generator=draw)
    return scores, torch.zeros(scores.shape, dtype=torch.bool).scatter(1, gold, True)


@pytest.mark.parametrize("scale", [0.2, 1.0, 4.0])
def test_finds_the_scale_that_made_the_data(scale: float):
    scores, gold = sampled(scale)
    assert best_factor(scores, gold) == pytest.approx(scale, rel=0.1)


def test_the_factor_is_where_the_nll_is_least():
    scores, gold = sampled(2.0)
    factor = best_factor(scores, gold)
    least = gold_nll(scores, gold, factor)
    assert least <= min(gold_nll(scores, gold, factor * f) for f in (0.7, 0.9, 1.1, 1.4)) + 1e-3


def test_a_faultless_ranking_does_not_ask_for_infinity():
    scores = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(100, 1)
    gold = torch.tensor([[True, False, False, False]]).repeat(100, 1)
    factor = best_factor(scores, gold)
    # the doubt 1/102 on three rivals: e^f / (e^f + 3) = 101/102
    assert factor == pytest.approx(math.log(3 * 101), rel=0.02)
    more = best_factor(scores.repeat(10, 1), gold.repeat(10, 1))
    assert more > factor


def test_gold_nll_adds_up_several_gold_passages():
    scores = torch.tensor([[0.0, math.log(2.0), 0.0]])
    gold = torch.tensor([[True, True, False]])
    assert gold_nll(scores, gold) == pytest.approx(-math.log(3 / 4))


def test_gold_recall():
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 1.0, 0.0]])
    gold = torch.tensor([[False, False, True], [True, False, True], [False, True, False]])
    assert gold_recall(scores, gold, (1, 2, 3)) == {"1": pytest.approx(2 / 3), "2": pytest.approx(2 / 3), "3": 1.0}


def test_one_passage_is_no_question():
    assert 0 < best_factor(torch.ones(5, 1), torch.ones(5, 1, dtype=torch.bool)) < 100
