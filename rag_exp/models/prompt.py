"""The text a reader sees: templates, and what they need of the context.

A prompt is fixed text with the question and the passages put in, then ``answer_prefix``, after which
the answer is to be written. The question stands before the passages by default: a causal reader then
knows what is asked while it reads, which makes copying the answer out learnable for small models.

Pieces are tokenized apart and joined as ids (see :mod:`rag_exp.models.packing`), so that each text is
tokenized once. A space that stands right before a field belongs to the field (" Paris", one piece in
most vocabularies), as it would in running text.
"""

from __future__ import annotations

import string
from typing import Any, Literal

from pydantic import Field, field_validator

from rag_exp.core.options import Options

Piece = tuple[str, str | None]  # fixed text, then the name of the field that follows it (None: nothing follows)


class PromptOptions(Options):
    """How question and passages become one text, and how long an answer may be.

    Example::

        PromptOptions(template="Question: {question}\\n{passages}", passage="Passage: {title}. {text}\\n",
                      answer_prefix="Answer: ")
    """

    template: str = Field("{question}\n{passages}", description="the whole prompt; {question} once and {passages} once")
    passage: str = Field("{title}: {text}\n", description="one passage; {text} once and {title} at most once")
    answer_prefix: str = Field("", description="text between the prompt and the answer")
    passage_order: Literal["rank", "reverse"] = Field(
        "rank", description="order of passages read jointly: best first, or best last (nearest to the answer)"
    )
    max_answer_tokens: int = Field(
        40, ge=2, description="room kept for the answer and its end token, when scored and when written alike"
    )
    begin: bool = Field(True, description="begin with the vocabulary's begin token, where it has one")

    @field_validator("template")
    @classmethod
    def _template(cls, value: str) -> str:
        return _has_fields(value, needed=("question", "passages"))

    @field_validator("passage")
    @classmethod
    def _passage(cls, value: str) -> str:
        return _has_fields(value, needed=("text",), allowed=("title",))

    def identity_for(self, joint: bool) -> dict[str, Any]:
        """The identity, without the order of passages where each passage is read by itself and no order exists."""
        found = self.identity()
        if not joint:
            del found["passage_order"]
        return found

    def pieces(self) -> tuple[list[Piece], list[Piece]]:
        """The template's and the passage's pieces: (fixed text, field after it), spaces before fields moved into them.

        ``answer_prefix`` is part of the template's last piece, whose field is "answer".
        """
        return [_without_space(p) for p in self._whole()], [_without_space(p) for p in _split(self.passage)]

    def lead(self, field: str) -> str:
        """What goes before a value of ``field`` when it is tokenized: " " where the template has a space there."""
        texts = {name: text for text, name in self._whole() + _split(self.passage)}
        return " " if texts.get(field, "").endswith(" ") else ""

    def _whole(self) -> list[Piece]:
        *head, (tail, _) = _split(self.template)
        return [*head, (tail + self.answer_prefix, "answer")]

    def problems(self, context: int, seq2seq: bool, path: str = "prompt") -> list[str]:
        """Problems that show before there is a vocabulary: one sentence each, none when all is well.

        Args:
            context: tokens the reader can hold (of its encoder, for a sequence-to-sequence reader).
            seq2seq: whether the answer has a context of its own.
            path: config path the sentences start with.
        """
        room = context if seq2seq else context - 1
        if self.max_answer_tokens > room:
            return [
                f"{path}.max_answer_tokens: {self.max_answer_tokens} tokens do not fit the generator's context of "
                f"{context}; lower it or use a generator with a longer context."
            ]
        return []


def _has_fields(value: str, needed: tuple[str, ...], allowed: tuple[str, ...] = ()) -> str:
    try:
        parsed = list(string.Formatter().parse(value))
    except ValueError as e:
        raise ValueError(f"{e}; write {{{{ and }}}} for braces that are meant as text") from None
    names = [name for _, name, _, _ in parsed if name is not None]
    for _, name, spec, conversion in parsed:
        if name is not None and (spec or conversion):
            raise ValueError(f"the field {{{name}}} takes no format")
    for name in needed:
        if names.count(name) != 1:
            raise ValueError(f"needs {{{name}}} exactly once, has it {names.count(name)} times")
    for name in names:
        if name not in needed + allowed:
            known = ", ".join(f"{{{n}}}" for n in needed + allowed)
            raise ValueError(f"unknown field {{{name}}}; known here: {known}")
        if names.count(name) > 1:
            raise ValueError(f"the field {{{name}}} stands there {names.count(name)} times; at most once")
    return value


def _split(template: str) -> list[Piece]:
    """(text, field) pairs; the last has field None and may have empty text."""
    pieces: list[Piece] = []
    text = ""
    for part, name, _, _ in string.Formatter().parse(template):
        text += part  # a literal brace ends a part without a field
        if name is not None:
            pieces.append((text, name))
            text = ""
    return [*pieces, (text, None)]


def _without_space(piece: Piece) -> Piece:
    text, field = piece
    return (text[:-1], field) if field not in (None, "passages") and text.endswith(" ") else piece
