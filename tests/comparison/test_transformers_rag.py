"""The marginals and the scoring against transformers' own RAG models, and where they differ on purpose.

transformers adds the document prior at target position 1 (the end of the first token's step), so that an
answer of a single token never gets it; there the two losses differ, and ours is the formula's.

Models are of double precision, so that what is compared is the formula and not the order of sums.
"""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor

from rag_exp.models.marginalize import doc_logprior, rag_sequence_nll, rag_token_nll
from rag_exp.models.packing import IGNORE, ReaderBatch
from rag_exp.models.reader import Generator, Memory

V, PAD, EOS = 60, 1, 2
T, L = 6, 12
CLOSE = {"rtol": 1e-5, "atol": 1e-9}
KINDS = [(hf.RagSequenceForGeneration, rag_sequence_nll), (hf.RagTokenForGeneration, rag_token_nll)]
# An answer of EOS alone.
SINGLE = torch.tensor([EOS, *[PAD] * (T - 1)])


def rag(kind: type, seed: int) -> hf.PreTrainedModel:
    """A BART reader of random weights and sizes, and a question encoder, inside transformers' RAG model."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
    heads = draw.choice([1, 2, 4])
    bart = hf.BartConfig(
        vocab_size=V, d_model=8 * heads, encoder_layers=draw.choice([1, 2]), decoder_layers=draw.choice([1, 2]),
        encoder_attention_heads=heads, decoder_attention_heads=heads, encoder_ffn_dim=32, decoder_ffn_dim=32,
        max_position_embeddings=40, init_std=0.5, dropout=0.0, scale_embedding=draw.random() < 0.5,
        pad_token_id=PAD, bos_token_id=0, eos_token_id=EOS, decoder_start_token_id=EOS,
    )  # fmt: skip
    dpr = hf.DPRConfig(vocab_size=V, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    config = hf.RagConfig.from_question_encoder_generator_configs(
        dpr, bart, n_docs=draw.randint(2, 6), pad_token_id=PAD, bos_token_id=0, eos_token_id=EOS,
        decoder_start_token_id=EOS, vocab_size=V, is_encoder_decoder=True,
    )  # fmt: skip
    encoder, generator = hf.DPRQuestionEncoder(dpr), hf.BartForConditionalGeneration(bart)
    generator.final_logits_bias.normal_()
    return kind(config=config, question_encoder=encoder, generator=generator).double().eval()


def batch(model: hf.PreTrainedModel, seed: int, shortest: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Context ids and mask of N rows, retrieval scores, and labels that end with the end token, then pad."""
    draw = torch.Generator().manual_seed(seed)
    B, K = int(torch.randint(2, 5, (), generator=draw)), model.config.n_docs
    context_NL = torch.randint(3, V, (B * K, L), generator=draw)
    mask_NL = (torch.arange(L) < torch.randint(4, L + 1, (B * K, 1), generator=draw)).long()
    scores_BK = 2 * torch.randn(B, K, generator=draw, dtype=torch.float64)
    labels_BT = torch.randint(3, V, (B, T), generator=draw)
    for b, length in enumerate(torch.randint(shortest, T + 1, (B,), generator=draw).tolist()):
        labels_BT[b, length - 1] = EOS
        labels_BT[b, length:] = PAD
    return context_NL.masked_fill(mask_NL == 0, PAD), mask_NL, scores_BK, labels_BT


def theirs(model: hf.PreTrainedModel, parts: tuple[Tensor, ...]) -> Tensor:
    """Loss of each question. The model scores labels[t + 1] at logit t, so the start token comes first."""
    context_NL, mask_NL, scores_BK, labels_BT = parts
    labels = torch.cat([torch.full((len(labels_BT), 1), EOS), labels_BT], dim=1)
    return model(
        context_input_ids=context_NL,
        context_attention_mask=mask_NL,
        doc_scores=scores_BK,
        decoder_input_ids=labels,
        labels=labels,
        reduce_loss=False,
    ).loss


def reader_logp(
    model: hf.PreTrainedModel, parts: tuple[Tensor, ...], memory: Memory | None = None, ignore: bool = True
) -> tuple[Tensor, Tensor]:
    """token_logp_BKT and the target mask, from our scoring of the reader inside the RAG model.

    With ``ignore`` there is -100 after an answer; without it the pad token is scored there, for the mask to drop.
    """
    context_NL, mask_NL, scores_BK, labels_BT = parts
    K = scores_BK.shape[1]
    mask_BT = labels_BT != PAD
    targets_NT = (labels_BT.masked_fill(~mask_BT, IGNORE) if ignore else labels_BT).repeat_interleave(K, 0)
    lengths_N, none_N = mask_NL.sum(1), np.zeros(len(mask_NL), np.int64)
    answer_N = (targets_NT != IGNORE).sum(1).numpy()
    packed = ReaderBatch(
        context_NL, mask_NL, lengths_N, targets_NT, None, True, K, lengths_N.numpy(), answer_N, none_N, none_N
    )
    generator = Generator(model.rag.generator, SimpleNamespace(pad=PAD, eos=EOS), context=40, seq2seq=True)
    generator.keep(memory or Memory())
    return generator.token_logp(packed).view(*scores_BK.shape, -1), mask_BT


