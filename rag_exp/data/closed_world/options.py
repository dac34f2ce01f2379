"""The options of the closed world: ``corpus: closed_world`` and ``questions: closed_world`` describe one world."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from rag_exp.core.errors import did_you_mean
from rag_exp.core.fingerprint import ContentDigests, digest
from rag_exp.core.options import Options
from rag_exp.data.closed_world.schema import KINDS, PASSAGES_PER_BLOCK
from rag_exp.data.closed_world.splits import blocks_per_split
from rag_exp.data.sources import CORPORA, QUESTIONS, CorpusOptions, Document, Question, QuestionOptions

if TYPE_CHECKING:
    from rag_exp.data.closed_world.world import World

VERSION = 1  # of the process; the wordings and value lists are identified by their digest
_MAX_PASSAGES = 500_000_000  # 4.2 million blocks of eight people: the name space holds 16.8 million pairs


class WorldOptions(Options):
    """A closed world. Corpus and questions must agree on every field, or gold ids point nowhere."""

    passages: int = Field(
        30_000,
        ge=PASSAGES_PER_BLOCK,
        le=_MAX_PASSAGES,
        description="passages in the world, rounded down to whole blocks of 120 (20 entities of 6 facts)",
    )
    world_seed: int = Field(0, ge=0, description="seed of names, facts, links, noise and wording")
    zipf: float = Field(
        1.0, ge=0, le=3, description="popularity of the r-th entity of a kind ~ r**-zipf: how often it is linked to"
    )
    near_duplicates: float = Field(
        0.25, ge=0, le=1, description="share of entities whose name shares all but one part with another's"
    )
    noisy_share: float = Field(
        0.25, ge=0, le=1, description="share of attribute facts whose passage gives a distribution of two values"
    )
    dev_share: float = Field(0.1, ge=0, lt=1, description="share of the blocks in the dev split; links stay in a split")
    test_share: float = Field(0.1, ge=0, lt=1, description="share of the blocks in the test split")

    @model_validator(mode="after")
    def _every_split_has_a_block(self) -> WorldOptions:
        if self.dev_share + self.test_share >= 1:
            raise ValueError(
                f"dev_share ({self.dev_share}) and test_share ({self.test_share}) leave nothing to train on: "
                "their sum must be below 1."
            )
        shares = {"train": 1.0, "dev": self.dev_share, "test": self.test_share}
        held = self.blocks_per_split()
        empty = [split for split, share in shares.items() if share > 0 and held[split] == 0]
        if empty:
            raise ValueError(
                f"passages={self.passages} is {self.passages // PASSAGES_PER_BLOCK} blocks of {PASSAGES_PER_BLOCK}, "
                f"too few for the split {' and '.join(empty)}: ask for more passages, or change dev_share, test_share."
            )
        return self

    def blocks_per_split(self) -> dict[str, int]:
        """Number of blocks in each split."""
        return blocks_per_split(self.passages // PASSAGES_PER_BLOCK, self.dev_share, self.test_share)

    def world(self) -> World:
        """The world these options describe (imports numpy)."""
        from rag_exp.data.closed_world.world import World

        return World(**{name: getattr(self, name) for name in WorldOptions.model_fields})


def _content() -> dict[str, Any]:
    from rag_exp.data.closed_world import names, question_texts, statements

    facts = {
        f"{kind.name}.{fact.name}": [fact.values, fact.skew, fact.unit] if hasattr(fact, "values") else fact.target
        for kind in KINDS.values()
        for fact in kind.facts
    }
    texts = [
        statements.STATEMENTS,
        statements.NOISY_STATEMENTS,
        statements.ATTRIBUTE_PHRASES,
        list(statements.SHARES.values()),
        question_texts.QUESTIONS,
        question_texts.LINK_PHRASES,
    ]
    return {"generator": "closed_world", "version": VERSION, "tables": digest([facts, texts, names.tables()])}


@CORPORA.register
class ClosedWorldCorpus(WorldOptions, CorpusOptions):
    """A generated corpus of people, works, organisations, towns and regions: a passage per fact of an entity."""

    kind: Literal["closed_world"] = "closed_world"

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        """The generator's version and the digest of its wordings; the fields say the rest."""
        return _content()

    def documents(self) -> Iterator[Document]:
        """Stream the documents, block by block of the world."""
        return self.world().documents()

    def count(self) -> int:
        """Exact number of passages."""
        return self.passages // PASSAGES_PER_BLOCK * PASSAGES_PER_BLOCK


