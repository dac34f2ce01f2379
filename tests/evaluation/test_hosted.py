"""What an endpoint's tokens and texts become, by hand; whole runs are in tests/models/hosted."""

from __future__ import annotations

import math

import pytest
import torch

from rag_exp.evaluation.hosted import HostedReader
from rag_exp.models.hosted.alignment import Aligned
from rag_exp.models.hosted.generator import Answer
from rag_exp.models.objectives import RagSequence, RagToken


def reader(objective, ends=True):
    found = HostedReader.__new__(HostedReader)  # these methods read nothing else
    found.objective, found._ends, found._by_prior_alone = objective, ends, 0
    return found


def scored(*logp, merged=False, end=None):
    return Aligned([f"t{len(logp)}{i}" for i in range(len(logp))], list(logp), end, merged)


EQUAL = [scored(-1.0, -2.0, end=-0.5), scored(-3.0, -4.0, end=-0.25)]
UNEQUAL = [scored(-1.0, end=-0.5), scored(-3.0, -4.0, end=-0.25)]
MERGED = [scored(-1.0, -2.0, merged=True, end=-0.5), scored(-3.0, -4.0, merged=True, end=-0.25)]


def test_the_end_stands_behind_the_answer():
    logp_BKT, mask_BT = reader(RagSequence())._table([EQUAL, UNEQUAL])
    assert logp_BKT.tolist() == [[[-1, -2, -0.5], [-3, -4, -0.25]], [[-1, 0, -0.5], [-3, -4, -0.25]]]
    assert mask_BT.all()
    short = [[scored(-1.0)], [scored(-1.0, -2.0)]]
    logp_BKT, mask_BT = reader(RagSequence(), ends=False)._table(short)
    assert mask_BT.tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize("row", [UNEQUAL, MERGED])
def test_tokens_that_differ_between_passages_are_not_mixed(row):
    logp_BKT, _ = reader(RagToken())._table([EQUAL, row])
    assert torch.isfinite(logp_BKT[0]).all()
    assert torch.isnan(logp_BKT[1]).all()
    alone, _ = reader(RagToken())._table([[row[0]]])  # one passage is mixed with nothing
    assert torch.isfinite(alone).all()


def test_the_answer_that_most_of_the_probability_wrote():
    prior_BK = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    texts = ["a", "b", "b"]
    told = [Answer(t, math.log(p), True) for t, p in zip(texts, (0.1, 0.4, 0.4), strict=True)]
    found = reader(RagSequence())
    assert found._chosen(told, prior_BK) == ["b"]  # .3 x .4 + .2 x .4 > .5 x .1
    assert found._by_prior_alone == 0
    untold = [Answer(t, None, True) for t in ("a", "b", "c")]
    assert found._chosen(untold, prior_BK) == ["a"]
    assert found._by_prior_alone == 1
