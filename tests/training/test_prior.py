"""What a stage makes of a prior that learns: it moves, whatever trains beside it, and a kill changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rag_exp.evaluation.arms import random_result
from rag_exp.models.objectives import Chain, Ensemble, PDist, RagSequence, RagToken
from rag_exp.models.prior import RetrievalPrior
from rag_exp.retrieval.encoders import Static, passage_text
from rag_exp.retrieval.flat import Flat
from rag_exp.retrieval.hop2 import SecondHop
from rag_exp.retrieval.live import LiveRetriever
from rag_exp.retrieval.results import SearchResult
from rag_exp.training.loop import Stage, fit_stage
from rag_exp.training.module import RagModule
from rag_exp.training.options import OptimOptions, TrainerOptions
from rag_exp.training.reading import StageData

K, STEPS = 3, 7
MACHINE = TrainerOptions(accelerator="cpu", threads=1, progress=False, checkpoint_every=3)


def learning():
    return RetrievalPrior(1.5, learn_temperature=True, lr=0.05)


def cached(towns):
    """Random passages with unequal scores."""
    ids = random_result(towns.questions.ids, K, len(towns.table), 0).ids_QK
    return SearchResult.of(ids, np.random.default_rng(0).normal(size=ids.shape).astype(np.float32), K)


def live_retriever(towns):
    encoder = Static(dims=16, scale=4.0).create(towns.root / "tokenizer", 320, 0)
    texts = [passage_text(*pair) for pair in towns.table.texts(np.arange(len(towns.table)))]
    return LiveRetriever(encoder, None, towns.table, [encoder.encode(texts, "passage")], Flat(), 0)


def fit(towns, prior, objective=None, partial=None, live=None, hop2=None):
    objective = objective or RagSequence()
    if live is None:
        data = StageData.retrieved(towns.packer, towns.questions, towns.table, cached(towns), objective)
    else:
        data = StageData.live(towns.packer, towns.questions, towns.table, K, objective, hop2)
    reader, stage = towns.reader(), Stage("marginal", STEPS, 6, 2e-3, 5, bucket=2, retriever_lr=0.01)
    stats = fit_stage(
        stage, reader, objective, data, OptimOptions(), towns.options.sizes(), MACHINE, partial, live, prior=prior
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


def test_a_kill_changes_nothing(towns, tmp_path, monkeypatch):
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
