"""The marginals over retrieved passages, as pure functions of log-probabilities.

Every generator, objective and evaluation uses these, by this name:

    RAG-Sequence   log p(y|x) = logsumexp_z [ log p(z|x) + sum_t log p(y_t|x,z,y_<t) ]
    RAG-Token      log p(y|x) = sum_t logsumexp_z [ log p(z|x) + log p(y_t|x,z,y_<t) ]
    chain          log p(y|q) = logsumexp_{d1,d2} [ log p(d1,d2|q) + log p(y|q,d1,d2) ], or the same by token

* :mod:`rag_exp.models.mixture`: priors, marginals and posteriors over one list of passages (or paths);
* :mod:`rag_exp.models.chain`: the two-hop prior and what follows from it;
* :mod:`rag_exp.models.projection`: log p(y_t|...) from hidden states, chunk by chunk.

What is masked contributes nothing and gets exactly zero gradient, even where its log-probabilities are -inf or
NaN. Half-precision input is summed, and returned, in float32.
"""

from __future__ import annotations

from rag_exp.models.chain import (
    ChainPrior,
    chain_nll,
    chain_posterior,
    listed_chain_nll,
    listed_logprior,
    path_logprior,
)
from rag_exp.models.mixture import (
    Marginal,
    doc_logprior,
    log_posterior,
    mixture_nll,
    posterior,
    rag_sequence_nll,
    rag_token_nll,
    sequence_logp,
    sequence_posterior,
)
from rag_exp.models.projection import target_logprobs

__all__ = [
    "ChainPrior",
    "Marginal",
    "chain_nll",
    "chain_posterior",
    "doc_logprior",
    "listed_chain_nll",
    "listed_logprior",
    "log_posterior",
    "mixture_nll",
    "path_logprior",
    "posterior",
    "rag_sequence_nll",
    "rag_token_nll",
    "sequence_logp",
    "sequence_posterior",
    "target_logprobs",
]
