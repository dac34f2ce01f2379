"""The answer's tokens, by hand."""

from __future__ import annotations

import pytest

from rag_exp.models.hosted.alignment import Echo, align


def echo(tokens, offsets=True, generated=0):
    places = [sum(map(len, tokens[:i])) for i in range(len(tokens))]
    logp = [None, *(-float(i) for i in range(1, len(tokens)))]
    return Echo(tokens, logp, places if offsets else None, generated)


@pytest.mark.parametrize("offsets", [True, False])
def test_a_boundary_between_tokens(offsets):
    found = align(echo(["Q", ":", " Par", "is", " x"], offsets, 1), "Q:", " Paris")
    assert (found.tokens, found.logp, found.end_logp, found.merged) == ([" Par", "is"], [-2.0, -3.0], None, False)


@pytest.mark.parametrize("offsets", [True, False])
def test_a_boundary_inside_a_token_merges_it_into_the_answer(offsets):
    found = align(echo(["Q", ":Pa", "ris"], offsets), "Q:", "Paris")
    assert (found.tokens, found.logp, found.merged) == ([":Pa", "ris"], [-1.0, -2.0], True)


@pytest.mark.parametrize("shown", ["</s>", ""])
def test_the_end_token(shown):
    tokens = ["Q:", " a", shown, "\n"]
    found = align(Echo(tokens, [None, -1.0, -2.0, -3.0], [0, 2, 4, 8], 1), "Q:", " a", "</s>")
    assert (found.logp, found.end_logp) == ([-1.0], -2.0)
    with pytest.raises(ValueError, match="'</s>' is not one token"):
        align(echo(["Q:", " a", "</", "s>"]), "Q:", " a", "</s>")


def test_a_generated_token_that_is_not_counted_or_not_listed():
    assert align(echo(["Q:", " a", " b"]), "Q:", " a").tokens == [" a"]
    assert align(echo(["Q:", " a"], generated=1), "Q:", " a").tokens == [" a"]


def test_offsets_that_count_split_characters_twice_are_not_believed():
    tokens = ["\ufffd", "\ufffd", ":", " a", "b"]  # the prompt is one character and ":"
    found = align(echo(tokens), "é:", " ab")
    assert (found.tokens, found.merged) == ([" a", "b"], False)


def test_an_answer_of_split_characters():
    found = align(echo(["Q", ":", "\ufffd", "\ufffd", "t", "\ufffd", "\ufffd"], offsets=False), "Q:", "été")
    assert len(found.tokens) == 5
    found = align(echo(["Q:", " ", "\ufffd", "\ufffd", "t"], offsets=False), "Q:", " ét")
    assert found.tokens == [" ", "\ufffd", "\ufffd", "t"]


def test_spaces_as_vocabularies_write_them():
    assert align(echo(["Q:", "\u2581Pa", "ris"]), "Q:", " Paris").logp == [-1.0, -2.0]


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="no tokens at the end of what it echoes spell the answer ' Oslo'"):
        align(echo(["Q:", " Paris"]), "Q:", " Oslo")
    with pytest.raises(ValueError, match="no log-probability for a token"):
        align(Echo(["Q:", " a"], [None, None], [0, 2]), "Q:", " a")
