"""A corpus cut into shards that are searched as one.

Shard i of S holds the passages [i n / S, (i + 1) n / S) of the n there are, in an index of its own, and answers with
the corpus's ids. Lists and codes are learnt once, from all passages, so that shards of an index that splits exactly
(:attr:`IndexOptions.splits_exactly`) find together what one index finds. A graph links passages: its shards are
graphs of their own, which is another index, and usually a better one, as each of them is searched.

A query is asked of every shard, and the answers are merged (:func:`rag_exp.retrieval.results.merge`). A shard that does
not answer is an error that names it: a partial answer is none. In a search that is held to the first passages, only the
shards that hold any of them are asked, the last of these held to its own first ones.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rag_exp.core.errors import DataError
from rag_exp.retrieval.embeddings import load_blocks
from rag_exp.retrieval.index import BuiltIndex, IndexOptions
from rag_exp.retrieval.results import SearchResult, merge

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Share:
    """Which passages shard ``number`` of ``shards`` holds, of a corpus of ``size``."""

    number: int
    shards: int
    size: int

    @property
    def first(self) -> int:
        return self.number * self.size // self.shards

    @property
    def end(self) -> int:
        return (self.number + 1) * self.size // self.shards

    def __str__(self) -> str:
        held = f"passages {self.first} to {self.end - 1}" if self.end > self.first else "no passages"
        return f"shard {self.number + 1} of {self.shards} ({held})"

    def of(self, blocks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The share's rows of the corpus's ``blocks``, as views."""
        found, start = [], 0
        for block in blocks:
            part = block[max(0, self.first - start) : max(0, self.end - start)]
            if len(part):
                found.append(part)
            start += len(block)
        return found


@dataclass(frozen=True)
class ShardPlace:
    """Where a shard lies: all that any process that sees the store needs to open it, and to open it again.

    Attributes:
        share: the passages it holds.
        options: of the index.
        folder: what :meth:`BuiltIndex.save` wrote; None for an index that reads the embeddings where they lie.
        embeddings: the folders of the corpus's embeddings, in order, for such an index.
        trained: what all shards were filled from, saved, where there is such a thing.
        selected: how many of the corpus's passages a search is held to, some of them the shard's; None: all.
    """

    share: Share
    options: IndexOptions
    folder: Path | None = None
    embeddings: tuple[Path, ...] = ()
    trained: Path | None = None
    selected: int | None = None

    def open(self) -> Shard:
        """The shard, ready to be searched.

        Raises:
            DataError: it is missing, broken, or holds other passages; the shard is named.
        """
        try:
            if self.folder is not None:
                index = self.options.load(self.folder)
            else:
                index = self.options.create(self.share.of(load_blocks(self.embeddings, self.share.end)), 0)
        except DataError as e:
            raise DataError(f"{self.share} cannot be opened. {e}") from e
        if index.size != self.share.end - self.share.first:
            raise DataError(f"{self.share} holds {index.size} passages. Delete {self.folder} and build it again.")
        if self.selected is not None and self.selected < self.share.end:
            index.select(self.selected - self.share.first)
        return Shard(self.share, index)


@dataclass(frozen=True)
class ShardJob:
    """What any process that sees the store needs to build a shard.

    Attributes:
        share: the passages it will hold.
        options: of the index.
        trained: what :meth:`IndexOptions.train` made, saved; None for an index that does not split exactly.
        embeddings: the folders of the corpus's embeddings, in order.
        folder: where the shard is saved.
        seed: of an index that is not filled from what was learnt before.
    """

    share: Share
    options: IndexOptions
    trained: Path | None
    embeddings: tuple[Path, ...]
    folder: Path
    seed: int

    def build(self) -> dict[str, Any]:
        """Build the shard, save it, and return its stats.

        Raises:
            DataError: what the index or the embeddings say is wrong; the shard is named.
        """
        try:
            content = self.share.of(load_blocks(self.embeddings, self.share.end))
            if self.trained is None:
                index = self.options.create(content, self.seed)
            else:
                index = self.options.load(self.trained)
                index.add(content)
        except DataError as e:
            raise DataError(f"{self.share} cannot be built. {e}") from e
        index.save(self.folder)
        return index.stats()