def gradients(model: hf.PreTrainedModel, scores_BK: Tensor, loss: Tensor) -> dict[str, Tensor]:
    named = {n: p for n, p in model.named_parameters() if n.startswith("rag.generator")}
    model.zero_grad()
    scores_BK.grad = None
    loss.backward()
    return {"scores": scores_BK.grad, **{n: p.grad for n, p in named.items()}}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert expected["scores"].abs().max() > 1e-3
    assert sum(gradient is not None for gradient in expected.values()) > 20
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("kind", "marginal"), KINDS)
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("ignore", [True, False], ids=["-100", "pad"])
def test_losses_and_gradients_agree(kind, marginal, seed, ignore):
    """On random readers, passages, scores and answers of two tokens and more, whatever stands after the answer."""
    model = rag(kind, seed)
    parts = batch(model, seed, shortest=2)
    scores_BK = parts[2].requires_grad_()
    their_B = theirs(model, parts)
    their = gradients(model, scores_BK, their_B.sum())
    token_logp_BKT, mask_BT = reader_logp(model, parts, ignore=ignore)
    if ignore:
        assert (token_logp_BKT.transpose(1, 2)[~mask_BT] == 0).all()
    our_B = marginal(token_logp_BKT, doc_logprior(scores_BK), mask_BT)
    torch.testing.assert_close(our_B, their_B, **CLOSE)
    same(gradients(model, scores_BK, our_B.sum()), their)


@pytest.mark.parametrize(("kind", "marginal"), KINDS)
@pytest.mark.parametrize("memory", [Memory(projection_mb=0), Memory(30, projection_mb=0), Memory(30, True)], ids=str)
def test_they_agree_whatever_is_kept(kind, marginal, memory):
    model = rag(kind, 3)
    parts = batch(model, 3, shortest=2)
    scores_BK = parts[2].requires_grad_()
    their_B = theirs(model, parts)
    their = gradients(model, scores_BK, their_B.sum())
    model.train()  # layers compute their activations again in training alone; there is no dropout
    token_logp_BKT, mask_BT = reader_logp(model, parts, memory)
    our_B = marginal(token_logp_BKT, doc_logprior(scores_BK), mask_BT)
    torch.testing.assert_close(our_B, their_B, **CLOSE)
    same(gradients(model, scores_BK, our_B.sum()), their)


@pytest.mark.parametrize("seed", range(3))
def test_a_single_target_token_loses_the_prior_there_and_not_here(seed):
    model = rag(hf.RagSequenceForGeneration, seed)
    parts = batch(model, seed, shortest=2)
    scores_BK, labels_BT = parts[2:]
    labels_BT[1] = SINGLE
    with torch.no_grad():
        their_B = theirs(model, parts)
        token_logp_BKT, mask_BT = reader_logp(model, parts)
        our_B = rag_sequence_nll(token_logp_BKT, doc_logprior(scores_BK), mask_BT)
    others = torch.arange(len(our_B)) != 1
    torch.testing.assert_close(our_B[others], their_B[others], **CLOSE)
    formula = -torch.logsumexp(doc_logprior(scores_BK)[1] + token_logp_BKT[1, :, 0], 0)
    without_prior = -torch.logsumexp(token_logp_BKT[1, :, 0], 0)
    torch.testing.assert_close(our_B[1], formula, **CLOSE)
    torch.testing.assert_close(their_B[1], without_prior, **CLOSE)
    assert abs(float(formula - without_prior)) > 0.1


def test_a_single_target_token_trains_their_retriever_nothing():
    """Its scores get no gradient there; ours get the prior minus the posterior."""
    model = rag(hf.RagSequenceForGeneration, 9)
    parts = batch(model, 9, shortest=2)
    parts[3][1] = SINGLE
    scores_BK = parts[2].requires_grad_()
    their_BK = gradients(model, scores_BK, theirs(model, parts).sum())["scores"].clone()
    token_logp_BKT, mask_BT = reader_logp(model, parts)
    our_BK = gradients(
        model, scores_BK, rag_sequence_nll(token_logp_BKT, doc_logprior(scores_BK), mask_BT).sum()
    )["scores"]  # fmt: skip
    assert (their_BK[1] == 0).all()
    joint_K = doc_logprior(scores_BK)[1] + token_logp_BKT[1, :, 0]
    torch.testing.assert_close(our_BK[1], scores_BK[1].softmax(0) - joint_K.softmax(0), **CLOSE)
    assert our_BK[1].abs().max() > 1e-3


@pytest.mark.parametrize("seed", range(2))
def test_the_single_token_trap_is_of_the_sequence_marginal_alone(seed):
    model = rag(hf.RagTokenForGeneration, seed)
    parts = batch(model, seed, shortest=1)
    parts[3][0] = SINGLE
    with torch.no_grad():
        token_logp_BKT, mask_BT = reader_logp(model, parts)
        our_B = rag_token_nll(token_logp_BKT, doc_logprior(parts[2]), mask_BT)
        torch.testing.assert_close(our_B, theirs(model, parts), **CLOSE)
