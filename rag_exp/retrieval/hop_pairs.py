"""What two hops of search are taught by: the question finds its first gold passage, both together the second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag_exp.retrieval.encoders import PassageTexts
from rag_exp.retrieval.hop2 import SecondHop
from rag_exp.retrieval.results import NOTHING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class HopPairs:
    """Queries with the passages they should find.

    Attributes:
        queries: the questions, then what is asked after the first gold passage of each that has a second one.
        gold: gold rows of each query: those of that hop alone.
        asked: which question each query is of.
    """

    queries: list[str]
    gold: list[list[int]]
    asked: list[int]


def hop_pairs(
    questions: Sequence[str],
    gold: Sequence[Sequence[int]],
    gold_of: Sequence[Sequence[int]],
    passages: PassageTexts,
    options: SecondHop,
) -> HopPairs:
    """The queries of both hops.

    Args:
        questions: their wordings.
        gold: gold rows of each, in hop order.
        gold_of: for each gold row, which gold id it belongs to; a passage that was split has several rows, of which
            the first is the one that the second hop asks with.
        passages: the corpus.
        options: how the second hop's query is composed.
    """
    of_hop = [
        [[row for row, n in zip(rows, of, strict=True) if n == hop] for hop in (0, 1)]
        for rows, of in zip(gold, gold_of, strict=True)
    ]
    linked = [q for q, (first, second) in enumerate(of_hop) if first and second]
    texts = passages.texts([of_hop[q][0][0] for q in linked])
    composed = [options.compose(questions[q], *text) for q, text in zip(linked, texts, strict=True)]
    return HopPairs(
        queries=[*questions, *composed],
        gold=[*(first for first, _ in of_hop), *(of_hop[q][1] for q in linked)],
        asked=[*range(len(questions)), *linked],
    )


def gold_pairs(gold: Sequence[Sequence[int]], gold_of: Sequence[Sequence[int]]) -> np.ndarray:
    """The gold path of each question, int64 [Q, 2]: the first gold passage and the last, which answers.

    Of a passage that was split, the first row; -1 twice for a question with fewer than two gold passages.
    """
    import numpy as np

    pairs_Q2 = np.full((len(gold), 2), NOTHING, np.int64)
    for pair, rows, of in zip(pairs_Q2, gold, gold_of, strict=True):
        first = dict(zip(reversed(of), reversed(rows), strict=True))  # the first row of each id
        if len(first) > 1:
            pair[:] = first[min(first)], first[max(first)]
    return pairs_Q2
