"""Fusion in the decoder: one decoder over passages that were encoded apart."""

from __future__ import annotations

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from rag_exp.models.buckets import length_buckets
from rag_exp.models.decoding.greedy import greedy
from rag_exp.models.ladder import Ladder
from rag_exp.models.packing import Packer
from rag_exp.models.prompt import PromptOptions
from rag_exp.models.reader import Memory

FAMILIES = ["t5", "bart"]
QUESTIONS = ["What is the capital of France?", "Highest point of Norway?", "Fiji?"]
PASSAGES = [
    [
        ("France", "Paris is the capital."),
        ("Nepal", "Mount Everest"),
        ("Norway", "kingdom; capital Oslo; Galdhøpiggen"),
    ],
    [("Norway", "Galdhøpiggen 2,469 m is the highest point of Norway."), ("", ""), ("Fiji", "republic")],
    [("Fiji", "parliamentary republic; population 947,760 (2023 est.)"), ("", ""), ("", "")],
]
ANSWERS = ["Paris", "Galdhøpiggen, 2,469 m", "republic"]


@pytest.fixture(params=FAMILIES)
def kit(request, vocabulary):
    """A small reader without dropout in the way, its packer, and the batch as ids."""
    options = Ladder(size="s0", vocab_size=320, context=128, family=request.param, dropout=0.3)
    reader = options.create(vocabulary, 0).eval()
    packer = Packer(reader.tokenizer, PromptOptions(max_answer_tokens=24), reader.context, True)
    questions, answers = packer.tokens(QUESTIONS, "question"), packer.tokens(ANSWERS, "answer")
    read = [
        [(packer.tokens([t], "title")[0], packer.tokens([x], "text")[0]) if t else ([], []) for t, x in row]
        for row in PASSAGES
    ]
    return reader, packer, questions, read, answers


def concatenated(reader, packer, question, passages):
    """Encoder states of each passage by itself, one behind the other, as transformers computes them."""
    states = []
    for passage in passages:
        row = packer.pack([question], [[passage]])
        encoder = reader.model.get_encoder()
        states.append(encoder(input_ids=row.input_ids_NL, attention_mask=row.attention_mask_NL).last_hidden_state)
    return torch.cat(states, dim=1)


def test_scores_are_those_of_transformers_with_concatenated_encodings(kit):
    reader, packer, questions, read, answers = kit
    fused_BT = reader.token_logp(packer.pack(questions, read, answers, fused=True))
    for b, (question, row, answer) in enumerate(zip(questions, read, answers, strict=True)):
        states = concatenated(reader, packer, question, [p for p in row if p != ([], [])])
        targets = torch.tensor([[*answer, reader.tokenizer.eos]])
        logits = reader.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), decoder_input_ids=reader.decoder_inputs(targets)
        ).logits[:, len(reader.decoder_start) - 1 :]
        expected = logits.log_softmax(-1).gather(-1, targets[..., None])[0, :, 0]
        torch.testing.assert_close(fused_BT[b, : len(expected)], expected, rtol=1e-4, atol=1e-5)
        assert (fused_BT[b, len(expected) :] == 0).all()


def test_answers_are_those_of_transformers_with_concatenated_encodings(kit):
    reader, packer, questions, read, _ = kit
    written = greedy(reader, packer.pack(questions, read, fused=True), 10)
    for b, (question, row) in enumerate(zip(questions, read, strict=True)):
        states = concatenated(reader, packer, question, [p for p in row if p != ([], [])])
        ids = torch.tensor([reader.decoder_start])
        for _ in range(10):  # no cache: everything anew at each step
            logits = reader.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=states), decoder_input_ids=ids
            ).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
            if ids[0, -1] == reader.tokenizer.eos:
                break
        expected = [i for i in ids[0, len(reader.decoder_start) :].tolist() if i != reader.tokenizer.eos]
        assert written.ids[b] == expected


def test_one_passage_is_plain_reading(kit):
    reader, packer, questions, read, answers = kit
    one = [row[:1] for row in read]
    fused, plain = packer.pack(questions, one, answers, fused=True), packer.pack(questions, one, answers)
    assert fused.counts == plain.counts
    assert torch.equal(reader.token_logp(fused), reader.token_logp(plain))


def test_the_order_of_passages_and_absent_ones_change_nothing(kit):
    reader, packer, questions, read, answers = kit
    fused_BT = reader.token_logp(packer.pack(questions, read, answers, fused=True))
    turned = [row[::-1] for row in read]
    torch.testing.assert_close(reader.token_logp(packer.pack(questions, turned, answers, fused=True)), fused_BT)


def test_gradients_reach_the_encoder_and_scored_answers_come_with_written_ones(kit):
    reader, packer, questions, read, answers = kit
    batch = packer.pack(questions, read, answers, fused=True)
    logp_BT = reader.token_logp(batch)
    (-logp_BT.sum()).backward()
    norms = [float(p.grad.norm()) for p in reader.model.get_encoder().parameters()]
    assert min(norms) > 0
    written = greedy(reader, batch, 10)
    torch.testing.assert_close(written.target_logp_NT, logp_BT.detach())


def test_microbatches_equal_the_same_groups_kept(kit, monkeypatch):
    """In scores and every gradient, dropout on too: the prompts are encoded apart when they are read again as well."""
    reader, packer, questions, read, answers = kit
    batch = packer.pack(questions, read, answers, fused=True)
    most = int(batch.lengths_N.max())
    groups = length_buckets(batch.lengths_N, "cpu", most)
    assert len(groups) > 1
    assert reader._head_is_affine  # found once, by a pass of its own
    monkeypatch.setattr("rag_exp.models.buckets.CPU_MOST", most)
    reader.train()
    scored = []
    for memory in (Memory(), Memory(microbatch_tokens=most)):
        reader.keep(memory)
        reader.zero_grad()
        torch.manual_seed(7)
        encoded, decoded = [], []
        watches = (
            reader.model.get_encoder().register_forward_pre_hook(lambda *_: encoded.append(1)),  # noqa: B023
            reader.model.get_decoder().register_forward_pre_hook(lambda *_: decoded.append(1)),  # noqa: B023
        )
        logp_BT = reader.token_logp(batch)
        (-logp_BT.sum()).backward()
        for watch in watches:
            watch.remove()
        scored.append((logp_BT.detach(), [p.grad.clone() for p in reader.parameters()], len(encoded), len(decoded)))
    (kept, kept_gradients, *kept_passes), (again, gradients, *passes) = scored
    assert torch.equal(again, kept)
    torch.testing.assert_close(gradients, kept_gradients, rtol=1e-6, atol=1e-6)
    assert kept_passes[1] == len(groups)
    assert passes == [2 * n for n in kept_passes]
