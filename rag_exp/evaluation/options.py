"""What can be chosen about evaluation: which questions, how answers are written, and the setting."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rag_exp.core.options import NEUTRAL, Options


class EvaluationOptions(Options):
    """The evaluation of a trained model.

    ``corpus_size``, ``growth``, ``source`` and ``k`` are the evaluation setting; null takes the training setting's.
    """

    split: str = Field("dev", min_length=1, description="which questions are asked")
    questions: int | None = Field(500, ge=1, description="ask the first so many questions of the split; null: all")
    corpus_size: int | None = Field(None, ge=1, description="passages asked for, as corpus.size")
    growth: Literal["coverage", "distractor"] | None = Field(None, description="as corpus.growth")
    source: Literal["index", "oracle", "random", "none"] | None = Field(None, description="as retrieval.source")
    k: int | None = Field(None, ge=0, description="passages read per question, as retrieval.k")
    decode: Literal["greedy", "none"] = Field(
        "greedy", description="greedy: write an answer (EM and F1 need one); none: only score the given answers"
    )
    max_new_tokens: int = Field(24, ge=1, description="longest answer written; never above prompt.max_answer_tokens")
    max_answers: int = Field(8, ge=1, description="at most so many distinct answers of a question enter nll_any")
    batch_size: Annotated[int, NEUTRAL] = Field(64, ge=1, description="questions read at once")
