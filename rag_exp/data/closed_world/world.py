"""The generating process: from (seed, options) to any entity's split, name, facts and passages.

The world grows by blocks of twenty entities (:mod:`.schema`). Block c belongs to one split, by a fixed
interleaving; the entities of kind e in block c have the ranks c*n_e .. (c+1)*n_e - 1, n_e per block. All
that concerns one entity -- name, attributes, which facts are noisy, wording -- is a pure function of
(world options without ``passages``, kind, rank), so that a world is a prefix of any larger one in these.
Links are drawn by popularity among *all* entities of the same split, so they depend on the world's size.

Laws, all draws independent:

* attribute: v ~ prior; with probability ``noisy_share`` the fact is noisy: w ~ prior given w != v, the
  majority's share m uniform over ``MAJORITY``; each time the fact is asked the answer is v with
  probability m, w otherwise. If the fact is not noisy the answer is v.
* link: the target is the r-th entity (r = 0, 1, ...) of its kind *in the subject's split* with
  probability proportional to (r+1)**-zipf.

So the splits are three worlds that share no entity and no link: nothing that is asked about one tells
anything about the facts of another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from rag_exp.data.closed_world.draws import Floats, Ints, Streams, normalised, pick, pick_other, zipf_weights
from rag_exp.data.closed_world.names import Namer, surface
from rag_exp.data.closed_world.schema import KINDS, MAJORITY, PASSAGES_PER_BLOCK, Attribute, EntityKind
from rag_exp.data.closed_world.splits import SPLITS, split_of_blocks
from rag_exp.data.closed_world.statements import (
    ATTRIBUTE_PHRASES,
    NOISY_STATEMENTS,
    SHARES,
    STATEMENTS,
    sentence,
    with_article,
)
from rag_exp.data.sources import Document, Passage

_BLOCKS_AT_ONCE = 128  # 15,360 passages in memory while streaming


@dataclass(frozen=True, slots=True)
class AttributeDraw:
    """One attribute of several entities: arrays of one length.

    Attributes:
        value: index of the value, the majority's where noisy.
        other: index of the minority's value (meaningful where ``noisy``).
        majority: index into ``MAJORITY`` (meaningful where ``noisy``).
        noisy: whether the passage gives a distribution.
    """

    value: Ints
    other: Ints
    majority: Ints
    noisy: NDArray[np.bool_]


@cache
def prior_of(kind: str, fact: str) -> Floats:
    """The prior of an attribute, sums to 1; do not write to it."""
    attribute = KINDS[kind].fact(fact)
    assert isinstance(attribute, Attribute)
    return normalised(attribute.prior())


class World:
    """A closed world.

    Args:
        passages: passages asked for; the world has the most whole blocks of 120 that do not exceed it.
        world_seed: seed of all its draws.
        zipf: exponent of popularity.
        near_duplicates: share of entities whose name differs from another's in one part only.
        noisy_share: probability that an attribute's passage gives a distribution.
        dev_share, test_share: shares of the blocks that are in the dev and test splits.
    """

    def __init__(
        self,
        passages: int,
        world_seed: int = 0,
        zipf: float = 1.0,
        near_duplicates: float = 0.25,
        noisy_share: float = 0.25,
        dev_share: float = 0.1,
        test_share: float = 0.1,
    ):
        self.blocks = passages // PASSAGES_PER_BLOCK
        self.zipf, self.noisy_share = zipf, noisy_share
        self._draw = Streams(world_seed, "closed_world")
        self._namer = Namer(self._draw, near_duplicates)
        self._split_of_block = split_of_blocks(self.blocks, dev_share, test_share)
        self._blocks_of_split = [np.flatnonzero(self._split_of_block == s) for s in range(len(SPLITS))]

    @property
    def passages(self) -> int:
        """Number of passages in the world."""
        return self.blocks * PASSAGES_PER_BLOCK

    def count(self, split: str, kind: str) -> int:
        """Number of entities of ``kind`` in ``split``."""
        return len(self._blocks_of_split[SPLITS.index(split)]) * KINDS[kind].per_block

    @cached_property
    def _popularity(self) -> Floats:
        """Running sums of the popularity weights of ranks within a split, long enough for every kind."""
        longest = max(self.count(split, kind) for split in SPLITS for kind in KINDS)
        return np.cumsum(zipf_weights(longest, self.zipf))

    def popular(self, split: str, kind: str, u: Floats) -> Ints:
        """The entities (ranks in their kind) of ``split`` drawn by popularity with the uniform draws ``u``."""
        return self.members(split, kind, pick(self._popularity[: self.count(split, kind)], u))

    def members(self, split: str, kind: str, places: Ints) -> Ints:
        """Ranks in ``kind`` of the entities at ``places`` 0, 1, ... of ``split``, the most popular first."""
        per_block = KINDS[kind].per_block
        return self._blocks_of_split[SPLITS.index(split)][places // per_block] * per_block + places % per_block

    def splits(self, kind: str, ranks: Ints) -> NDArray[np.int8]:
        """Index into ``SPLITS`` of each entity."""
        return self._split_of_block[ranks // KINDS[kind].per_block]

    def names(self, kind: str, ranks: Ints) -> list[str]:
        """Names of entities: unique over all kinds."""
        return self._namer.names(kind, ranks)

    def attribute(self, kind: str, fact: str, ranks: Ints) -> AttributeDraw:
        """The attribute ``fact`` of the entities of ``kind`` at ``ranks``."""
        draw, name, prior = self._draw, f"{kind}.{fact}", prior_of(kind, fact)
        value = pick(np.cumsum(prior), draw.uniform(f"{name}/value", ranks))
        return AttributeDraw(
            value=value,
            other=pick_other(prior, value, draw.uniform(f"{name}/other", ranks)),
            majority=draw.below(f"{name}/majority", ranks, len(MAJORITY)),
            noisy=draw.uniform(f"{name}/noisy", ranks) < self.noisy_share,
        )

    def link(self, kind: str, fact: str, ranks: Ints) -> Ints:
        """Ranks (in the relation's target kind) of the entities that relation ``fact`` leads to."""
        relation = KINDS[kind].fact(fact)
        assert not isinstance(relation, Attribute)
        u = self._draw.uniform(f"{kind}.{fact}/link", ranks)
        splits = self.splits(kind, ranks)
        found = np.empty(len(ranks), dtype=np.int64)
        for index, split in enumerate(SPLITS):
            here = splits == index
            if here.any():
                found[here] = self.popular(split, relation.target, u[here])
        return found

    def documents(self) -> Iterator[Document]:
        """Stream all documents, block by block; memory does not grow with the world."""
        for start in range(0, self.blocks, _BLOCKS_AT_ONCE):
            blocks = range(start, min(start + _BLOCKS_AT_ONCE, self.blocks))
            by_kind = [(k.per_block, self._documents_of(k, blocks)) for k in KINDS.values()]
            for i in range(len(blocks)):
                for per_block, documents in by_kind:
                    yield from documents[i * per_block : (i + 1) * per_block]

    def _documents_of(self, kind: EntityKind, blocks: range) -> list[Document]:
        ranks = np.arange(blocks.start * kind.per_block, blocks.stop * kind.per_block)
        names = self.names(kind.name, ranks)
        subjects = [surface(kind.name, name) for name in names]
        texts = [
            self._attribute_texts(kind.name, fact, ranks, subjects)
            if isinstance(fact, Attribute)
            else self._link_texts(kind.name, fact.name, fact.target, ranks, subjects)
            for fact in kind.facts
        ]
        facts = [fact.name for fact in kind.facts]
        found = []
        for rank, name, own in zip(ranks.tolist(), names, zip(*texts, strict=True), strict=True):
            document = document_id(kind.name, rank)
            passages = tuple(
                Passage(f"{document}/{fact}", name, sentence(text)) for fact, text in zip(facts, own, strict=True)
            )
            found.append(Document(document, passages))
        return found

    def _attribute_texts(self, kind: str, fact: Attribute, ranks: Ints, subjects: list[str]) -> list[str]:
        name = f"{kind}.{fact.name}"
        drawn = self.attribute(kind, fact.name, ranks)
        values = [fact.answers(i)[0] for i in range(len(fact.values))]
        articles = [with_article(v) for v in values]
        plain = [template.format for template in STATEMENTS[name]]
        wording = self._draw.below(f"{name}/wording", ranks, len(plain)).tolist()
        texts = [
            plain[t](s=s, v=values[v], a=articles[v])
            for t, s, v in zip(wording, subjects, drawn.value.tolist(), strict=True)
        ]
        noisy = np.flatnonzero(drawn.noisy)
        frames = self._draw.below(f"{name}/frame", ranks[noisy], len(NOISY_STATEMENTS)) if len(noisy) else noisy
        for i, frame in zip(noisy.tolist(), frames.tolist(), strict=True):
            major, minor, times = SHARES[MAJORITY[drawn.majority[i]]]
            texts[i] = NOISY_STATEMENTS[frame].format(
                p=ATTRIBUTE_PHRASES[name].format(s=subjects[i]),
                v=values[drawn.value[i]],
                w=values[drawn.other[i]],
                major=major,
                minor=minor,
                times=times,
            )
        return texts

    def _link_texts(self, kind: str, fact: str, target: str, ranks: Ints, subjects: list[str]) -> list[str]:
        name = f"{kind}.{fact}"
        targets = [surface(target, n) for n in self.names(target, self.link(kind, fact, ranks))]
        plain = [template.format for template in STATEMENTS[name]]
        wording = self._draw.below(f"{name}/wording", ranks, len(plain)).tolist()
        return [plain[w](s=s, t=t) for w, s, t in zip(wording, subjects, targets, strict=True)]


def document_id(kind: str, rank: int) -> str:
    """Id of the document of an entity."""
    return f"{kind}-{rank}"


def passage_id(kind: str, rank: int, fact: str) -> str:
    """Id of the passage that states ``fact`` of an entity."""
    return f"{kind}-{rank}/{fact}"
