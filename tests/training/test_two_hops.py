"""A chain trained end to end: cached paths, a live retriever through both hops, gold paths."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rag_exp.models.marginalize import rag_sequence_nll
from rag_exp.models.multihop import ListedPaths
from rag_exp.models.objectives import Chain
from rag_exp.models.prior import RetrievalPrior
from rag_exp.retrieval.encoders import Static, passage_text
from rag_exp.retrieval.flat import Flat
from rag_exp.retrieval.hop2 import SecondHop
from rag_exp.retrieval.live import LiveRetriever
from rag_exp.retrieval.paths import second_hop
from rag_exp.training.meter import Meter
from rag_exp.training.module import RagModule
from rag_exp.training.options import OptimOptions
from rag_exp.training.reading import StageData

K, HOP2 = 3, SecondHop(j=2, paths=4, query="{question} {text}")
ITEMS = np.arange(4)


def live_retriever(towns, both=False):
    encoder = Static(dims=16, scale=4.0).create(towns.root / "tokenizer", 320, 0)
    texts = [passage_text(*pair) for pair in towns.table.texts(np.arange(len(towns.table)))]
    passage_encoder = copy.deepcopy(encoder) if both else None
    return LiveRetriever(encoder, passage_encoder, towns.table, [encoder.encode(texts, "passage")], Flat(), 0)


def module(towns, data, objective, live=None):
    return RagModule(
        towns.reader(), objective, data, OptimOptions(), 1e-3, Meter(1, 1), 0, RetrievalPrior(0.5), live, 1e-3
    )


@pytest.mark.parametrize("objective", [Chain(), Chain(prior="global", unit="token", renormalize=True)])
def test_cached_and_live_paths_are_one_loss(towns, objective):
    live = live_retriever(towns)
    found = live.index.search(live.question_encoder.encode(towns.questions.questions, "question"), K)
    paths, _ = second_hop(live.index, found, towns.questions.questions, towns.table, HOP2, live.question_encoder)
    listed = ListedPaths.of(paths, HOP2.paths, objective.prior, 0.5, objective.renormalize)
    cached = StageData.listed(towns.packer, towns.questions, towns.table, listed, objective)
    asked = StageData.live(towns.packer, towns.questions, towns.table, K, objective, HOP2)
    reading = cached.reading(0, ITEMS)
    assert reading.reader.per_question == HOP2.paths
    assert reading.passages == 2 * HOP2.paths * len(ITEMS)
    one = module(towns, cached, objective).eval()
    other = module(towns, asked, objective, live).eval()
    by_search = other.loss(other._search(asked.reading(0, ITEMS)))
    torch.testing.assert_close(one.loss(reading), by_search, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("both", [False, True])
def test_the_loss_reaches_both_encoders_through_both_hops(towns, both):
    live = live_retriever(towns, both)
    data = StageData.live(towns.packer, towns.questions, towns.table, K, Chain(), HOP2)
    trained = module(towns, data, Chain(), live)
    kept = live.search_paths
    for detached in (0, 1):  # the gradient through one hop alone, the other held fixed

        def search(*given, detached=detached):
            found, *scores = kept(*given)
            scores[detached] = scores[detached].detach()
            return found, *scores

        live.search_paths = search
        trained.zero_grad()
        trained.loss(trained._search(data.reading(0, ITEMS))).backward()
        for encoder in (live.question_encoder, live.passage_encoder)[: 1 + both]:
            assert float(encoder.embedding_VD.grad.abs().sum()) > 1e-6


def test_gold_paths_stand_in_one_prompt(towns):
    questions = copy.copy(towns.questions)
    pairs = [[g[0], (g[0] + 1) % len(towns.table)] if g else [] for g in questions.gold]
    questions.__dict__ |= {"gold": pairs, "gold_of": [[0, 1] if p else [] for p in pairs]}
    data = StageData.gold(towns.packer, questions, towns.table, hops=2)
    assert data.left_out == sum(not p for p in pairs)
    reading = data.reading(0, ITEMS)
    trained = module(towns, data, data.objective).eval()
    logp = trained.generator.token_logp(reading.reader).view(len(ITEMS), 1, -1)
    alone = rag_sequence_nll(logp, torch.zeros(len(ITEMS), 1), reading.reader.target_mask_BT).mean()
    torch.testing.assert_close(trained.loss(reading), alone)
    shown = towns.packer.tokenizer.decode([reading.reader.input_ids_NL[0].tolist()])[0]
    first, second = (towns.table.texts([row])[0][0] for row in pairs[int(np.flatnonzero([bool(p) for p in pairs])[0])])
    assert shown.index(first) < shown.index(second)
