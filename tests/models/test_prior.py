"""A prior that learns: its gradients against finite differences, what it saves, and that a fixed one is what it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rag_exp.core.errors import DataError
from rag_exp.models.marginalize import doc_logprior, mixture_nll, posterior
from rag_exp.models.prior import RetrievalPrior
from rag_exp.retrieval.results import SearchResult

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


NULL_LOGP = -2.5  # of each token, given the question alone


def with_null(logp_BKT):
    return torch.cat([logp_BKT, torch.full((B, 1, T), NULL_LOGP, dtype=torch.float64)], dim=1)


@given(
    seed=st.integers(0, 10**6),
    score=st.floats(-8, 8),
    temperature=st.floats(0.3, 3),
    marginal=st.sampled_from(["sequence", "token"]),
)
def test_a_null_document_is_one_more_passage(seed, score, temperature, marginal):
    scores_BK, mask_BK, logp_BKT, target_BT = problem(seed)
    logp_BRT = with_null(logp_BKT)
    more_BR = torch.cat([scores_BK, torch.full((B, 1), score, dtype=torch.float64)], dim=1)
    there_BR = torch.cat([mask_BK, torch.ones(B, 1, dtype=torch.bool)], dim=1)
    plain_BR = doc_logprior(more_BR, there_BR, temperature)
    prior = RetrievalPrior(temperature, null_score=score)
    torch.testing.assert_close(prior(scores_BK, mask_BK), plain_BR, rtol=1e-12, atol=1e-12)
    assert torch.equal(prior(scores_BK), doc_logprior(more_BR, None, temperature))
    found = mixture_nll(logp_BRT, prior(scores_BK, mask_BK), target_BT, marginal)
    torch.testing.assert_close(found, mixture_nll(logp_BRT, plain_BR, target_BT, marginal), rtol=1e-12, atol=1e-12)


@given(seed=st.integers(0, 10**6), score=st.floats(-5, 5))
def test_the_null_score_s_gradient_is_prior_minus_posterior(seed, score):
    scores_BK, mask_BK, logp_BKT, target_BT = problem(seed)
    logp_BRT = with_null(logp_BKT)
    for marginal in ("sequence", "token"):
        prior = RetrievalPrior(null_score=score, learn_null=True).double()

        def loss(prior=prior, marginal=marginal):
            return mixture_nll(logp_BRT, prior(scores_BK, mask_BK), target_BT, marginal).sum()

        loss().backward()
        prior_BR = prior(scores_BK, mask_BK).detach()
        after = posterior(logp_BRT, prior_BR, target_BT, marginal)
        if marginal == "sequence":
            expected = (prior_BR.exp() - after)[:, -1].sum()
        else:
            expected = ((prior_BR.exp()[:, -1:] - after[:, -1]) * target_BT).sum()
        torch.testing.assert_close(prior.null_score.grad, expected, rtol=1e-9, atol=1e-12)
        assert float(prior.null_score.grad) == pytest.approx(slope(loss, prior.null_score), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("marginal", ["sequence", "token"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_null_score_of_minus_infinity_is_as_if_there_were_none(marginal, masked):
    scores_BK, mask_BK, logp_BKT, target_BT = problem(3)
    mask_BK = mask_BK if masked else None
    scores_BK.requires_grad_(True)
    nll, gradients = [], []
    for prior, logp in (
        (RetrievalPrior(0.7), logp_BKT),
        (RetrievalPrior(0.7, null_score=-torch.inf, learn_null=True), with_null(logp_BKT)),
    ):
        nll.append(mixture_nll(logp, prior(scores_BK, mask_BK), target_BT, marginal))
        (gradient,) = torch.autograd.grad(nll[-1].sum(), scores_BK, retain_graph=True)
        gradients.append(gradient)
    torch.testing.assert_close(*nll, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    nll[1].sum().backward()
    assert float(prior.null_score.grad) == 0.0


def test_a_null_score_is_read_back_beside_the_temperature(tmp_path):
    prior = RetrievalPrior(1.0, learn_temperature=True, null_score=3.0, learn_null=True)
    with torch.no_grad():
        prior.null_score.fill_(-1.5)
    prior.save(tmp_path)
    again = RetrievalPrior(1.0, learn_temperature=True, null_score=3.0, learn_null=True).load(tmp_path)
    assert again.values() == {"temperature": 1.0, "null_score": -1.5}
    assert RetrievalPrior(null_score=3.0).values()["null_score"] == 3.0
    with pytest.raises(DataError, match="not what this prior learned"):
        RetrievalPrior(null_score=3.0, learn_null=True).load(tmp_path)


def test_a_null_score_begins_at_the_last_passages(tmp_path):
    ids = np.array([[1, 2, 3], [4, 5, -1], [-1, -1, -1], [6, -1, -1]])
    found = SearchResult.of(ids, np.array([[9.0, 8, 7], [6, 2, 0], [0, 0, 0], [5, 0, 0]]), 3)
    prior = RetrievalPrior(null_score=0.0, learn_null=True)
    prior.begin_null(found)
    assert prior.values()["null_score"] == 5.0  # of 7, 2 and 5
    prior.begin_null(SearchResult.empty(2, 3))
    assert prior.values()["null_score"] == 5.0


def test_over_the_corpus_the_null_document_has_its_share():
    scores_BK, _, _, _ = problem(4)
    prior = RetrievalPrior(0.5, null_score=1.25)
    log_partition_B = (scores_BK / 0.5).logsumexp(-1)
    torch.testing.assert_close(prior.over_corpus(scores_BK, log_partition_B), prior(scores_BK))
