"""From the records of a file or data set (mappings of plain values) to passages and questions, by a field mapping.

A field is named by a dotted path: ``meta.title`` goes into nested objects, ``hits.0.id`` takes an element
of a list, and ``hits.id`` takes ``id`` of every element.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from rag_exp.core.errors import DataError, did_you_mean
from rag_exp.core.options import Options
from rag_exp.data.sources import Document, Passage, Question

# A record and where it stands ("corpus.jsonl, line 3"), for messages.
Placed = tuple[str, Mapping[str, Any]]


class Fields(Options):
    """Where a record holds what: each field is a dotted path, or null."""

    def paths(self) -> dict[str, str | None]:
        """The paths by field."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    def roots(self) -> list[str]:
        """The top-level fields that are read."""
        return sorted({path.partition(".")[0] for path in self.paths().values() if path})


class PassageFields(Fields):
    """Where a record holds a passage's parts."""

    id: str | None = Field("id", description="unique id; null numbers the records from 0")
    document: str | None = Field(None, description="id of the document it belongs to; null: it is one of its own")
    title: str | None = Field("title", description="null, or absent from a record: no title")
    text: str = "text"


class QuestionFields(Fields):
    """Where a record holds a question's parts. Only ``question`` and ``answers`` must be there."""

    question: str = "question"
    answers: str = Field("answers", description="a string or a list of strings; the first is the training target")
    id: str | None = Field("id", description="unique id; where there is none, <split>-<number>")
    gold: str | None = Field("gold", description="id, or list of ids, of the passages that hold the answer")
    split: str | None = Field(None, description="name of the split, where records and not files tell it")
    hops: str | None = Field(None, description="number of passages to be read together; where there is none, 1")
    template: str | None = Field(None, description="kind of question, for tables by kind")
    choices: str | None = Field(None, description="list of the answers to choose among (evaluation.decode=choices)")
    labels: str | None = Field(None, description="list of the choices' labels, where `answers` names these")
    answers_are: Literal["texts", "labels", "numbers"] = Field(
        "texts",
        description="what `answers` holds: texts; labels of choices, as B; or their numbers, counted from 0",
    )

    @model_validator(mode="after")
    def _of_choices(self) -> QuestionFields:
        if self.choices is None and (self.labels is not None or self.answers_are != "texts"):
            raise ValueError("labels and answers_are speak of choices: name their field too, as choices=choices.text")
        if (self.labels is not None) != (self.answers_are == "labels"):
            raise ValueError("answers_are=labels and the field of the labels (labels=choices.label) go together")
        return self

    def paths(self) -> dict[str, str | None]:
        return {name: path for name, path in super().paths().items() if name != "answers_are"}

    def identity(self, *leave_out: str) -> dict[str, Any]:
        """The identity; what speaks of choices is in it only where there are some."""
        of_choices = () if self.choices is not None else ("choices", "labels", "answers_are")
        return {name: value for name, value in super().identity(*leave_out).items() if name not in of_choices}


_ABSENT = object()


def look_up(value: Any, path: str) -> Any:
    """The value at a dotted ``path``, None where it is absent or null; elements of a list that lack it are left out."""
    found = _walk(value, path.split("."))
    return None if found is _ABSENT else found


def _walk(value: Any, steps: list[str]) -> Any:
    if not steps:
        return value
    head, rest = steps[0], steps[1:]
    if isinstance(value, Mapping):
        return _walk(value[head], rest) if head in value else _ABSENT
    if isinstance(value, (list, tuple)):
        if head.isdecimal():
            return _walk(value[int(head)], rest) if int(head) < len(value) else _ABSENT
        found = [_walk(element, steps) for element in value]
        return [f for f in found if f is not _ABSENT]
    return _ABSENT


class _Reader:
    """Reads mapped fields of records and notices a mapping that no record knows.

    Args:
        fields: the mapping.
        key: its config path, for messages.
    """

    def __init__(self, fields: Fields, key: str):
        self.fields, self.key = fields, key
        defaults = type(fields)().paths()
        # A mapping the user changed and no record has is a slip of the pen; a default that none has is just absent.
        self._chosen = {
            name: path for name, path in fields.paths().items() if path is not None and path != defaults[name]
        }
        self._last: Placed | None = None

    def get(self, placed: Placed, name: str) -> Any:
        path = getattr(self.fields, name)
        if path is None:
            return None
        found = look_up(placed[1], path)
        if found is not None:
            self._chosen.pop(name, None)
        self._last = placed
        return found

    def need(self, placed: Placed, name: str) -> Any:
        found = self.get(placed, name)
        if found is None:
            where, record = placed
            path = getattr(self.fields, name)
            hint = did_you_mean(path, record)
            raise DataError(
                f"{where}: no field {path!r} ({self.key}.{name}).{hint} It has: {', '.join(record) or 'nothing'}."
            )
        return found

    def text(self, placed: Placed, name: str, value: Any) -> str:
        """``value`` as text: strings and whole numbers are taken, anything else is an error."""
        if isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        path = getattr(self.fields, name)
        raise DataError(f"{placed[0]}: {path!r} ({self.key}.{name}) is {kind_of(value)}, not a text: {_short(value)}.")

    def texts(self, placed: Placed, name: str, value: Any) -> tuple[str, ...]:
        """``value`` as several texts, in order, each once."""
        values = value if isinstance(value, (list, tuple)) else [value]
        return tuple(dict.fromkeys(self.text(placed, name, v) for v in values))

    def finish(self) -> None:
        if self._last is None or not self._chosen:
            return
        name, path = next(iter(self._chosen.items()))
        hint = did_you_mean(path, self._last[1])
        raise DataError(
            f"No record has the field {path!r} that {self.key}.{name} names.{hint} "
            f"The last one ({self._last[0]}) has: {', '.join(self._last[1])}."
        )


