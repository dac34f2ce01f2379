"""What training minimises: how the K passages of a question become one loss.

An objective maps the reader's log-probabilities to nats per answer, shape [B]; the training loss is
their mean over questions, so its scale depends neither on K nor on the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from rag_exp.core.options import Options, Registry

if TYPE_CHECKING:
    from torch import Tensor

OBJECTIVES = Registry("objective")


class Objective(Options):
    """Base of all objectives.

    Attributes:
        joint: True where the reader sees all K passages of a question in one prompt; False where it
            reads each by itself and the objective combines the K results.
    """

    joint: ClassVar[bool] = False

    def nll(self, token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor:
        """Nats per answer, shape [B].

        Args:
            token_logp_BKT: log-probability of each target token; K = 1 for a joint objective.
            doc_logprior_BK: log p(z|x), -inf for masked passages; a joint objective does not read it.
            target_mask_BT: True at the target's tokens, end token included.

        Raises:
            DataError: a row without a target token or, for marginals, without a passage.
        """
        raise NotImplementedError

    def log_posterior(self, token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor | None:
        """log p(z|x,y), shape [B, K], one passage explaining the whole answer; None for joint reading."""
        from rag_exp.models.marginalize import sequence_posterior

        return sequence_posterior(token_logp_BKT, doc_logprior_BK, target_mask_BT)


@OBJECTIVES.register
class RagSequence(Objective):
    """Marginalise over passages once per answer (Lewis et al. 2020, RAG-Sequence)."""

    kind: Literal["rag_sequence"] = "rag_sequence"

    def nll(self, token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor:
        from rag_exp.models.marginalize import rag_sequence_nll

        return rag_sequence_nll(token_logp_BKT, doc_logprior_BK, target_mask_BT)


@OBJECTIVES.register
class RagToken(Objective):
    """Marginalise over passages at every token (Lewis et al. 2020, RAG-Token)."""

    kind: Literal["rag_token"] = "rag_token"

    def nll(self, token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor:
        from rag_exp.models.marginalize import rag_token_nll

        return rag_token_nll(token_logp_BKT, doc_logprior_BK, target_mask_BT)


@OBJECTIVES.register
class Concat(Objective):
    """No marginal: all K passages stand in one prompt (in-context retrieval). Trains no retriever."""

    kind: Literal["concat"] = "concat"
    joint: ClassVar[bool] = True

    def nll(self, token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor:
        from rag_exp.models.marginalize import sequence_logp

        assert token_logp_BKT.shape[1] == 1, "a joint objective gets one reading per question"
        return -sequence_logp(token_logp_BKT, target_mask_BT)[:, 0]

    def log_posterior(self, token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> None:
        return None
