"""Scoring: the log-probabilities of every family equal those of the plain model on each row alone."""

from __future__ import annotations

import pytest
import torch

from rag_exp.models import reader as reader_module
from rag_exp.models.ladder import Ladder
from rag_exp.models.marginalize import doc_logprior, rag_sequence_nll, target_logprobs
from rag_exp.models.packing import IGNORE, Packer, ReaderBatch
from rag_exp.models.prompt import PromptOptions
from rag_exp.models.reader import Generator, Memory

FAMILIES = ["llama", "t5", "bart"]
QUESTIONS = ["What is the capital of Norway?", "Fiji?", "What is the highest point of Nepal?"]
PASSAGES = [
    [("Norway", "kingdom; capital Oslo"), ("Norway: point", "Galdhøpiggen 2,469 m")],
    [("Fiji", "population 947,760 (2023 est.) and much more of it"), ("", "")],
    [("Nepal", "Mount Everest"), ("Nepal: extremes", "the highest point is Mount Everest, 8,849 m, of course")],
]
ANSWERS = ["Oslo", "parliamentary republic", "Mount Everest, 8,849 m"]


def make(family: str, vocabulary, **options) -> tuple[Generator, Packer]:
    generator = Ladder(family=family, size="s0", vocab_size=320, context=160, **options).create(vocabulary, seed=0)
    return generator, Packer(generator.tokenizer, PromptOptions(max_answer_tokens=24), 160, generator.seq2seq)


def packed(packer: Packer, answers: bool = True) -> ReaderBatch:
    read = [
        list(zip(packer.tokens([t for t, _ in row], "title"), packer.tokens([x for _, x in row], "text"), strict=True))
        for row in PASSAGES
    ]
    given = packer.tokens(ANSWERS, "answer") if answers else None
    return packer.pack(packer.tokens(QUESTIONS, "question"), read, given)


def naive(generator: Generator, batch: ReaderBatch) -> torch.Tensor:
    """Each row alone, without padding, all logits, through nothing but the transformers model."""
    logp_NT = torch.zeros(batch.targets_NT.shape)
    for n in range(len(batch.input_ids_NL)):
        ids = batch.input_ids_NL[n][batch.attention_mask_NL[n].bool()][None]
        target = batch.targets_NT[n][batch.targets_NT[n] != IGNORE]
        if generator.seq2seq:
            start = generator.model.config.decoder_start_token_id
            fed = torch.cat([torch.tensor([start]), target[:-1]])[None]
            logits_TV = generator.model(input_ids=ids, decoder_input_ids=fed).logits[0]
        else:
            logits_TV = generator.model(input_ids=ids).logits[0, -len(target) :]
        logp_TV = torch.log_softmax(logits_TV, -1)
        logp_NT[n, : len(target)] = logp_TV[torch.arange(len(target)), target]
    return logp_NT


