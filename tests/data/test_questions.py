"""Questions: gold ids become rows, splits are nested prefixes, and what is refused."""

from dataclasses import replace
from typing import Literal

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import PrivateAttr

from rag_exp.core.errors import DataError
from rag_exp.data.passages import PassageTable, Whole, Words, write_passages
from rag_exp.data.questions import QuestionTable, write_questions
from rag_exp.data.sources import CorpusOptions, Document, Passage, Question, QuestionOptions


class Corpus(CorpusOptions):
    kind: Literal["listed"] = "listed"

    def documents(self):
        for d in range(6):
            yield Document(
                f"d{d}", (Passage(f"p{d}", "T", f"alpha {d} beta gamma delta {d}0"), Passage(f"s{d}", "T", "s"))
            )


class Asked(QuestionOptions):
    kind: Literal["asked"] = "asked"

    _listed: list[Question] = PrivateAttr(default_factory=list)

    def questions(self):
        return iter(self._listed)


def asked(*listed):
    options = Asked()
    options._listed = list(listed)
    return options


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("passages")
    write_passages(Corpus(), Whole(), folder)
    return PassageTable.open(folder)


def q(id, split="train", gold=(), answers=("0",), **more):
    return Question(id, f"Question {id}?", tuple(answers), tuple(gold), split, **more)


def test_exact_small_case(tmp_path, table):
    listed = (
        q("a", gold=["p1"], answers=["1", "one"], template="t", entropy=1.5, entropy_given_gold=0.25),
        q("b", "dev", gold=["s2", "p3"], hops=2),
        q("c", "odd"),
    )
    stats = write_questions(asked(*listed), table, tmp_path)
    assert stats == {
        "questions": 3,
        "splits": {"train": 1, "dev": 1, "odd": 1},
        "hops": {"1": 2, "2": 1},
        "templates": {"": 2, "t": 1},
        "with_gold": 2,
        "golds": 3,
    }
    train, dev, odd = (QuestionTable.open(tmp_path, s) for s in ("train", "dev", "odd"))
    assert (train.ids, train.questions, train.answers, train.targets) == (["a"], ["Question a?"], [["1", "one"]], ["1"])
    assert (train.templates, train.entropies, train.entropies_given_gold) == (["t"], [1.5], [0.25])
    assert table.ids(train.gold[0]) == ["p1"]
    assert table.ids(dev.gold[0]) == ["s2", "p3"]
    assert (dev.gold_of, dev.gold_ids, dev.hops.tolist()) == ([[0, 1]], [["s2", "p3"]], [2])
    assert (odd.gold, odd.gold_ids, odd.entropies) == ([[]], [[]], [None])
    assert len(odd) == 1


def test_choices_are_a_column_where_some_question_has_them(tmp_path, table):
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    write_questions(asked(q("a", choices=("1", "0")), q("b")), table, tmp_path / "with")
    write_questions(asked(q("a"), q("b")), table, tmp_path / "without")
    chosen, plain = (QuestionTable.open(tmp_path / name, "train") for name in ("with", "without"))
    assert dict(zip(chosen.ids, chosen.choices, strict=True)) == {"a": ["1", "0"], "b": []}
    assert plain.choices == [[], []]
    assert "choices" not in pq.read_schema(tmp_path / "without" / "questions.parquet").names


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (("0",), "'b' .* at least two choices"),
        (("0", " "), "none of them empty"),
        (("1", "2"), "'b' .* choices that do not hold its answer '0': '1', '2'"),
    ],
)
def test_bad_choices_are_named(tmp_path, table, choices, message):
    with pytest.raises(DataError, match=message):
        write_questions(asked(q("a"), q("b", choices=choices)), table, tmp_path)


def test_gold_within_a_prefix_needs_every_hop(tmp_path, table):
    first, second = table.ids([0, 11])
    listed = (q("a", gold=[first]), q("b", gold=[first, second], hops=2), q("c"))
    write_questions(asked(*listed), table, tmp_path)
    read = QuestionTable.open(tmp_path, "train")
    inside = {size: dict(zip(read.ids, read.gold_within(size).tolist(), strict=True)) for size in (0, 1, 12)}
    assert inside[0] == {"a": False, "b": False, "c": False}
    assert inside[1] == {"a": True, "b": False, "c": False}
    assert inside[12] == {"a": True, "b": True, "c": False}


