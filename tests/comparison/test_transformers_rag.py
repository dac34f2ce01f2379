"""The marginals and the scoring against transformers' own RAG models, and where they differ on purpose.

transformers adds the document prior at target position 1 (the end of the first token's step), so that an
answer of a single token never gets it; there the two losses differ, and ours is the formula's.
"""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from torch import Tensor

from rag_exp.models.marginalize import doc_logprior, rag_sequence_nll, rag_token_nll

B, K, V, PAD, EOS = 3, 4, 60, 1, 2


def rag(kind: type, seed: int) -> hf.PreTrainedModel:
    """A random BART reader and BERT question encoder inside transformers' RAG model."""
    torch.manual_seed(seed)
    bart = hf.BartConfig(
        vocab_size=V, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=40, init_std=0.5,
        dropout=0.0, pad_token_id=PAD, bos_token_id=0, eos_token_id=EOS, decoder_start_token_id=EOS,
    )  # fmt: skip
    dpr = hf.DPRConfig(
        vocab_size=V, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=40,
    )  # fmt: skip
    config = hf.RagConfig.from_question_encoder_generator_configs(
        dpr, bart, n_docs=K, pad_token_id=PAD, bos_token_id=0, eos_token_id=EOS, decoder_start_token_id=EOS,
        vocab_size=V, is_encoder_decoder=True,
    )  # fmt: skip
    encoder, generator = hf.DPRQuestionEncoder(dpr), hf.BartForConditionalGeneration(bart)
    return kind(config=config, question_encoder=encoder, generator=generator).eval()


def batch(seed: int, shortest: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Context ids and mask of N rows, retrieval scores, and labels that end with the end token, then pad."""
    draw = torch.Generator().manual_seed(seed)
    context_NL = torch.randint(3, V, (B * K, 12), generator=draw)
    mask_NL = (torch.arange(12) < torch.randint(4, 13, (B * K, 1), generator=draw)).long()
    scores_BK = 2 * torch.randn(B, K, generator=draw)
    labels_BT = torch.randint(3, V, (B, 6), generator=draw)
    for b, length in enumerate(torch.randint(shortest, 7, (B,), generator=draw).tolist()):
        labels_BT[b, length - 1] = EOS
        labels_BT[b, length:] = PAD
    return context_NL.masked_fill(mask_NL == 0, PAD), mask_NL, scores_BK, labels_BT


def theirs(model: hf.PreTrainedModel, parts: tuple[Tensor, ...]) -> Tensor:
    """Loss of each question. The model scores labels[t + 1] at logit t, so the start token comes first."""
    context_NL, mask_NL, scores_BK, labels_BT = parts
    labels = torch.cat([torch.full((B, 1), EOS), labels_BT], dim=1)
    return model(
        context_input_ids=context_NL,
        context_attention_mask=mask_NL,
        doc_scores=scores_BK,
        decoder_input_ids=labels,
        labels=labels,
        reduce_loss=False,
    ).loss


def reader_logp(model: hf.PreTrainedModel, parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """token_logp_BKT and the target mask, from the reader inside the RAG model."""
    context_NL, mask_NL, _, labels_BT = parts
    fed_BT = torch.cat([torch.full((B, 1), EOS), labels_BT[:, :-1]], dim=1)
    logits_NTV = model.rag.generator(
        input_ids=context_NL, attention_mask=mask_NL, decoder_input_ids=fed_BT.repeat_interleave(K, 0), use_cache=False
    ).logits
    targets_NT = labels_BT.repeat_interleave(K, 0)
    token_logp = torch.log_softmax(logits_NTV, -1).gather(-1, targets_NT[..., None])[..., 0]
    return token_logp.view(B, K, -1), labels_BT != PAD


def gradients(model: hf.PreTrainedModel, scores_BK: Tensor, loss: Tensor) -> dict[str, Tensor]:
    named = {n: p for n, p in model.named_parameters() if n.startswith("rag.generator")}
    found = torch.autograd.grad(loss, [scores_BK, *named.values()], allow_unused=True)
    return dict(zip(["scores", *named], found, strict=True))


@pytest.mark.parametrize(
    ("kind", "marginal"),
    [(hf.RagSequenceForGeneration, rag_sequence_nll), (hf.RagTokenForGeneration, rag_token_nll)],
)
@pytest.mark.parametrize("seed", range(4))
def test_losses_and_gradients_agree(kind, marginal, seed):
    """On random readers, passages, scores and answers of two tokens and more."""
    model, parts = rag(kind, seed), batch(seed, shortest=2)
    scores_BK = parts[2].requires_grad_()
    their_B = theirs(model, parts)
    their = gradients(model, scores_BK, their_B.sum())
    token_logp_BKT, mask_BT = reader_logp(model, parts)
    our_B = marginal(token_logp_BKT, doc_logprior(scores_BK), mask_BT)
    our = gradients(model, scores_BK, our_B.sum())
    torch.testing.assert_close(our_B, their_B, rtol=1e-5, atol=1e-5)
    assert our["scores"].abs().max() > 1e-3
    for name, gradient in their.items():
        if gradient is None:
            assert our[name] is None, name
        else:
            torch.testing.assert_close(our[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_a_single_target_token_loses_the_prior_there_and_not_here():
    model, (context_NL, mask_NL, scores_BK, labels_BT) = rag(hf.RagSequenceForGeneration, 9), batch(9, shortest=2)
    labels_BT[1] = torch.tensor([EOS, PAD, PAD, PAD, PAD, PAD])
    parts = (context_NL, mask_NL, scores_BK, labels_BT)
    with torch.no_grad():
        their_B = theirs(model, parts)
        token_logp_BKT, mask_BT = reader_logp(model, parts)
        our_B = rag_sequence_nll(token_logp_BKT, doc_logprior(scores_BK), mask_BT)
    torch.testing.assert_close(our_B[[0, 2]], their_B[[0, 2]], rtol=1e-5, atol=1e-5)
    formula = -torch.logsumexp(doc_logprior(scores_BK)[1] + token_logp_BKT[1, :, 0], 0)
    without_prior = -torch.logsumexp(token_logp_BKT[1, :, 0], 0)
    torch.testing.assert_close(our_B[1], formula)
    torch.testing.assert_close(their_B[1], without_prior, rtol=1e-5, atol=1e-5)
    assert abs(float(formula - without_prior)) > 0.1


@pytest.mark.parametrize("seed", range(2))
def test_the_single_token_trap_is_of_the_sequence_marginal_alone(seed):
    model, parts = rag(hf.RagTokenForGeneration, seed), batch(seed, shortest=1)
    parts[3][0] = torch.tensor([EOS, PAD, PAD, PAD, PAD, PAD])
    with torch.no_grad():
        token_logp_BKT, mask_BT = reader_logp(model, parts)
        our_B = rag_token_nll(token_logp_BKT, doc_logprior(parts[2]), mask_BT)
        torch.testing.assert_close(our_B, theirs(model, parts), rtol=1e-5, atol=1e-5)
