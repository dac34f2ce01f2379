"""Test collections for retrieval: documents, queries and relevance judgements (qrels), as TREC and BEIR publish them.

``questions=judged`` reads queries (JSON lines, TSV or TREC topics) and qrels (TREC's four columns or BEIR's three);
``corpus=trec`` reads TREC documents. A BEIR corpus is ``corpus=jsonl corpus.fields.id=_id``. Such queries have no
answers: a search can be judged on them (``task=retrieval``), and no reader asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from rag_exp.core.errors import DataError
from rag_exp.core.fingerprint import ContentDigests, digest
from rag_exp.core.options import NEUTRAL
from rag_exp.data.jsonl import read_lines
from rag_exp.data.sources import CORPORA, QUESTIONS, CorpusOptions, Document, Passage, Question, QuestionOptions
from rag_exp.data.split_files import as_list, missing

_TAG = r"<{0}>\s*(.*?)\s*</{0}>"


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8-sig")
    except OSError as e:
        raise DataError(f"{file}: cannot be read ({e.strerror}; looked from {Path.cwd()}).") from e
    except UnicodeDecodeError as e:
        raise DataError(f"{file}: not UTF-8 text (byte {e.start + 1}: {e.reason}).") from e


def _inside(text: str, tag: str) -> str | None:
    """What the first element ``tag`` of ``text`` holds, on one line."""
    found = re.search(_TAG.format(tag), text, re.DOTALL | re.IGNORECASE)
    return " ".join(unescape(found.group(1)).split()) if found else None


@CORPORA.register
class TrecCorpus(CorpusOptions):
    """TREC documents, ``<doc>`` with ``<docno>``, ``<text>`` and perhaps ``<title>``, one passage each."""

    kind: Literal["trec"] = "trec"
    files: Annotated[list[str], NEUTRAL] = Field(min_length=1, description="one path or several, read in this order")

    _paths_are_lists = field_validator("files", mode="before")(as_list)

    def problems(self) -> list[str]:
        return missing(self.files, "corpus.files")

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        return {"files": [digests.of(f) for f in self.files]}

    def documents(self) -> Iterator[Document]:
        for file in self.files:
            found = re.findall(_TAG.format("doc"), _read(file), re.DOTALL | re.IGNORECASE)
            if not found:
                raise DataError(f"{file}: no <doc> element. Is this a file of TREC documents?")
            for number, doc in enumerate(found, start=1):
                id, title, text = (_inside(doc, tag) for tag in ("docno", "title", "text"))
                if not id:
                    raise DataError(f"{file}: <doc> number {number} has no <docno>.")
                yield Document(id, (Passage(id, title or "", text or ""),))


@QUESTIONS.register
class JudgedQuestions(QuestionOptions):
    """Queries with graded relevance judgements."""

    answered: ClassVar[bool] = False

    kind: Literal["judged"] = "judged"
    queries: Annotated[str, NEUTRAL] = Field(
        description="JSON lines (_id, text), TSV (id, text), or TREC topics (<top> with <num> and <title>)"
    )
    qrels: Annotated[str, NEUTRAL] = Field(
        description="judgements: 'query 0 document grade' (TREC), or a TSV of query, document, grade (BEIR)"
    )
    split: str = Field("test", min_length=1, description="the split that all of them are")
    numbered: Literal["given", "in_order"] = Field(
        "given", description="in_order: qrels count the queries of the file from 1, whatever their own numbers are"
    )
    least_grade: float = Field(1.0, gt=0, description="documents judged below it are not relevant")
    tuning: int = Field(
        0,
        ge=0,
        description="queries of the train split that index.mode=iso_recall tunes on: unjudged ones, then judged ones, "
        "which are not judged then; by a hash of their ids",
    )

    def identity(self, *leave_out: str) -> dict[str, Any]:
        """The identity, without a split that is not asked for."""
        found = super().identity(*leave_out)
        if not self.tuning:
            del found["tuning"]
        return found

    def problems(self) -> list[str]:
        found = [*missing([self.queries], "questions.queries"), *missing([self.qrels], "questions.qrels")]
        if self.tuning and self.split == "train":
            found.append("questions.split: train: there are the queries of questions.tuning; name it otherwise.")
        return found

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        return {"queries": digests.of(self.queries), "qrels": digests.of(self.qrels)}

    def questions(self) -> Iterator[Question]:
        judged = self._judgements()
        asked = dict(self._queries())
        unknown = [id for id in judged if id not in asked]
        if unknown:
            raise DataError(
                f"{self.qrels}: {len(unknown)} judged queries are not in {self.queries}, first {unknown[0]!r}. "
                "Does questions.numbered=in_order fit (qrels that count the queries from 1)?"
            )
        relevant = {id: {d: g for d, g in judged.get(id, {}).items() if g >= self.least_grade} for id in asked}
        tuning = set(sorted(asked, key=lambda id: (bool(relevant[id]), digest(id), id))[: self.tuning])
        if self.tuning and not any(grades for id, grades in relevant.items() if id not in tuning):
            raise DataError(f"questions.tuning: {self.tuning} of {len(asked)} queries leaves none to be judged on.")
        for id, text in asked.items():
            if id in tuning:
                yield Question(id, text, (), (), "train")
            elif relevant[id]:  # a query that nobody judged says nothing of a search
                yield Question(id, text, (), tuple(relevant[id]), self.split, grades=tuple(relevant[id].values()))

    def _queries(self) -> Iterator[tuple[str, str]]:
        for number, (id, text) in enumerate(self._listed(), start=1):
            yield (str(number) if self.numbered == "in_order" else id), text

    def _listed(self) -> Iterator[tuple[str, str]]:
        if self.queries.endswith((".jsonl", ".jsonl.gz")):
            for where, record in read_lines(self.queries):
                if "_id" not in record or "text" not in record:
                    raise DataError(f"{where}: a query needs '_id' and 'text'; it has {', '.join(record)}.")
                yield str(record["_id"]), str(record["text"])
            return
        whole = _read(self.queries)
        topics = re.findall(_TAG.format("top"), whole, re.DOTALL | re.IGNORECASE)
        for number, topic in enumerate(topics, start=1):
            # Old topics leave their elements open: <num> Number: 301 <title> ...
            id = re.search(r"<num>\s*(?:Number:)?\s*([^\s<]+)", topic, re.IGNORECASE)
            text = re.search(r"<title>\s*(.*?)\s*(?:<|$)", topic, re.DOTALL | re.IGNORECASE)
            if not id or not text or not text.group(1):
                raise DataError(f"{self.queries}: topic number {number} has no <num> or no <title>.")
            yield id.group(1), " ".join(unescape(text.group(1)).split())
        if topics:
            return
        for number, line in enumerate(whole.splitlines(), start=1):
            id, tab, text = line.partition("\t")
            if not tab:
                raise DataError(f"{self.queries}, line {number}: no TREC topic and not 'id<tab>text': {line[:60]!r}.")
            yield id, text

    def _judgements(self) -> dict[str, dict[str, float]]:
        """Grades by query and document."""
        found: dict[str, dict[str, float]] = {}
        for number, line in enumerate(_read(self.qrels).splitlines(), start=1):
            words = line.split()
            if not words or (number == 1 and not words[-1].lstrip("-").replace(".", "", 1).isdigit()):
                continue  # BEIR's file has a head
            if len(words) not in (3, 4):
                raise DataError(
                    f"{self.qrels}, line {number}: 'query 0 document grade' or 'query document grade' is wanted, "
                    f"this is {line[:60]!r}."
                )
            query, document = words[0], words[-2]
            try:
                found.setdefault(query, {})[document] = float(words[-1])
            except ValueError as e:
                raise DataError(f"{self.qrels}, line {number}: the grade {words[-1]!r} is no number.") from e
        return found
