"""Every objective trained for some steps: what it reads, what that costs, who learns from it."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from rag_exp.evaluation.arms import random_result
from rag_exp.models.flops import forward_flops, training_flops
from rag_exp.models.ladder import Ladder
from rag_exp.models.objectives import Adist, Emdr2, Ensemble, Fid, Loop, PDist, RagToken
from rag_exp.models.packing import Packer
from rag_exp.models.prompt import PromptOptions
from rag_exp.models.reader import Memory
from rag_exp.retrieval.encoders import Static, passage_text
from rag_exp.retrieval.flat import Flat
from rag_exp.retrieval.live import LiveRetriever
from rag_exp.training.loop import Stage, fit_stage
from rag_exp.training.meter import Meter
from rag_exp.training.module import RagModule
from rag_exp.training.options import OptimOptions, TrainerOptions
from rag_exp.training.reading import StageData

K, STEPS, BATCH = 3, 6, 6
MACHINE = TrainerOptions(accelerator="cpu", threads=1, progress=False)


def live_retriever(towns):
    encoder = Static(dims=16).create(towns.root / "tokenizer", 320, 0)
    texts = [passage_text(*pair) for pair in towns.table.texts(np.arange(len(towns.table)))]
    return LiveRetriever(encoder, None, towns.table, [encoder.encode(texts, "passage")], Flat(), 0)


def trained(towns, objective):
    """(reader before and after, retriever before and after, stats) of a short stage with a live retriever."""
    reader, live = towns.reader(), live_retriever(towns)
    before = copy.deepcopy(reader), live_retriever(towns)
    data = StageData.live(towns.packer, towns.questions, towns.table, K, objective)
    stage = Stage("marginal", STEPS, BATCH, 2e-3, 5, retriever_lr=0.01)
    stats = fit_stage(stage, reader, objective, data, OptimOptions(), towns.options.sizes(), MACHINE, live=live)
    return before, (reader, live), stats


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize(
    "objective",
    [Emdr2(), Emdr2(reader="concat"), PDist(), PDist(reader="concat", temperature=0.5), Loop(), Ensemble()],
    ids=lambda o: f"{o.kind}-{getattr(o, 'reader', '')}",
)
def test_who_learns(towns, objective):
    before, after, stats = trained(towns, objective)
    assert same(before[0], after[0]) is not objective.trains_reader
    assert not same(before[1].question_encoder, after[1].question_encoder)
    assert stats["rows"] == (STEPS * BATCH * objective.prompts(K) if objective.trains_reader else 0)
    assert (stats["scored_tokens"] > 0) is (objective.evidence != "own" or not objective.trains_reader)
    assert stats["passages"] == STEPS * BATCH * K


@pytest.mark.parametrize(
    "objective",
    [Fid(), Emdr2(reader="fid"), PDist(reader="fid"), Loop(reader="fid"), Adist(), Adist(value_norms=False)],
    ids=lambda o: o.kind,
)
def test_a_reader_that_fuses_learns(towns, objective):
    options = Ladder(size="xs", vocab_size=320, context=96, family="t5")
    reader, teaches = options.create(towns.root / "tokenizer", 0), objective.evidence != "none"
    packer = Packer(reader.tokenizer, PromptOptions(max_answer_tokens=12), reader.context, True)
    live = live_retriever(towns) if teaches else None
    if teaches:
        data = StageData.live(packer, towns.questions, towns.table, K, objective)
    else:
        topk = random_result(towns.questions.ids, K, len(towns.table), 0)
        data = StageData.retrieved(packer, towns.questions, towns.table, topk, objective)
    stage = Stage("marginal", 12, BATCH, 5e-3, 5, retriever_lr=0.01)
    stats = fit_stage(stage, reader, objective, data, OptimOptions(), options.sizes(), MACHINE, live=live)
    assert stats["final_loss"] < stats["loss"][0][1] - 1
    assert stats["rows"] == 12 * BATCH * K
    assert (stats["scored_tokens"] > 0) is teaches


def module_of(towns, objective, live):
    data = StageData.live(towns.packer, towns.questions, towns.table, K, objective)
    return RagModule(towns.reader(), objective, data, OptimOptions(), 1e-3, Meter(1), 0, live=live)


@pytest.mark.parametrize(
    "objective",
    [RagToken(), Emdr2(), Emdr2(reader="concat"), PDist(), Loop(), Ensemble(), Adist(), Fid()],
    ids=lambda o: f"{o.kind}-{getattr(o, 'reader', '')}",
)
def test_every_loss_and_gradient_is_that_of_microbatches(towns, objective):
    """Reader's and retriever's, dropout off: the cut decides which draws a row gets."""
    found = []
    for memory in (Memory(), Memory(microbatch_tokens=1)):
        module = module_of(towns, objective, live_retriever(towns))
        if objective.attends or objective.needs_encoder:
            options = Ladder(size="xs", vocab_size=320, context=96, family="bart")
            module.generator = options.create(towns.root / "tokenizer", 0)
            packer = Packer(module.generator.tokenizer, PromptOptions(max_answer_tokens=12), 96, True)
            module.stage = StageData.live(packer, towns.questions, towns.table, K, objective)
        module.generator.eval().keep(memory)
        loss = module.loss(module._search(module.stage.reading(0, np.arange(5))))
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in module.parameters() if p.grad is not None)])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_a_second_reading_is_the_first_without_dropout(towns):
    """With dropout off, the passages read apart for the retriever's term say what the reader's own readings say."""
    each, concat = (module_of(towns, PDist(reader=reader), live_retriever(towns)) for reader in ("each", "concat"))
    gradients = []
    for module in (each, concat):
        module.generator.eval()
        found = module._search(module.stage.reading(0, np.arange(5)))
        module.loss(found).backward()
        gradients.append(module.live.question_encoder.embedding_VD.grad)
        assert (found.evidence is not None) is (module is concat)
    torch.testing.assert_close(*gradients)
    assert not concat.generator.training
    assert module_of(towns, Ensemble(), live_retriever(towns)).generator.training


def test_a_second_reading_costs_a_forward_pass(towns):
    _, _, stats = trained(towns, PDist(reader="concat"))
    _, _, plain = trained(towns, PDist())
    sizes = towns.options.sizes()
    meter = Meter(1)
    module = module_of(towns, PDist(reader="concat"), live_retriever(towns))
    module.meter = meter
    found = module._search(module.stage.reading(0, np.arange(5)))
    module._count(found)
    expected = training_flops(found.reader.counts, sizes) + forward_flops(found.evidence.counts, sizes)
    assert meter.stats(sizes)["flops"] == expected
    assert Meter.of(meter.facts()) == meter
    assert stats["tokens"] < plain["tokens"]
    assert stats["scored_tokens"] > 0
    assert plain["scored_tokens"] == 0


def test_leaving_one_out_by_hand(towns):
    """Each row's evidence is the plain joint reading of the passages that are left."""
    module = module_of(towns, Loop(), live_retriever(towns))
    module.generator.eval()
    rows_BK = np.array([[3, 5, 7], [2, 9, -1]])
    found = module.stage.read(0, np.arange(2), rows_BK)
    evidence_BK = module._evidence(found, torch.zeros(2, 1, 1))
    for b, k in ((0, 0), (0, 2), (1, 1)):
        left = module.stage.read(0, np.array([b]), np.delete(rows_BK[b], k)[None]).reader
        with torch.no_grad():
            expected = -module.generator.token_logp(left).sum()
        torch.testing.assert_close(evidence_BK[b, k], expected)


