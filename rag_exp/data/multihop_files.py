"""HotpotQA (Yang et al. 2018) and MuSiQue (Trivedi et al. 2022): questions that carry their paragraphs with them.

Each question comes with the paragraphs it needs among others that mislead. The corpus is every different paragraph
of every file. Files are JSON arrays or JSON lines, as both are distributed.

* ``hotpotqa`` (the "distractor" form): a paragraph is known by its title; the gold passages are the supporting
  titles, in the order of the supporting facts.
* ``musique``: a paragraph is known by its title and text together; the gold passages are those of the question's
  decomposition, in its order. Questions marked unanswerable are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rag_exp.core.errors import DataError
from rag_exp.data.jsonl import read_lines
from rag_exp.data.records import Placed, kind_of
from rag_exp.data.sources import CORPORA, QUESTIONS, Document, Passage, Question
from rag_exp.data.split_files import SplitFilesCorpus, SplitFilesQuestions

Form = Literal["hotpotqa", "musique"]


def read_records(file: str) -> Iterator[Placed]:
    """The objects of a JSON array, or of JSON lines, with their places. An array is read whole.

    Raises:
        DataError: no such file, no valid JSON (line and reason), or something else than objects.
    """
    path = Path(file)
    if not path.is_file() or path.suffix == ".gz" or _first_byte(path) != b"[":
        yield from read_lines(file)
        return
    try:
        whole = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as e:
        raise DataError(f"{file}: not UTF-8 text (byte {e.start + 1}: {e.reason}).") from e
    except json.JSONDecodeError as e:
        raise DataError(f"{file}, line {e.lineno}: not valid JSON ({e.msg}, column {e.colno}).") from e
    for n, record in enumerate(whole):
        if not isinstance(record, dict):
            raise DataError(f"{file}: [{n}]: a JSON object is wanted ({{...}}), this is {kind_of(record)}.")
        yield f"{file}: [{n}]", record


def _first_byte(path: Path) -> bytes:
    with open(path, "rb") as f:
        return f.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _get(record: Any, name: str, kind: type, where: str) -> Any:
    """``record[name]``, which must be a ``kind``."""
    if not isinstance(record, dict) or name not in record:
        raise DataError(f"{where}: no {name!r}. Is it of the form that the option `form` names?")
    if not isinstance(record[name], kind):
        raise DataError(f"{where}.{name}: {kind_of(kind())} is wanted, this is {kind_of(record[name])}.")
    return record[name]


def _paragraphs(form: Form, record: dict[str, Any], where: str) -> list[Passage]:
    """A question's paragraphs, in the file's order."""
    if form == "musique":
        found = []
        for n, paragraph in enumerate(_get(record, "paragraphs", list, where)):
            at = f"{where}.paragraphs[{n}]"
            title, text = _get(paragraph, "title", str, at), _get(paragraph, "paragraph_text", str, at)
            mark = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
            found.append(Passage(f"{title}/{mark}", title, text.strip()))
        return found
    pairs = _get(record, "context", list, where)
    for n, pair in enumerate(pairs):
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], list)):
            raise DataError(f"{where}.context[{n}]: [title, [sentence, ...]] is wanted, this is {kind_of(pair)}.")
    return [Passage(title, title, "".join(map(str, sentences)).strip()) for title, sentences in pairs]


def _gold(form: Form, record: dict[str, Any], where: str) -> tuple[str, ...]:
    """Ids of the paragraphs that a question needs, each once, in hop order."""
    if form == "hotpotqa":
        facts = _get(record, "supporting_facts", list, where)
        return tuple(dict.fromkeys(str(title) for title, *_ in facts))
    paragraphs = _paragraphs(form, record, where)
    found = []
    for n, step in enumerate(_get(record, "question_decomposition", list, where)):
        at = f"{where}.question_decomposition[{n}]"
        index = _get(step, "paragraph_support_idx", int, at)
        if not 0 <= index < len(paragraphs):
            raise DataError(f"{at}.paragraph_support_idx: {index}, but there are {len(paragraphs)} paragraphs.")
        found.append(paragraphs[index].id)
    return tuple(dict.fromkeys(found))


@CORPORA.register
class MultihopCorpus(SplitFilesCorpus):
    """All different paragraphs of the files, of every split; each is a document of its own."""

    kind: Literal["multihop"] = "multihop"
    form: Form = Field(description="hotpotqa or musique")

    def documents(self) -> Iterator[Document]:
        seen: set[str] = set()
        for file in self.all_files():
            for where, record in read_records(file):
                for passage in _paragraphs(self.form, record, where):
                    if passage.id not in seen:
                        seen.add(passage.id)
                        yield Document(passage.id, (passage,))


@QUESTIONS.register
class MultihopQuestions(SplitFilesQuestions):
    """The questions of the files, with the paragraphs they need as gold."""

    kind: Literal["multihop"] = "multihop"
    form: Form = Field(description="hotpotqa or musique")

    def questions(self) -> Iterator[Question]:
        for split, files in self.files.items():
            for file in files:
                for where, record in read_records(file):
                    if record.get("answerable", True):
                        yield self._question(record, where, split)

    def _question(self, record: dict[str, Any], where: str, split: str) -> Question:
        others = record.get("answer_aliases", [])
        answers = [_get(record, "answer", str, where), *(others if isinstance(others, list) else [])]
        gold = _gold(self.form, record, where)
        kinds = {"hotpotqa": str(record.get("type", "")), "musique": f"{len(gold)} hops"}
        return Question(
            id=_get(record, "_id" if self.form == "hotpotqa" else "id", str, where),
            question=_get(record, "question", str, where).strip(),
            answers=tuple(dict.fromkeys(answers)),
            gold_ids=gold,
            split=split,
            hops=max(1, len(gold)),
            template=kinds[self.form],
        )
