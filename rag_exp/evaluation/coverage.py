"""Whether what was found holds an answer."""

from __future__ import annotations

from collections.abc import Sequence

from rag_exp.data.normalise import holds, searchable
from rag_exp.data.passages import PassageTable


def answers_found(
    rows: Sequence[Sequence[int]], answers: Sequence[Sequence[str]], passages: PassageTable | None
) -> list[bool]:
    """For each question, whether an answer occurs in title or text of one of its passages.

    Args:
        rows: of each question's passages.
        answers: of each question.
        passages: the corpus; None where no question has passages.
    """
    found = sorted({row for listed in rows for row in listed})
    if not found:
        return [False] * len(rows)
    assert passages is not None
    pairs = zip(found, passages.texts(found), strict=True)
    texts = {row: searchable(f"{title}\n{text}") for row, (title, text) in pairs}  # each normalised once
    return [any(holds(texts[row], a) for row in listed) for listed, a in zip(rows, answers, strict=True)]