@pytest.mark.parametrize("objective", [Adist(), Adist(value_norms=False)], ids=lambda o: o.evidence)
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_attention_teaches_the_retriever_and_leaves_the_reader_to_the_answer(towns, objective, family):
    """The reader's gradient is that of fid; the retriever's is prior - share of attention, through its scores."""
    options = Ladder(size="xs", vocab_size=320, context=96, family=family)
    tokenizer = options.create(towns.root / "tokenizer", 0).tokenizer
    packer = Packer(tokenizer, PromptOptions(max_answer_tokens=12), 96, True)
    gradients = []
    for trained in (objective, Fid()):
        reader, live = options.create(towns.root / "tokenizer", 0), live_retriever(towns)
        data = StageData.live(packer, towns.questions, towns.table, K, trained)
        module = RagModule(reader, trained, data, OptimOptions(), 1e-3, Meter(1), 0, live=live)
        found = module._search(data.reading(0, np.arange(5)))
        found.scores_BK.retain_grad()
        assert found.evidence is None
        module.loss(found).backward()
        assert reader.training
        assert reader.model.config._attn_implementation == "sdpa"
        module._count(found)
        gradients.append([p.grad for p in reader.parameters()])
        if trained is objective:
            share_BK = module._evidence(found, torch.zeros(5, 1, 1)).softmax(-1)
            expected_BK = (found.scores_BK.detach().softmax(-1) - share_BK) / 5
            torch.testing.assert_close(found.scores_BK.grad, expected_BK)
            read, sizes = found.reader.counts, options.sizes()
            bare = replace(read, target_tokens=0)
            assert module.meter.stats(sizes)["flops"] == training_flops(read, sizes) + forward_flops(bare, sizes)
        else:
            assert found.scores_BK.grad is None
    torch.testing.assert_close(*gradients)