@pytest.mark.parametrize("family", FAMILIES)
def test_token_logp_equals_the_plain_model(family, vocabulary):
    generator, packer = make(family, vocabulary)
    batch = packed(packer)
    with torch.no_grad():
        logp_NT = generator.token_logp(batch)
        expected_NT = naive(generator, batch)
    torch.testing.assert_close(logp_NT, expected_NT, rtol=1e-5, atol=1e-5)
    assert (logp_NT[batch.targets_NT == IGNORE] == 0).all()
    assert (logp_NT[batch.targets_NT != IGNORE] < 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_the_plain_model(family, vocabulary):
    generator, packer = make(family, vocabulary)
    batch = packed(packer)
    scores_BK = torch.tensor([[1.0, 0.3], [0.2, 0.4], [0.0, 2.0]])

    def gradients(logp_NT: torch.Tensor) -> dict[str, torch.Tensor]:
        generator.zero_grad()
        rag_sequence_nll(logp_NT.view(3, 2, -1), doc_logprior(scores_BK), batch.target_mask_BT).mean().backward()
        return {n: p.grad.clone() for n, p in generator.named_parameters()}

    ours, plain = gradients(generator.token_logp(batch)), gradients(naive(generator, batch))
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_in_groups_changes_nothing(family, vocabulary, monkeypatch):
    generator, packer = make(family, vocabulary)
    batch = packed(packer)
    with torch.no_grad():
        together = generator.padded_token_logp(batch)
        monkeypatch.setattr(
            reader_module, "length_buckets", lambda lengths, *_: [lengths.argsort()[i : i + 1] for i in range(6)]
        )
        apart = generator.token_logp(batch)
    torch.testing.assert_close(apart, together, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_vocabulary_projection_at_target_positions_alone(family, vocabulary, monkeypatch):
    generator, packer = make(family, vocabulary)
    batch = packed(packer)
    head, M = generator.model.get_output_embeddings(), int((batch.targets_NT != IGNORE).sum())
    with torch.no_grad():
        expected_NT = generator.token_logp(batch)
    shapes, given = [], []
    head.register_forward_hook(lambda module, inputs, output: shapes.append(output.numel() // 320))

    def watched(hidden, weight, targets, *rest, **options):
        given.append(tuple(hidden.shape))
        return target_logprobs(hidden, weight, targets, *rest, **options)

    monkeypatch.setattr(reader_module, "target_logprobs", watched)
    with torch.no_grad():
        torch.testing.assert_close(generator.token_logp(batch), expected_NT)
    assert given == [(1, M, 48)]
    assert not any(shapes)
    generator.__dict__["_head_is_affine"] = False  # as where a model does more to its logits
    with torch.no_grad():
        torch.testing.assert_close(generator.token_logp(batch), expected_NT)
    assert shapes[-1] == M
    assert not head._forward_pre_hooks  # nothing stays behind


def test_autocast_takes_the_softmax_in_float32(vocabulary):
    generator, packer = make("llama", vocabulary)
    batch = packed(packer)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logp_NT = generator.token_logp(batch)
    assert logp_NT.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(logp_NT, generator.token_logp(batch), rtol=0.05, atol=0.05)


def test_dropout_is_on_in_training_alone(vocabulary):
    generator, packer = make("t5", vocabulary, dropout=0.3)
    batch = packed(packer)
    with torch.no_grad():
        generator.eval()
        assert torch.equal(generator.token_logp(batch), generator.token_logp(batch))
        generator.train()
        assert not torch.equal(generator.token_logp(batch), generator.token_logp(batch))


def test_scoring_needs_answers(vocabulary):
    generator, packer = make("llama", vocabulary)
    with pytest.raises(AssertionError, match="no answers"):
        generator.token_logp(packed(packer, answers=False))


def step(generator: Generator, batch: ReaderBatch, memory: Memory) -> dict[str, torch.Tensor]:
    """Loss and gradients of one training step, dropout drawn from one seed."""
    generator.keep(memory)
    generator.train()
    generator.zero_grad()
    torch.manual_seed(7)
    scores_BK = torch.tensor([[1.0, 0.3], [0.2, 0.4], [0.0, 2.0]])
    logp_NT = generator.token_logp(batch)
    loss = rag_sequence_nll(logp_NT.view(3, 2, -1), doc_logprior(scores_BK), batch.target_mask_BT).mean()
    loss.backward()
    return {"loss": loss.detach(), **{n: p.grad.clone() for n, p in generator.named_parameters()}}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_microbatches_equal_the_same_groups_kept(family, dropout, vocabulary, monkeypatch):
    """In loss and every gradient, dropout on too: what is read again draws again what it drew."""
    generator, packer = make(family, vocabulary, dropout=dropout)
    batch = packed(packer)
    most = 2 * int(batch.lengths_N.max())
    assert len(reader_module.length_buckets(batch.lengths_N, "cpu", most)) > 2
    monkeypatch.setattr("rag_exp.models.buckets.CPU_MOST", most)
    kept = step(generator, batch, Memory())
    passes = []
    generator.model.register_forward_pre_hook(lambda *_: passes.append(1))  # reading again ends before the head
    same(step(generator, batch, Memory(microbatch_tokens=most)), kept)
    assert len(passes) == 2 * len(reader_module.length_buckets(batch.lengths_N, "cpu", most))
    monkeypatch.undo()
    if not dropout:
        same(step(generator, batch, Memory()), kept, 1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "memory", [Memory(gradient_checkpointing=True), Memory(projection_mb=0), Memory(100, True, 0)], ids=str
)
def test_what_is_kept_changes_nothing(family, memory, vocabulary):
    generator, packer = make(family, vocabulary)
    batch = packed(packer)
    same(step(generator, batch, memory), step(generator, batch, Memory()), 1e-5)


def test_logits_that_are_more_than_a_projection_are_taken_whole(vocabulary):
    """A model that caps its logits, as Gemma does: the same values as without our shortcut."""
    generator, packer = make("llama", vocabulary)
    batch = packed(packer)
    assert generator._head_is_affine
    capped, _ = make("llama", vocabulary)

    def cap(module, inputs, output):
        output.logits = 2 * torch.tanh(output.logits / 2)
        return output

    capped.model.register_forward_hook(cap)
    assert not capped._head_is_affine
    with torch.no_grad():
        torch.testing.assert_close(capped.token_logp(batch), naive(capped, batch), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(capped.token_logp(batch), generator.token_logp(batch), atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_large_batches_keep_less_and_change_no_bit(family, dropout, vocabulary, monkeypatch):
    generator, packer = make(family, vocabulary, dropout=dropout)
    batch = packed(packer)
    kept = step(generator, batch, Memory())
    assert not generator._recomputes(batch)
    monkeypatch.setattr(reader_module, "RECOMPUTED_FROM", 0)
    assert generator._recomputes(batch)
    found = step(generator, batch, Memory())
    assert all(torch.equal(found[name], value) for name, value in kept.items())
    generator.keep(Memory(gradient_checkpointing=True))
    assert not generator._recomputes(batch)
