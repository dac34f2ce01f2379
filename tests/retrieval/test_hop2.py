from __future__ import annotations

import pytest
from pydantic import ValidationError

from rag_exp.retrieval.hop2 import SecondHop

QUESTION = "How many people live in the town where Ada Bell was born?"
TITLE, TEXT = "Ada Bell", "Ada Bell was born in Limo, a town of traders."


@pytest.mark.parametrize(
    ("query", "words", "composed"),
    [
        ("{question} {title} {text}", None, f"{QUESTION} {TITLE} {TEXT}"),
        ("{question} | {text}", 3, f"{QUESTION} | Ada Bell was"),
        ("{question}", None, QUESTION),
        ("{new}", None, "Limo of traders"),
        ("{new}", 1, "Limo"),
        ("{rest} {new}", 1, "How many people live the where Limo"),
        ("{{}} {title}", None, "{} Ada Bell"),
    ],
)
def test_composes(query: str, words: int | None, composed: str):
    assert SecondHop(query=query, words=words).compose(QUESTION, TITLE, TEXT) == composed


def test_a_genitive_is_the_word_it_belongs_to():
    assert SecondHop(query="{rest}").compose("What is Ada Bell's colour?", TITLE, TEXT) == "What is colour?"


def test_braces_in_texts_are_text():
    assert SecondHop(query="{question} {title} {text}").compose("{x}?", "{title}", "{") == "{x}? {title} {"


@pytest.mark.parametrize(
    ("query", "says"),
    [("{quesion}", "unknown field {quesion}"), ("a", "needs a field"), ("{text:3}", "no format"), ("{text", "braces")],
)
def test_refuses(query: str, says: str):
    with pytest.raises(ValidationError, match=says):
        SecondHop(query=query)
