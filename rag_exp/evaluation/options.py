"""What can be chosen about evaluation: which questions, how answers are written, and the setting."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from rag_exp.core.options import NEUTRAL, Options

# What each way of decoding reads beside max_new_tokens; of the others it is not in the identity.
DECODING = {
    "greedy": (),
    "beam": ("beam", "length_penalty"),
    "fast": ("beam", "length_penalty"),
    "thorough": ("beam", "length_penalty"),
    "choices": ("length_penalty", "choices"),
    "none": (),
}


class EvaluationOptions(Options):
    """The evaluation of a trained model.

    ``corpus_size``, ``growth``, ``source``, ``k``, ``j`` and ``paths`` are the evaluation setting; null takes the
    training setting's.
    """

    split: str = Field("dev", min_length=1, description="which questions are asked")
    questions: int | None = Field(500, ge=1, description="ask the first so many questions of the split; null: all")
    corpus_size: int | None = Field(None, ge=1, description="passages asked for, as corpus.size")
    growth: Literal["coverage", "distractor"] | None = Field(None, description="as corpus.growth")
    source: Literal["index", "run", "oracle", "random", "none"] | None = Field(None, description="as retrieval.source")
    k: int | None = Field(None, ge=0, description="passages read per question, as retrieval.k")
    j: int | None = Field(None, ge=1, description="as retrieval.hop2.j")
    paths: int | None = Field(None, ge=1, description="as retrieval.hop2.paths")
    decode: Literal["greedy", "beam", "fast", "thorough", "choices", "none"] = Field(
        "greedy",
        description="how an answer is written (EM and F1 need one): greedy; beam: beam search (rag_token, or one "
        "reading); fast, thorough: RAG-Sequence over beams of each passage (Lewis et al. 2020, section 2.5); choices: "
        "the best of each question's choices, or of evaluation.choices; none: only score the given answers",
    )
    beam: int = Field(4, ge=1, description="hypotheses that beam, fast and thorough keep; 1 is greedy")
    length_penalty: float = Field(
        0.0,
        ge=0,
        description="log-probabilities of hypotheses, or choices, are divided by length ** this; 0: as they are",
    )
    choices: tuple[str, ...] | None = Field(
        None, description="answers that decode=choices ranks for every question; null: each question's own"
    )
    max_new_tokens: int = Field(24, ge=1, description="longest answer written; never above prompt.max_answer_tokens")
    max_answers: int = Field(8, ge=1, description="at most so many distinct answers of a question enter nll_any")
    batch_size: Annotated[int, NEUTRAL] = Field(64, ge=1, description="questions read at once")

    @field_validator("choices")
    @classmethod
    def _choices(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (len(set(value)) < 2 or len(set(value)) < len(value) or "" in value):
            raise ValueError("needs at least two answers, all different and none empty")
        return value

    def identity(self, *leave_out: str) -> dict[str, Any]:
        """The identity, without what this way of decoding does not read."""
        unread = {name for names in DECODING.values() for name in names} - set(DECODING[self.decode])
        found = {name: value for name, value in super().identity(*leave_out).items() if name not in unread}
        if self.decode == "choices":
            found["choice_logp"] = "undivided"  # what is kept of each choice; it once was what they are ranked by
        return found
