"""Results of a search as files: TREC runs (``query Q0 passage rank score tag``) or JSON lines, read and written.

A JSON line is ``{"id": question, "passages": [{"id": passage, "score": number}, ...]}``, best first or not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rag_exp.core.atomic import write_text
from rag_exp.core.errors import DataError
from rag_exp.retrieval.results import NOTHING, SearchResult

if TYPE_CHECKING:
    import numpy as np

_NAMED = 5  # how many offending ids an error names


class PassageIds(Protocol):
    """The access to passages that is needed here; ``data.passages.PassageTable`` gives it."""

    def rows_of(self, ids: Iterable[str]) -> list[list[int]]: ...

    def ids(self, rows: Sequence[int] | np.ndarray) -> list[str]: ...


def read_run(files: Sequence[str]) -> dict[str, dict[str, float]]:
    """Scores by question id and passage id, of all ``files`` together.

    Raises:
        DataError: a file is missing, a line cannot be read (file, line, reason), a score is not finite, or a passage
            comes twice for a question.
    """
    found: dict[str, dict[str, float]] = {}
    for file in files:
        for where, question, passage, score in _lines(file):
            listed = found.setdefault(question, {})
            if passage in listed:
                raise DataError(f"{where}: passage {passage!r} comes twice for question {question!r}.")
            if not math.isfinite(score):
                raise DataError(f"{where}: the score of passage {passage!r} is not finite.")
            listed[passage] = score
    return found


def _lines(file: str) -> Iterator[tuple[str, str, str, float]]:
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except OSError as e:
        raise DataError(f"{file}: cannot be read ({e.strerror}; looked from {Path.cwd()}).") from e
    except UnicodeDecodeError as e:
        raise DataError(f"{file}: not UTF-8 text (byte {e.start + 1}: {e.reason}).") from e
    for number, line in enumerate(lines, start=1):
        where = f"{file}, line {number}"
        if not line.strip():
            continue
        try:
            if line.lstrip().startswith("{"):
                record: dict[str, Any] = json.loads(line)
                for passage in record["passages"]:
                    yield where, str(record["id"]), str(passage["id"]), float(passage["score"])
            else:
                question, _, passage, _, score, _ = line.split()
                yield where, question, passage, float(score)
        except (ValueError, KeyError, TypeError) as e:
            raise DataError(
                f"{where}: neither 'question Q0 passage rank score tag' (TREC) nor "
                f'{{"id": ..., "passages": [{{"id": ..., "score": ...}}]}}: {line[:60]!r}.'
            ) from e


def result_of_run(
    run: Mapping[str, Mapping[str, float]], questions: Sequence[str], passages: PassageIds, size: int, k: int
) -> SearchResult:
    """The best ``k`` passages that a run lists for each of ``questions``, among the first ``size`` of the corpus.

    Of a passage that was split, every part gets the passage's score.

    Raises:
        DataError: the run lacks a question, or names a passage that the whole corpus does not hold.
    """
    import numpy as np

    absent = [q for q in questions if q not in run]
    if absent:
        raise DataError(
            f"retrieval.runs: {len(absent)} of {len(questions)} questions are not in the run, first "
            f"{', '.join(map(repr, absent[:_NAMED]))}."
        )
    ids = sorted({passage for q in questions for passage in run[q]})
    rows = dict(zip(ids, passages.rows_of(ids), strict=True))
    unknown = [passage for passage in ids if not rows[passage]]
    if unknown:
        raise DataError(
            f"retrieval.runs: {len(unknown)} of the {len(ids)} passages in the run are not in the corpus, first "
            f"{', '.join(map(repr, unknown[:_NAMED]))}. Do run and corpus belong together?"
        )
    lists = [
        sorted(((-score, row) for passage, score in run[q].items() for row in rows[passage] if row < size))[:k]
        for q in questions
    ]
    ids_QK = np.full((len(questions), k), NOTHING, dtype=np.int64)
    scores_QK = np.zeros((len(questions), k), dtype=np.float32)
    for q, listed in enumerate(lists):
        for place, (minus_score, row) in enumerate(listed):
            ids_QK[q, place], scores_QK[q, place] = row, -minus_score
    return SearchResult.of(ids_QK, scores_QK, k)


def write_run(
    found: SearchResult, questions: Sequence[str], passages: PassageIds, file: Path, tag: str = "rag_exp"
) -> None:
    """Write a result as a TREC run.

    Raises:
        DataError: an id with white space, which the format cannot hold.
    """
    lines = []
    for q, question in enumerate(questions):
        there = found.mask_QK[q]
        named = passages.ids(found.ids_QK[q][there])
        for rank, (passage, score) in enumerate(zip(named, found.scores_QK[q][there].tolist(), strict=True), start=1):
            for what in (question, passage):
                if len(what.split()) != 1:
                    raise DataError(f"{what!r}: a TREC run cannot hold an id with white space.")
            lines.append(f"{question} Q0 {passage} {rank} {score!r} {tag}\n")
    write_text(file, "".join(lines))
