"""What the second hop asks: the question and a passage of the first hop, composed into one text.

The composed text is encoded (or searched by words) as a question is. Question, title and text in a row find again
what is like the first passage. What should be found is what is still asked of what is newly known: ``{rest}``, the
question without the words that the passage holds, and ``{new}``, the words of the passage that the question does not
hold. "How many people live in the town where Ada Bell was born?" and "Ada Bell was born in Limo." leave "How many
people live the town where" and "Limo". On 100 questions of HotpotQA all-MiniLM-L6-v2 has both gold passages in one of
8 paths (K = J = 5) for .80 of the questions by ``{rest} {new}``, for .64 by question, title and text.
"""

from __future__ import annotations

import re
import string
from functools import lru_cache
from typing import Any

from pydantic import Field, field_validator

from rag_exp.core.options import Options

FIELDS = ("question", "title", "text", "rest", "new")
_WORD = re.compile(r"\w\w+|\d")  # as BM25 reads them, and single digits; the s of "Ada's" is none


class SecondHop(Options):
    """The second hop of a chain, ``retrieval.hop2``. Which passages it can find is known without the index.

    A passage is never found after itself: d1 is left out of its own list. (a, b) and (b, a) are two paths, which
    the reader reads in that order and the prior weighs apart.
    """

    j: int = Field(5, ge=1, description="passages searched after each of the first hop's k")
    paths: int = Field(8, ge=1, description="paths read: of the k x j found, the best by their prior")
    query: str = Field(
        "{rest} {new}",
        description="what is asked, of {question}, {title}, {text}, {rest} (the question without the passage's words) "
        "and {new} (the passage's words that are not the question's); '{question}' pairs the question's own passages",
    )
    words: int | None = Field(
        None, ge=1, description="words of {text} and of {new} that go in, the first ones; null: all"
    )

    @field_validator("query")
    @classmethod
    def _has_known_fields(cls, value: str) -> str:
        try:
            parsed = list(string.Formatter().parse(value))
        except ValueError as e:
            raise ValueError(f"{e}; write {{{{ and }}}} for braces that are meant as text") from None
        names = [name for _, name, _, _ in parsed if name is not None]
        for name in names:
            if name not in FIELDS:
                raise ValueError(f"unknown field {{{name}}}; known here: {', '.join('{' + f + '}' for f in FIELDS)}")
        if not names:
            raise ValueError("needs a field, else every question would ask the same")
        if any(spec or conversion for _, _, spec, conversion in parsed):
            raise ValueError("its fields take no format")
        return value

    def composing(self) -> dict[str, Any]:
        """The fields that decide what is asked: they belong to the encoder's warm-up, the others do not."""
        return {"query": self.query, "words": self.words if "{text}" in self.query or "{new}" in self.query else None}

    def compose(self, question: str, title: str, text: str) -> str:
        """The query that follows ``question`` and the passage ``title``, ``text``."""
        values: dict[str, str] = {"question": question, "title": title}
        if "{text}" in self.query:
            values["text"] = text if self.words is None else " ".join(text.split()[: self.words])
        if "{rest}" in self.query or "{new}" in self.query:
            asked, said = _words(question), _words(f"{title} {text}")
            values["rest"] = " ".join(w for w in question.split() if not _words(w) <= said)
            new = dict.fromkeys(w for w in _in_order(f"{title} {text}") if w.lower() not in asked)
            values["new"] = " ".join(list(new)[: self.words])
        return self.query.format(**values)


@lru_cache(maxsize=65_536)  # a passage is met by many questions, a question by many passages
def _in_order(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text))


@lru_cache(maxsize=65_536)
def _words(text: str) -> frozenset[str]:
    return frozenset(w.lower() for w in _in_order(text))
