"""The two-hop marginal against numbers worked out apart, its invariants, and what masks and pruning do."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rag_exp.core.errors import DataError
from rag_exp.models.marginalize import (
    chain_nll,
    chain_posterior,
    doc_logprior,
    listed_chain_nll,
    listed_logprior,
    path_logprior,
    posterior,
    rag_sequence_nll,
    rag_token_nll,
)

some = settings(max_examples=30, deadline=None)
NEG_INF, NAN = float("-inf"), float("nan")
PRIORS, MARGINALS = ["local", "global"], ["sequence", "token"]
ONE_HOP = {"sequence": rag_sequence_nll, "token": rag_token_nll}
each = pytest.mark.parametrize(("prior", "marginal"), [(p, m) for p in PRIORS for m in MARGINALS])


def golden() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """token_logp_BKJT, s1_BK, s2_BKJ, mask_BT of the reference problem: B=T=1, K=J=2."""
    s1_BK = torch.tensor([[1.0, 0.2]], dtype=torch.float64)
    s2_BKJ = torch.tensor([[[0.5, -0.3], [1.1, 0.4]]], dtype=torch.float64)
    logp_BKJT = torch.tensor([[[[-1.0], [-2.0]], [[-0.5], [-3.0]]]], dtype=torch.float64)
    return logp_BKJT, s1_BK, s2_BKJ, torch.tensor([[True]])


@pytest.mark.parametrize("marginal", MARGINALS)
@pytest.mark.parametrize(("prior", "expected"), [("local", 1.0940678249), ("global", 1.0398345284)])
def test_golden_nll(prior, expected, marginal):
    assert chain_nll(*golden(), prior=prior, marginal=marginal).item() == pytest.approx(expected, rel=0, abs=1e-9)


def test_golden_nll_by_hand():
    """The same two numbers from plain floats."""
    e = math.exp
    first = [e(1) / (e(1) + e(0.2)), e(0.2) / (e(1) + e(0.2))]
    second = [[e(0.5) / (e(0.5) + e(-0.3)), e(-0.3) / (e(0.5) + e(-0.3))]]
    second += [[e(1.1) / (e(1.1) + e(0.4)), e(0.4) / (e(1.1) + e(0.4))]]
    answer = [[e(-1), e(-2)], [e(-0.5), e(-3)]]
    local = sum(first[k] * second[k][j] * answer[k][j] for k in (0, 1) for j in (0, 1))
    assert chain_nll(*golden()).item() == pytest.approx(-math.log(local), abs=1e-12)
    weight = [[e(1.5), e(0.7)], [e(1.3), e(0.6)]]
    total = sum(map(sum, weight))
    together = sum(weight[k][j] / total * answer[k][j] for k in (0, 1) for j in (0, 1))
    assert chain_nll(*golden(), prior="global").item() == pytest.approx(-math.log(together), abs=1e-12)


Problem = tuple[Tensor, Tensor, Tensor, Tensor]


@st.composite
def problems(draw: st.DrawFn, tokens: int | None = None, most: int = 4) -> Problem:
    """Random token_logp_BKJT, s1_BK, s2_BKJ and target mask, in float64."""
    B, K, J = draw(st.integers(1, 3)), draw(st.integers(1, most)), draw(st.integers(1, most))
    T = tokens or draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    logp = -6 * torch.rand(B, K, J, T, generator=generator, dtype=torch.float64)
    s1 = 2 * torch.randn(B, K, generator=generator, dtype=torch.float64)
    s2 = 2 * torch.randn(B, K, J, generator=generator, dtype=torch.float64)
    lengths_B = torch.randint(1, T + 1, (B,), generator=generator)
    return logp, s1, s2, torch.arange(T) < lengths_B[:, None]


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def ones(n: int) -> Tensor:
    return torch.ones(n, dtype=torch.float64)


@each
@some
@given(problem=problems())
def test_a_chain_is_a_mixture_over_paths(prior, marginal, problem):
    logp, s1, s2, mask_BT = problem
    logprior = path_logprior(s1, s2, prior).flatten(1)
    close(logprior.exp().sum(1), ones(len(s1)))
    close(chain_nll(*problem, prior, marginal), ONE_HOP[marginal](logp.flatten(1, 2), logprior, mask_BT))


@pytest.mark.parametrize("marginal", MARGINALS)
@some
@given(problem=problems())
def test_a_reader_that_ignores_the_second_passage_is_one_hop(marginal, problem):
    logp, s1, s2, mask_BT = problem
    blind = logp[:, :, :1].expand_as(logp)
    close(
        chain_nll(blind, s1, s2, mask_BT, "local", marginal),
        ONE_HOP[marginal](logp[:, :, 0], doc_logprior(s1), mask_BT),
    )


@each
@some
@given(problem=problems(most=3))
def test_one_second_passage_each_is_one_hop(prior, marginal, problem):
    logp, s1, s2, mask_BT = (problem[0][:, :, :1], problem[1], problem[2][:, :, :1], problem[3])
    score = s1 if prior == "local" else s1 + s2[:, :, 0]
    close(
        chain_nll(logp, s1, s2, mask_BT, prior, marginal),
        ONE_HOP[marginal](logp[:, :, 0], doc_logprior(score), mask_BT),
    )


@pytest.mark.parametrize("prior", PRIORS)
@some
@given(problem=problems(tokens=1))
def test_marginals_agree_on_one_token(prior, problem):
    close(chain_nll(*problem, prior, "sequence"), chain_nll(*problem, prior, "token"))


@each
@some
@given(problem=problems(), shift=st.floats(-30, 30))
def test_constant_shifts_change_nothing(prior, marginal, problem, shift):
    logp, s1, s2, mask_BT = problem
    shifted_s2 = s2 + shift
    if prior == "local":  # each first passage's second scores may shift by themselves
        shifted_s2 = shifted_s2 + torch.arange(s2.shape[1], dtype=s2.dtype)[:, None]
    close(chain_nll(logp, s1 - shift, shifted_s2, mask_BT, prior, marginal), chain_nll(*problem, prior, marginal))


@each
@some
@given(problem=problems(), data=st.data())
def test_permuting_either_hop_changes_nothing(prior, marginal, problem, data):
    logp, s1, s2, mask_BT = problem
    k, j = (torch.tensor(data.draw(st.permutations(range(n)))) for n in s2.shape[1:])
    permuted = chain_nll(logp[:, k][:, :, j], s1[:, k], s2[:, k][:, :, j], mask_BT, prior, marginal)
    close(permuted, chain_nll(*problem, prior, marginal))


@each
@some
@given(problem=problems())
def test_splitting_a_passage_of_either_hop_changes_nothing(prior, marginal, problem):
    logp, s1, s2, mask_BT = problem
    plain = chain_nll(*problem, prior, marginal)
    halves = torch.cat([s1[:, :1], s1], 1)
    halves[:, :2] -= math.log(2)
    first_twice = torch.cat([logp[:, :1], logp], 1), halves, torch.cat([s2[:, :1], s2], 1), mask_BT
    close(chain_nll(*first_twice, prior, marginal), plain)
    halves = torch.cat([s2[:, :, :1], s2], 2)
    halves[:, :, :2] -= math.log(2)
    close(chain_nll(torch.cat([logp[:, :, :1], logp], 2), s1, halves, mask_BT, prior, marginal), plain)


def top(logprior_BKJ: Tensor, M: int) -> Tensor:
    return logprior_BKJ.flatten(1).topk(M, dim=1).indices


@each
@some
@given(problem=problems())
def test_pruning_bounds_the_nll_from_above_and_falls_with_every_path(prior, marginal, problem):
    logp, s1, s2, mask_BT = problem
    whole = chain_nll(*problem, prior, marginal)
    order_BM = top(path_logprior(s1, s2, prior), s2[0].numel())
    nlls = []
    for M in range(1, order_BM.shape[1] + 1):
        path_BM = order_BM[:, :M]
        mask_BKJ = torch.zeros_like(s2, dtype=torch.bool).flatten(1).scatter(1, path_BM, True).view_as(s2)
        dense = chain_nll(*problem, prior, marginal, mask_BKJ)
        listed = logp.flatten(1, 2).gather(1, path_BM[:, :, None].expand(-1, -1, logp.shape[-1]))
        close(listed_chain_nll(listed, s1, s2, path_BM, mask_BT, prior, marginal), dense)
        close(path_logprior(s1, s2, prior, mask_BKJ).exp()[mask_BKJ], path_logprior(s1, s2, prior).exp()[mask_BKJ])
        nlls.append(dense)
    for more, fewer in zip(nlls[1:], nlls, strict=False):
        assert (more < fewer).all()
    close(nlls[-1], whole)


@each
@some
@given(problem=problems(), data=st.data())
def test_renormalized_is_the_chain_of_the_remaining_paths(prior, marginal, problem, data):
    logp, s1, s2, mask_BT = problem
    M = data.draw(st.integers(1, s2[0].numel()))
    path_BM = top(path_logprior(s1, s2, prior), M)
    logprior_BM = listed_logprior(s1, s2, path_BM, prior, renormalize=True)
    close(logprior_BM.exp().sum(1), ones(len(s1)))
    close(logprior_BM, torch.log_softmax(listed_logprior(s1, s2, path_BM, prior), 1))
    mask_BKJ = torch.zeros_like(s2, dtype=torch.bool).flatten(1).scatter(1, path_BM, True).view_as(s2)
    listed = logp.flatten(1, 2).gather(1, path_BM[:, :, None].expand(-1, -1, logp.shape[-1]))
    expected = ONE_HOP[marginal](listed, logprior_BM, mask_BT)
    close(chain_nll(*problem, prior, marginal, mask_BKJ, renormalize=True), expected)


@each
@pytest.mark.parametrize("poison", [NEG_INF, NAN, float("inf")])
@settings(max_examples=15, deadline=None)
@given(problem=problems(most=3))
def test_absent_paths_and_passages_do_nothing_at_all(prior, marginal, poison, problem):
    """One more first and one more second passage, masked, all their numbers poisoned: no value, no gradient."""
    plain = [t.clone().requires_grad_() for t in problem[:3]]
    plain_B = chain_nll(*plain, problem[3], prior, marginal)
    plain_B.sum().backward()

    logp, s1, s2, mask_BT = problem
    B, K, J, T = logp.shape
    wide_logp = torch.full((B, K + 1, J + 1, T + 1), poison, dtype=torch.float64)
    wide_logp[:, :K, :J, :T] = logp
    wide_s1 = torch.full((B, K + 1), poison, dtype=torch.float64)
    wide_s1[:, :K] = s1
    wide_s2 = torch.full((B, K + 1, J + 1), poison, dtype=torch.float64)
    wide_s2[:, :K, :J] = s2
    wide = [t.requires_grad_() for t in (wide_logp, wide_s1, wide_s2)]
    mask_BKJ = torch.zeros_like(wide_s2, dtype=torch.bool)
    mask_BKJ[:, :K, :J] = True
    wide_B = chain_nll(*wide, torch.nn.functional.pad(mask_BT, (0, 1)), prior, marginal, mask_BKJ)
    wide_B.sum().backward()
    close(wide_B, plain_B)
    inside = [(slice(None), slice(K), slice(J), slice(T)), (slice(None), slice(K)), (slice(None), slice(K), slice(J))]
    for ours, theirs, where in zip(wide, plain, inside, strict=True):
        close(ours.grad[where], theirs.grad)
        outside = torch.ones_like(ours, dtype=torch.bool)
        outside[where] = False
        assert (ours.grad[outside] == 0).all()
    if poison == NEG_INF:  # such scores say so without a mask
        close(chain_nll(*wide, torch.nn.functional.pad(mask_BT, (0, 1)), prior, marginal), plain_B)


@each
def test_a_pruned_path_gives_its_reading_no_gradient_and_its_scores_that_of_the_prior(prior, marginal):
    logp, s1, s2, mask_BT = golden()
    logp[0, 0, 1] = NAN
    given = [t.requires_grad_() for t in (logp, s1, s2)]
    mask_BKJ = torch.tensor([[[True, False], [True, True]]])
    chain_nll(*given, mask_BT, prior, marginal, mask_BKJ).backward()
    assert logp.grad[0, 0, 1].item() == 0
    found = chain_posterior(*given, mask_BT, prior, marginal, mask_BKJ).view(1, 2, 2, -1).sum(-1)
    prior_BKJ = path_logprior(s1, s2, prior).exp()
    if prior == "global":
        close(s2.grad, prior_BKJ - found)
    else:
        close(s1.grad, prior_BKJ.sum(2) - found.sum(2))
        close(s2.grad, prior_BKJ / prior_BKJ.sum(2, keepdim=True) * found.sum(2, keepdim=True) - found)


def test_a_first_passage_without_a_second_keeps_its_share_in_the_local_prior():
    s1_BK, s2_BKJ = torch.zeros(1, 2), torch.tensor([[[0.0, 0.0], [NEG_INF, NEG_INF]]])
    assert path_logprior(s1_BK, s2_BKJ, "local").exp().tolist() == [[[0.25, 0.25], [0.0, 0.0]]]
    assert path_logprior(s1_BK, s2_BKJ, "local", renormalize=True).exp().tolist() == [[[0.5, 0.5], [0.0, 0.0]]]
    assert path_logprior(s1_BK, s2_BKJ, "global").exp().tolist() == [[[0.5, 0.5], [0.0, 0.0]]]


@pytest.mark.parametrize("prior", PRIORS)
@some
@given(problem=problems())
def test_posteriors_sum_to_one_and_follow_bayes(prior, problem):
    logp, s1, s2, mask_BT = problem
    path_BKJ = chain_posterior(*problem, prior)
    close(path_BKJ.sum((1, 2)), ones(len(s1)))
    answer_BKJ = (logp * mask_BT[:, None, None]).sum(-1)
    joint_BKJ = path_logprior(s1, s2, prior) + answer_BKJ
    close(path_BKJ, (joint_BKJ + chain_nll(*problem, prior)[:, None, None]).exp())
    token_BKJT = chain_posterior(*problem, prior, "token")
    assert token_BKJT.shape == logp.shape
    close(token_BKJT.sum((1, 2)), mask_BT.double())
    if prior == "local":  # the first hop's posterior is that of one hop whose reading is the marginal over the second
        reading_BK = (path_logprior(s1, s2) - doc_logprior(s1)[:, :, None] + answer_BKJ).logsumexp(2)
        close(path_BKJ.sum(2), posterior(reading_BK[:, :, None], doc_logprior(s1), ones(len(s1))[:, None]))


@each
@pytest.mark.parametrize("renormalize", [False, True])
def test_gradients_against_finite_differences(prior, marginal, renormalize):
    draw = torch.Generator().manual_seed(1)
    logp = (-3 * torch.rand(2, 3, 2, 2, generator=draw, dtype=torch.float64)).requires_grad_()
    s1 = torch.randn(2, 3, generator=draw, dtype=torch.float64).requires_grad_()
    s2 = torch.randn(2, 3, 2, generator=draw, dtype=torch.float64).requires_grad_()
    mask_BT = torch.tensor([[True, True], [True, False]])
    path_BM = torch.tensor([[0, 5, 2], [3, 1, -1]])

    def dense(*given: Tensor) -> Tensor:
        mask_BKJ = torch.tensor([[1, 0, 1, 0, 0, 1], [0, 1, 0, 1, 0, 0]]).view(2, 3, 2).bool()
        return chain_nll(*given, mask_BT, prior, marginal, mask_BKJ, renormalize)

    def listed(logp: Tensor, s1: Tensor, s2: Tensor) -> Tensor:
        return listed_chain_nll(logp.flatten(1, 2)[:, :3], s1, s2, path_BM, mask_BT, prior, marginal, renormalize)

    assert torch.autograd.gradcheck(dense, (logp, s1, s2))
    assert torch.autograd.gradcheck(listed, (logp, s1, s2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@each
def test_every_float_type(prior, marginal, dtype):
    logp, s1, s2, mask_BT = golden()
    nll_B = chain_nll(logp.to(dtype), s1.to(dtype), s2.to(dtype), mask_BT, prior, marginal)
    assert nll_B.dtype == torch.float32
    expected = chain_nll(logp, s1.to(dtype).double(), s2.to(dtype).double(), mask_BT, prior, marginal)
    torch.testing.assert_close(nll_B.double(), expected, rtol=1e-6, atol=1e-6)


def test_nothing_to_sum_is_an_error():
    logp, s1, s2, mask_BT = golden()
    with pytest.raises(DataError, match="row 0 of 1 has no target token"):
        chain_nll(logp, s1, s2, ~mask_BT)
    with pytest.raises(DataError, match="row 0 of 1 has no path"):
        chain_nll(logp, s1, s2, mask_BT, path_mask_BKJ=torch.zeros_like(s2, dtype=torch.bool))
    with pytest.raises(DataError, match="row 0 of 1 has no path"):
        listed_logprior(s1, s2, torch.tensor([[-1, -1]]))
    with pytest.raises(DataError, match="row 0 of 1 lists path 2 more than once"):
        listed_logprior(s1, s2, torch.tensor([[2, 1, 2]]))


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match="'local' or 'global'"):
        chain_nll(*golden(), prior="both")
    with pytest.raises(ValueError, match="'sequence' or 'token'"):
        chain_nll(*golden(), marginal="word")
