"""The marginals against numbers worked out apart, their invariants, and their behaviour under masks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rag_exp.core.errors import DataError
from rag_exp.models.marginalize import (
    doc_logprior,
    log_posterior,
    mixture_nll,
    posterior,
    rag_sequence_nll,
    rag_token_nll,
    sequence_logp,
)

some = settings(max_examples=40, deadline=None)

NEG_INF = float("-inf")
MARGINALS = [rag_sequence_nll, rag_token_nll]


def golden() -> tuple[Tensor, Tensor, Tensor]:
    """token_logp_BKT, scores_BK, target_mask_BT of the reference problem: B=2, K=3, T=5, V=7, pad=1."""
    b, k, t, v = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (2, 3, 5, 7)), indexing="ij")
    logp_BKTV = torch.log_softmax(2 * torch.sin(1 + 0.7 * b + 1.3 * k + 0.5 * t + 0.9 * v), dim=-1)
    targets_BT = torch.tensor([[4, 5, 6, 2, 1], [3, 2, 1, 1, 1]])
    token_logp_BKT = logp_BKTV.gather(-1, targets_BT[:, None, :, None].expand(2, 3, 5, 1))[..., 0]
    scores_BK = torch.cos(torch.arange(2.0, dtype=torch.float64)[:, None] + 2 * torch.arange(3.0, dtype=torch.float64))
    return token_logp_BKT, scores_BK, targets_BT != 1


def test_golden_sequence_nll():
    token_logp_BKT, scores_BK, mask_BT = golden()
    nll_B = rag_sequence_nll(token_logp_BKT, doc_logprior(scores_BK), mask_BT)
    torch.testing.assert_close(
        nll_B, torch.tensor([9.8038694470, 4.5342202725], dtype=torch.float64), rtol=0, atol=1e-9
    )


def test_golden_token_nll():
    token_logp_BKT, scores_BK, mask_BT = golden()
    nll_B = rag_token_nll(token_logp_BKT, doc_logprior(scores_BK), mask_BT)
    torch.testing.assert_close(
        nll_B, torch.tensor([9.5790512888, 5.2488436969], dtype=torch.float64), rtol=0, atol=1e-9
    )


def test_golden_gradient_is_prior_minus_posterior():
    token_logp_BKT, scores_BK, mask_BT = golden()
    scores_BK.requires_grad_()
    prior_BK = doc_logprior(scores_BK)
    rag_sequence_nll(token_logp_BKT, prior_BK, mask_BT).sum().backward()
    expected = [[0.6828422408, 0.0392629999, -0.7221052407], [0.4965219336, 0.1062673418, -0.6027892754]]
    torch.testing.assert_close(scores_BK.grad, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)
    posterior_BK = posterior(token_logp_BKT, prior_BK, mask_BT)
    torch.testing.assert_close(scores_BK.grad, (prior_BK.exp() - posterior_BK).detach(), rtol=0, atol=1e-12)


def test_two_passages_by_hand():
    """p(y|x) = .75 * .5 * .1 + .25 * .2 * .4 as a sequence; (.75*.5 + .25*.2) (.75*.1 + .25*.4) by token."""
    token_logp_BKT = torch.tensor([[[0.5, 0.1], [0.2, 0.4]]], dtype=torch.float64).log()
    prior_BK = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
    mask_BT = torch.ones(1, 2, dtype=torch.bool)
    assert rag_sequence_nll(token_logp_BKT, prior_BK, mask_BT).item() == pytest.approx(-math.log(0.0575), abs=1e-12)
    assert rag_token_nll(token_logp_BKT, prior_BK, mask_BT).item() == pytest.approx(-math.log(0.425 * 0.175), abs=1e-12)
    assert posterior(token_logp_BKT, prior_BK, mask_BT)[0].tolist() == pytest.approx([0.0375 / 0.0575, 0.02 / 0.0575])
    first, second = posterior(token_logp_BKT, prior_BK, mask_BT, "token")[0].T.tolist()
    assert first == pytest.approx([0.375 / 0.425, 0.05 / 0.425])
    assert second == pytest.approx([0.075 / 0.175, 0.1 / 0.175])


@st.composite
def problems(draw: st.DrawFn, tokens: int | None = None, passages: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Random token_logp_BKT, scores_BK and target mask, in float64."""
    B, K = draw(st.integers(1, 3)), passages or draw(st.integers(1, 5))
    T = tokens or draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    token_logp_BKT = -8 * torch.rand(B, K, T, generator=generator, dtype=torch.float64)
    scores_BK = 3 * torch.randn(B, K, generator=generator, dtype=torch.float64)
    lengths_B = torch.randint(1, T + 1, (B,), generator=generator)
    return token_logp_BKT, scores_BK, torch.arange(T) < lengths_B[:, None]


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@some
@given(problems(tokens=1))
def test_marginals_agree_on_one_token(problem):
    token_logp_BKT, scores_BK, mask_BT = problem
    prior_BK = doc_logprior(scores_BK)
    close(rag_sequence_nll(token_logp_BKT, prior_BK, mask_BT), rag_token_nll(token_logp_BKT, prior_BK, mask_BT))


