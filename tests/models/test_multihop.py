"""The prior over paths: golden numbers, what one hop makes of it, and pruning as a bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_exp.models.chain import chain_nll
from rag_exp.models.mixture import doc_logprior, rag_sequence_nll
from rag_exp.models.multihop import ListedPaths, best_paths
from rag_exp.retrieval.paths import Paths
from rag_exp.retrieval.results import SearchResult

S1 = torch.tensor([[1.0, 0.2]], dtype=torch.float64)
S2 = torch.tensor([[[0.5, -0.3], [1.1, 0.4]]], dtype=torch.float64)
LOGP = torch.tensor([[[-1.0, -2.0], [-0.5, -3.0]]], dtype=torch.float64)
MASK = torch.ones(1, 1, dtype=torch.bool)
NEG_INF = -math.inf


@pytest.mark.parametrize(("prior", "nll"), [("local", 1.0940678249), ("global", 1.0398345284)])
def test_golden(prior, nll):
    places, logprior = best_paths(S1, S2, 4, prior)
    read = LOGP[0][places[0, :, 0], places[0, :, 1]].view(1, 4, 1)
    assert rag_sequence_nll(read, logprior, MASK).item() == pytest.approx(nll, abs=1e-9)
    assert logprior.exp().sum().item() == pytest.approx(1, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), K=st.integers(1, 4), J=st.integers(1, 4), T=st.integers(1, 3))
def test_a_reader_that_ignores_the_second_passage_reads_one_hop(seed, K, J, T):
    draw = torch.Generator().manual_seed(seed)
    s1, s2 = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((2, K), (2, K, J)))
    token_logp = -torch.rand((2, K, T), generator=draw, dtype=torch.float64)
    mask = torch.ones(2, T, dtype=torch.bool)
    one = rag_sequence_nll(token_logp, doc_logprior(s1), mask)
    places, logprior = best_paths(s1, s2, K * J, "local")
    chain = rag_sequence_nll(token_logp[torch.arange(2)[:, None], places[..., 0]], logprior, mask)
    torch.testing.assert_close(chain, one, rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), prior=st.sampled_from(["local", "global"]), share=st.floats(0, 0.6))
def test_pruning_bounds_from_above_and_falls_with_more_paths(seed, prior, share):
    rng = np.random.default_rng(seed)
    s1, s2 = torch.from_numpy(rng.normal(size=(1, 3))), torch.from_numpy(rng.normal(size=(1, 3, 4)))
    s2[torch.from_numpy(rng.random((1, 3, 4)) < share)] = NEG_INF
    s2[0, 0, 0] = 0.0
    logp = torch.from_numpy(-rng.random((1, 3, 4, 1)) * 5)
    last = math.inf
    for count in range(1, 13):
        places, logprior = best_paths(s1, s2, count, prior)
        nll = rag_sequence_nll(logp[0][places[0, :, 0], places[0, :, 1]][None], logprior, MASK).item()
        assert nll <= last + 1e-12
        last = nll
    assert last == pytest.approx(chain_nll(logp, s1, s2, MASK, prior).item(), abs=1e-12)


def test_temperature_divides_both_hops():
    for prior in ("local", "global"):
        torch.testing.assert_close(best_paths(S1, S2, 3, prior, 2.0), best_paths(S1 / 2, S2 / 2, 3, prior))


@pytest.mark.parametrize("prior", ["local", "global"])
def test_masked_scores_have_no_path_and_no_gradient(prior):
    s1 = torch.tensor([[1.0, 0.2, NEG_INF]], requires_grad=True)
    s2 = torch.full((1, 3, 2), 0.5)
    s2[0, 0, 1], s2[0, 1] = NEG_INF, NEG_INF
    s2.requires_grad_()
    places, logprior = best_paths(s1, s2, 4, prior)
    assert places[0, 0].tolist() == [0, 0]
    assert torch.isfinite(logprior).tolist() == [[True, False, False, False]]
    logprior[0, 0].backward()
    assert torch.isfinite(s1.grad).all()
    assert torch.isfinite(s2.grad).all()
    assert s2.grad[0, 0, 1] == s2.grad[0, 1, 0] == s1.grad[0, 2] == 0


def paths(s1, s2, ids1, ids2):
    return Paths(
        SearchResult.of(np.array(ids1), np.array(s1), len(s1[0])),
        SearchResult.of(np.array(ids2), np.array(s2), len(s2[0])),
    )


def test_lists_the_best_paths():
    found = paths([[1.0, 0.2], [0.0, 0.0]], [[0.5, -0.3], [1.1, 0.4], [0.0, 0.0], [0.0, 0.0]],
                  [[5, 6], [-1, -1]], [[6, 7], [5, 8], [-1, -1], [-1, -1]])  # fmt: skip
    listed = ListedPaths.of(found, 3, "global")
    # s1 + s2: 1.5, .7, 1.3, .6
    assert listed.rows_QM2.tolist() == [[[5, 6], [6, 5], [5, 7]], [[-1, -1]] * 3]
    full = np.exp([1.5, 0.7, 1.3, 0.6])
    np.testing.assert_allclose(np.exp(listed.logprior_QM[0]), np.exp([1.5, 1.3, 0.7]) / full.sum(), rtol=1e-6)
    assert listed.kept_Q[0] == pytest.approx(1 - math.exp(0.6) / full.sum(), rel=1e-6)
    assert np.isnan(listed.kept_Q[1])
    assert listed.mask_QM.tolist() == [[True] * 3, [False] * 3]
    whole = ListedPaths.of(found, 3, "global", renormalize=True)
    assert np.exp(whole.logprior_QM[0]).sum() == pytest.approx(1)
    np.testing.assert_array_equal(whole.kept_Q, listed.kept_Q)
    assert ListedPaths.of(found, 9).rows_QM2.shape == (2, 4, 2)


def test_given_pairs_have_equal_priors():
    listed = ListedPaths.of(Paths.of_pairs(np.array([[[7, 2], [3, 9]]])), 5)
    assert listed.rows_QM2.tolist() == [[[3, 9], [7, 2]]]
    assert np.exp(listed.logprior_QM).tolist() == [pytest.approx([0.5, 0.5])]
