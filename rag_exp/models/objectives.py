"""Every kind of objective there is. A new one is added by naming its module here."""

from __future__ import annotations

from rag_exp.models.distillation import Adist, Emdr2, Ensemble, Loop, PDist
from rag_exp.models.likelihoods import Chain, ClosedBook, Concat, Fid, RagSequence, RagToken
from rag_exp.models.objective import OBJECTIVES, Objective

__all__ = [
    "OBJECTIVES",
    "Adist",
    "Chain",
    "ClosedBook",
    "Concat",
    "Emdr2",
    "Ensemble",
    "Fid",
    "Loop",
    "Objective",
    "PDist",
    "RagSequence",
    "RagToken",
]
