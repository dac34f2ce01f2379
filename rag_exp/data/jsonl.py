"""Passages and questions from JSON-lines files (``.jsonl`` or ``.jsonl.gz``): one object a line, any field names.

Files are read line by line, so their size does not matter.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from rag_exp.core.errors import DataError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.options import NEUTRAL
from rag_exp.data.records import PassageFields, Placed, QuestionFields, documents_of, kind_of, questions_of
from rag_exp.data.sources import CORPORA, QUESTIONS, CorpusOptions, Document, Question
from rag_exp.data.split_files import SplitFilesQuestions, as_list, missing

_COUNTABLE_BYTES = 100_000_000  # files up to so many bytes have their lines counted in well under a second


def read_lines(file: str | Path) -> Iterator[Placed]:
    """The objects of a JSON-lines file with their places. Blank lines are passed over.

    Raises:
        DataError: the file is missing or cannot be read to its end, or a line is no UTF-8, no JSON or no object
            (file, line number and reason).
    """
    path = Path(file)
    if not path.is_file():
        raise DataError(f"{file}: no such file (looked from {Path.cwd()}).")
    for number, line in _numbered(path):
        where = f"{file}, line {number}"
        if not line.strip():
            continue
        try:
            # utf-8-sig: files written on Windows may begin with a byte order mark
            record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as e:
            raise DataError(f"{where}: not UTF-8 text (byte {e.start + 1}: {e.reason}).") from e
        except json.JSONDecodeError as e:
            raise DataError(f"{where}: not valid JSON ({e.msg}, column {e.colno}).") from e
        if not isinstance(record, dict):
            raise DataError(f"{where}: a JSON object is wanted ({{...}}), this is {kind_of(record)}.")
        yield where, record


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                yield number, line
    except (OSError, EOFError, zlib.error) as e:  # gzip raises all three for truncated and damaged files
        raise DataError(f"{path}: cannot be read beyond line {number} ({e}). Is the file whole?") from e


@CORPORA.register
class JsonlCorpus(CorpusOptions):
    """A corpus of JSON-lines files, one passage a line."""

    kind: Literal["jsonl"] = "jsonl"
    files: Annotated[list[str], NEUTRAL] = Field(description="one path or several, read in this order")
    fields: PassageFields = PassageFields()

    _paths_are_lists = field_validator("files", mode="before")(as_list)

    @field_validator("files")
    @classmethod
    def _some_file(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("files is empty: give a path or a list of paths, such as corpus.files=passages.jsonl")
        return value

    def problems(self) -> list[str]:
        return missing(self.files, "corpus.files")

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        return {"files": [digests.of(f) for f in self.files]}

    def documents(self) -> Iterator[Document]:
        return documents_of((placed for file in self.files for placed in read_lines(file)), self.fields)

    def count(self) -> int | None:
        try:
            if any(f.endswith(".gz") for f in self.files):
                return None
            if sum(Path(f).stat().st_size for f in self.files) > _COUNTABLE_BYTES:
                return None
            count = 0
            for file in self.files:
                with open(file, "rb") as f:
                    count += sum(1 for line in f if line.strip())
            return count
        except OSError:
            return None  # `problems` says what is missing


@QUESTIONS.register
class JsonlQuestions(SplitFilesQuestions):
    """Questions of JSON-lines files, one a line, of the file's split unless ``fields.split`` names another."""

    kind: Literal["jsonl"] = "jsonl"
    fields: QuestionFields = QuestionFields()

    def offers_choices(self) -> bool:
        return self.fields.choices is not None

    def questions(self) -> Iterator[Question]:
        for split, files in self.files.items():
            records = (placed for file in files for placed in read_lines(file))
            yield from questions_of(records, self.fields, split)
