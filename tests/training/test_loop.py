"""One stage: what it computes, and that a kill at any moment changes nothing."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from rag_exp.core.errors import ConfigError, DataError, TrainingError
from rag_exp.core.rng import derive
from rag_exp.evaluation.arms import random_result
from rag_exp.models.objectives import Concat, RagSequence, RagToken
from rag_exp.models.packing import Packer
from rag_exp.models.prior import RetrievalPrior
from rag_exp.models.prompt import PromptOptions
from rag_exp.retrieval.results import SearchResult
from rag_exp.training.checkpoint import load_progress
from rag_exp.training.loggers import Mirror
from rag_exp.training.loop import Stage, fit_stage
from rag_exp.training.module import RagModule
from rag_exp.training.options import LoggerOptions, OptimOptions, TrainerOptions
from rag_exp.training.order import BatchOrder
from rag_exp.training.reading import StageData

MACHINE = {"accelerator": "cpu", "threads": 1, "progress": False}
OPTIM = OptimOptions(lr=2e-3)


def train(
    towns, partial=None, *, data=None, reader=None, objective=None, optim=OPTIM, machine=None, mirror=None, prior=None,
    **stage,
):  # fmt: skip
    """Fit a short stage with shuffling, buckets and dropout on; returns the reader and the stats."""
    reader = reader if reader is not None else towns.reader()
    facts = {"name": "marginal", "steps": 14, "batch_size": 8, "peak_lr": optim.lr, "seed": 5, "bucket": 3} | stage
    stats = fit_stage(
        Stage(**facts),
        reader,
        objective or RagSequence(),
        data if data is not None else retrieved(towns),
        optim,
        towns.options.sizes(),
        TrainerOptions(**MACHINE | {"checkpoint_every": 4} | (machine or {})),
        partial,
        mirror=mirror,
        prior=prior,
    )
    return reader, stats


def retrieved(towns, objective=None):
    topk = random_result(towns.questions.ids, 3, len(towns.table), 0)
    return StageData.retrieved(towns.packer, towns.questions, towns.table, topk, objective)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


class Killed(Exception):
    pass


@pytest.fixture
def kill_at(monkeypatch):
    """Raise in the middle of a step, before its loss."""
    reseed = RagModule._reseed

    def at(killer):
        def reseed_or_die(self, step):
            if step == killer:
                raise Killed
            reseed(self, step)

        monkeypatch.setattr(RagModule, "_reseed", reseed_or_die)

    yield at
    monkeypatch.undo()


@pytest.fixture(scope="module")
def unbroken(towns):
    return train(towns)


def facts(stats):
    return {k: v for k, v in stats.items() if k not in ("seconds", "resumed_at")}


@pytest.mark.parametrize("step", [2, 4, 9])
def test_a_killed_stage_ends_in_the_bits_of_an_unbroken_one(towns, unbroken, tmp_path, kill_at, step):
    # 40 questions in batches of 8: step 9 is in the second epoch, no kill is at an epoch's end
    kill_at(step)
    with pytest.raises(Killed):
        train(towns, tmp_path)
    kill_at(None)
    reader, stats = train(towns, tmp_path)
    assert stats["resumed_at"] == step // 4 * 4
    assert same(reader, unbroken[0])
    assert facts(stats) == facts(unbroken[1])


def test_nor_does_a_kill_change_a_stage_that_reads_in_microbatches(towns, tmp_path, kill_at):
    short = {"machine": {"microbatch_tokens": 200}, "steps": 6}
    whole, again = train(towns, **short)
    kill_at(5)
    with pytest.raises(Killed):
        train(towns, tmp_path, **short)
    kill_at(None)
    reader, stats = train(towns, tmp_path, **short)
    assert stats["resumed_at"] == 4
    assert same(reader, whole)
    assert facts(stats) == facts(again)
    assert not same(reader, train(towns, steps=6)[0])  # rows cut into other groups draw other dropout


SCRIPT = """
import os, signal, sys
from pathlib import Path
from rag_exp.data.passages import PassageTable
from rag_exp.data.questions import QuestionTable
from rag_exp.evaluation.arms import random_result
from rag_exp.models.ladder import Ladder
from rag_exp.models.objectives import RagSequence
from rag_exp.models.packing import Packer
from rag_exp.models.prompt import PromptOptions
from rag_exp.training.loop import Stage, fit_stage
from rag_exp.training.module import RagModule
from rag_exp.training.options import OptimOptions, TrainerOptions
from rag_exp.training.reading import StageData

root, partial = Path(sys.argv[1]), Path(sys.argv[2])
table, questions = PassageTable.open(root / "passages"), QuestionTable.open(root / "questions", "train")
options = Ladder(size="s0", vocab_size=320, context=96, dropout=0.1)
reader = options.create(root / "tokenizer", 0)
packer = Packer(reader.tokenizer, PromptOptions(max_answer_tokens=12), reader.context, reader.seq2seq)
data = StageData.retrieved(packer, questions, table, random_result(questions.ids, 3, len(table), 0))
backward = RagModule.configure_gradient_clipping

