"""Chunked target log-probabilities: equal to the plain formula, and never a tensor of N x T x V."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rag_exp.core.errors import DataError
from rag_exp.models.marginalize import target_logprobs
from rag_exp.models.projection import log_probabilities

N, T, D, V = 3, 4, 6, 11


def problem(seed: int, dtype: torch.dtype = torch.float64, bias: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    hidden_NTD = torch.randn(N, T, D, generator=draw, dtype=dtype).requires_grad_()
    weight_VD = torch.randn(V, D, generator=draw, dtype=dtype).requires_grad_()
    bias_V = torch.randn(V, generator=draw, dtype=dtype).requires_grad_() if bias else None
    targets_NT = torch.randint(V, (N, T), generator=draw)
    targets_NT[torch.rand(N, T, generator=draw) < 0.3] = -100
    return hidden_NTD, weight_VD, targets_NT, bias_V


def plain(hidden_NTD: Tensor, weight_VD: Tensor, targets_NT: Tensor, bias_V: Tensor | None) -> Tensor:
    logits_NTV = torch.nn.functional.linear(hidden_NTD, weight_VD, bias_V)
    return -torch.nn.functional.cross_entropy(logits_NTV.transpose(1, 2), targets_NT, reduction="none")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), chunk=st.integers(1, 14), keep=st.booleans(), bias=st.booleans())
def test_values_and_gradients_equal_the_plain_formula(seed, chunk, keep, bias):
    given_ = problem(seed, bias=bias)
    weights = torch.rand(N, T, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = [t for t in (given_[0], given_[1], given_[3]) if t is not None]
    theirs = plain(*given_)
    ours = target_logprobs(*given_, chunk=chunk, keep=keep)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad((theirs * weights).sum(), wanted)
    for found, want in zip(torch.autograd.grad((ours * weights).sum(), wanted), expected, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_whole_distributions_a_few_rows_at_a_time(dtype, bias):
    hidden_NTD, weight_VD, _, bias_V = problem(4, dtype, bias)
    hidden_MD = hidden_NTD.flatten(0, 1)
    expected_MV = torch.nn.functional.linear(hidden_MD, weight_VD, bias_V).double().log_softmax(-1)
    found = [(rows, logp_CV.clone()) for rows, logp_CV in log_probabilities(hidden_MD, weight_VD, bias_V, chunk=5)]
    assert [rows for rows, _ in found] == [slice(0, 5), slice(5, 10), slice(10, 12)]
    logp_MV = torch.cat([logp_CV for _, logp_CV in found])
    assert logp_MV.dtype == torch.promote_types(dtype, torch.float32)
    assert not logp_MV.requires_grad
    torch.testing.assert_close(logp_MV.double(), expected_MV, rtol=1e-5, atol=1e-5 if dtype != torch.bfloat16 else 0.05)
    assert not list(log_probabilities(hidden_MD[:0], weight_VD, bias_V, chunk=5))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
        turned = [logp_CV.clone() for _, logp_CV in log_probabilities(hidden_MD, weight_VD, bias_V, chunk=5)]
    torch.testing.assert_close(torch.cat(turned).double(), expected_MV, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("keep", [False, True])
def test_gradients_against_finite_differences(keep):
    hidden_NTD, weight_VD, targets_NT, bias_V = problem(0)
    assert torch.autograd.gradcheck(
        lambda h, w, b: target_logprobs(h, w, targets_NT, b, chunk=5, keep=keep), (hidden_NTD, weight_VD, bias_V)
    )


@pytest.mark.parametrize("keep", [False, True])
def test_ignored_targets_give_zero_and_take_no_gradient(keep):
    hidden_NTD, weight_VD, targets_NT, bias_V = problem(3)
    with torch.no_grad():
        hidden_NTD[targets_NT == -100] = float("nan")
    logp_NT = target_logprobs(hidden_NTD, weight_VD, targets_NT, bias_V, chunk=2, keep=keep)
    assert (logp_NT[targets_NT == -100] == 0).all()
    logp_NT.sum().backward()
    assert (hidden_NTD.grad[targets_NT == -100] == 0).all()
    assert all(t.grad.isfinite().all() for t in (hidden_NTD, weight_VD, bias_V))
    none_NT = torch.full_like(targets_NT, -100)
    assert (target_logprobs(hidden_NTD, weight_VD, none_NT, bias_V, chunk=2, keep=keep) == 0).all()


def test_a_tied_embedding_gets_the_gradients_of_both_its_uses():
    ids_NT = torch.randint(V, (N, T), generator=torch.Generator().manual_seed(2))
    _, weight_VD, targets_NT, _ = problem(2)
    embed = lambda: torch.nn.functional.embedding(ids_NT, weight_VD)  # noqa: E731
    (expected,) = torch.autograd.grad(plain(embed(), weight_VD, targets_NT, None).sum(), weight_VD)
    (found,) = torch.autograd.grad(target_logprobs(embed(), weight_VD, targets_NT, chunk=5).sum(), weight_VD)
    torch.testing.assert_close(found, expected)


def test_a_frozen_projection_passes_gradients_through():
    hidden_NTD, weight_VD, targets_NT, bias_V = problem(4)
    (expected,) = torch.autograd.grad(plain(hidden_NTD, weight_VD, targets_NT, bias_V).sum(), hidden_NTD)
    frozen = weight_VD.detach(), targets_NT, bias_V.detach()
    target_logprobs(hidden_NTD, *frozen, chunk=3).sum().backward()
    torch.testing.assert_close(hidden_NTD.grad, expected)
    assert weight_VD.grad is None
    still = hidden_NTD.detach()
    (weight,) = torch.autograd.grad(target_logprobs(still, weight_VD, targets_NT, chunk=3).sum(), weight_VD)
    (expected,) = torch.autograd.grad(plain(still, weight_VD, targets_NT, None).sum(), weight_VD)
    torch.testing.assert_close(weight, expected)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation inside makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(t, Tensor):
                self.elements = max(self.elements, t.numel())
        return out


@pytest.mark.parametrize("chunk", [1, 8])
def test_no_tensor_is_larger_than_a_chunk_of_logits(chunk):
    """In forward and backward: vocabulary 500, 96 rows; nor is the whole projection cut up otherwise."""
    draw = torch.Generator().manual_seed(0)
    hidden_NTD = torch.randn(8, 12, 4, generator=draw, requires_grad=True)
    weight_VD = torch.randn(500, 4, generator=draw, requires_grad=True)
    targets_NT = torch.randint(500, (8, 12), generator=draw)
    with Largest() as seen:
        target_logprobs(hidden_NTD, weight_VD, targets_NT, chunk=chunk).sum().backward()
    assert seen.elements == max(chunk * 500, weight_VD.numel())
    with Largest() as seen:
        plain(hidden_NTD, weight_VD, targets_NT, None).sum().backward()
    assert seen.elements == 96 * 500


def test_under_autocast_the_projection_is_half_and_the_softmax_single():
    hidden_NTD, weight_VD, targets_NT, bias_V = problem(5, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = target_logprobs(hidden_NTD, weight_VD, targets_NT, bias_V, chunk=5)
        logits_NTV = torch.nn.functional.linear(hidden_NTD, weight_VD, bias_V)
    assert logits_NTV.dtype == torch.bfloat16
    assert ours.dtype == torch.float32
    theirs = -torch.nn.functional.cross_entropy(logits_NTV.float().transpose(1, 2), targets_NT, reduction="none")
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    found = torch.autograd.grad(ours.sum(), [hidden_NTD, weight_VD, bias_V])
    for gradient, want in zip(found, torch.autograd.grad(theirs.sum(), [hidden_NTD, weight_VD, bias_V]), strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, want, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights(dtype):
    given_ = problem(6, dtype)
    logp_NT = target_logprobs(*given_, chunk=4)
    assert logp_NT.dtype == torch.float32
    torch.testing.assert_close(
        logp_NT, plain(*(t.float() if t.is_floating_point() else t for t in given_)), rtol=0.05, atol=0.1
    )
    logp_NT.sum().backward()
    assert given_[0].grad.dtype == given_[1].grad.dtype == given_[3].grad.dtype == dtype


def test_a_second_derivative_is_refused():
    hidden_NTD, weight_VD, targets_NT, _ = problem(7)
    logp_NT = target_logprobs(hidden_NTD, weight_VD, targets_NT, chunk=5)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(logp_NT.sum(), hidden_NTD, create_graph=True)


def test_wrong_targets_and_chunks_are_errors():
    hidden_NTD, weight_VD, targets_NT, _ = problem(8)
    with pytest.raises(ValueError, match="at least one row"):
        target_logprobs(hidden_NTD, weight_VD, targets_NT, chunk=0)
    targets_NT[0, 0] = V
    with pytest.raises(DataError, match=f"target {V} is not a token"):
        target_logprobs(hidden_NTD, weight_VD, targets_NT, chunk=5)
