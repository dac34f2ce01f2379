"""What an endpoint's tokens and texts become, by hand; whole runs are in tests/models/hosted."""

from __future__ import annotations

import math
from types import SimpleNamespace

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


class Endpoint:
    """Prompts "p0", "p1", ...; log-probabilities of texts by prompt, as they are looked up."""

    def __init__(self, told):
        self.told, self.asked = told, []

    def prompts(self, batch):
        return [f"p{n}" for n in range(batch.rows)]

    def score_texts(self, prompts, answers):
        self.asked += zip(prompts, answers, strict=True)
        return [scored(*self.told[pair][:-1], end=self.told[pair][-1]) for pair in zip(prompts, answers, strict=True)]


def test_given_texts_are_ranked_by_the_sum_over_passages():
    """Two questions of two passages; the first has two candidates, one of them given twice."""
    told = {
        ("p0", "a"): (-1.0, -0.5), ("p1", "a"): (-2.0, -0.25),
        ("p0", "b c"): (-0.5, -4.0, -0.5), ("p1", "b c"): (-0.25, -0.25, -0.25),
        ("p2", "d"): (-1.0, -1.0), ("p3", "d"): (-3.0, -1.0),
    }  # fmt: skip
    found = reader(RagSequence())
    found.generator = Endpoint(told)
    batch = SimpleNamespace(per_question=2, rows=4)
    prior_BK = torch.tensor([[0.75, 0.25], [0.5, 0.5]], dtype=torch.float64).log()
    given = [["a", "b c", "a"], ["d"]]
    ranked = found._ranked(batch, prior_BK, given)
    a, bc = 0.75 * math.exp(-1.5) + 0.25 * math.exp(-2.25), 0.75 * math.exp(-5) + 0.25 * math.exp(-0.75)
    d = 0.5 * math.exp(-2) + 0.5 * math.exp(-4)
    assert [text for text, _ in ranked[0]] == ["a", "b c"]
    assert [x for one in ranked for _, x in one] == pytest.approx([math.log(a), math.log(bc), math.log(d)])
    assert len(found.generator.asked) == 6
    long = found._ranked(batch, prior_BK, given, length_penalty=1.0)
    assert [text for text, _ in long[0]] == ["b c", "a"]
    assert [x for _, x in long[0]] == pytest.approx([math.log(bc), math.log(a)])
    assert found._ranked(batch, prior_BK, [[], []]) == [[], []]
