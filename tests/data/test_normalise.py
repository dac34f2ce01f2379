import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_exp.data.normalise import answer_in_text, normalise


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The  U.S., an  Example!", "us example"),
        ("a", ""),
        ("Theatre and the anthem", "theatre and anthem"),
        ("$1,000.50 (2024 est.)", "100050 2024 est"),
        ("Éire\tº", "éire º"),
        ("", ""),
    ],
)
def test_normalises_as_squads_official_script(text, wanted):
    assert normalise(text) == wanted


@pytest.mark.parametrize(
    ("answers", "text", "found"),
    [
        (["Santiago"], "name: Santiago; etymology: ...", True),
        (["art"], "a party", False),  # token boundaries, not substrings
        (["the moon landing"], "After a moon-landing, the Moon  Landing was", True),
        (["10"], "about 100 people", False),
        (["100"], "about 10 or 100.", True),
        (["x", "U.S."], "in the US", True),
        (["%"], "100 %", False),  # nothing is left to look for
        (["the"], "the the", False),
        ([], "anything", False),
        (["caf\u00e9"], "cafe\u0301 noir", True),  # composed and decomposed accents are one
    ],
)
def test_answer_in_text(answers, text, found):
    assert answer_in_text(answers, text) is found


@given(st.text(), st.text(), st.text())
def test_a_text_holds_every_answer_that_is_put_into_it_as_words(before, answer, after):
    assert answer_in_text([answer], f"{before} {answer} {after}") or not normalise(answer)


@given(st.text())
def test_normalising_again_changes_nothing_without_new_articles(text):
    once = normalise(text)
    assert set(once.split()).isdisjoint({"a", "an", "the"})
    assert "  " not in once
