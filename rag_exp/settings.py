"""What a model is trained with and what it is asked with: known before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rag_exp.config import RunConfig
from rag_exp.core.options import SEARCH
from rag_exp.retrieval.hop2 import SecondHop

SCORED = ("index", "run")  # sources whose passages come with scores


@dataclass(frozen=True)
class Setting:
    """What a model is trained with or asked with."""

    size: int | None
    growth: str
    index: Any
    source: str
    k: int
    hop2: SecondHop | None = None
    shards: int = 1
    null: bool = False  # whether the question alone is one of its readings, beside what was found

    @property
    def prompts(self) -> int:
        """Passages (with a second hop: paths) that go with a question, a null document among them."""
        return self.k + self.null if self.hop2 is None else self.hop2.paths

    @property
    def may_fall_short(self) -> bool:
        """Whether some question may get fewer passages than others."""
        return self.source in ("oracle", "run") or (self.source == "index" and self.index.kind != "flat")

    @property
    def scored(self) -> bool:
        """Whether its passages come with scores, for a prior to weigh."""
        return self.source in SCORED

    @property
    def uses_vectors(self) -> bool:
        return self.source == "index" and self.index.needs != "texts"

    @property
    def selected(self) -> bool:
        """Whether a smaller corpus is searched by selecting its passages in an index over the whole one.

        The whole corpus needs no selection, nor does an index that reads the vectors themselves: there it is one run.
        """
        vectors = self.source == "index" and self.index.needs == "vectors"
        return vectors and self.size is not None and self.index.built == "once" and self.index.stores_vectors

    @property
    def indexed_size(self) -> int | None:
        """The corpus size that the index is built over."""
        return None if self.selected else self.size

    @property
    def search_identity(self) -> dict[str, Any]:
        """What of the setting's index identifies a search of it."""
        selected = {"selected": self.size} if self.selected else {}
        settled = self.index.splits_exactly and self.index.stores_vectors  # ties at rank k; they once were not
        return {"search": self.index.searched_by(), **({"ties": "lowest ids"} if settled else {}), **selected}

    @property
    def index_identity(self) -> dict[str, Any]:
        """What of the setting identifies its index, beside the passages it holds."""
        cut = {"shards": self.shards} if self.shards > 1 and not self.index.splits_exactly else {}
        return {"index": self.index.identity(SEARCH), "size": self.indexed_size, **cut}


def settings(config: RunConfig) -> tuple[Setting, Setting]:
    """The training setting, and the evaluation setting: the same but for what ``evaluation`` names."""
    known = known_size(config)

    def size(asked: int | None) -> int | None:
        # All is all, however it is written: a size beyond the corpus must not be another run.
        return None if asked is not None and known is not None and asked >= known else asked

    null = config.retriever.null_document != "none"
    source = config.retrieval.source
    train = Setting(
        size=size(config.corpus.size),
        growth=config.corpus.growth,
        index=config.index,
        source=source,
        k=config.retrieval.k if source != "none" else 0,
        hop2=config.retrieval.hop2 if source != "none" else None,
        shards=config.retrieval.shards,
        null=null and source in SCORED,
    )
    e = config.evaluation
    source = e.source or train.source
    k = e.k if e.k is not None else config.retrieval.k
    asked = Setting(
        size=size(e.corpus_size) if e.corpus_size is not None else train.size,
        growth=e.growth or train.growth,
        index=e.index if e.index is not None else train.index,
        source=source,
        k=k if source != "none" else 0,
        hop2=_asked_hop2(config) if source != "none" else None,
        shards=config.retrieval.shards,
        null=null and source in SCORED,
    )
    return train, asked


def _asked_hop2(config: RunConfig) -> SecondHop | None:
    e, hop2 = config.evaluation, config.retrieval.hop2
    named = {name: value for name, value in (("j", e.j), ("paths", e.paths)) if value is not None}
    return hop2.model_copy(update=named) if hop2 is not None else None


def known_size(config: RunConfig) -> int | None:
    """Passages of the whole corpus, where that is known before anything is read (chunking changes their number)."""
    if config.passages.kind != "whole" or config.corpus.problems():
        return None
    return config.corpus.count()
