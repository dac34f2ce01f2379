"""What a stage makes of a prior that learns: it moves, whatever trains beside it, and a kill changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rag_exp.evaluation.arms import random_result
from rag_exp.models.objectives import Chain, Emdr2, Ensemble, PDist, RagSequence, RagToken
from rag_exp.models.prior import RetrievalPrior
from rag_exp.models.reader import Memory
from rag_exp.retrieval.encoders import Static, passage_text
from rag_exp.retrieval.flat import Flat
from rag_exp.retrieval.hop2 import SecondHop
from rag_exp.retrieval.live import LiveRetriever
from rag_exp.retrieval.results import SearchResult
from rag_exp.training.loggers import Mirror
from rag_exp.training.loop import Stage, fit_stage
from rag_exp.training.meter import Meter
from rag_exp.training.module import RagModule
from rag_exp.training.options import OptimOptions, TrainerOptions
from rag_exp.training.reading import StageData

K, STEPS = 3, 7
MACHINE = TrainerOptions(accelerator="cpu", threads=1, progress=False, checkpoint_every=3, log_every=1)


def learning():
    return RetrievalPrior(1.5, learn_temperature=True, lr=0.05)


def learning_null():
    return RetrievalPrior(1.5, null_score=0.5, learn_null=True, lr=0.05)


def cached(towns):
    """Random passages with unequal scores."""
    ids = random_result(towns.questions.ids, K, len(towns.table), 0).ids_QK
    return SearchResult.of(ids, np.random.default_rng(0).normal(size=ids.shape).astype(np.float32), K)


def live_retriever(towns):
    encoder = Static(dims=16, scale=4.0).create(towns.root / "tokenizer", 320, 0)
    texts = [passage_text(*pair) for pair in towns.table.texts(np.arange(len(towns.table)))]
    return LiveRetriever(encoder, None, towns.table, [encoder.encode(texts, "passage")], Flat(), 0)


def fit(towns, prior, objective=None, partial=None, live=None, hop2=None, mirror=None):
    objective = objective or RagSequence()
    given = towns.packer, towns.questions, towns.table
    if live is None:
        data = StageData.retrieved(*given, cached(towns), objective, prior.has_null)
    else:
        data = StageData.live(*given, K, objective, hop2, prior.has_null)
    reader, stage = towns.reader(), Stage("marginal", STEPS, 6, 2e-3, 5, bucket=2, retriever_lr=0.01)
    stats = fit_stage(
        stage, reader, objective, data, OptimOptions(), towns.options.sizes(), MACHINE, partial, live, mirror, prior
    )
    return reader, stats


@pytest.mark.parametrize("objective", [RagSequence(), RagToken()], ids=lambda o: o.kind)
def test_a_temperature_learns_with_the_reader_alone(towns, objective):
    prior = learning()
    fit(towns, prior, objective)
    assert 0 < abs(prior.values()["temperature"] - 1.5) < 1.5


@pytest.mark.parametrize("objective", [PDist(reader="concat"), Ensemble(), Chain()], ids=lambda o: o.kind)
def test_a_temperature_learns_beside_a_retriever(towns, objective):
    prior, hop2 = learning(), SecondHop(j=2, paths=3) if objective.hops == 2 else None
    fit(towns, prior, objective, live=live_retriever(towns), hop2=hop2)
    assert prior.values()["temperature"] != 1.5


def test_a_prior_may_be_all_that_learns(towns):
    prior = RetrievalPrior(1.5, True, 0.5, True, lr=0.05)
    reader, stats = fit(towns, prior, Ensemble())
    assert all(torch.equal(x, y) for x, y in zip(reader.parameters(), towns.reader().parameters(), strict=True))
    assert prior.values()["temperature"] != 1.5
    assert prior.values()["null_score"] != 0.5
    assert stats["rows"] == 0
    assert stats["scored_tokens"] > 0


def test_curves_show_what_the_prior_learns(towns):
    class Curves:
        def __init__(self):
            self.found = {}

        def log_metrics(self, values, step):
            self.found |= {(name, step): value for name, value in values.items()}

    prior, curves = learning_null(), Curves()
    fit(towns, prior, mirror=Mirror(curves))
    assert curves.found["marginal/null_score", STEPS] == pytest.approx(prior.values()["null_score"])
    assert curves.found["marginal/temperature", 1] == pytest.approx(1.5)


@pytest.mark.parametrize("objective", [RagSequence(), RagToken()], ids=lambda o: o.kind)
def test_a_null_document_is_read_beside_the_passages_and_learns(towns, objective):
    prior = learning_null()
    _, stats = fit(towns, prior, objective)
    assert stats["rows"] == STEPS * 6 * (K + 1)
    assert stats["passages"] == STEPS * 6 * K
    assert 0 < abs(prior.values()["null_score"] - 0.5) < 1


@pytest.mark.parametrize("objective", [Emdr2(), PDist(), Ensemble()], ids=lambda o: o.kind)
def test_a_null_document_learns_beside_a_retriever(towns, objective):
    prior = learning_null()
    fit(towns, prior, objective, live=live_retriever(towns))
    assert prior.values()["null_score"] != 0.5


def test_the_null_document_is_the_closed_book_prompt(towns):
    """Loss by hand: RAG-Sequence over the passages read by themselves and the question read alone."""
    objective, prior, items = RagSequence(), RetrievalPrior(1.5, null_score=0.5), np.arange(4)
    found = cached(towns)
    given = towns.packer, towns.questions, towns.table
    data = StageData.retrieved(*given, found, objective, null=True)
    module = RagModule(towns.reader().eval(), objective, data, OptimOptions(), 1e-3, Meter(1), 0, prior).eval()
    apart = StageData.retrieved(*given, found).reading(0, items).reader
    alone = StageData.closed_book(towns.packer, towns.questions).reading(0, items).reader
    with torch.no_grad():
        loss = module.loss(data.reading(0, items))
        passages_BK, null_B1 = (
            module.generator.token_logp(batch).sum(1).view(len(items), -1) for batch in (apart, alone)
        )
    scores_BR = torch.cat([torch.tensor(found.scores_QK[:4]), torch.full((4, 1), 0.5)], dim=1)
    by_hand = -((scores_BR / 1.5).log_softmax(1) + torch.cat([passages_BK, null_B1], dim=1)).logsumexp(1).mean()
    torch.testing.assert_close(loss, by_hand, rtol=1e-5, atol=1e-5)


def test_parts_of_a_batch_are_the_whole_with_a_null_document(towns):
    """Microbatches change neither the loss nor any gradient, the null score's among them."""
    found = []
    for most in (None, 200):
        prior, reader = learning_null(), towns.options.model_copy(update={"dropout": 0.0})
        reader = reader.create(towns.root / "tokenizer", 0)
        reader.keep(Memory(microbatch_tokens=most))
        data = StageData.retrieved(towns.packer, towns.questions, towns.table, cached(towns), RagSequence(), null=True)
        module = RagModule(reader, RagSequence(), data, OptimOptions(), 1e-3, Meter(1), 0, prior)
        loss = module.loss(data.reading(0, np.arange(6)))
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in module.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("learning", [learning, learning_null])
def test_a_kill_changes_nothing(towns, tmp_path, monkeypatch, learning):
    prior = learning()
    reader, stats = fit(towns, prior)
    reseed = RagModule._reseed

    def die(self, step):
        if step == 5:
            raise RuntimeError("killed")
        reseed(self, step)

    monkeypatch.setattr(RagModule, "_reseed", die)
    with pytest.raises(RuntimeError, match="killed"):
        fit(towns, learning(), partial=tmp_path)
    monkeypatch.setattr(RagModule, "_reseed", reseed)
    again = learning()
    reader_again, stats_again = fit(towns, again, partial=tmp_path)
    assert stats_again["resumed_at"] == 3
    assert stats_again["loss"] == stats["loss"]
    assert again.values() == prior.values()
    assert all(torch.equal(x, y) for x, y in zip(reader.parameters(), reader_again.parameters(), strict=True))
