"""The questions artifact: a source's questions with their gold passages resolved to rows of the corpus.

``questions.parquet`` has one row per question: id, question, answers (the first is the training target),
gold (rows), gold_of (for each gold row, which gold id, counted from 0, it belongs to: a split passage has several
rows), gold_ids, split, hops, template, entropy and entropy_given_gold (nats, null where unknown); and, where any has
some, choices (answers to choose among) and grades (how relevant each gold id is). Within a split, rows are in a seeded
hash order of question ids, so that a limit takes a nested prefix.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.core.atomic import write_json
from rag_exp.core.errors import DataError, did_you_mean
from rag_exp.data.normalise import holds, searchable
from rag_exp.data.passages import PassageTable
from rag_exp.data.sources import Question, QuestionOptions

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_FIRST_SPLITS = ("train", "dev", "test")
_NAMED = 5  # how many offending ids an error names


def write_questions(options: QuestionOptions, table: PassageTable, folder: Path) -> dict[str, Any]:
    """Write the questions artifact of ``options`` over the full corpus ``table`` into ``folder`` and return its stats.

    Gold ids are looked up in the *full* corpus, before any size cut, so that a mistake in the data is told from a
    question whose gold passage lies beyond a prefix. Questions without gold ids are fine.

    Returns:
        ``questions``, ``splits`` (name -> count), ``hops`` and ``templates`` (value -> count), ``with_gold`` and
        ``golds`` (source passages that are gold for some question).

    Raises:
        DataError: no questions; an empty question, no answers or an empty one; choices that are fewer than two, or
            without an answer; an id that comes twice; gold ids that are not in the corpus.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = _checked(options)
    found.sort(key=lambda q: (*_split_order(q.split), _place(q.id), q.id))
    gold = _gold_rows(found, table)
    columns = {
        "id": [q.id for q in found],
        "question": [q.question for q in found],
        "answers": [list(q.answers) for q in found],
        "gold": [[row for rows in per_id for row in rows] for per_id in gold],
        "gold_of": [[n for n, rows in enumerate(per_id) for _ in rows] for per_id in gold],
        "gold_ids": [list(q.gold_ids) for q in found],
        "split": [q.split for q in found],
        "hops": [q.hops for q in found],
        "template": [q.template for q in found],
        "entropy": [q.entropy for q in found],
        "entropy_given_gold": [q.entropy_given_gold for q in found],
    }
    schema = _schema()
    if any(q.choices for q in found):
        columns["choices"] = [list(q.choices) for q in found]
        schema = schema.append(pa.field("choices", pa.list_(pa.string())))
    if any(q.grades for q in found):
        columns["grades"] = [list(q.grades or [1.0] * len(q.gold_ids)) for q in found]
        schema = schema.append(pa.field("grades", pa.list_(pa.float64())))
    splits = Counter(columns["split"])
    written = pa.table(columns, schema=schema)
    with pq.ParquetWriter(folder / "questions.parquet", schema) as writer:
        start = 0
        for count in splits.values():  # a row group per split: opening one reads no other
            writer.write_table(written.slice(start, count), row_group_size=count)
            start += count
    stats = {
        "questions": len(found),
        "splits": dict(splits),
        "hops": {str(h): n for h, n in sorted(Counter(columns["hops"]).items())},
        "templates": dict(sorted(Counter(columns["template"]).items())),
        "with_gold": sum(1 for rows in columns["gold"] if rows),
        "golds": len({i for q in found for i in q.gold_ids}),
    }
    write_json(folder / "manifest.json", stats)
    return stats


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        {
            "id": pa.string(),
            "question": pa.string(),
            "answers": pa.list_(pa.string()),
            "gold": pa.list_(pa.int64()),
            "gold_of": pa.list_(pa.int32()),
            "gold_ids": pa.list_(pa.string()),
            "split": pa.string(),
            "hops": pa.int32(),
            "template": pa.string(),
            "entropy": pa.float64(),
            "entropy_given_gold": pa.float64(),
        }
    )


def _split_order(split: str) -> tuple[int, str]:
    return (_FIRST_SPLITS.index(split) if split in _FIRST_SPLITS else len(_FIRST_SPLITS), split)