def test_gold_of_a_cut_passage_is_the_parts_with_an_answer(tmp_path):
    write_passages(Corpus(), Words(max_words=2), tmp_path)
    table = PassageTable.open(tmp_path)
    # p3 becomes "alpha 3", "beta gamma", "delta 30"
    listed = (
        q("one", gold=["p3"], answers=["Delta"]),
        q("none", gold=["p3"], answers=["3 beta"]),
        q("two", gold=["p3"], answers=["the alpha", "GAMMA"]),
        q("hops", gold=["p3", "s1", "p4"], answers=["40"], hops=3),
    )
    folder = tmp_path / "questions"
    folder.mkdir()
    write_questions(asked(*listed), table, folder)
    read = QuestionTable.open(folder, "train")
    gold = {i: table.ids(rows) for i, rows in zip(read.ids, read.gold, strict=True)}
    assert gold["one"] == ["p3#2"]
    assert gold["none"] == ["p3#0", "p3#1", "p3#2"]
    assert gold["two"] == ["p3#0", "p3#1"]
    assert gold["hops"] == ["p3#0", "p3#1", "p3#2", "s1", "p4#2"]
    assert read.gold_of[read.ids.index("hops")] == [0, 0, 0, 1, 2]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(ids=st.lists(st.text(min_size=1, max_size=4), unique=True, min_size=2, max_size=12), shuffle=st.randoms())
def test_the_source_order_changes_nothing_and_limits_are_nested(table, tmp_path_factory, ids, shuffle):
    tmp = tmp_path_factory.mktemp("order")
    try:
        [i.encode() for i in ids]
    except UnicodeEncodeError:
        return
    listed = [q(i, "dev" if n % 3 == 0 else "train") for n, i in enumerate(ids)]
    shuffled = list(listed)
    shuffle.shuffle(shuffled)
    for name, some in (("a", listed), ("b", shuffled)):
        (tmp / name).mkdir()
        write_questions(asked(*some), table, tmp / name)
    for split in ("train", "dev"):
        whole = QuestionTable.open(tmp / "a", split).ids
        assert whole == QuestionTable.open(tmp / "b", split).ids
        for limit in range(len(whole) + 2):
            assert QuestionTable.open(tmp / "a", split, limit).ids == whole[:limit]
        # taking other questions away leaves the order of the rest
        (tmp / f"c{split}").mkdir()
        kept = [x for x in listed if x.split != split or x.id in whole[::2]]
        write_questions(asked(*kept), table, tmp / f"c{split}")
        assert QuestionTable.open(tmp / f"c{split}", split).ids == whole[::2]


def test_gold_ids_that_are_not_in_the_corpus_are_refused(tmp_path, table):
    listed = [q(f"q{n}", gold=[f"absent{n}"]) for n in range(7)] + [q("fine", gold=["p1"]), q("without")]
    with pytest.raises(DataError) as e:
        write_questions(asked(*listed), table, tmp_path)
    assert "7 of 8 gold passage ids are not in the corpus of 12 passages (before any size cut)" in str(e.value)
    assert "'absent0', 'absent1', 'absent2', 'absent3', 'absent4' and 2 more" in str(e.value)
    assert "7 of 9 questions name them, first" in str(e.value)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([], "yields no question"),
        ([q("a"), q("b"), q("a", "dev")], "id 'a' comes twice, as number 1 and as number 3"),
        ([q("a"), replace(q("b"), question=" ")], r"Question 'b' \(number 2 of the source\) has an empty text"),
        ([q("a", answers=[])], r"Question 'a' .* has no answers: 'Question a\?'"),
        ([q("a", answers=["x", " "])], "Question 'a' .* has an empty answer"),
    ],
)
def test_bad_questions_are_refused(tmp_path, table, listed, message):
    with pytest.raises(DataError, match=message):
        write_questions(asked(*listed), table, tmp_path)


def test_an_unknown_split_names_those_there_are(tmp_path, table):
    write_questions(asked(q("a"), q("b", "dev"), q("c", "dev")), table, tmp_path)
    with pytest.raises(DataError, match=r"no split 'dve'. Did you mean 'dev'\? They have: train \(1\), dev \(2\)"):
        QuestionTable.open(tmp_path, "dve")
    with pytest.raises(DataError, match="no questions there"):
        QuestionTable.open(tmp_path / "elsewhere", "dev")