class Question(NamedTuple):
    """What every shard is asked, at once for many queries.

    Attributes:
        queries: vectors [Q, D].
        k: passages wanted.
        dial: what the index is turned to before; None: it stays as it is. A shard may be new, so it is told each time.
        assigned: the lists that the queries look into, where they are the same in every shard.
    """

    queries: np.ndarray
    k: int
    dial: int | None = None
    assigned: Any = None


class Answer(NamedTuple):
    """What a shard found, by the corpus's ids, and the vectors it compared (None where it does not tell)."""

    result: SearchResult
    distances: int | None


class Facts(NamedTuple):
    """What an open shard is."""

    is_exact: bool
    exact_scores: bool
    compares_codes: bool
    stats: dict[str, Any]


class Shard:
    """An open shard: the same in this process and in another."""

    def __init__(self, share: Share, index: BuiltIndex):
        self._share, self._index = share, index

    def search(self, asked: Question) -> Answer:
        """The best of the shard's passages for each query."""
        import numpy as np

        if asked.dial is not None and self._index.size:
            self._index.turn(asked.dial)
        known = {} if asked.assigned is None else {"assigned": asked.assigned}
        found = self._index.search(asked.queries, asked.k, **known)
        ids_QK = np.where(found.mask_QK, found.ids_QK + self._share.first, found.ids_QK)
        return Answer(SearchResult.of(ids_QK, found.scores_QK, asked.k), self._index.distances)

    def facts(self) -> Facts:
        index = self._index
        return Facts(index.is_exact, index.exact_scores, index.compares_codes, index.stats())


class ShardedIndex(BuiltIndex):
    """Shards asked together. Subclasses say how a shard is reached.

    Args:
        places: of all shards of one corpus that a search may find passages in, in order.
        facts: of each of them.
    """

    def __init__(self, places: Sequence[ShardPlace], facts: Sequence[Facts]):
        assert [p.share.number for p in places] == list(range(len(places)))
        last = places[-1]
        assert last.share.end >= (last.share.size if last.selected is None else last.selected)
        self.size = last.share.size  # as one index that is held to a prefix: of all it holds
        self.is_exact = all(f.is_exact for f in facts)
        self.exact_scores = all(f.exact_scores for f in facts)
        self.compares_codes = any(f.compares_codes for f in facts)
        self._stats = sharded_stats([f.stats for f in facts])
        self._dial: int | None = None
        options, trained = places[0].options, places[0].trained
        self._lists: Any = options.load(trained) if options.assigns and trained is not None and self.size else None

    @abstractmethod
    def ask(self, question: Question) -> Sequence[Answer]:
        """The answer of every shard, in their order.

        Raises:
            DataError: a shard does not answer; it is named.
        """

    def search(self, queries: np.ndarray, k: int) -> SearchResult:
        assigned = None if self._lists is None or not len(queries) else self._lists.assign(queries)
        answers = self.ask(Question(queries, k, self._dial, assigned))
        counts = [a.distances for a in answers]
        self.distances = None if None in counts else sum(c for c in counts if c is not None)
        if self.distances is not None and assigned is not None:  # the centroids were looked through once
            self.distances -= (len(answers) - 1) * len(queries) * self._stats["nlist"]
        return merge([a.result for a in answers], k)

    def turn(self, value: int) -> None:
        self._dial = value
        if self._lists is not None:
            self._lists.turn(value)

    def save(self, folder: Path) -> None:
        raise NotImplementedError("every shard was saved when it was built (ShardJob.build); there is nothing more")

    def stats(self) -> dict[str, Any]:
        return dict(self._stats)


class LocalShards(ShardedIndex):
    """Shards in this process, asked one after the other.

    Raises:
        DataError: a shard cannot be opened; it is named.
    """

    def __init__(self, places: Sequence[ShardPlace]):
        self._shards = [place.open() for place in places]
        super().__init__(places, [shard.facts() for shard in self._shards])

    def ask(self, question: Question) -> list[Answer]:
        return [shard.search(question) for shard in self._shards]


def sharded_stats(shards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stats of all shards as one index: what counts is added up, but learning once, which every shard was told of."""
    total = dict(max(shards, key=lambda s: s["passages"]))  # an empty shard does not know the dimensions
    for name in ("passages", "bytes", "build_flops"):
        parts = [s[name] for s in shards]
        total[name] = None if None in parts else sum(parts)
    if total["build_flops"] is not None:
        total["build_flops"] -= (len(shards) - 1) * total.get("train_flops", 0)
    return total | {"reproducible": all(s["reproducible"] for s in shards), "shards": len(shards)}
