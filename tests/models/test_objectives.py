"""Objectives: the marginals by name, and their scale."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from rag_exp.models.distillation import kl_from_prior, kl_to_prior
from rag_exp.models.marginalize import (
    doc_logprior,
    rag_sequence_nll,
    rag_token_nll,
    sequence_logp,
    sequence_posterior,
)
from rag_exp.models.objectives import (
    OBJECTIVES,
    Adist,
    ClosedBook,
    Concat,
    Emdr2,
    Ensemble,
    Loop,
    PDist,
    RagSequence,
    RagToken,
)

TEACHERS = [Emdr2(), PDist(), PDist(temperature=0.3), Loop(), Adist(), Adist(temperature=0.5), Ensemble()]


def problem(K: int = 3):
    generator = torch.Generator().manual_seed(K)
    token_logp_BKT = -3 * torch.rand(2, K, 4, generator=generator, dtype=torch.float64)
    mask_BT = torch.tensor([[True] * 4, [True, True, False, False]])
    return token_logp_BKT, doc_logprior(torch.randn(2, K, generator=generator, dtype=torch.float64)), mask_BT


def test_kinds():
    assert {"rag_sequence", "rag_token", "concat", "closed_book", "emdr2", "pdist", "ensemble"} <= set(OBJECTIVES.kinds)
    chosen = TypeAdapter(OBJECTIVES.union())
    assert isinstance(chosen.validate_python({"kind": "rag_token"}), RagToken)
    with pytest.raises(ValidationError):
        chosen.validate_python({"kind": "rag_tokens"})


def test_marginals_are_the_pure_functions():
    parts = problem()
    assert torch.equal(RagSequence().nll(*parts), rag_sequence_nll(*parts))
    assert torch.equal(RagToken().nll(*parts), rag_token_nll(*parts))
    for objective in (RagSequence(), RagToken()):
        assert (objective.reading, objective.evidence, objective.prompts(4)) == ("each", "none", 4)
        assert torch.equal(objective.log_posterior(*parts), sequence_posterior(*parts))


def test_concat_reads_once():
    token_logp_B1T, prior_B1, mask_BT = problem(K=1)
    assert (Concat().reading, Concat().prompts(4), Concat().in_one_prompt(4)) == ("concat", 1, 4)
    nll_B = Concat().nll(token_logp_B1T, prior_B1, mask_BT)
    torch.testing.assert_close(nll_B, -(token_logp_B1T[:, 0] * mask_BT).sum(1))
    assert Concat().log_posterior(token_logp_B1T, prior_B1, mask_BT) is None
    with pytest.raises(AssertionError):
        Concat().nll(*problem(K=2))


@pytest.mark.parametrize("objective", [RagSequence(), RagToken()])
def test_scale_does_not_depend_on_k(objective):
    """K passages that say the same, at any prior, cost as much as one."""
    token_logp_B1T, _, mask_BT = problem(K=1)
    expected = objective.nll(token_logp_B1T, torch.zeros(2, 1), mask_BT)
    for K in (2, 16):
        prior_BK = doc_logprior(torch.randn(2, K, dtype=torch.float64))
        torch.testing.assert_close(objective.nll(token_logp_B1T.expand(-1, K, -1), prior_BK, mask_BT), expected)


def test_closed_book_reads_nothing():
    token_logp_B1T, prior_B1, mask_BT = problem(K=1)
    assert (ClosedBook().reading, ClosedBook().in_one_prompt(0)) == ("none", 0)
    assert torch.equal(ClosedBook().nll(token_logp_B1T, prior_B1, mask_BT), Concat().nll(*problem(K=1)))


def test_emdr2_has_the_gradient_of_rag_sequence():
    """Its two stop-gradient terms, each blind to the other's half, add up to the marginal's gradient in both."""
    token_logp_BKT, scores_BK, mask_BT = (x.clone() for x in problem(K=5))

    def gradients(loss):
        token, score = token_logp_BKT.clone().requires_grad_(), scores_BK.clone().requires_grad_()
        loss(token, doc_logprior(score)).mean().backward()
        return token.grad, score.grad

    def two_terms(token, prior):
        return Emdr2().nll(token, prior, mask_BT) + Emdr2().retriever_loss(sequence_logp(token, mask_BT), prior)

    ours, plain = gradients(two_terms), gradients(lambda token, prior: rag_sequence_nll(token, prior, mask_BT))
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_each_term_of_a_teacher_trains_its_own_half():
    token_logp_BKT, scores_BK, mask_BT = problem(K=4)
    for objective in TEACHERS:
        token, score = token_logp_BKT.clone().requires_grad_(), scores_BK.clone().requires_grad_()
        objective.retriever_loss(sequence_logp(token, mask_BT), doc_logprior(score)).sum().backward()
        assert token.grad is None
        assert score.grad.abs().max() > 1e-3
        score.grad = None
        readings = token if objective.reading == "each" else token[:, :1]
        objective.nll(readings, doc_logprior(score), mask_BT).sum().backward()
        assert token.grad is not None
        assert score.grad is None or not objective.trains_reader


def test_kl_by_hand():
    """Target (1/4, 3/4) against a prior of (1/2, 1/2), and the other way round; the third passage is masked."""
    target = torch.tensor([[0.25, 0.75, 9.0]], dtype=torch.float64).log()
    prior = doc_logprior(torch.zeros(1, 3, dtype=torch.float64), torch.tensor([[True, True, False]]))
    forward, backward = 0.25 * math.log(0.5) + 0.75 * math.log(1.5), 0.5 * math.log(2) - 0.5 * math.log(1.5)
    assert float(kl_to_prior(target, prior)) == pytest.approx(forward, rel=1e-12)
    assert float(kl_from_prior(target, prior)) == pytest.approx(backward, rel=1e-12)


def test_pdist_moves_the_prior_towards_the_readers_posterior():
    """Its gradient in a score is prior - softmax(log-likelihood / temperature)."""
    token_logp_BKT, scores_BK, mask_BT = problem(K=3)
    evidence_BK, score = sequence_logp(token_logp_BKT, mask_BT), scores_BK.clone().requires_grad_()
    PDist(temperature=2.0).retriever_loss(evidence_BK, doc_logprior(score)).sum().backward()
    torch.testing.assert_close(score.grad, scores_BK.softmax(-1) - (evidence_BK / 2).softmax(-1))


def test_adist_moves_the_prior_towards_each_passages_share_of_the_attention():
    """Masses of 3, 1 and 4 are shares of 3/8, 1/8 and 1/2; with temperature 1/2 of 9/26, 1/26 and 16/26."""
    mass_BK = torch.tensor([[3.0, 1.0, 4.0]], dtype=torch.float64)
    for objective, share in ((Adist(), mass_BK / 8), (Adist(temperature=0.5), mass_BK**2 / 26)):
        score = torch.tensor([[0.2, -0.4, 1.0]], dtype=torch.float64, requires_grad=True)
        objective.retriever_loss(mass_BK.log(), doc_logprior(score)).sum().backward()
        torch.testing.assert_close(score.grad, score.detach().softmax(-1) - share)


@pytest.mark.parametrize("objective", TEACHERS, ids=lambda o: o.kind)
def test_a_masked_passage_gets_no_gradient(objective):
    evidence_BK = torch.tensor([[-1.0, -2.0, math.nan]])
    score = torch.tensor([[0.3, -0.2, 0.1]], requires_grad=True)
    prior = doc_logprior(score, torch.tensor([[True, True, False]]))
    loss = objective.retriever_loss(evidence_BK, prior)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert score.grad[0, 2] == 0
    assert torch.isfinite(score.grad).all()


@pytest.mark.parametrize("objective", TEACHERS, ids=lambda o: o.kind)
@pytest.mark.parametrize("copies", [2, 8])
def test_the_retrievers_term_keeps_its_scale_with_k(objective, copies):
    """Every passage there ``copies`` times, each with score - log(copies): the same loss, and the same whole gradient
    on a passage. An average over K would divide both by ``copies``."""
    token_logp_BKT, scores_BK, mask_BT = problem(K=4)
    evidence_BK = sequence_logp(token_logp_BKT, mask_BT)

    def loss_and_gradient(times):
        score = scores_BK.clone().requires_grad_()
        prior = doc_logprior(score.repeat(1, times) - math.log(times))
        loss_B = objective.retriever_loss(evidence_BK.repeat(1, times), prior)
        loss_B.mean().backward()
        return loss_B.detach(), score.grad

    for many, one in zip(loss_and_gradient(copies), loss_and_gradient(1), strict=True):
        torch.testing.assert_close(many, one)
