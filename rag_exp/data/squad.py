"""SQuAD v1.1 (Rajpurkar et al. 2016) and anything in its JSON format: paragraphs of articles, questions on them.

The corpus is every paragraph of every file (an article is a document); a question's gold passage is its paragraph,
called ``<article title>/<number of the paragraph, from 0>``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rag_exp.core.errors import DataError
from rag_exp.data.records import kind_of
from rag_exp.data.sources import CORPORA, QUESTIONS, Document, Passage, Question
from rag_exp.data.split_files import SplitFilesCorpus, SplitFilesQuestions


def _get(value: Any, name: str, kind: type, where: str) -> Any:
    """``value[name]``, which must be a ``kind``."""
    if not isinstance(value, dict) or name not in value:
        raise DataError(f"{where}: no {name!r}. Is this SQuAD v1.1 JSON (data[].paragraphs[].qas[])?")
    if not isinstance(value[name], kind):
        raise DataError(f"{where}.{name}: {kind_of(kind())} is wanted, this is {kind_of(value[name])}.")
    return value[name]


def read_articles(file: str) -> Iterator[tuple[str, str, list[Any]]]:
    """(where it stands, title, paragraphs) of each article in a SQuAD file.

    Raises:
        DataError: no such file, no valid JSON (line and reason), or not in SQuAD's format (where and what is missing).
    """
    if not Path(file).is_file():
        raise DataError(f"{file}: no such file (looked from {Path.cwd()}).")
    try:
        whole = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as e:
        raise DataError(f"{file}: not UTF-8 text (byte {e.start + 1}: {e.reason}).") from e
    except json.JSONDecodeError as e:
        raise DataError(f"{file}, line {e.lineno}: not valid JSON ({e.msg}, column {e.colno}).") from e
    for n, article in enumerate(_get(whole, "data", list, file)):
        where = f"{file}: data[{n}]"
        yield where, _get(article, "title", str, where), _get(article, "paragraphs", list, where)


@CORPORA.register
class SquadCorpus(SplitFilesCorpus):
    """All paragraphs of SQuAD files, of every split: the corpus of one experiment is one."""

    kind: Literal["squad"] = "squad"

    def documents(self) -> Iterator[Document]:
        for file in self.all_files():
            for where, title, paragraphs in read_articles(file):
                texts = [_get(p, "context", str, f"{where}.paragraphs[{n}]") for n, p in enumerate(paragraphs)]
                shown = title.replace("_", " ")
                yield Document(title, tuple(Passage(f"{title}/{n}", shown, t.strip()) for n, t in enumerate(texts)))

    def count(self) -> int | None:
        try:
            if sum(Path(f).stat().st_size for f in self.all_files()) > 50_000_000:
                return None
            return sum(len(paragraphs) for f in self.all_files() for _, _, paragraphs in read_articles(f))
        except (OSError, DataError):
            return None  # said by `problems`, or when the corpus is read


@QUESTIONS.register
class SquadQuestions(SplitFilesQuestions):
    """The questions of SQuAD files, with their paragraph as gold."""

    kind: Literal["squad"] = "squad"
    skip_unanswerable: bool = Field(
        False, description="leave out questions without an answer (SQuAD 2.0 has them) instead of refusing them"
    )

    def questions(self) -> Iterator[Question]:
        for split, files in self.files.items():
            for file in files:
                for where, title, paragraphs in read_articles(file):
                    for n, paragraph in enumerate(paragraphs):
                        at = f"{where}.paragraphs[{n}]"
                        for m, qa in enumerate(_get(paragraph, "qas", list, at)):
                            question = self._question(qa, f"{at}.qas[{m}]", f"{title}/{n}", split)
                            if question is not None:
                                yield question

    def _question(self, qa: Any, where: str, passage: str, split: str) -> Question | None:
        listed = _get(qa, "answers", list, where)
        answers = tuple(dict.fromkeys(_get(a, "text", str, f"{where}.answers[{n}]") for n, a in enumerate(listed)))
        if not answers:
            if self.skip_unanswerable:
                return None
            raise DataError(
                f"{where}: no answer. questions.skip_unanswerable=true leaves such questions out (SQuAD 2.0 has them)."
            )
        return Question(
            _get(qa, "id", str, where), _get(qa, "question", str, where).strip(), answers, (passage,), split
        )
