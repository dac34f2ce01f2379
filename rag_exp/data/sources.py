"""What a corpus and a question source are: the records they yield and the options every kind shares.

A kind of corpus is a frozen options class that can stream its documents; a kind of question source is
one that can stream its questions. Both say what is wrong with their input before any work
(:meth:`CorpusOptions.problems`) and what their content is (:meth:`CorpusOptions.content`), so that a
run is identified by the data it reads and not by where they lie: fields that hold paths are NEUTRAL.

To add a kind: subclass, register, name its module in the imports of ``rag_exp.config``, add a YAML to its config group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.options import SEARCH, Options, Registry


@dataclass(frozen=True, slots=True)
class Passage:
    """One unit of retrieval. ``id`` is unique in its corpus."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """Passages that enter a corpus together, in their own order. ``id`` is unique in its corpus."""

    id: str
    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        id: unique among the source's questions, over all splits.
        question: its wording.
        answers: accepted answers; the first is the training target. Empty where only passages are judged.
        gold_ids: ids of the passages that hold the answer, one per hop, in hop order; empty where unknown.
        split: "train", "dev", "test" or any other name.
        hops: passages that must be read together to answer.
        template: which kind of question it is; "" where the source does not tell kinds apart.
        entropy: H(answer | question) under the process that made the question, in nats; None where unknown.
        entropy_given_gold: H(answer | question, gold passages), in nats; None where unknown.
        choices: answers to choose among, an accepted one among them, where the question is asked so; else empty.
        grades: how relevant each of ``gold_ids`` is, above 0; empty where the source does not grade (all count 1).
    """

    id: str
    question: str
    answers: tuple[str, ...]
    gold_ids: tuple[str, ...] = ()
    split: str = "train"
    hops: int = 1
    template: str = ""
    entropy: float | None = None
    entropy_given_gold: float | None = None
    choices: tuple[str, ...] = ()
    grades: tuple[float, ...] = ()


CORPORA = Registry("corpus")
QUESTIONS = Registry("questions")


class CorpusOptions(Options):
    """Base of every corpus kind. ``size``, ``growth``, ``order_seed`` and ``distractors`` are applied by the passages
    step."""

    size: Annotated[int | None, SEARCH] = Field(
        None, ge=1, description="number of passages asked for (the longest prefix of whole documents); null takes all"
    )
    growth: Literal["coverage", "distractor"] = Field(
        "coverage",
        description="coverage: gold passages enter as the corpus grows; distractor: documents with gold come first",
    )
    order_seed: int = Field(0, ge=0, description="seed of the hash order of documents, whose prefixes are the corpora")
    distractors: Literal["any", "bm25", "dense"] = Field(
        "any",
        description="growth=distractor: which documents come after those with gold; any: hash order; bm25, dense: "
        "first those that BM25, or vectors of distractors_encoder, find near the questions, the nearest first",
    )

    def identity(self, *leave_out: str) -> dict[str, Any]:
        found = super().identity(*leave_out)
        if self.growth == "coverage" or self.distractors == "any":
            del found["distractors"]  # nothing is ordered by it, as in every corpus before there was a choice
        return found

    @property
    def nearest_first(self) -> bool:
        """Whether distractors come in the order of how near they are to the questions."""
        return self.growth == "distractor" and self.distractors != "any"

    def problems(self) -> list[str]:
        """What can be seen to be wrong without work (a missing file or package): finished sentences naming the key."""
        return []

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        """What identifies the source's content (digests of files, a hub revision), as plain JSON.

        Raises:
            DataError: the content is missing or cannot be identified.
        """
        raise NotImplementedError

    def documents(self) -> Iterator[Document]:
        """Stream the documents in the source's own order.

        Raises:
            DataError: the source is missing or malformed.
        """
        raise NotImplementedError

    def count(self) -> int | None:
        """Number of passages the source yields, before chunking, if that is known in under a second; else None."""
        return None


class QuestionOptions(Options):
    """Base of every question source.

    Attributes:
        answered: every question has an answer. Else a search can be judged (``task=retrieval``) and no reader asked.
    """

    answered: ClassVar[bool] = True

    def offers_choices(self) -> bool:
        """Whether every question comes with answers to choose among."""
        return False

    def misfits(self, corpus: CorpusOptions) -> list[str]:
        """Why these questions cannot be asked of ``corpus``, as far as the options tell: finished sentences."""
        return []

    def problems(self) -> list[str]:
        """What can be seen to be wrong without work (a missing file or package): finished sentences naming the key."""
        return []

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        """What identifies the source's content (digests of files, a hub revision), as plain JSON.

        Raises:
            DataError: the content is missing or cannot be identified.
        """
        raise NotImplementedError

    def questions(self) -> Iterator[Question]:
        """Stream the questions in the source's own order.

        Raises:
            DataError: the source is missing or malformed.
        """
        raise NotImplementedError