@QUESTIONS.register
class ClosedWorldQuestions(WorldOptions, QuestionOptions):
    """Questions about a closed world, with exact entropies.

    Splits: train, dev and test are disjoint in subjects, linking entities and links; seen asks facts that
    train questions ask, in a wording kept from them (see :mod:`.asking`).
    """

    kind: Literal["closed_world"] = "closed_world"
    hops: Literal[1, 2] = Field(1, description="passages that must be read together")
    kinds: tuple[str, ...] = Field(
        (), description='kinds of questions ("person.profession", "work.author>person.colour"); none means all'
    )
    asked: Literal["popularity", "uniform"] = Field("popularity", description="how subjects are drawn within a split")
    question_seed: int = Field(0, ge=0, description="seed of what is asked and of the answers to noisy facts")
    train: int = Field(20_000, ge=0, description="number of train questions")
    dev: int = Field(1_000, ge=0, description="number of dev questions")
    test: int = Field(2_000, ge=0, description="number of test questions")
    seen: int = Field(1_000, ge=0, description="number of questions that ask train facts in other words")

    @model_validator(mode="after")
    def _askable(self) -> ClosedWorldQuestions:
        if self.seen and not self.train:
            raise ValueError(f"seen={self.seen} questions repeat the facts of train questions, but train=0.")
        held = self.blocks_per_split()
        for split in ("dev", "test"):
            if getattr(self, split) and not held[split]:
                raise ValueError(f"{split}={getattr(self, split)} questions, but {split}_share=0 holds no entities.")
        return self

    def misfits(self, corpus: CorpusOptions) -> list[str]:
        """Fields in which the two describe different worlds."""
        if not isinstance(corpus, WorldOptions):
            return [
                f"questions: closed_world asks about the generated world; use corpus=closed_world, not {corpus.kind}."
            ]  # type: ignore[attr-defined]
        return [
            f"questions.{name}: {getattr(self, name)!r}, but corpus.{name} is {getattr(corpus, name)!r}: "
            "both must describe one world. Set it on the corpus alone; the questions follow."
            for name in WorldOptions.model_fields
            if getattr(self, name) != getattr(corpus, name)
        ]

    def problems(self) -> list[str]:
        """Names in ``kinds`` that are no kind of question of this number of hops."""
        if not self.kinds:
            return []
        from rag_exp.data.closed_world.asking import question_kinds

        known = [kind.name for kind in question_kinds(self.hops)]
        return [
            f"questions.kinds: no {self.hops}-hop question is of the kind {name!r}.{did_you_mean(name, known)}"
            for name in self.kinds
            if name not in known
        ]

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        """The generator's version and the digest of its wordings; the fields say the rest."""
        return _content()

    def questions(self) -> Iterator[Question]:
        """Stream the questions: train, dev, test, seen."""
        from rag_exp.core.errors import ConfigError
        from rag_exp.data.closed_world.asking import Asker, question_kinds

        if problems := self.problems():
            raise ConfigError(problems)
        kinds = [kind for kind in question_kinds(self.hops) if not self.kinds or kind.name in self.kinds]
        asker = Asker(self.world(), kinds, self.question_seed, self.asked == "popularity", self.train)
        for split in ("train", "dev", "test", "seen"):
            yield from asker.questions(split, getattr(self, split))
