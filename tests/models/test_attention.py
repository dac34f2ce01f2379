"""Attention to fused passages: against the attention that transformers reports of each question by itself."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from rag_exp.models.attention import passage_attention, token_mass
from rag_exp.models.distillation import Adist
from rag_exp.models.evidence import attended
from rag_exp.models.ladder import Ladder
from rag_exp.models.marginalize import doc_logprior
from rag_exp.models.packing import Packer
from rag_exp.models.prompt import PromptOptions
from rag_exp.models.reader import Memory

QUESTIONS = ["What is the capital of France?", "Highest point of Norway?"]
PASSAGES = [
    [("France", "Paris is the capital."), ("Nepal", "Mount Everest"), ("Norway", "kingdom; capital Oslo, and more")],
    [("Norway", "Galdhøpiggen 2,469 m is the highest point of Norway."), ("", ""), ("Fiji", "republic")],
]
ANSWERS = ["Paris", "Galdhøpiggen, 2,469 m"]
PRIOR_MASK = torch.tensor([[True, True, True], [True, False, True]])


@pytest.fixture(params=["t5", "bart"])
def kit(request, vocabulary):
    """A small reader in training, with weights large enough to attend to something, its packer, and ids."""
    options = Ladder(size="s0", vocab_size=320, context=128, family=request.param, dropout=0.3)
    reader = options.create(vocabulary, 0)
    with torch.no_grad():
        for name, weight in reader.model.get_decoder().named_parameters():
            if "EncDecAttention" in name or "encoder_attn." in name:
                weight.mul_(3.0)
    packer = Packer(reader.tokenizer, PromptOptions(max_answer_tokens=24), reader.context, True)
    questions, answers = packer.tokens(QUESTIONS, "question"), packer.tokens(ANSWERS, "answer")
    read = [
        [(packer.tokens([t], "title")[0], packer.tokens([x], "text")[0]) if t else ([], []) for t, x in row]
        for row in PASSAGES
    ]
    return reader, packer, questions, read, answers


def value_layers(reader):
    """The value projections of the decoder's cross-attentions, first layer first."""
    found = [(n, m) for n, m in reader.model.get_decoder().named_modules() if isinstance(m, torch.nn.Linear)]
    return [m for n, m in found if n.endswith(("EncDecAttention.v", "encoder_attn.v_proj"))]


def by_hand(reader, packer, question, passages, answer, value_norms):
    """Masses of one question's passages (0 for an absent one), from what transformers says of it alone."""
    model, encoder = reader.model, reader.model.get_encoder()
    rows = [packer.pack([question], [[p]]).input_ids_NL if p != ([], []) else None for p in passages]
    states = torch.cat([encoder(input_ids=ids).last_hidden_state for ids in rows if ids is not None], dim=1)
    targets = torch.tensor([[*answer, reader.tokenizer.eos]])
    model.set_attn_implementation("eager")
    out = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        decoder_input_ids=reader.decoder_inputs(targets),
        output_attentions=True,
    )
    model.set_attn_implementation("sdpa")
    mass_S = torch.zeros(states.shape[1])
    for attention, values in zip(out.cross_attentions, value_layers(reader), strict=True):
        heads = attention.shape[1]
        norm_HS = values(states)[0].view(states.shape[1], heads, -1).norm(dim=-1).T
        for h in range(heads):
            for t in range(targets.shape[1]):
                weight_S = attention[0, h, len(reader.decoder_start) - 1 + t]
                mass_S += weight_S * norm_HS[h] if value_norms else weight_S
    masses, at = [], 0
    for ids in rows:
        length = 0 if ids is None else ids.shape[1]
        masses.append(mass_S[at : at + length].sum())
        at += length
    return torch.stack(masses)


@pytest.mark.parametrize("value_norms", [True, False])
def test_masses_are_those_of_transformers_read_alone(kit, value_norms):
    reader, packer, questions, read, answers = kit
    reader.eval()
    with torch.no_grad():
        mass_BK = passage_attention(reader, packer.pack(questions, read, answers, fused=True), value_norms)
        for b, (question, row, answer) in enumerate(zip(questions, read, answers, strict=True)):
            expected_K = by_hand(reader, packer, question, row, answer, value_norms)
            torch.testing.assert_close(mass_BK[b], expected_K, rtol=1e-4, atol=1e-5)
    assert mass_BK[1, 1] == 0
    assert float((mass_BK / mass_BK.sum(1, keepdim=True))[0].std()) > 0.02  # passages are told apart


