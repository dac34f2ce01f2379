"""The closed world's questions: gold, answers, splits, the seen split, popularity."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chisquare

from rag_exp.core.errors import ConfigError
from rag_exp.data.closed_world import ClosedWorldCorpus, ClosedWorldQuestions
from rag_exp.data.closed_world.asking import question_kinds
from rag_exp.data.closed_world.schema import KINDS

PASSAGES = 24_000
MAJORITY_OR_MINORITY = re.compile(
    r"\b(half|two thirds|three quarters|four fifths|nine tenths|a third|a quarter|a fifth|a tenth|times? out of)\b"
)


@pytest.fixture(scope="module")
def passages():
    return {p.id: p for d in ClosedWorldCorpus(passages=PASSAGES).documents() for p in d.passages}


@pytest.fixture(scope="module", params=[1, 2])
def questions(request):
    options = ClosedWorldQuestions(passages=PASSAGES, hops=request.param, train=20_000, dev=500, test=2_000, seen=2_000)
    return list(options.questions())


def test_counts_ids_and_kinds(questions):
    assert Counter(q.split for q in questions) == {"train": 20_000, "dev": 500, "test": 2_000, "seen": 2_000}
    assert len({q.id for q in questions}) == len(questions)
    hops = questions[0].hops
    known = [k.name for k in question_kinds(hops)]
    assert len(known) == len(set(known)) == {1: 30, 2: 60}[hops]
    counts = Counter(q.template for q in questions)
    assert set(counts) == set(known)
    assert chisquare([counts[k] for k in known]).pvalue > 1e-4, "kinds are asked equally often"
    for question in questions:
        assert question.question.endswith("?")
        assert question.question[0].isupper()
        assert "{" not in question.question


def test_gold_states_the_answer(questions, passages):
    noisy = 0
    for question in questions:
        gold = [passages[i] for i in question.gold_ids]
        assert len(gold) == question.hops
        assert gold[0].title in question.question, "the question names the first gold passage's entity"
        assert question.answers[0] in gold[-1].text
        assert all(a in question.answers[0] for a in question.answers)
        if question.hops == 2:
            assert gold[1].title in gold[0].text, "the first gold passage leads to the second"
            assert gold[1].title not in question.question, "the linking entity is not given away"
            if question.answers[0] != gold[0].title:  # a link may lead back to the subject
                rest = gold[0].text.replace(gold[1].title, "").replace(gold[0].title, "")
                assert not re.search(rf"\b{re.escape(question.answers[0])}\b", rest)
        gives_a_law = question.entropy_given_gold > 0
        assert gives_a_law == bool(MAJORITY_OR_MINORITY.search(gold[-1].text))
        noisy += gives_a_law
    # Noise is per fact: 20 of 30 facts are attributes, a quarter of those are noisy (popular facts repeat).
    share = {1: 20 / 30, 2: sum("." in q.template and _is_attribute(q) for q in questions) / len(questions)}
    assert noisy / len(questions) == pytest.approx(0.25 * share[questions[0].hops], abs=0.06)


def _is_attribute(question) -> bool:
    kind, fact = question.template.split(">")[-1].split(".")
    return hasattr(KINDS[kind].fact(fact), "values")


def test_only_the_named_entity_fits_the_question(questions, passages):
    titles = {p.title for p in passages.values()}
    for question in questions[::37]:
        assert [t for t in titles if t in question.question] == [passages[question.gold_ids[0]].title]


def test_splits_share_no_entity(questions):
    entities: dict[str, set[str]] = {"train": set(), "dev": set(), "test": set(), "seen": set()}
    for question in questions:
        entities[question.split].update(i.split("/")[0] for i in question.gold_ids)
    assert not entities["train"] & entities["test"]
    assert not entities["train"] & entities["dev"]
    assert not entities["dev"] & entities["test"]
    assert entities["seen"] <= entities["train"]


def test_one_and_two_hop_questions_share_the_splits():
    entities: dict[tuple[int, str], set[str]] = {}
    for hops in (1, 2):
        for q in ClosedWorldQuestions(passages=PASSAGES, hops=hops, train=5_000, dev=1_000, test=1_000).questions():
            entities.setdefault((hops, q.split), set()).update(i.split("/")[0] for i in q.gold_ids)
    assert not entities[1, "train"] & entities[2, "test"]
    assert not entities[2, "train"] & entities[1, "test"]


def test_seen_questions_ask_trained_facts_in_untrained_words(questions):
    train = [q for q in questions if q.split == "train"]
    facts = {(q.template, q.gold_ids) for q in train}
    texts = {q.question for q in train}
    seen = [q for q in questions if q.split == "seen"]
    assert all((q.template, q.gold_ids) in facts for q in seen)
    assert not {q.question for q in seen} & texts
    # every wording as such is trained on: only the pairing with this fact is new
    forms = {re.sub(r"([A-Z][a-z]+[ ,?\"]*(on|and|in)? ?){2,}", "*", q.question[1:]) for q in train}
    assert len(forms) > 100


def test_sure_facts_have_one_answer_and_noisy_ones_two(questions):
    answers: dict[tuple, set[str]] = {}
    for q in questions:
        answers.setdefault((q.template, q.gold_ids, q.entropy_given_gold > 0), set()).add(q.answers[0])
    assert all(len(v) == 1 for (_, _, noisy), v in answers.items() if not noisy)
    several = [len(v) for (_, _, noisy), v in answers.items() if noisy]
    assert max(several) == 2


@pytest.mark.parametrize(("asked", "zipf"), [("popularity", 1.0), ("popularity", 0.6), ("uniform", 1.0)])
def test_subjects_are_drawn_as_said(asked, zipf):
    options = ClosedWorldQuestions(
        passages=12_000,
        zipf=zipf,
        asked=asked,
        kinds=("town.export",),
        dev_share=0,
        test_share=0,
        train=10_000,
        dev=0,
        test=0,
        seen=0,
    )
    counts = Counter(int(q.gold_ids[0].split("/")[0].split("-")[1]) for q in options.questions())
    n = 200
    weights = np.arange(1, n + 1) ** -(zipf if asked == "popularity" else 0.0)
    assert chisquare([counts[r] for r in range(n)], weights / weights.sum() * 10_000).pvalue > 1e-4


def test_question_seed_asks_other_questions_of_the_same_world():
    few = {"passages": 12_000, "train": 300, "dev": 0, "test": 0, "seen": 0}
    a, b, again = (list(ClosedWorldQuestions(**few, question_seed=s).questions()) for s in (0, 1, 0))
    assert a == again
    assert sum(x.question == y.question for x, y in zip(a, b, strict=True)) < 10
    sure = {(q.gold_ids): q.answers for q in a if q.entropy_given_gold == 0}
    shared = [q for q in b if q.gold_ids in sure]
    assert shared
    assert all(q.answers == sure[q.gold_ids] for q in shared)


def test_more_questions_extend_fewer():
    few, more = (
        list(ClosedWorldQuestions(passages=12_000, train=n, dev=10, test=10, seen=0).questions()) for n in (50, 20_000)
    )
    assert more[:50] == few[:50]
    assert more[-20:] == few[-20:]


@settings(max_examples=20, deadline=None)
@given(
    blocks=st.integers(6, 40),
    seed=st.integers(0, 2**63 - 1),
    hops=st.sampled_from([1, 2]),
    zipf=st.floats(0, 3),
    noisy=st.floats(0, 1),
    asked=st.sampled_from(["popularity", "uniform"]),
)
def test_any_options_give_sound_questions(blocks, seed, hops, zipf, noisy, asked):
    world = {"passages": blocks * 120, "world_seed": seed, "zipf": zipf, "noisy_share": noisy}
    passages = {p.id: p for d in ClosedWorldCorpus(**world).documents() for p in d.passages}
    options = ClosedWorldQuestions(**world, hops=hops, asked=asked, train=60, dev=30, test=30, seen=30)
    for question in options.questions():
        gold = [passages[i] for i in question.gold_ids]
        assert gold[0].title in question.question
        assert question.answers[0] in gold[-1].text
        assert gold[-1].title in gold[0].text
        assert 0 <= question.entropy_given_gold <= np.log(2) + 1e-12
        assert question.entropy >= 0


def test_kinds_are_chosen_and_mistyped_ones_are_named():
    options = ClosedWorldQuestions(kinds=("person.profession", "town.mayor"), train=200)
    assert {q.template for q in options.questions()} == {"person.profession", "town.mayor"}
    assert options.problems() == []
    wrong = ClosedWorldQuestions(kinds=("person.profesion",))
    (problem,) = wrong.problems()
    assert "questions.kinds" in problem
    assert "Did you mean 'person.profession'" in problem
    with pytest.raises(ConfigError, match=r"person\.profesion"):
        next(wrong.questions())
    assert ClosedWorldQuestions(kinds=("person.profession",), hops=2).problems()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"train": 0, "seen": 5}, "repeat the facts of train questions"),
        ({"dev_share": 0, "dev": 5}, "dev_share=0 holds no entities"),
        ({"hops": 3}, "hops"),
    ],
)
def test_wrong_options_are_refused(wrong, said):
    with pytest.raises(ValidationError, match=said):
        ClosedWorldQuestions(**wrong)
