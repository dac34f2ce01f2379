"""A corpus of numbered points and queries without words, for studies of an index at sizes that no text here has.

``corpus=points questions=points encoder=points``: the encoder turns a number into a vector (``retrieval/points.py``),
so that everything after it, from shards to records, is what a corpus of texts would see.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from rag_exp.core.fingerprint import ContentDigests
from rag_exp.data.sources import CORPORA, QUESTIONS, CorpusOptions, Document, Passage, Question, QuestionOptions


@CORPORA.register
class PointsCorpus(CorpusOptions):
    """Points, each a document of its own."""

    kind: Literal["points"] = "points"
    points: int = Field(100_000, ge=1, description="how many there are")

    def problems(self) -> list[str]:
        if self.growth == "distractor":
            return ["corpus.growth: distractor: no query of points has gold points to keep; use coverage."]
        if self.distractors != "any":
            return [f"corpus.distractors: {self.distractors}: points have no words to be near by; use any."]
        return []

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        return {}

    def documents(self) -> Iterator[Document]:
        for number in range(self.points):
            yield Document(str(number), (Passage(str(number), "", str(number)),))

    def count(self) -> int | None:
        return self.points


@QUESTIONS.register
class PointsQuestions(QuestionOptions):
    """Queries that are points, too, and no point of the corpus."""

    answered: ClassVar[bool] = False

    kind: Literal["points"] = "points"
    queries: int = Field(1_000, ge=1, description="how many are asked")
    split: str = Field("dev", min_length=1, description="the split that those are")
    tuning: int = Field(512, ge=0, description="further ones, of the train split: index.mode=iso_recall tunes on them")

    def misfits(self, corpus: CorpusOptions) -> list[str]:
        if isinstance(corpus, PointsCorpus):
            return []
        return ["questions: points are asked of points; use corpus=points, or questions that belong to the corpus."]

    def problems(self) -> list[str]:
        if self.split == "train" and self.tuning:
            return ["questions.split: train: there are the queries of questions.tuning; name it otherwise."]
        return []

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        return {}

    def questions(self) -> Iterator[Question]:
        for number in range(self.queries + self.tuning):
            split = self.split if number < self.queries else "train"
            yield Question(f"query {number}", str(number), (), split=split)
