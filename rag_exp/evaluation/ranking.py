"""What a search found, judged without a reader: graded and binary ranking metrics over the gold passages.

``rankings.parquet`` has one row a question (:data:`COLUMNS`); every metric is computed from that file alone.
A gold passage that was split counts once, at the best rank of its parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.core.errors import DataError
from rag_exp.data.gold import gold_recall
from rag_exp.evaluation.coverage import answers_found
from rag_exp.evaluation.predictions import schema_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from rag_exp.data.passages import PassageTable
    from rag_exp.data.questions import QuestionTable
    from rag_exp.retrieval.results import SearchResult

FILE = "rankings.parquet"
NDCG_RANK = 10  # the depth at which BEIR and TREC report it

COLUMNS: dict[str, tuple[str, str]] = {
    "id": ("string", "question id"),
    "question": ("string", "its wording"),
    "template": ("string", "which kind of question it is; '' where the source does not say"),
    "hops": ("int32", "passages that must be read together"),
    "answers": ("list<string>", "accepted answers; empty where only passages are judged"),
    "rows": ("list<int64>", "rows of the passages found, best first"),
    "scores": ("list<double>", "their retrieval scores"),
    "gold": ("list<int64>", "rows of the gold passages; empty where unknown"),
    "gold_of": ("list<int32>", "for each gold row, which gold id it belongs to"),
    "grades": ("list<double>", "for each gold id, how relevant it is; 1 where the source does not grade"),
    "gold_in_corpus": ("bool", "whether the corpus searched holds the needed gold passages"),
    "answer_found": ("bool", "whether an answer string occurs in a passage found; null without answers"),
}

RANKING: dict[str, str] = {
    "questions": "number of questions",
    "gold_recall@1": "share of the needed gold passages (as many as hops) that the first passage gives",
    "gold_recall@k": "the same over all passages found",
    "gold_found": "share of questions with any gold passage among those found",
    "relevant_recall@k": "share of all gold passages of a question that were found",
    "precision@k": "share of the k places that a gold passage takes, each gold passage counted once",
    "mrr": "1 / rank of the first gold passage, 0 where it is not among those found",
    "map@k": "average precision: the mean over gold passages of the precision at their rank, 0 where not found",
    "ndcg@10": "discounted gain of the first ten, as a share of the best possible",
    "ndcg@k": "the same over all passages found",
    "gold_in_corpus": "share of questions whose gold passages the corpus holds (as many as hops)",
    "answer_coverage": "share of questions with an answer string in a passage found",
}


def gains_of(rows: Sequence[int], gold: Sequence[int], gold_of: Sequence[int], grades: Sequence[float]) -> list[float]:
    """The grade that each of ``rows`` adds: that of its gold id where the row is the first of it, else 0."""
    ids = dict(zip(gold, gold_of, strict=True))
    seen: set[int] = set()
    gains = []
    for row in rows:
        of = ids.get(row)
        gains.append(grades[of] if of is not None and of not in seen else 0.0)
        if of is not None:
            seen.add(of)
    return gains


def ndcg(gains: Sequence[float], grades: Sequence[float], k: int) -> float:
    """Normalised discounted cumulative gain at ``k``: sum of gain / log2(rank + 1), over that of the ideal order.

    Gains are the grades themselves (Järvelin & Kekäläinen 2002, with a discount from rank 2 on, as trec_eval has it).

    Args:
        gains: by rank, best first.
        grades: of all relevant passages, found or not; at least one is positive.
    """
    ideal = sorted((g for g in grades if g > 0), reverse=True)
    return _discounted(gains[:k]) / _discounted(ideal[:k])


def average_precision(gains: Sequence[float], relevant: int) -> float:
    """Mean over ``relevant`` passages of the precision at the rank of each; those not found add 0."""
    hits, total = 0, 0.0
    for rank, gain in enumerate(gains, start=1):
        if gain > 0:
            hits += 1
            total += hits / rank
    return total / relevant


def _discounted(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def rank_questions(
    asked: QuestionTable, found: SearchResult, passages: PassageTable, size: int
) -> list[dict[str, Any]]:
    """A row a question, keys as :data:`COLUMNS`.

    Args:
        asked: the questions, in the order of ``found``.
        found: what the search gave.
        passages: the corpus, of which the first ``size`` passages were searched.
    """
    lists = [ids[there].tolist() for ids, there in zip(found.ids_QK, found.mask_QK, strict=True)]
    covered = answers_found(lists, asked.answers, passages)
    rows = []
    for q, listed in enumerate(lists):
        gold, gold_of, hops = asked.gold[q], asked.gold_of[q], int(asked.hops[q])
        held = [g for g in gold if g < size]
        rows.append(
            {
                "id": asked.ids[q],
                "question": asked.questions[q],
                "template": asked.templates[q],
                "hops": hops,
                "answers": asked.answers[q],
                "rows": listed,
                "scores": found.scores_QK[q, : len(listed)].tolist(),
                "gold": gold,
                "gold_of": gold_of,
                "grades": asked.grades[q],
                "gold_in_corpus": gold_recall(held, gold, gold_of, hops) == 1.0 if gold else None,
                "answer_found": covered[q] if asked.answers[q] else None,
            }
        )
    return rows


def write_rankings(rows: list[dict[str, Any]], folder: Path) -> pa.Table:
    """Write one row a question (keys as :data:`COLUMNS`) to ``folder/rankings.parquet``; the table written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(rows, schema=schema_of(COLUMNS))
    pq.write_table(table, folder / FILE, compression="zstd")
    return table