def _place(id: str) -> bytes:
    """Where a question stands in the hash order of its split."""
    return hashlib.blake2b(f"question\x1f{id}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _checked(options: QuestionOptions) -> list[Question]:
    found: list[Question] = []
    seen: dict[str, int] = {}
    for n, question in enumerate(options.questions(), start=1):
        where = f"Question {question.id!r} (number {n} of the source)"
        if question.id in seen:
            raise DataError(
                f"Question id {question.id!r} comes twice, as number {seen[question.id]} and as number {n} of the "
                "source. Question ids must be unique over all splits."
            )
        seen[question.id] = n
        if not question.question.strip():
            raise DataError(f"{where} has an empty text.")
        if not question.answers and options.answered:
            raise DataError(f"{where} has no answers: {question.question!r}. Give it one or leave it out.")
        if question.grades and (len(question.grades) != len(question.gold_ids) or min(question.grades) <= 0):
            raise DataError(f"{where} needs a grade above 0 for each of its {len(question.gold_ids)} gold passages.")
        if not all(a.strip() for a in question.answers):
            raise DataError(f"{where} has an empty answer: {question.question!r}.")
        if question.choices:
            _check_choices(question, where)
        found.append(question)
    if not found:
        raise DataError(f"The source of questions (questions={getattr(options, 'kind', '?')}) yields no question.")
    return found


def _check_choices(question: Question, where: str) -> None:
    choices = ", ".join(map(repr, question.choices))
    if len(set(question.choices)) < 2 or not all(c.strip() for c in question.choices):
        raise DataError(f"{where} needs at least two choices, none of them empty: {choices}.")
    if not set(question.choices) & set(question.answers):
        answers = ", ".join(map(repr, question.answers))
        raise DataError(f"{where} has choices that do not hold its answer {answers}: {choices}.")


def _gold_rows(questions: list[Question], table: PassageTable) -> list[list[list[int]]]:
    """For each question, for each of its gold ids, the rows that are gold.

    Of a passage that was split, those are the parts that hold an answer; all of them where none does (the gold
    passage of a first hop need not hold it).
    """
    ids = sorted({i for q in questions for i in q.gold_ids})
    rows = dict(zip(ids, table.rows_of(ids), strict=True))
    absent = [i for i in ids if not rows[i]]
    if absent:
        hit = [q for q in questions if any(not rows[i] for i in q.gold_ids)]
        more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
        raise DataError(
            f"{len(absent)} of {len(ids)} gold passage ids are not in the corpus of {len(table)} passages (before any "
            f"size cut): {', '.join(map(repr, absent[:_NAMED]))}{more}. {len(hit)} of {len(questions)} questions name "
            f"them, first {hit[0].id!r}. Do questions and corpus belong together, and is the id field mapped right?"
        )
    split = sorted({row for found in rows.values() if len(found) > 1 for row in found})
    texts = {row: searchable(text) for row, (_, text) in zip(split, table.texts(split), strict=True)}
    resolved = []
    for question in questions:
        per_id = []
        for id in question.gold_ids:
            found = rows[id]
            if len(found) > 1:
                found = [row for row in found if holds(texts[row], question.answers)] or found
            per_id.append(found)
        resolved.append(per_id)
    return resolved


class QuestionTable:
    """One split of a questions artifact, columns as Python lists or numpy arrays, read when asked for."""

    def __init__(self, columns: pa.Table, stats: dict[str, Any]):
        self._table, self.stats = columns, stats

    @classmethod
    def open(cls, folder: Path, split: str, limit: int | None = None) -> QuestionTable:
        """Open ``split``, its first ``limit`` questions in hash order (None, or more than there are: all).

        Raises:
            DataError: no artifact there; no such split (naming those that exist).
        """
        import pyarrow.parquet as pq

        folder = Path(folder)
        if not (folder / "manifest.json").is_file():
            raise DataError(f"{folder}: no questions there (manifest.json is missing).")
        stats = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        splits: dict[str, int] = stats["splits"]
        if split not in splits:
            known = ", ".join(f"{name} ({count})" for name, count in splits.items())
            raise DataError(
                f"These questions have no split {split!r}.{did_you_mean(split, splits)} They have: {known}."
            )
        group = list(splits).index(split)
        columns = pq.ParquetFile(folder / "questions.parquet").read_row_group(group)
        return cls(columns.slice(0, limit) if limit is not None else columns, stats)

    def __len__(self) -> int:
        return self._table.num_rows

    def column(self, name: str) -> list[Any]:
        """A column of ``questions.parquet`` as a Python list."""
        return self._table.column(name).to_pylist()

    @cached_property
    def ids(self) -> list[str]:
        return self.column("id")

    @cached_property
    def questions(self) -> list[str]:
        return self.column("question")

    @cached_property
    def answers(self) -> list[list[str]]:
        """Accepted answers of each question, the training target first."""
        return self.column("answers")

    @property
    def targets(self) -> list[str]:
        """The training target of each question: its first answer."""
        return [a[0] for a in self.answers]

    @cached_property
    def gold(self) -> list[list[int]]:
        """Gold rows of each question, in hop order; empty where unknown."""
        return self.column("gold")

    @cached_property
    def gold_of(self) -> list[list[int]]:
        """For each gold row, which of the question's gold ids it belongs to."""
        return self.column("gold_of")

    @cached_property
    def gold_ids(self) -> list[list[str]]:
        return self.column("gold_ids")

    @cached_property
    def grades(self) -> list[list[float]]:
        """How relevant each gold id of a question is; 1 where the source does not grade."""
        if "grades" in self._table.column_names:
            return self.column("grades")
        return [[1.0] * len(ids) for ids in self.gold_ids]

    @cached_property
    def templates(self) -> list[str]:
        return self.column("template")

    @cached_property
    def choices(self) -> list[list[str]]:
        """Answers to choose among of each question; empty where it has none."""
        return self.column("choices") if "choices" in self._table.column_names else [[] for _ in range(len(self))]

    @cached_property
    def hops(self) -> np.ndarray:
        """int64 [Q]."""
        import numpy as np

        return self._table.column("hops").to_numpy().astype(np.int64)

    @cached_property
    def entropies(self) -> list[float | None]:
        """H(answer | question) in nats, None where unknown."""
        return self.column("entropy")

    @cached_property
    def entropies_given_gold(self) -> list[float | None]:
        """H(answer | question, gold passages) in nats, None where unknown."""
        return self.column("entropy_given_gold")

    def gold_within(self, size: int) -> np.ndarray:
        """bool [Q]: whether each gold id of the question has a row among the first ``size``; False without gold ids."""
        import numpy as np

        inside = [
            bool(rows) and {n for row, n in zip(rows, of, strict=True) if row < size} == set(of)
            for rows, of in zip(self.gold, self.gold_of, strict=True)
        ]
        return np.asarray(inside, dtype=bool)
