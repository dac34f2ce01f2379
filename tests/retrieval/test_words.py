"""Tokens by words are those of the whole text, whatever is in it and whatever was met before."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag_exp.data.tokenizer import TextTokenizer
from rag_exp.retrieval import words as module
from rag_exp.retrieval.words import WordTokens, words

ODD = [
    "<s>",
    "</s><pad>",
    "don't it's",
    "a_b 3,849 m²",
    "\x1c\x85\u2028\u00a0x",
    "İSTANBUL ǅ",
    "e\u0301 👩‍🚀",
    "Ġ ĠĠ",
    "",
]


@pytest.fixture
def tokenizer(tokenizer_folder: Path) -> TextTokenizer:
    return TextTokenizer.load(tokenizer_folder)


def whole(tokenizer: TextTokenizer, texts: list[str]) -> list[list[int]]:
    return tokenizer.encode(["".join(f" {word}" for word in words(text)) for text in texts])


def by_words(tokens: WordTokens, texts: list[str]) -> list[list[int]]:
    ids, lengths = tokens.encode(texts)
    assert (ids.dtype, lengths.dtype, lengths.sum()) == (np.int64, np.int64, len(ids))
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths))[:-1]]


def test_case_and_punctuation_do_not_hide_a_name():
    assert words("Chad's capital") == ["chad", "'", "s", "capital"]
    assert words("(CHAD)") == ["(", "chad", ")"]
    assert words(" \n") == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(calls=st.lists(st.lists(st.one_of(st.text(max_size=30), st.sampled_from(ODD)), max_size=5), max_size=3))
def test_they_are_those_of_the_whole_text(tokenizer: TextTokenizer, calls: list[list[str]]):
    tokens = WordTokens(tokenizer)
    for texts in [*calls, [], ["", ""], ODD]:
        assert by_words(tokens, texts) == whole(tokenizer, texts)


def test_no_word_is_tokenized_twice_and_memory_is_bounded(tokenizer: TextTokenizer, monkeypatch):
    asked: list[str] = []
    encode = tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda texts: (asked.extend(texts), encode(texts))[1])
    tokens = WordTokens(tokenizer)
    tokens.encode(["the capital of the", "the largest of"])
    assert asked == [" the", " capital", " of", " largest"]
    asked.clear()
    copied = copy.deepcopy(tokens)
    assert by_words(copied, ["largest of the sea"]) == whole(tokenizer, ["largest of the sea"])
    assert asked[0] == " sea"
    monkeypatch.setattr(module, "MOST_WORDS", 3)
    asked.clear()
    tokens.encode(["of the"])
    assert asked == [" of", " the"]


def test_an_interrupted_call_leaves_nothing_wrong_behind(tokenizer: TextTokenizer, monkeypatch):
    tokens = WordTokens(tokenizer)
    tokens.encode(["the sea"])

    def interrupted(texts: list[str]) -> list[list[int]]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tokenizer, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tokens.encode(["the old capital"])
    assert by_words(tokens, ["a capital", "the old sea"]) == whole(tokenizer, ["a capital", "the old sea"])
