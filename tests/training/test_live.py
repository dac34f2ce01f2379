"""Training through a live retriever, and going on with it after a kill."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rag_exp.models.objectives import RagSequence
from rag_exp.retrieval.encoders import Static, passage_text
from rag_exp.retrieval.flat import Flat
from rag_exp.retrieval.live import LiveRetriever
from rag_exp.training.module import RagModule
from rag_exp.training.options import OptimOptions, TrainerOptions, TrainingOptions, WarmupOptions
from rag_exp.training.stages import Trainee, train_marginal, warm_up_reader


def live_retriever(towns, both):
    encoder = Static(dims=16).create(towns.root / "tokenizer", 320, 0)
    texts = [passage_text(*pair) for pair in towns.table.texts(np.arange(len(towns.table)))]
    blocks = [encoder.encode(texts, "passage")]
    return LiveRetriever(encoder, copy.deepcopy(encoder) if both else None, towns.table, blocks, Flat(), 0)


def trainee(towns, partial=None, steps=9):
    options = TrainingOptions(warmup=WarmupOptions(steps=4, batch_size=6), steps=steps, batch_size=6, bucket=2)
    options = options.resolved(own_lr=3e-3)
    machine = TrainerOptions(accelerator="cpu", threads=1, progress=False, checkpoint_every=4)
    sizes = towns.options.sizes()
    return Trainee(towns.reader(), towns.packer, sizes, options, OptimOptions(), 0, machine, partial=partial)


def train(towns, both, partial=None):
    who, live = trainee(towns, partial), live_retriever(towns, both)
    stats = train_marginal(
        who,
        RagSequence(),
        towns.questions,
        towns.table,
        live=live,
        k=3,
        refresh_every=3 if both else None,
        retriever_lr=0.01,
    )
    return who.generator, live, stats


@pytest.mark.parametrize("both", [False, True])
def test_the_retriever_trains_and_a_kill_changes_nothing(towns, tmp_path, monkeypatch, both):
    reader, live, stats = train(towns, both)
    untouched = live_retriever(towns, both)
    assert not torch.equal(live.question_encoder.embedding_VD, untouched.question_encoder.embedding_VD)
    if both:
        assert not torch.equal(live.passage_encoder.embedding_VD, untouched.passage_encoder.embedding_VD)
    assert stats["passages"] == 9 * 6 * 3
    assert 0 < stats["retriever_flops"] < stats["flops"]

    reseed = RagModule._reseed

    def die(self, step):
        if step == 5:  # the last checkpoint is of step 4, the last refresh of step 3
            raise RuntimeError("killed")
        reseed(self, step)

    monkeypatch.setattr(RagModule, "_reseed", die)
    with pytest.raises(RuntimeError, match="killed"):
        train(towns, both, tmp_path)
    monkeypatch.setattr(RagModule, "_reseed", reseed)
    again, live_again, stats_again = train(towns, both, tmp_path)
    assert stats_again["resumed_at"] == 4
    for a, b in ((reader, again), (live, live_again)):
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert stats_again["loss"] == stats["loss"]
    assert stats_again["flops"] == stats["flops"]


def test_the_warm_up_is_a_stage_of_its_own(towns, tmp_path):
    who = trainee(towns, tmp_path)
    warm = warm_up_reader(who, towns.questions, towns.table)
    assert (warm["steps"], warm["rows"], warm["left_out"]) == (4, 24, 4)
    closed = warm_up_reader(trainee(towns), towns.questions, None)
    assert (closed["passages"], closed["left_out"]) == (0, 0)
    marginal = train_marginal(who, RagSequence(), towns.questions, None)  # goes on with the same reader
    assert marginal["loss"][0][1] < warm["loss"][0][1]
    assert marginal["steps"] == 9
