"""A prior that learns: its gradients against finite differences, what it saves, and that a fixed one is what it was."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rag_exp.core.errors import DataError
from rag_exp.models.marginalize import doc_logprior, mixture_nll
from rag_exp.models.prior import RetrievalPrior

B, K, T = 3, 4, 3


def problem(seed):
    """Scores, their mask, log-probabilities and the targets' mask of B questions; float64."""
    draw = torch.Generator().manual_seed(seed)
    scores_BK = 3 * torch.randn(B, K, generator=draw, dtype=torch.float64)
    mask_BK = torch.rand(B, K, generator=draw) < 0.8
    mask_BK[:, 0] = True
    logp_BKT = -4 * torch.rand(B, K, T, generator=draw, dtype=torch.float64)
    target_BT = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    return scores_BK, mask_BK, logp_BKT, target_BT


def slope(f, parameter, step=1e-5):
    """The central difference of ``f`` in a scalar parameter."""
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter += sign * step
            values.append(float(f()))
            parameter -= sign * step
    return (values[0] - values[1]) / (2 * step)


def test_a_fixed_prior_is_the_plain_softmax_and_learns_nothing(tmp_path):
    scores_BK, mask_BK, _, _ = problem(0)
    prior = RetrievalPrior(0.7)
    assert torch.equal(prior(scores_BK, mask_BK), doc_logprior(scores_BK, mask_BK, 0.7))
    assert torch.equal(prior(scores_BK), doc_logprior(scores_BK, None, 0.7))
    assert not list(prior.parameters())
    assert prior.parameter_groups() == []
    prior.save(tmp_path)
    assert not list(tmp_path.iterdir())
    assert prior.load(tmp_path) is prior


@given(seed=st.integers(0, 10**6), start=st.floats(0.2, 5), marginal=st.sampled_from(["sequence", "token"]))
def test_the_temperature_s_gradient_is_that_of_finite_differences(seed, start, marginal):
    scores_BK, mask_BK, logp_BKT, target_BT = problem(seed)
    prior = RetrievalPrior(start, learn_temperature=True).double()

    def loss():
        return mixture_nll(logp_BKT, prior(scores_BK, mask_BK), target_BT, marginal).mean()

    loss().backward()
    assert float(prior.log_temperature.grad) == pytest.approx(slope(loss, prior.log_temperature), rel=1e-5, abs=1e-8)


def test_equal_scores_teach_no_temperature():
    _, _, logp_BKT, target_BT = problem(1)
    prior = RetrievalPrior(2.0, learn_temperature=True)
    mixture_nll(logp_BKT, prior(torch.ones(B, K)), target_BT).mean().backward()
    assert float(prior.log_temperature.grad) == pytest.approx(0, abs=1e-6)


def test_what_was_learned_is_read_back(tmp_path):
    prior = RetrievalPrior(2.0, learn_temperature=True, lr=0.3)
    assert [(len(g["params"]), g["lr"]) for g in prior.parameter_groups()] == [(1, 0.3)]
    assert prior.values()["temperature"] == pytest.approx(2.0)
    with torch.no_grad():
        prior.log_temperature.fill_(-0.25)
    prior.save(tmp_path)
    again = RetrievalPrior(2.0, learn_temperature=True).load(tmp_path)
    assert again.values() == prior.values()
    assert not torch.equal(again(torch.tensor([[1.0, 2.0]])), RetrievalPrior(2.0)(torch.tensor([[1.0, 2.0]])))
    with pytest.raises(DataError, match=r"prior\.safetensors"):
        RetrievalPrior(learn_temperature=True).load(tmp_path / "elsewhere")


def test_over_the_corpus_everything_sums_to_one():
    scores_BK, _, _, _ = problem(2)
    prior = RetrievalPrior(0.5)
    log_partition_B = (scores_BK / 0.5).logsumexp(-1)
    torch.testing.assert_close(prior.over_corpus(scores_BK, log_partition_B), prior(scores_BK))
