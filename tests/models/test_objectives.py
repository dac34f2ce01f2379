"""Objectives: the marginals by name, and their scale."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from rag_exp.models.marginalize import doc_logprior, rag_sequence_nll, rag_token_nll, sequence_posterior
from rag_exp.models.objectives import OBJECTIVES, Concat, RagSequence, RagToken


def problem(K: int = 3):
    generator = torch.Generator().manual_seed(K)
    token_logp_BKT = -3 * torch.rand(2, K, 4, generator=generator, dtype=torch.float64)
    mask_BT = torch.tensor([[True] * 4, [True, True, False, False]])
    return token_logp_BKT, doc_logprior(torch.randn(2, K, generator=generator, dtype=torch.float64)), mask_BT


def test_kinds():
    assert set(OBJECTIVES.kinds) == {"rag_sequence", "rag_token", "concat"}
    chosen = TypeAdapter(OBJECTIVES.union())
    assert isinstance(chosen.validate_python({"kind": "rag_token"}), RagToken)
    with pytest.raises(ValidationError):
        chosen.validate_python({"kind": "rag_tokens"})


def test_marginals_are_the_pure_functions():
    parts = problem()
    assert torch.equal(RagSequence().nll(*parts), rag_sequence_nll(*parts))
    assert torch.equal(RagToken().nll(*parts), rag_token_nll(*parts))
    for objective in (RagSequence(), RagToken()):
        assert not objective.joint
        assert torch.equal(objective.log_posterior(*parts), sequence_posterior(*parts))


def test_concat_reads_once():
    token_logp_B1T, prior_B1, mask_BT = problem(K=1)
    assert Concat.joint
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