def read_rankings(path: Path) -> pa.Table:
    """Read a rankings file, or that of a folder.

    Raises:
        DataError: it is missing or unreadable.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = path / FILE if path.is_dir() else path
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as e:
        raise DataError(f"{path}: no readable rankings there ({e}).") from e


def ranking_metrics(table: pa.Table, k: int) -> tuple[dict[str, float | None], dict[str, str]]:
    """All of :data:`RANKING` for a rankings table of ``k`` passages a question.

    Returns:
        the metrics by name (means over the questions that have one), and for each that is None the reason.
    """
    import numpy as np

    judged = [_judged(row, k) for row in table.to_pylist()]
    values: dict[str, float | None] = {"questions": float(len(judged))}
    nulls: dict[str, str] = {}
    for name in list(RANKING)[1:]:
        column: np.ndarray = np.array([j.get(name, np.nan) for j in judged], dtype=np.float64)
        known = column[~np.isnan(column)]
        values[name] = float(known.mean()) if len(known) else None
        if not len(known):
            no_answers = "the questions have no answers to look for"
            nulls[name] = no_answers if name == "answer_coverage" else "the questions have no gold passages"
    if k < NDCG_RANK and values["ndcg@10"] is not None:
        values["ndcg@10"] = None
        nulls["ndcg@10"] = f"only {k} passages were asked for (retrieval.k)"
    return values, nulls


def _judged(row: dict[str, Any], k: int) -> dict[str, float]:
    """The metrics of one question, those that it has."""
    found: dict[str, float] = {}
    if row["answer_found"] is not None:
        found["answer_coverage"] = float(row["answer_found"])
    gold, gold_of, grades = row["gold"], row["gold_of"], row["grades"]
    relevant = sum(g > 0 for g in grades)
    if not relevant:
        return found
    gains = gains_of(row["rows"], gold, gold_of, grades)
    hits = [rank for rank, gain in enumerate(gains, start=1) if gain > 0]
    wanted = [(g, of) for g, of in zip(gold, gold_of, strict=True) if grades[of] > 0]
    needed = [list(part) for part in zip(*wanted, strict=True)]
    return found | {
        "gold_recall@1": gold_recall(row["rows"][:1], *needed, row["hops"]),
        "gold_recall@k": gold_recall(row["rows"], *needed, row["hops"]),
        "gold_found": float(bool(hits)),
        "relevant_recall@k": len(hits) / relevant,
        "precision@k": len(hits) / k,
        "mrr": 1 / hits[0] if hits else 0.0,
        "map@k": average_precision(gains, relevant),
        "ndcg@10": ndcg(gains, grades, NDCG_RANK),
        "ndcg@k": ndcg(gains, grades, k),
        "gold_in_corpus": float(row["gold_in_corpus"]),
    }
