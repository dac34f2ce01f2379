"""The next token's distribution, a few rows at a time: the same as from all logits at once."""

from __future__ import annotations

import pytest
import torch

from rag_exp.models.decoding.next_token import likeliest, logp_of

V, N, K = 320, 12, 3


@pytest.fixture(params=[True, False], ids=["hidden", "logits"])
def given(request, reader, monkeypatch):
    """The reader, random states of it, the log-probabilities they mean, in double precision, and five rows a chunk."""
    monkeypatch.setattr("rag_exp.models.reader.PROJECTION_CHUNK", 4 * V * 5)
    monkeypatch.setitem(reader.__dict__, "_head_is_affine", request.param)
    head = reader.model.get_output_embeddings()
    states_ND = torch.randn(N, head.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits_NV = head(states_ND)
        if hasattr(reader.model, "final_logits_bias"):
            monkeypatch.setattr(reader.model, "final_logits_bias", torch.linspace(-3, 3, V)[None])
            logits_NV = logits_NV + reader.model.final_logits_bias[0]
    return reader, states_ND if request.param else logits_NV, logits_NV.double().log_softmax(-1)


@pytest.mark.parametrize("most", [1, 8, 1000])
def test_the_likeliest_of_each_row(given, most):
    reader, states_NS, logp_NV = given
    values, tokens = likeliest(reader, states_NS, most, None)
    assert values.shape == (N, min(most, V))
    torch.testing.assert_close(values.double(), logp_NV.topk(min(most, V)).values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logp_NV.gather(1, tokens), values.double(), rtol=1e-5, atol=1e-5)


def test_the_likeliest_of_a_mixture(given):
    reader, states_NS, logp_NV = given
    weight_RK = torch.rand(N // K, K, generator=torch.Generator().manual_seed(1))
    weight_RK[1] = torch.tensor([0.0, 1.0, 0.0])
    values, tokens = likeliest(reader, states_NS, 4, weight_RK)
    mixed_RV = (logp_NV.exp().view(-1, K, V) * weight_RK[..., None]).sum(1).log()
    torch.testing.assert_close(values.double(), mixed_RV.topk(4).values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mixed_RV.gather(1, tokens), values.double(), rtol=1e-5, atol=1e-5)
    assert tokens[1].tolist() == logp_NV[4].topk(4).indices.tolist()


def test_given_tokens_in_any_order(given):
    reader, states_NS, logp_NV = given
    draw = torch.Generator().manual_seed(2)
    row_M, token_M = torch.randint(1, N - 2, (40,), generator=draw), torch.randint(V, (40,), generator=draw)
    found = logp_of(reader, states_NS, row_M, token_M)
    torch.testing.assert_close(found.double(), logp_NV[row_M, token_M], rtol=1e-5, atol=1e-5)
    assert len(logp_of(reader, states_NS, row_M[:0], token_M[:0])) == 0
