"""Objectives of one term: the answer's likelihood, by what the reader reads and how K readings become one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from rag_exp.models.objective import OBJECTIVES, Objective, ReadingMode

if TYPE_CHECKING:
    from torch import Tensor


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
    marginal: ClassVar[Literal["sequence", "token"]] = "token"

    def nll(self, token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor:
        from rag_exp.models.marginalize import rag_token_nll

        return rag_token_nll(token_logp_BKT, doc_logprior_BK, target_mask_BT)


@OBJECTIVES.register
class Chain(Objective):
    """Marginalise over paths of two passages, the second found with the help of the first; each path is read by itself.

    Goes with ``retrieval.hop2``, which finds the paths. Where no passages are read it is the answer's likelihood.
    """

    hops: ClassVar[int] = 2
    kind: Literal["chain"] = "chain"
    prior: Literal["local", "global"] = Field(
        "local", description="local: a softmax over each hop's passages; global: one over all paths"
    )
    unit: Literal["sequence", "token"] = Field(
        "sequence", description="one path explains the whole answer, or each token may come from another"
    )
    renormalize: bool = Field(
        False, description="make the prior of the paths that are read sum to one; else the NLL bounds that of all"
    )

    @property
    def marginal(self) -> Literal["sequence", "token"]:  # type: ignore[override]
        return self.unit

    def nll(self, token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor:
        from rag_exp.models.mixture import mixture_nll

        return mixture_nll(token_logp_BKT, doc_logprior_BK, target_mask_BT, self.unit)


class OneReading(Objective):
    """Base of the objectives with one reading per question, and so with no marginal and no prior."""

    def nll(self, token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor:
        return one_reading_nll(token_logp_BKT, target_mask_BT)


@OBJECTIVES.register
class Concat(OneReading):
    """No marginal: all K passages stand in one prompt (in-context retrieval). Trains no retriever."""

    kind: Literal["concat"] = "concat"

    @property
    def reading(self) -> ReadingMode:
        return "concat"


@OBJECTIVES.register
class Fid(OneReading):
    """No marginal: each passage is encoded by itself, the decoder attends to all (Izacard and Grave 2021, FiD).

    Needs a reader with an encoder. Trains no retriever.
    """

    kind: Literal["fid"] = "fid"

    @property
    def reading(self) -> ReadingMode:
        return "fid"


@OBJECTIVES.register
class ClosedBook(OneReading):
    """No passages: the reader answers from its weights, -log p(y|x). Goes with ``retrieval.source=none``."""

    kind: Literal["closed_book"] = "closed_book"

    @property
    def reading(self) -> ReadingMode:
        return "none"


def one_reading_nll(token_logp_B1T: Tensor, target_mask_BT: Tensor) -> Tensor:
    """Nats per answer, shape [B], where the reader reads a question once."""
    from rag_exp.models.marginalize import sequence_logp

    assert token_logp_B1T.shape[1] == 1, "an objective with one reading per question gets one"
    return -sequence_logp(token_logp_B1T, target_mask_BT)[:, 0]
