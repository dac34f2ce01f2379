"""Replies as servers send them, and as they should not."""

from __future__ import annotations

import pytest

from rag_exp.models.hosted.wire import WireError, complaint, echoed, usage, written


def reply(**choice):
    return {"choices": [choice]}


def logprobs(tokens, values, offsets=None):
    return {"tokens": tokens, "token_logprobs": values, "text_offset": offsets}


@pytest.mark.parametrize(
    "choice",
    [
        {"text": "x"},
        {"text": "x", "logprobs": None},
        {"text": "x", "logprobs": logprobs([], [])},
        {"text": "x", "logprobs": logprobs([" x"], [-1.0], [0])},  # what was generated alone: echo was ignored
    ],
)
def test_absent_log_probabilities_are_seen_in_the_reply(choice):
    assert echoed(reply(**choice), "echo") is None
    assert echoed(reply(**choice), "prompt_logprobs") is None


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"logprobs": {"content": []}}, "no list of tokens"),
        ({"logprobs": logprobs(["a", "b"], [None])}, "2 tokens and 1"),
        ({"logprobs": logprobs(["a", "b"], [None, 0.5])}, "0.5 is no log-probability"),
        ({"logprobs": logprobs(["a", "b"], [None, float("-inf")])}, "-inf is no log-probability"),
    ],
)
def test_odd_log_probabilities_are_refused(choice, words):
    with pytest.raises(WireError, match=words):
        echoed(reply(**choice), "echo")


def test_no_choice():
    with pytest.raises(WireError, match="no choices: overloaded"):
        written({"error": {"message": "overloaded"}})


def test_written_answers():
    assert written(reply(text=" a", finish_reason="stop")) == (" a", None, True)
    assert written(reply(message={"content": "a"}, finish_reason="length")) == ("a", None, False)
    assert written(reply(message={"content": None})) == ("", None, True)
    assert written(reply(text="ab", logprobs=logprobs(["a", "b"], [-1.0, -0.5]))) == ("ab", -1.5, True)
    assert written(reply(text="ab", logprobs=logprobs(["a", "b"], [None, -0.5])))[1] is None


def test_counts_and_complaints():
    assert usage({}) == {}
    assert usage({"usage": {"prompt_tokens": 3, "completion_tokens": 1, "x": 2}}) == {
        "prompt_tokens": 3,
        "completion_tokens": 1,
    }
    assert complaint({"error": {"message": "no\nsuch model"}}) == "no such model"
    assert complaint({"detail": [{"msg": "x"}]}) == "[{'msg': 'x'}]"
