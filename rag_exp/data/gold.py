"""Gold passages: how much of what a question needs is there."""

from __future__ import annotations

from collections.abc import Sequence


def gold_recall(rows: Sequence[int], gold: Sequence[int], gold_of: Sequence[int], hops: int) -> float:
    """The share of the needed gold passages that ``rows`` gives.

    As many are needed as there are hops: of several passages that answer a one-hop question by themselves any
    one is enough. A gold passage that was split counts once, whichever of its parts is there.
    """
    needed = max(1, min(hops, len(set(gold_of))))
    there = set(rows)
    found = {of for row, of in zip(gold, gold_of, strict=True) if row in there}
    return min(len(found), needed) / needed