def kind_of(value: Any) -> str:
    """What a JSON value is, for messages: "a list", "an object"."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "a boolean",
        int: "a number",
        float: "a decimal number",
    }
    return names.get(type(value), "null" if value is None else f"a {type(value).__name__}")


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def documents_of(records: Iterable[Placed], fields: PassageFields, key: str = "corpus.fields") -> Iterator[Document]:
    """Documents of passage records; records in a row with one document id are one document.

    Raises:
        DataError: a record lacks a mapped id or text, or holds something else there.
    """
    reader = _Reader(fields, key)
    held: list[Passage] = []
    current: str | None = None
    for n, placed in enumerate(records):
        id = str(n) if fields.id is None else reader.text(placed, "id", reader.need(placed, "id"))
        text = reader.text(placed, "text", reader.need(placed, "text"))
        title, document = reader.get(placed, "title"), reader.get(placed, "document")
        passage = Passage(id, "" if title is None else reader.text(placed, "title", title), text)
        name = id if document is None else reader.text(placed, "document", document)
        if held and name != current:
            yield Document(str(current), tuple(held))
            held = []
        current = name
        held.append(passage)
    if held:
        yield Document(str(current), tuple(held))
    reader.finish()


def questions_of(
    records: Iterable[Placed], fields: QuestionFields, split: str, key: str = "questions.fields"
) -> Iterator[Question]:
    """Questions of question records; ``split`` is theirs unless a record says another.

    Raises:
        DataError: a record lacks a question or answers, or holds something else there.
    """
    reader = _Reader(fields, key)
    for n, placed in enumerate(records):
        question = reader.text(placed, "question", reader.need(placed, "question"))
        choices = () if fields.choices is None else _different(reader, placed, "choices")
        answers = _answers(reader, placed, choices)
        if not answers:
            raise DataError(f"{placed[0]}: {fields.answers!r} ({key}.answers) is an empty list; a question needs one.")
        own_split, id, gold = (reader.get(placed, name) for name in ("split", "id", "gold"))
        hops, template = reader.get(placed, "hops"), reader.get(placed, "template")
        of_split = split if own_split is None else reader.text(placed, "split", own_split)
        if hops is not None and (not isinstance(hops, int) or isinstance(hops, bool) or hops < 1):
            raise DataError(f"{placed[0]}: {fields.hops!r} ({key}.hops) must be a whole number from 1 on: {hops!r}.")
        yield Question(
            id=f"{split}-{n}" if id is None else reader.text(placed, "id", id),
            question=question,
            answers=answers,
            gold_ids=() if gold is None else reader.texts(placed, "gold", gold),
            split=of_split,
            hops=1 if hops is None else hops,
            template="" if template is None else reader.text(placed, "template", template),
            choices=choices,
        )
    reader.finish()


def _different(reader: _Reader, placed: Placed, name: str) -> tuple[str, ...]:
    """The texts of a list whose order counts: one that holds a text twice is an error."""
    value = reader.need(placed, name)
    texts = reader.texts(placed, name, value)
    if isinstance(value, (list, tuple)) and len(texts) < len(value):
        raise DataError(f"{placed[0]}: {getattr(reader.fields, name)!r} ({reader.key}.{name}) holds a text twice.")
    return texts


def _answers(reader: _Reader, placed: Placed, choices: tuple[str, ...]) -> tuple[str, ...]:
    """The answers' texts, looked up among the choices where the record names them by label or number."""
    fields = reader.fields
    assert isinstance(fields, QuestionFields)
    named = reader.texts(placed, "answers", reader.need(placed, "answers"))
    if fields.answers_are == "texts":
        return named
    names = [str(n) for n in range(len(choices))]
    if fields.answers_are == "labels":
        names = list(_different(reader, placed, "labels"))
        if len(names) != len(choices):
            raise DataError(
                f"{placed[0]}: {len(names)} labels for {len(choices)} choices ({reader.key}.labels and .choices)."
            )
    unknown = [name for name in named if name not in names]
    if unknown:
        raise DataError(
            f"{placed[0]}: {fields.answers!r} ({reader.key}.answers) is {unknown[0]!r}, none of the choices' "
            f"{fields.answers_are}: {', '.join(names)}."
        )
    return tuple(choices[names.index(name)] for name in named)
