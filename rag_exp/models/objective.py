"""What an objective must say: how the reader reads, what that costs in nats, and what teaches the retriever.

To add one: a class derived from :class:`Objective`, registered with ``@OBJECTIVES.register``, its module
named in ``objectives.py``, one file in ``configs/objective``.

The loss of a training step is

    mean over questions of   nll   +   weight * retriever_loss,

where the second term exists only for an objective with ``evidence``, and only where passages are retrieved.
Both terms are sums over a question's passages of terms weighted by probabilities, so that the loss and
its gradient keep their scale whatever K is and whatever the batch.

Shapes: B questions, K passages a question, T target tokens. All values are nats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from rag_exp.core.options import Options, Registry

if TYPE_CHECKING:
    from torch import Tensor

OBJECTIVES = Registry("objective")

# How the reader reads the K passages of a question: each by itself, all in one prompt, each encoded by itself and
# all fused in the decoder, or nothing at all.
ReadingMode = Literal["each", "concat", "fid", "none"]
# What the retriever's term is a function of: nothing (there is no such term), the reader's own per-passage readings,
# a second reading of every passage apart, or of all passages but one, for each one; or what a fusing decoder attends
# to in a second reading of the same rows, by its weights alone or times the norms of the values that they weigh. It is
# always taken without gradients to the reader.
Evidence = Literal["none", "own", "each", "without_one", "attention", "attention_norms"]


class Objective(Options):
    """Base of all objectives.

    Attributes:
        marginal: which marginal over passages answers are written by, where each passage is read by itself.
        hops: passages of each reading: 2 where paths are read, which a second hop of retrieval finds.
        trains_reader: False where the reader stays as it is and the retriever's term is the whole loss.
    """

    marginal: ClassVar[Literal["sequence", "token"]] = "sequence"
    hops: ClassVar[int] = 1
    trains_reader: ClassVar[bool] = True

    @property
    def reading(self) -> ReadingMode:
        """How the reader reads a question's passages, in training and when asked."""
        return "each"

    @property
    def evidence(self) -> Evidence:
        """What the retriever's term is a function of."""
        return "none"

    @property
    def attends(self) -> bool:
        """Whether the evidence is the attention of the reader's decoder, on the rows that it reads anyway."""
        return self.evidence in ("attention", "attention_norms")

    @property
    def retriever_weight(self) -> float:
        """What the retriever's term is multiplied by in the loss."""
        return 1.0

    def in_one_prompt(self, k: int) -> int:
        """Passages that stand in one prompt, of ``k`` passages (or paths) that go with a question."""
        return {"each": self.hops * min(k, 1), "concat": k, "fid": min(k, 1), "none": 0}[self.reading]

    def prompts(self, k: int) -> int:
        """Prompts a question, of ``k`` passages (or paths) that go with it."""
        return max(k, 1) if self.reading in ("each", "fid") else 1

    @property
    def needs_encoder(self) -> bool:
        """Whether the reader must be a sequence-to-sequence model."""
        return self.reading == "fid"

    @property
    def together(self) -> bool:
        """Whether one reading of a question sees all its passages."""
        return self.reading in ("concat", "fid")

    def nll(self, token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor:
        """Nats per answer, shape [B]: what evaluation reports, and what trains the reader.

        Args:
            token_logp_BKT: log-probability of each target token, of each reading; K = 1 unless each is read by itself.
            doc_logprior_BK: log p(z|x), -inf for masked passages; zeros [B, 1] where there is one reading.
            target_mask_BT: True at the target's tokens, end token included.

        Raises:
            DataError: a row without a target token or, for marginals, without a passage.
        """
        raise NotImplementedError

    def retriever_loss(self, evidence_BK: Tensor, doc_logprior_BK: Tensor) -> Tensor:
        """The term that trains the retriever alone, in nats, shape [B]; asked only where there is ``evidence``.

        Args:
            evidence_BK: what the reader says of each passage, a logarithm; without gradients.
            doc_logprior_BK: log p(z|x), -inf for masked passages; the gradient flows here.

        Raises:
            DataError: a row without a passage.
        """
        raise NotImplementedError

    def log_posterior(self, token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor | None:
        """log p(z|x,y), shape [B, K], one passage explaining the whole answer; None where they are read together."""
        if self.reading != "each":
            return None
        from rag_exp.models.marginalize import sequence_posterior

        return sequence_posterior(token_logp_BKT, doc_logprior_BK, target_mask_BT)
