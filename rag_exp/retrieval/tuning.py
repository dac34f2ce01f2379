"""Iso-recall: the search parameter of an index set so that its recall against exact search reaches a target.

Two indexes at their default parameters differ in kind and in recall at once. Tuned to one recall each, at each corpus
size, what still differs between them is the kind: its cost, and which passages it misses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rag_exp.retrieval.index import BuiltIndex, VectorIndexOptions
from rag_exp.retrieval.recall import recall_against
from rag_exp.retrieval.results import SearchResult
from rag_exp.retrieval.topk import search_all

if TYPE_CHECKING:
    import numpy as np

TUNING_SPLIT = "train"  # its questions are never evaluated


@dataclass(frozen=True)
class Tried:
    """One value of the dial: the recall at k it gave, and what that took over all tuning questions."""

    value: int
    recall: float
    search_seconds: float
    distances: int | None


@dataclass(frozen=True)
class Tuning:
    """How the dial of an index was set.

    Attributes:
        dial: its name.
        value: the least one found that reaches the target; the largest there is where none does.
        recall: recall at k with it.
        target: what was to be reached.
        reached: whether it was.
        questions: how many it was measured on.
        k: of the recall.
        tried: everything that was searched, in that order.
    """

    dial: str
    value: int
    recall: float
    target: float
    reached: bool
    questions: int
    k: int
    tried: tuple[Tried, ...]

    def shortfall(self) -> str:
        """What to say where the target was not reached."""
        return (
            f"recall@{self.k} of {self.target:g} is out of reach: at {self.dial}={self.value}, its largest value, it "
            f"is {self.recall:.3f} on {self.questions} questions"
        )

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Tuning:
        """What :meth:`facts` gave."""
        return cls(**{**facts, "tried": tuple(Tried(**t) for t in facts["tried"])})

    def facts(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "tried": [asdict(t) for t in self.tried]}


def tune(index: BuiltIndex, options: VectorIndexOptions, queries: np.ndarray, exact: SearchResult, k: int) -> Tuning:
    """Set the dial of ``index`` to the least value whose recall at ``k`` reaches ``options.recall_target``.

    Args:
        index: built from ``options``; it is left as it was last searched.
        queries: [Q, D], Q at least 1.
        exact: the exact result of the same queries over the same passages, at least ``k`` wide.
        k: at most the number of passages, which is at least 1.
    """
    assert options.dial is not None, f"index={type(options).__name__} has no dial"
    tried: list[Tried] = []

    def recall(value: int) -> float:
        index.turn(value)
        searched = search_all(index, queries, k)
        share = recall_against(searched.result, exact, k, index.exact_scores)
        assert share is not None, "recall needs queries and passages"
        tried.append(Tried(value, share, searched.seconds, searched.distances))
        return share

    value, reached = least(recall, options.dial_values(index.size, k), options.recall_target)
    share = next(t.recall for t in tried if t.value == value)
    return Tuning(options.dial, value, share, options.recall_target, reached, len(queries), k, tuple(tried))


def least(measure: Callable[[int], float], values: Sequence[int], target: float) -> tuple[int, bool]:
    """The least of ``values`` whose measure reaches ``target``, and whether one does; else the last value.

    Steps of doubling width go up until the target is reached, then the last step is halved: values that cost more than
    twice what is needed are hardly tried, and none is tried twice. The measure should rise with the value; where it
    wavers, the value found reaches the target and the one tried below it does not.

    Args:
        measure: of one value.
        values: rising, at least one.
        target: what the measure must be at least.
    """
    below, at, step = -1, 0, 1
    while measure(values[at]) < target:
        if at == len(values) - 1:
            return values[at], False
        below, at, step = at, min(at + step, len(values) - 1), 2 * step
    while at - below > 1:
        middle = (below + at) // 2
        if measure(values[middle]) < target:
            below = middle
        else:
            at = middle
    return values[at], True