def die(self, *args, **kwargs):
    backward(self, *args, **kwargs)
    if self.meter.done == 11:
        os.kill(os.getpid(), signal.SIGKILL)

RagModule.configure_gradient_clipping = die
stage = Stage("marginal", 14, 8, 2e-3, 5, bucket=3)
trainer = TrainerOptions(accelerator="cpu", threads=1, progress=False, checkpoint_every=4)
fit_stage(stage, reader, RagSequence(), data, OptimOptions(lr=2e-3), options.sizes(), trainer, partial)
"""


def test_a_process_that_is_really_killed(towns, unbroken, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(towns.root), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    reader, stats = train(towns, tmp_path)
    assert stats["resumed_at"] == 8
    assert same(reader, unbroken[0])
    assert facts(stats) == facts(unbroken[1])


def test_a_terminated_stage_saves_where_it_is(towns, unbroken, tmp_path, monkeypatch):
    reseed = RagModule._reseed

    def terminate(self, step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        reseed(self, step)

    monkeypatch.setattr(RagModule, "_reseed", terminate)
    with pytest.raises(SystemExit):
        train(towns, tmp_path)
    monkeypatch.undo()
    reader, stats = train(towns, tmp_path)
    assert stats["resumed_at"] == 7
    assert same(reader, unbroken[0])


def test_an_interrupt_stays_an_interrupt(towns, tmp_path, monkeypatch):
    def interrupt(self, step):
        raise KeyboardInterrupt

    monkeypatch.setattr(RagModule, "_reseed", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(towns, tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_finished_stage_is_not_trained_again(towns, unbroken, tmp_path, monkeypatch):
    train(towns, tmp_path, machine={"checkpoint_every": 7})
    monkeypatch.setattr("rag_exp.training.loop._fit", lambda *a: pytest.fail("trained again"))
    reader, stats = train(towns, tmp_path)
    assert stats["resumed_at"] == 14
    assert same(reader, unbroken[0])


def test_damaged_progress_is_said_and_passed_over(towns, unbroken, tmp_path, caplog):
    (tmp_path / "marginal.safetensors").write_bytes(b"torn")
    with caplog.at_level(logging.WARNING):
        reader, stats = train(towns, tmp_path)
    assert stats["resumed_at"] == 0
    assert "cannot be read" in caplog.text
    assert same(reader, unbroken[0])


def test_workers_and_logs_change_nothing(towns, unbroken, tmp_path):
    mirror = Mirror.build(LoggerOptions(kind="csv"), tmp_path, "curves")
    reader, stats = train(towns, machine={"num_workers": 2, "log_every": 5}, mirror=mirror)
    mirror.close()
    assert same(reader, unbroken[0])
    assert facts(stats) == facts(unbroken[1])
    lines = (tmp_path / "curves" / "metrics.csv").read_text().splitlines()
    assert len(lines) == 3  # a head, then steps 5 and 10
    assert "marginal/loss" in lines[0]


def test_a_logger_that_fails_changes_nothing(towns, unbroken, caplog):
    class Broken:
        def log_metrics(self, *_):
            raise OSError("no network")

        def finalize(self, *_):
            raise OSError("no network")

    mirror = Mirror(Broken())
    with caplog.at_level(logging.WARNING):
        reader, _ = train(towns, machine={"log_every": 2}, mirror=mirror)
    mirror.close()
    assert caplog.text.count("no network") == 1
    assert same(reader, unbroken[0])


def test_seeds_matter(towns, unbroken):
    assert not same(train(towns, seed=6)[0], unbroken[0])


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(towns, tmp_path, monkeypatch):
    loss = RagModule.loss

    def poisoned(self, *args):
        return loss(self, *args) * (math.nan if self.meter.done == 9 else 1.0)

    monkeypatch.setattr(RagModule, "loss", poisoned)
    reader = towns.reader()
    with pytest.raises(TrainingError, match="The loss became nan at step 10 of 14"):
        train(towns, tmp_path, reader=reader)
    assert all(torch.isfinite(p).all() for p in reader.parameters())
    progress = load_progress(tmp_path / "marginal.safetensors")
    assert progress.step == 8
    assert all(torch.isfinite(t).all() for t in progress.tensors.values())


def test_a_gradient_that_is_not_finite_stops_too(towns, tmp_path, monkeypatch):
    loss = RagModule.loss

    def poisoned(self, *args):
        found = loss(self, *args)
        if self.meter.done == 9:
            found.register_hook(lambda gradient: gradient * math.inf)
        return found

    monkeypatch.setattr(RagModule, "loss", poisoned)
    reader = towns.reader()
    with pytest.raises(TrainingError, match=r"The gradient became .* at step 10 of 14"):
        train(towns, tmp_path, reader=reader)
    assert all(torch.isfinite(p).all() for p in reader.parameters())


def test_a_rate_beyond_reason_is_a_training_error(towns, tmp_path):
    with pytest.raises(TrainingError, match=r"Lower optim\.lr"):
        train(towns, tmp_path, optim=OptimOptions(lr=1e30, grad_clip=0, rise=0))


def test_the_first_loss_by_hand(towns):
    """Step 1's loss from transformers' logits and plain arithmetic: RAG-Sequence over three passages."""
    plain = towns.options.model_copy(update={"dropout": 0.0}).create(towns.root / "tokenizer", 0)
    topk = random_result(towns.questions.ids, 3, len(towns.table), 0)
    scores = np.sort(np.random.default_rng(0).normal(size=topk.scores_QK.shape).astype(np.float32), axis=1)[:, ::-1]
    topk = SearchResult.of(topk.ids_QK, scores, 3)
    data = StageData.retrieved(towns.packer, towns.questions, towns.table, topk)
    items = BatchOrder(data.lengths, 2, derive(5, "marginal"), 1).batch(0)
    losses = []
    for q in items:
        prior = np.exp(topk.scores_QK[q] / 0.5)
        likelihood = []
        for row in topk.ids_QK[q]:
            title, text = towns.table.texts([row])[0]
            tokens = {name: towns.packer.tokens([value], name)[0] for name, value in (("title", title), ("text", text))}
            question = towns.packer.tokens([towns.questions.questions[q]], "question")[0]
            packed = towns.packer.pack([question], [[(tokens["title"], tokens["text"])]])
            ids = packed.input_ids_NL[0].tolist()
            answer = [*towns.packer.tokens([towns.questions.targets[q]], "answer")[0], 2]
            with torch.no_grad():
                logits = plain.model(torch.tensor([ids + answer])).logits[0].log_softmax(-1)
            likelihood.append(sum(float(logits[len(ids) - 1 + t, a]) for t, a in enumerate(answer)))
        losses.append(-math.log(sum(p / prior.sum() * math.exp(x) for p, x in zip(prior, likelihood, strict=True))))
    _, stats = train(towns, data=data, reader=plain, steps=1, batch_size=2, bucket=1, prior=RetrievalPrior(0.5))
    assert stats["loss"] == [[1, pytest.approx(np.mean(losses), rel=1e-5)]]
    assert stats["rows"] == 6
    assert stats["passages"] == 6


@pytest.mark.parametrize("objective", [RagToken(), Concat()])
def test_other_objectives_learn(towns, objective):
    data = retrieved(towns, objective)
    _, stats = train(towns, data=data, objective=objective)
    assert stats["final_loss"] < stats["loss"][0][1] - 1
    assert stats["rows"] == 14 * 8 * objective.prompts(3)


def test_half_precision_keeps_full_weights(towns):
    reader, stats = train(towns, steps=2, precision="bf16")
    assert all(p.dtype == torch.float32 for p in reader.parameters())
    assert math.isfinite(stats["final_loss"])


def test_questions_without_a_passage_are_left_out_and_counted(towns):
    gold = StageData.gold(towns.packer, towns.questions, towns.table)
    assert (len(gold), gold.left_out) == (36, 4)
    some = random_result(towns.questions.ids, 2, len(towns.table), 0)
    ids = some.ids_QK.copy()
    ids[:5] = -1
    data = StageData.retrieved(towns.packer, towns.questions, towns.table, SearchResult.of(ids, some.scores_QK, 2))
    assert (len(data), data.left_out) == (35, 5)
    _, stats = train(towns, data=data, steps=1)
    assert stats["left_out"] == 5
    with pytest.raises(DataError, match="No passage was retrieved"):
        StageData.retrieved(towns.packer, towns.questions, towns.table, SearchResult.empty(len(towns.questions), 2))
    with pytest.raises(DataError, match="rows for 40 questions"):
        StageData.retrieved(towns.packer, towns.questions, towns.table, some.of_queries(slice(3)))


def test_gold_reads_the_gold_passage(towns):
    data = StageData.gold(towns.packer, towns.questions, towns.table)
    reading = data.reading(0, np.arange(5))
    decoded = towns.packer.tokenizer.decode(reading.reader.input_ids_NL.tolist())
    for text, prompt in zip(data.texts, decoded, strict=False):
        town = text.removeprefix("Which river is ").removesuffix(" on?")
        assert f"{town} lies on the river R{int(town.split()[1]) * 7 % 40}" in prompt


def test_closed_book_reads_nothing(towns):
    data = StageData.closed_book(towns.packer, towns.questions)
    _, stats = train(towns, data=data, steps=2)
    assert stats["passages"] == 0
    assert stats["truncated"] is None
    assert stats["rows"] == 16


def test_prompts_that_cannot_fit_are_told_at_once(towns):
    reader = towns.reader()
    packer = Packer(reader.tokenizer, PromptOptions(max_answer_tokens=2), reader.context, reader.seq2seq)
    with pytest.raises(ConfigError, match=r"prompt\.max_answer_tokens"):
        StageData.closed_book(packer, towns.questions)
