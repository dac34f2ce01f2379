"""Objectives with a term of its own for the retriever: what the reader makes of each passage teaches the prior.

The reader's term is the answer's likelihood, with no gradient to the prior; the retriever's term is a function of
the prior p(z|x) and of evidence that the reader gives, with no gradient to the reader. With l_k = log p(y|x,z_k):

    EMDR2     -logsumexp_k [ log p(z_k|x) + sg(l_k) ]         Sachan et al. 2021 ("End-to-End Training of
              Multi-Document Reader and Retriever for Open-Domain Question Answering"), equation 6
    PDist     KL( softmax_k(sg(l_k) / tau) || p(.|x) )        Izacard et al. 2022 ("Atlas"), section 2.2
    LOOP      KL( softmax_k(sg(-log p(y|x,Z without z_k)) / tau) || p(.|x) )      the same, section 2.2
    ADist     KL( softmax_k(sg(log m_k) / tau) || p(.|x) )        the same, section 2.2, m_k the attention mass on z_k
    ensemble  KL( p(.|x) || softmax_k(sg(l_k) / tau) )        Shi et al. 2023 ("REPLUG"), section 4 (LSR)

Each is summed over the passages of a question and averaged over questions. Public code of Atlas averages the KL over
passages too (the default reduction of ``kl_div``), which divides the retriever's gradient by K; here a retriever that
is trained at K = 4 and one at K = 32 see gradients of one scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from rag_exp.models.likelihoods import one_reading_nll
from rag_exp.models.objective import OBJECTIVES, Evidence, Objective, ReadingMode

if TYPE_CHECKING:
    from torch import Tensor

WEIGHT = Field(1.0, gt=0, description="what the retriever's term is multiplied by in the loss")
TEMPERATURE = Field(1.0, gt=0, description="the reader's log-likelihoods are divided by it before their softmax")


class Distilled(Objective):
    """Base of the objectives whose reader reads in one way and teaches the retriever in another.

    ``reader`` chooses its term: *each*, the RAG-Sequence marginal over passages read by themselves; *concat*, the
    likelihood with all of them in one prompt; *fid*, with all of them fused in the decoder. The evidence is each
    passage's own likelihood: with *each* it is there already, otherwise every passage is read once more, without
    gradients.
    """

    reader: Literal["each", "concat", "fid"] = Field("each", description="what the reader's own term reads")
    weight: float = WEIGHT

    @property
    def reading(self) -> ReadingMode:
        return self.reader

    @property
    def evidence(self) -> Evidence:
        return "own" if self.reader == "each" else "each"

    @property
    def retriever_weight(self) -> float:
        return self.weight

    def nll(self, token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor:
        if self.reading != "each":
            return one_reading_nll(token_logp_BKT, target_mask_BT)
        from rag_exp.models.marginalize import rag_sequence_nll

        return rag_sequence_nll(token_logp_BKT, doc_logprior_BK.detach(), target_mask_BT)


@OBJECTIVES.register
class Emdr2(Distilled):
    """The retriever maximises the marginal likelihood with the reader held fixed (Sachan et al. 2021, EMDR2).

    With ``reader=each`` the two terms together have exactly the gradient of RAG-Sequence.
    """

    kind: Literal["emdr2"] = "emdr2"

    def retriever_loss(self, evidence_BK: Tensor, doc_logprior_BK: Tensor) -> Tensor:
        from rag_exp.models.mixture import rag_sequence_nll

        whole_BK1 = evidence_BK.detach()[:, :, None]  # the answer as one token: its likelihood is all that enters
        return rag_sequence_nll(whole_BK1, doc_logprior_BK, whole_BK1.new_ones(len(whole_BK1), 1).bool())


@OBJECTIVES.register
class PDist(Distilled):
    """The prior learns which passages make the answer likely (Izacard et al. 2022, perplexity distillation)."""

    kind: Literal["pdist"] = "pdist"
    temperature: float = TEMPERATURE

    def retriever_loss(self, evidence_BK: Tensor, doc_logprior_BK: Tensor) -> Tensor:
        return kl_to_prior(evidence_BK.detach() / self.temperature, doc_logprior_BK)


@OBJECTIVES.register
class Loop(Distilled):
    """The prior learns which passages the answer needs (Izacard et al. 2022, leave-one-out perplexity distillation).

    A passage is worth what the answer loses when it alone is left out of those that are read together. That takes K
    more readings of K - 1 passages each, without gradients and all in one batch: with *fid* K (K - 1) encoded prompts
    and K decoder passes, with *concat* K prompts of K - 1 passages.
    """

    kind: Literal["loop"] = "loop"
    reader: Literal["concat", "fid"] = Field("concat", description="how passages are read together")
    temperature: float = TEMPERATURE

    @property
    def evidence(self) -> Evidence:
        return "without_one"

    def retriever_loss(self, evidence_BK: Tensor, doc_logprior_BK: Tensor) -> Tensor:
        return kl_to_prior(evidence_BK.detach() / self.temperature, doc_logprior_BK)


@OBJECTIVES.register
class Adist(Objective):
    """The prior learns which passages a fusing decoder attends to (Izacard et al. 2022, attention distillation).

    The reader reads by fusion in the decoder. The target is each passage's share of the cross-attention mass
    (:mod:`rag_exp.models.attention`), sharpened or flattened by ``temperature``. The paper takes the softmax of the
    averaged masses themselves: they shrink as K grows, for a position's weights sum to 1 over all passages, and that
    target goes to the uniform one. Shares keep their ratios: two copies of a passage have together what one had.
    """

    kind: Literal["adist"] = "adist"
    value_norms: bool = Field(True, description="whether attention is weighted by the norm of what it reads")
    temperature: float = Field(1.0, gt=0, description="attention masses are raised to one over it")
    weight: float = WEIGHT

    @property
    def reading(self) -> ReadingMode:
        return "fid"

    @property
    def evidence(self) -> Evidence:
        return "attention_norms" if self.value_norms else "attention"

    @property
    def retriever_weight(self) -> float:
        return self.weight

    def nll(self, token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor:
        return one_reading_nll(token_logp_BKT, target_mask_BT)

    def retriever_loss(self, evidence_BK: Tensor, doc_logprior_BK: Tensor) -> Tensor:
        return kl_to_prior(evidence_BK.detach() / self.temperature, doc_logprior_BK)


@OBJECTIVES.register
class Ensemble(Objective):
    """A frozen reader, its next-token probabilities averaged by the prior at every token (Shi et al. 2023, REPLUG).

    p(y_t|x,y_<t) = sum_k p(z_k|x) p(y_t|x,z_k,y_<t), which is the RAG-Token marginal. The end-to-end stage leaves
    the reader as it is; with a retriever in training it is REPLUG LSR. There the paper writes the likelihood itself
    under the softmax; this is its logarithm, which tells passages apart for answers of any length.
    """

    kind: Literal["ensemble"] = "ensemble"
    marginal: ClassVar[Literal["sequence", "token"]] = "token"
    trains_reader: ClassVar[bool] = False
    temperature: float = TEMPERATURE
    weight: float = WEIGHT

    @property
    def evidence(self) -> Evidence:
        return "own"

    @property
    def retriever_weight(self) -> float:
        return self.weight

    def nll(self, token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor:
        from rag_exp.models.marginalize import rag_token_nll

        return rag_token_nll(token_logp_BKT, doc_logprior_BK, target_mask_BT)

    def retriever_loss(self, evidence_BK: Tensor, doc_logprior_BK: Tensor) -> Tensor:
        return kl_from_prior(evidence_BK.detach() / self.temperature, doc_logprior_BK)


def kl_to_prior(target_score_BK: Tensor, doc_logprior_BK: Tensor) -> Tensor:
    """KL( softmax_k(target_score) || p(.|x) ) in nats, shape [B]; its gradient in a retrieval score is prior - target.

    Args:
        target_score_BK: what the target distribution is the softmax of; not read at masked passages.
        doc_logprior_BK: log p(z|x), -inf for a masked passage, which gets no gradient.
    """
    target_BK, prior_BK, live_BK = _log_distributions(target_score_BK, doc_logprior_BK)
    return (live_BK * target_BK.exp() * (target_BK - prior_BK)).sum(-1)


def kl_from_prior(target_score_BK: Tensor, doc_logprior_BK: Tensor) -> Tensor:
    """KL( p(.|x) || softmax_k(target_score) ) in nats, shape [B]; arguments as for :func:`kl_to_prior`."""
    target_BK, prior_BK, live_BK = _log_distributions(target_score_BK, doc_logprior_BK)
    return (live_BK * prior_BK.exp() * (prior_BK - target_BK)).sum(-1)


def _log_distributions(target_score_BK: Tensor, doc_logprior_BK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log target, log prior (0 where masked) and where there is a passage, each [B, K]."""
    from rag_exp.models.mixture import NEG_INF, doc_logprior

    live_BK = doc_logprior_BK != NEG_INF
    target_BK = doc_logprior(target_score_BK, live_BK)
    return target_BK.where(live_BK, 0.0), doc_logprior_BK.where(live_BK, 0.0), live_BK
