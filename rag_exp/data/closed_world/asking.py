"""Questions about a closed world: who is asked about, what, in which words, and the answer.

Question j of a split is a pure function of (world, question seed, split, j). Its kind is uniform over the
chosen kinds, its subject is drawn by popularity (or uniformly) among the entities of the split, its
wording uniformly. Draws are independent and with replacement, so a mean over a split estimates the
expectation under this distribution, and popular entities are asked about more often.

The *seen* split asks train facts again: question j repeats the fact of a random train question. Every
fact has one wording that is kept from the train questions (a hash of the fact says which), and seen
questions use only that one, so no seen question was trained on word for word. Asked without passages,
they measure memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rag_exp.data.closed_world.draws import Ints, Streams
from rag_exp.data.closed_world.entropies import Entropies, share_entropy
from rag_exp.data.closed_world.names import surface
from rag_exp.data.closed_world.question_texts import LINK_PHRASES, QUESTIONS
from rag_exp.data.closed_world.schema import KINDS, MAJORITY, Attribute
from rag_exp.data.closed_world.splits import SEEN
from rag_exp.data.closed_world.statements import sentence
from rag_exp.data.closed_world.world import World, passage_id
from rag_exp.data.sources import Question

_QUESTIONS_AT_ONCE = 16_384


@dataclass(frozen=True, slots=True)
class QuestionKind:
    """What is asked: ``fact`` of the subject, or (two hops) ``fact`` of the entity that ``relation`` leads to."""

    subject: str
    relation: str | None
    holder: str
    fact: str

    @property
    def name(self) -> str:
        """ "person.profession", or "person.birthplace>town.population" for two hops."""
        asked = f"{self.holder}.{self.fact}"
        return asked if self.relation is None else f"{self.subject}.{self.relation}>{asked}"

    @property
    def wordings(self) -> list[str]:
        """Every wording, with one slot ``{s}`` for the subject."""
        asked = QUESTIONS[f"{self.holder}.{self.fact}"]
        if self.relation is None:
            return list(asked)
        inner = LINK_PHRASES[f"{self.subject}.{self.relation}"]
        return [question.format(s=phrase) for question in asked for phrase in inner]


def question_kinds(hops: int) -> list[QuestionKind]:
    """All kinds of questions of one or two hops."""
    found = []
    for kind in KINDS.values():
        if hops == 1:
            found += [QuestionKind(kind.name, None, kind.name, fact.name) for fact in kind.facts]
            continue
        for relation in kind.facts:
            if not isinstance(relation, Attribute):
                found += [
                    QuestionKind(kind.name, relation.name, relation.target, fact.name)
                    for fact in KINDS[relation.target].facts
                ]
    return found


class Asker:
    """The questions of a world.

    Args:
        world: what is asked about.
        kinds: the kinds of questions to ask, all of the same number of hops.
        seed: seed of the choice of questions and of the answers to noisy facts.
        by_popularity: draw subjects by popularity, else uniformly.
        trained: number of train questions, which seen questions repeat.
    """

    def __init__(self, world: World, kinds: list[QuestionKind], seed: int, by_popularity: bool, trained: int):
        self._world, self._kinds, self._by_popularity, self._trained = world, kinds, by_popularity, trained
        self._wordings = [kind.wordings for kind in kinds]
        self._hops = 1 if kinds[0].relation is None else 2
        self._draw = Streams(seed, "closed_world", "questions", self._hops)
        self._entropies = Entropies(world)

    def questions(self, split: str, count: int) -> Iterator[Question]:
        """Stream ``count`` questions of a split ("train", "dev", "test" or "seen")."""
        for start in range(0, count, _QUESTIONS_AT_ONCE):
            yield from self._block(split, np.arange(start, min(start + _QUESTIONS_AT_ONCE, count)))

    def _block(self, split: str, numbers: Ints) -> list[Question]:
        draw = self._draw
        asked_of = "train" if split == SEEN else split
        # A seen question draws its kind and subject as the train question that it repeats.
        source = draw.below("seen/of", numbers, self._trained) if split == SEEN else numbers
        kinds = draw.below(f"{asked_of}/kind", source, len(self._kinds))
        found: list[Question | None] = [None] * len(numbers)
        for index in np.unique(kinds).tolist():
            here = np.flatnonzero(kinds == index)
            questions = self._of_kind(split, asked_of, index, numbers[here], source[here])
            for place, question in zip(here.tolist(), questions, strict=True):
                found[place] = question
        return [question for question in found if question is not None]

    def _of_kind(self, split: str, asked_of: str, index: int, numbers: Ints, source: Ints) -> Iterator[Question]:
        world, draw, kind, wordings = self._world, self._draw, self._kinds[index], self._wordings[index]
        u = draw.uniform(f"{asked_of}/subject", source)
        if self._by_popularity:
            subjects = world.popular(asked_of, kind.subject, u)
        else:
            n = world.count(asked_of, kind.subject)
            subjects = world.members(asked_of, kind.subject, np.minimum((u * n).astype(np.int64), n - 1))
        wording = self._wording(split, kind, subjects, numbers, len(wordings))
        holders = subjects if kind.relation is None else world.link(kind.subject, kind.relation, subjects)
        answers, floors = self._answers(split, kind, holders, numbers)
        names = world.names(kind.subject, subjects)
        entropy = self._entropies.of(asked_of, kind.holder, kind.fact)
        rows = zip(numbers.tolist(), subjects.tolist(), holders.tolist(), wording.tolist(), names, strict=True)
        for i, (number, subject, holder, words, name) in enumerate(rows):
            gold = (passage_id(kind.holder, holder, kind.fact),)
            if kind.relation is not None:
                gold = (passage_id(kind.subject, subject, kind.relation), *gold)
            yield Question(
                id=f"{self._hops}hop-{split}-{number}",
                question=sentence(wordings[words].format(s=surface(kind.subject, name))),
                answers=answers[i],
                gold_ids=gold,
                split=split,
                hops=self._hops,
                template=kind.name,
                entropy=entropy,
                entropy_given_gold=floors[i],
            )

    def _wording(self, split: str, kind: QuestionKind, subjects: Ints, numbers: Ints, n: int) -> Ints:
        kept = self._draw.below(f"{kind.name}/kept", subjects, n)
        if split == SEEN:
            return kept
        if split != "train":
            return self._draw.below(f"{split}/wording", numbers, n)
        others = self._draw.below(f"{split}/wording", numbers, n - 1)
        return others + (others >= kept)

    def _answers(
        self, split: str, kind: QuestionKind, holders: Ints, numbers: Ints
    ) -> tuple[list[tuple[str, ...]], list[float]]:
        """Accepted answers of each question, and their entropies given the gold passages."""
        fact = KINDS[kind.holder].fact(kind.fact)
        if not isinstance(fact, Attribute):
            targets = self._world.link(kind.holder, kind.fact, holders)
            return [(name,) for name in self._world.names(fact.target, targets)], [0.0] * len(numbers)
        drawn = self._world.attribute(kind.holder, kind.fact, holders)
        shares = np.array([float(m) for m in MAJORITY])
        floors = np.array([share_entropy(m) for m in MAJORITY])
        minority = drawn.noisy & (self._draw.uniform(f"{split}/answer", numbers) >= shares[drawn.majority])
        values = np.where(minority, drawn.other, drawn.value)
        given_gold = np.where(drawn.noisy, floors[drawn.majority], 0.0)
        return [fact.answers(v) for v in values.tolist()], given_gold.tolist()