def test_all_attention_falls_on_some_passage(kit):
    reader, packer, questions, read, answers = kit
    batch = packer.pack(questions, read, answers, fused=True)
    reader.eval()
    with torch.no_grad():
        mass_BK = passage_attention(reader, batch)
    (layers, heads) = len(value_layers(reader)), reader.model.get_decoder().config.num_attention_heads
    torch.testing.assert_close(mass_BK.sum(1), layers * heads * torch.tensor(batch.target_lengths_N).float())


def test_token_mass_by_hand():
    """Two heads, two positions of which the second does not count, three tokens."""
    weight_NHTS = torch.tensor([[[[0.5, 0.25, 0.25], [1, 0, 0]], [[0.125, 0.75, 0.125], [0, 0, 1]]]])
    value_NHSE = torch.tensor([[[[3.0, 4.0], [0, 1], [0, 0]], [[8, 0], [0, -2], [6, 8]]]])
    counted_NT = torch.tensor([[True, False]])
    assert token_mass(weight_NHTS, None, counted_NT).tolist() == [[0.625, 1.0, 0.375]]
    assert token_mass(weight_NHTS, value_NHSE, counted_NT).tolist() == [[2.5 + 1, 0.25 + 1.5, 1.25]]


@pytest.mark.parametrize("value_norms", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_passages_there_twice_change_nothing(kit, value_norms, temperature):
    """Each with score - ln 2: copies share their original's attention, so that loss and whole gradient stay."""
    reader, packer, questions, read, answers = kit
    objective = Adist(value_norms=value_norms, temperature=temperature)
    found = []
    for copies in (1, 2):
        batch = packer.pack(questions, [row * copies for row in read], answers, fused=True)
        scores_BK = torch.tensor([[0.3, -0.4, 0.1], [0.2, 0.0, -0.5]], requires_grad=True)
        prior_BK = doc_logprior(scores_BK.repeat(1, copies) - math.log(copies), PRIOR_MASK.repeat(1, copies))
        loss_B = objective.retriever_loss(attended(reader, batch, value_norms), prior_BK)
        loss_B.mean().backward()
        found.append((loss_B.detach(), scores_BK.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
    assert (found[0][0] > 1e-4).all()


def test_evidence_is_taken_without_dropout_or_gradients_and_leaves_the_reader_as_it_was(kit):
    reader, packer, questions, read, answers = kit
    batch = packer.pack(questions, read, answers, fused=True)
    evidence_BK = attended(reader, batch, True)
    assert torch.equal(evidence_BK, attended(reader, batch, True))
    assert torch.isfinite(evidence_BK).all()
    assert not evidence_BK.requires_grad
    assert reader.training
    for part in (reader.model, reader.model.get_encoder(), reader.model.get_decoder()):
        assert part.config._attn_implementation == "sdpa"


def test_fused_kernels_encode_and_only_the_decoder_is_eager(kit):
    reader, packer, questions, read, answers = kit
    used = []
    for part in (reader.model.get_encoder(), reader.model.get_decoder()):
        part.register_forward_pre_hook(lambda module, _: used.append(module.config._attn_implementation))
    attended(reader, packer.pack(questions, read, answers, fused=True), True)
    assert set(used[:-1]) == {"sdpa"}
    assert used[-1] == "eager"


def test_groups_and_microbatches_change_nothing(kit):
    reader, packer, questions, read, answers = kit
    batch = packer.pack(questions, read, answers, fused=True)
    whole = attended(reader, batch, True)
    decoded = []
    reader.model.get_decoder().register_forward_pre_hook(lambda *_: decoded.append(1))
    reader.keep(Memory(microbatch_tokens=1))
    torch.testing.assert_close(attended(reader, batch, True)[PRIOR_MASK], whole[PRIOR_MASK], rtol=1e-4, atol=1e-4)
    assert len(decoded) == 2
    reader.keep(Memory(gradient_checkpointing=True))
    torch.testing.assert_close(attended(reader, batch, True)[PRIOR_MASK], whole[PRIOR_MASK], rtol=1e-4, atol=1e-4)


def test_one_passage_has_all(kit):
    reader, packer, questions, read, answers = kit
    evidence_B1 = attended(reader, packer.pack(questions, [row[:1] for row in read], answers, fused=True), False)
    assert evidence_B1.shape == (2, 1)
    assert torch.equal(Adist().retriever_loss(evidence_B1, torch.zeros(2, 1)), torch.zeros(2))


def test_half_precision_sums_in_float32(kit):
    reader, packer, questions, read, answers = kit
    batch = packer.pack(questions, read, answers, fused=True)
    whole = attended(reader, batch, True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = attended(reader, batch, True)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half[PRIOR_MASK], whole[PRIOR_MASK], rtol=0.05, atol=0.05)
