"""Two hops of search: the best passages of a question, and after each of them the best of a composed question.

The paths of a question are its K x J pairs (d1, d2). Here they are found and kept with the scores of both hops; how
the scores become a prior, and which paths are read, is the reader's side (:mod:`rag_exp.models.multihop`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.core.errors import DataError
from rag_exp.retrieval.encoders import PassageTexts
from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.hop2 import SecondHop
from rag_exp.retrieval.index import BuiltIndex
from rag_exp.retrieval.recall import recall_against
from rag_exp.retrieval.results import NOTHING, SearchResult
from rag_exp.retrieval.topk import join_queries

if TYPE_CHECKING:
    import numpy as np

    from rag_exp.retrieval.encoder import Encoder

_BATCH = 4_096  # queries composed, encoded and searched at once


@dataclass(frozen=True, eq=False)
class Paths:
    """What two hops found for each of Q questions.

    Attributes:
        hop1: K passages a question.
        hop2: J passages after each of them: Q*K rows, those of question q at q*K and on. All masked where hop 1 has
            no passage.
    """

    hop1: SearchResult
    hop2: SearchResult

    def __post_init__(self) -> None:
        assert len(self.hop2) == len(self.hop1) * self.hop1.k, "a row of hop 2 for each passage of hop 1"

    def __len__(self) -> int:
        return len(self.hop1)

    @property
    def ids_QKJ(self) -> np.ndarray:
        """int64, the passages of hop 2; -1 where there is none."""
        return self.hop2.ids_QK.reshape(*self.hop1.ids_QK.shape, -1)

    @property
    def scores_QKJ(self) -> np.ndarray:
        """float32, their scores; -inf where there is none."""
        return self.hop2.scores_QK.reshape(*self.hop1.ids_QK.shape, -1)

    def save(self, folder: Path) -> None:
        """Write both hops into ``folder`` (made if missing)."""
        self.hop1.save(folder / "hop1")
        self.hop2.save(folder / "hop2")

    @classmethod
    def load(cls, folder: Path) -> Paths:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: files are missing, or hold something else.
        """
        hop1, hop2 = SearchResult.load(folder / "hop1"), SearchResult.load(folder / "hop2")
        if len(hop2) != len(hop1) * hop1.k:
            raise DataError(f"{folder}: {len(hop2)} rows of hop 2 for {len(hop1)} questions of {hop1.k} passages.")
        return cls(hop1, hop2)

    @classmethod
    def of_pairs(cls, pairs_QM2: np.ndarray) -> Paths:
        """The given pairs, all of score zero: M paths a question, each the only one after its first passage.

        Args:
            pairs_QM2: rows of both passages, those of hop 1 different from each other; -1 where there is no pair.
        """
        import numpy as np

        first_QM, second_QM = pairs_QM2[..., 0], pairs_QM2[..., 1]
        hop1 = SearchResult.of(first_QM, np.zeros(first_QM.shape, np.float32), max(1, first_QM.shape[1]))
        # Equal scores stand in the order of ids: the second passages follow their first ones.
        place_QM = np.argsort(np.where(first_QM < 0, np.iinfo(np.int64).max, first_QM), axis=1, kind="stable")
        second_QM = np.take_along_axis(second_QM, place_QM, axis=1)
        return cls(hop1, SearchResult.of(second_QM.reshape(-1, 1), np.zeros((second_QM.size, 1), np.float32), 1))


def second_hop(
    index: BuiltIndex,
    hop1: SearchResult,
    questions: Sequence[str],
    passages: PassageTexts,
    options: SecondHop,
    encoder: Encoder | None = None,
    exact_blocks: Sequence[np.ndarray] | None = None,
) -> tuple[Paths, dict[str, Any]]:
    """Search after every passage of ``hop1``.

    A question that stands there twice, as questions drawn with replacement do, is composed with a passage, encoded
    and searched once; memory holds one batch of queries.

    Args:
        index: what to ask.
        hop1: what the first hop found.
        questions: their wordings.
        passages: texts of the passages that were found.
        options: width, and how the query is composed.
        encoder: makes vectors of the queries; None for an index of texts.
        exact_blocks: the passages' vectors, to measure recall against exact search; None does not.

    Returns:
        the paths, and ``queries`` (different ones), ``tokens`` read, ``encode_flops``, ``distances`` (null where the
        index does not tell), ``compares_codes`` (as of the index), ``search_seconds`` (encoding included) and
        ``recall`` at j (null where not measured).
    """
    import numpy as np

    wording = {text: n for n, text in enumerate(dict.fromkeys(questions))}
    texts = list(wording)
    asked_Q1 = np.array([wording[text] for text in questions], np.int64).reshape(-1, 1)
    whole = hop1.mask_QK
    code_QK = np.where(whole, asked_Q1 * len(passages) + hop1.ids_QK, NOTHING)
    codes_U, place_QK = np.unique(code_QK, return_inverse=True)
    first = int(np.searchsorted(codes_U, 0))  # masked places stand before the pairs
    pairs_U = codes_U[first:]
    parts, recalls, distances, tokens, seconds = [], [], 0, 0, 0.0
    for start in range(0, len(pairs_U), _BATCH):
        which, rows = np.divmod(pairs_U[start : start + _BATCH], len(passages))
        begin = time.perf_counter()
        queries: Any = compose_all(options, [texts[w] for w in which], rows, passages)
        if encoder is not None:
            queries, read = encoder.encode_counted(queries, "question")
            tokens += read
        parts.append(others(index.search(queries, options.j + 1), rows, options.j))
        seconds += time.perf_counter() - begin
        distances = None if distances is None or index.distances is None else distances + index.distances
        if exact_blocks is not None:
            exact = others(exact_topk(queries, exact_blocks, options.j + 1), rows, options.j)
            recalls.append((len(rows), recall_against(parts[-1], exact, options.j, index.exact_scores)))
    found = join_queries([*([SearchResult.empty(1, options.j)] if first else []), *parts], options.j)
    measured = [(n, r) for n, r in recalls if r is not None]
    facts = {
        "queries": len(pairs_U),
        "tokens": tokens,
        "encode_flops": encoder.flops(tokens, len(pairs_U)) if encoder is not None else 0,
        "distances": distances,
        "compares_codes": index.compares_codes,
        "search_seconds": seconds,
        "recall": sum(n * r for n, r in measured) / sum(n for n, _ in measured) if measured else None,
    }
    return Paths(hop1, found.of_queries(place_QK.reshape(-1))), facts


def compose_all(options: SecondHop, questions: Sequence[str], rows: np.ndarray, passages: PassageTexts) -> list[str]:
    """The second hop's query for each question with the passage at its row."""
    import numpy as np

    rows_U, place = np.unique(rows, return_inverse=True)
    texts = passages.texts(rows_U)
    return [options.compose(question, *texts[p]) for question, p in zip(questions, place, strict=True)]


def others(found: SearchResult, own: np.ndarray, k: int) -> SearchResult:
    """The best ``k`` of each query that are not its ``own`` passage; ``found`` is k + 1 wide."""
    import numpy as np

    ids = np.where(found.ids_QK == own[:, None], NOTHING, found.ids_QK)
    return SearchResult.of(ids, found.scores_QK, k)