@some
@given(problems(passages=1))
def test_one_passage_is_the_reader_alone(problem):
    token_logp_BKT, scores_BK, mask_BT = problem
    prior_BK = doc_logprior(scores_BK)
    alone_B = -(token_logp_BKT[:, 0] * mask_BT).sum(-1)
    close(rag_sequence_nll(token_logp_BKT, prior_BK, mask_BT), alone_B)
    close(rag_token_nll(token_logp_BKT, prior_BK, mask_BT), alone_B)


@pytest.mark.parametrize("marginal", MARGINALS)
@some
@given(problem=problems(), shift=st.floats(-50, 50), temperature=st.floats(0.1, 10))
def test_constant_shift_of_scores_changes_nothing(marginal, problem, shift, temperature):
    token_logp_BKT, scores_BK, mask_BT = problem
    shifted_BK = doc_logprior(scores_BK + shift, None, temperature)
    plain = marginal(token_logp_BKT, doc_logprior(scores_BK, None, temperature), mask_BT)
    torch.testing.assert_close(marginal(token_logp_BKT, shifted_BK, mask_BT), plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("marginal", MARGINALS)
@some
@given(problem=problems(), data=st.data())
def test_permuting_passages_changes_nothing(marginal, problem, data):
    token_logp_BKT, scores_BK, mask_BT = problem
    order = torch.tensor(data.draw(st.permutations(range(scores_BK.shape[1]))))
    permuted = marginal(token_logp_BKT[:, order], doc_logprior(scores_BK[:, order]), mask_BT)
    close(permuted, marginal(token_logp_BKT, doc_logprior(scores_BK), mask_BT))


@pytest.mark.parametrize("marginal", MARGINALS)
@some
@given(problem=problems())
def test_splitting_a_passage_in_two_halves_changes_nothing(marginal, problem):
    token_logp_BKT, scores_BK, mask_BT = problem
    halves_BK = torch.cat([scores_BK[:, :1] - math.log(2), scores_BK], dim=1)
    halves_BK[:, 1] -= math.log(2)
    twice_BKT = torch.cat([token_logp_BKT[:, :1], token_logp_BKT], dim=1)
    close(
        marginal(twice_BKT, doc_logprior(halves_BK), mask_BT),
        marginal(token_logp_BKT, doc_logprior(scores_BK), mask_BT),
    )


@some
@given(problems())
def test_posterior_sums_to_one_and_bayes_holds(problem):
    token_logp_BKT, scores_BK, mask_BT = problem
    prior_BK = doc_logprior(scores_BK)
    log_posterior_BK = log_posterior(token_logp_BKT, prior_BK, mask_BT)
    close(log_posterior_BK.exp().sum(-1), torch.ones(len(scores_BK), dtype=torch.float64))
    nll_B = rag_sequence_nll(token_logp_BKT, prior_BK, mask_BT)
    close(log_posterior_BK - nll_B[:, None], prior_BK + sequence_logp(token_logp_BKT, mask_BT))


@some
@given(problems())
def test_token_posteriors_are_those_of_one_token_answers(problem):
    token_logp_BKT, scores_BK, mask_BT = problem
    scores_BK.requires_grad_()
    prior_BK = doc_logprior(scores_BK)
    posterior_BKT = posterior(token_logp_BKT, prior_BK, mask_BT, "token")
    close(posterior_BKT.sum(1), mask_BT.double())
    one = torch.ones(len(scores_BK), 1, dtype=torch.bool)
    for t in range(mask_BT.shape[1]):
        alone_BK = posterior(token_logp_BKT[:, :, t : t + 1], prior_BK, one)
        close(posterior_BKT[:, :, t], alone_BK * mask_BT[:, t : t + 1])
    rag_token_nll(token_logp_BKT, prior_BK, mask_BT).sum().backward()
    close(scores_BK.grad, (mask_BT.sum(1, keepdim=True) * prior_BK.exp() - posterior_BKT.sum(2)).detach())


@pytest.mark.parametrize("marginal", MARGINALS)
def test_gradients_against_finite_differences(marginal):
    token_logp_BKT, scores_BK, mask_BT = golden()
    mask_BK = torch.tensor([[True, True, True], [True, False, True]])

    def nll_B(token_logp_BKT: Tensor, scores_BK: Tensor) -> Tensor:
        return marginal(token_logp_BKT, doc_logprior(scores_BK, mask_BK), mask_BT)

    assert torch.autograd.gradcheck(nll_B, (token_logp_BKT.requires_grad_(), scores_BK.requires_grad_()))
    assert torch.autograd.gradgradcheck(nll_B, (token_logp_BKT, scores_BK))


@pytest.mark.parametrize("marginal", ["sequence", "token"])
def test_a_prior_of_minus_infinity_is_a_mask(marginal):
    """Given as it is, without a mask before it: as if the passage were not there, and posterior 0."""
    token_logp_BKT, scores_BK, mask_BT = golden()
    prior_BK = doc_logprior(scores_BK)
    prior_BK[:, 1] = NEG_INF
    token_logp_BKT[:, 1] = float("nan")
    given_ = prior_BK.requires_grad_(), token_logp_BKT.requires_grad_()
    nll_B = mixture_nll(token_logp_BKT, prior_BK, mask_BT, marginal)
    close(nll_B, mixture_nll(token_logp_BKT[:, ::2], prior_BK[:, ::2], mask_BT, marginal))
    posterior_B = posterior(token_logp_BKT, prior_BK, mask_BT, marginal)
    assert (posterior_B[:, 1] == 0).all()
    assert posterior_B.isfinite().all()
    nll_B.sum().backward()
    for x in given_:
        assert (x.grad[:, 1] == 0).all()
        assert x.grad.isfinite().all()


@some
@given(problems())
def test_token_marginal_is_the_sum_of_one_token_marginals(problem):
    token_logp_BKT, scores_BK, mask_BT = problem
    prior_BK = doc_logprior(scores_BK)
    one = torch.ones(len(scores_BK), 1, dtype=torch.bool)
    steps_BT = torch.stack(
        [rag_sequence_nll(token_logp_BKT[:, :, t : t + 1], prior_BK, one) for t in range(mask_BT.shape[1])], dim=1
    )
    close(rag_token_nll(token_logp_BKT, prior_BK, mask_BT), (steps_BT * mask_BT).sum(1))


@pytest.mark.parametrize("marginal", MARGINALS)
@pytest.mark.parametrize("poison", [NEG_INF, float("nan"), float("inf"), 3.0])
@settings(max_examples=20, deadline=None)
@given(problem=problems())
def test_masked_passages_and_positions_do_nothing_at_all(marginal, poison, problem):
    """A masked passage changes neither the loss nor any gradient, and its own gradients are exactly zero."""
    token_logp_BKT, scores_BK, mask_BT = problem
    plain_logp, plain_scores = token_logp_BKT.clone().requires_grad_(), scores_BK.clone().requires_grad_()
    plain_B = marginal(plain_logp, doc_logprior(plain_scores), mask_BT)
    plain_B.sum().backward()

    B, K, T = token_logp_BKT.shape
    logp = torch.full((B, K + 1, T + 1), poison, dtype=torch.float64)
    logp[:, :K, :T] = token_logp_BKT
    scores = torch.cat([scores_BK, torch.full((B, 1), poison, dtype=torch.float64)], dim=1)
    logp.requires_grad_()
    scores.requires_grad_()
    mask_BK = torch.arange(K + 1).expand(B, -1) < K
    wider_BT = torch.nn.functional.pad(mask_BT, (0, 1))
    nll_B = marginal(logp, doc_logprior(scores, mask_BK), wider_BT)
    nll_B.sum().backward()

    close(nll_B, plain_B)
    close(logp.grad[:, :K, :T], plain_logp.grad)
    close(scores.grad[:, :K], plain_scores.grad)
    assert (logp.grad[:, K] == 0).all()
    assert (logp.grad[:, :, T] == 0).all()
    assert (scores.grad[:, K] == 0).all()


@pytest.mark.parametrize("marginal", MARGINALS)
def test_an_impossible_passage_is_not_a_masked_one(marginal):
    """A live passage that rules the answer out leaves the others, at their prior; if all do, the loss is infinite."""
    prior_BK = torch.tensor([[0.5, 0.5]]).log()
    logp_BKT = torch.tensor([[[NEG_INF], [-1.0]]], requires_grad=True)
    mask_BT = torch.tensor([[True]])
    nll_B = marginal(logp_BKT, prior_BK, mask_BT)
    assert nll_B.item() == pytest.approx(1 + math.log(2))
    nll_B.sum().backward()
    assert logp_BKT.grad.flatten().tolist() == [0.0, -1.0]
    assert marginal(torch.full((1, 2, 1), NEG_INF), prior_BK, mask_BT).item() == float("inf")


def test_prior_over_the_live_set_alone():
    prior_BK = doc_logprior(torch.tensor([[1.0, 5.0, 1.0]]), torch.tensor([[True, False, True]]), temperature=0.5)
    assert prior_BK.exp().tolist() == [[0.5, 0.0, 0.5]]
    warm_BK = doc_logprior(torch.tensor([[2.0, 0.0]]), temperature=2.0)
    torch.testing.assert_close(warm_BK, torch.log_softmax(torch.tensor([[1.0, 0.0]]), -1))


def test_temperature_may_train():
    temperature = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    scores_BK = torch.tensor([[1.0, 3.0, 7.0]], dtype=torch.float64)
    mask_BK = torch.tensor([[True, True, False]])
    doc_logprior(scores_BK, mask_BK, temperature)[0, 0].backward()
    # log p_0 = -log(1 + exp(2 / t)); its derivative at t = 2 is sigmoid(1) * 2 / 4
    assert temperature.grad.item() == pytest.approx(0.5 / (1 + math.exp(-1)), abs=1e-12)


@pytest.mark.parametrize("function", [rag_sequence_nll, rag_token_nll, posterior])
def test_rows_with_nothing_to_score_are_errors(function):
    token_logp_BKT, prior_BK = torch.zeros(2, 2, 3), torch.full((2, 2), math.log(0.5))
    mask_BT = torch.tensor([[True, True, False], [False, False, False]])
    with pytest.raises(DataError, match="row 1 of 2 has no target token"):
        function(token_logp_BKT, prior_BK, mask_BT)
    prior_BK[0] = NEG_INF
    with pytest.raises(DataError, match="row 0 of 2 has no passage"):
        function(token_logp_BKT, prior_BK, torch.ones(2, 3, dtype=torch.bool))


def test_prior_of_nothing_is_an_error():
    with pytest.raises(DataError, match="row 1 of 2 has no passage"):
        doc_logprior(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]]))


@pytest.mark.parametrize("marginal", MARGINALS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_summed_in_float32(marginal, dtype):
    """Thirty tokens of one nat: bfloat16 has no 30.69 nearer than 30.75."""
    logp_BKT, mask_BT = torch.full((1, 2, 30), -1.0, dtype=dtype), torch.ones(1, 30, dtype=torch.bool)
    nll_B = marginal(logp_BKT, doc_logprior(torch.zeros(1, 2, dtype=dtype)), mask_BT)
    assert nll_B.dtype == torch.float32
    assert nll_B.item() == pytest.approx(30.0, abs=1e-4)


def test_unknown_marginals_are_errors():
    with pytest.raises(ValueError, match="'sequence' or 'token'"):
        posterior(torch.zeros(1, 1, 1), torch.zeros(1, 1), torch.ones(1, 1), "word")
