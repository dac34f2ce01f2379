"""The closed world's corpus: draws, names, passages, popularity, prefixes, options."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chisquare

from rag_exp.core.fingerprint import ContentDigests, digest
from rag_exp.data.closed_world import ClosedWorldCorpus, ClosedWorldQuestions
from rag_exp.data.closed_world.draws import Streams, pick, pick_other
from rag_exp.data.closed_world.names import PAIRS, WORDS, Namer, words
from rag_exp.data.closed_world.question_texts import LINK_PHRASES, QUESTIONS
from rag_exp.data.closed_world.schema import KINDS, PASSAGES_PER_BLOCK, Attribute
from rag_exp.data.closed_world.splits import blocks_per_split, split_of_blocks
from rag_exp.data.closed_world.statements import ATTRIBUTE_PHRASES, NOISY_STATEMENTS, STATEMENTS
from rag_exp.data.closed_world.world import World

CONFIGS = Path(__file__).parents[2] / "configs"
PINNED = [  # corpus, one-hop and two-hop questions of test_content_is_pinned
    "eb049122684c427d1f92db0b125da1e2",
    "591f6f4909893febd8cee4e02f465215",
    "6de9c62978cecf3e308a4b71b04cc77f",
]


def _splitmix64(seed: int, n: int) -> list[int]:
    """The published algorithm, one step at a time in Python integers."""
    mask, found = (1 << 64) - 1, []
    for _ in range(n):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        found.append(z ^ (z >> 31))
    return found


def test_splitmix_reference_values():
    # First outputs for seed 1234567, from the reference C program (Vigna) as quoted by Rosetta Code.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert _splitmix64(1234567, 4) == expected


def test_draws_are_splitmix_in_any_order():
    streams = Streams(3)
    streams._keys["x"] = np.uint64(1234567)
    reference = _splitmix64(1234567, 1000)
    assert streams.bits("x", np.arange(1000)).tolist() == reference
    order = np.array([999, 0, 500])
    assert streams.bits("x", order).tolist() == [reference[i] for i in order]
    assert streams.uniform("x", order).tolist() == [(reference[i] >> 11) / 2**53 for i in order]


def test_streams_differ_by_name_and_seed():
    n = np.arange(1000)
    a, b, c = Streams(0).uniform("a", n), Streams(0).uniform("b", n), Streams(1).uniform("a", n)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.13  # 4 standard errors
    assert abs(np.corrcoef(a, c)[0, 1]) < 0.13


def test_pick_and_pick_other_hit_the_exact_intervals():
    prior = np.array([0.5, 0.25, 0.25])
    u = np.array([0.0, 0.49, 0.5, 0.74, 0.75, 0.99])
    assert pick(np.cumsum(prior), u).tolist() == [0, 0, 1, 1, 2, 2]
    # without value 0: 1 and 2 with 1/2 each; without 1: 0 with 2/3, 2 with 1/3
    assert pick_other(prior, np.zeros(6, int), u).tolist() == [1, 1, 2, 2, 2, 2]
    assert pick_other(prior, np.ones(4, int), np.array([0.0, 0.66, 0.67, 0.99])).tolist() == [0, 0, 2, 2]
    assert pick_other(prior, np.full(4, 2), np.array([0.0, 0.66, 0.67, 0.99])).tolist() == [0, 0, 1, 1]


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=20), st.integers(0, 2**32), st.data())
def test_pick_other_never_repeats(weights, seed, data):
    prior = np.array(weights) / sum(weights)
    taken = data.draw(st.integers(0, len(weights) - 1))
    u = np.concatenate([np.random.default_rng(seed).random(200), [0.0, 1 - 2**-53]])
    found = pick_other(prior, np.full(202, taken), u)
    assert (found != taken).all()
    assert found.min() >= 0
    assert found.max() < len(weights)


def test_permutation_is_a_bijection():
    n = 1 << 24
    seen = np.zeros(n, dtype=bool)
    for start in range(0, n, 1 << 21):
        seen[Streams(5).permute("p", np.arange(start, start + (1 << 21)))] = True
    assert seen.all()


def test_splits_exact_small_case():
    # test: floor((c+1)/10 + .5) steps at c = 4, 14; dev: evenly among the other blocks, at 1/9 of them
    assert split_of_blocks(16, 0.1, 0.1).tolist() == [0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1]
    assert blocks_per_split(16, 0.1, 0.1) == {"train": 12, "dev": 2, "test": 2}
    assert blocks_per_split(7, 0.0, 0.0) == {"train": 7, "dev": 0, "test": 0}


@given(st.integers(1, 3000), st.floats(0, 0.6), st.floats(0, 0.39))
def test_splits_prefix_and_counts(blocks, dev, test):
    found = split_of_blocks(blocks, dev, test)
    counts = blocks_per_split(blocks, dev, test)
    assert np.bincount(found, minlength=3).tolist() == [counts["train"], counts["dev"], counts["test"]]
    assert abs(counts["test"] - blocks * test) <= 0.5 + 1e-9
    assert abs(counts["dev"] - blocks * dev) <= 1.5
    half = split_of_blocks(blocks // 2, dev, test)
    assert (half == found[: blocks // 2]).all()


def test_every_fact_is_worded_in_several_ways():
    for kind in KINDS.values():
        assert kind.per_block % 2 == 0
        assert len(kind.facts) == 6
        for fact in kind.facts:
            name = f"{kind.name}.{fact.name}"
            slots = ("{s}", "{v}") if isinstance(fact, Attribute) else ("{s}", "{t}")
            for texts, needed in ((STATEMENTS[name], slots), (QUESTIONS[name], ("{s}",))):
                assert len(set(texts)) == len(texts) >= 4
                for text in texts:
                    assert all(text.replace("{a}", "{v}").count(slot) == 1 for slot in needed), text
            if isinstance(fact, Attribute):
                assert ATTRIBUTE_PHRASES[name].count("{s}") == 1
                assert len({v.lower().replace(",", "") for v in fact.values}) == len(fact.values)
                assert math.isclose(sum(fact.prior()), 1)
            else:
                assert len(set(LINK_PHRASES[name])) >= 3
    assert len(set(NOISY_STATEMENTS)) >= 4
    first_is_majority = [text.index("{v}") < text.index("{w}") for text in NOISY_STATEMENTS]
    assert 0 < sum(first_is_majority) < len(first_is_majority), "the order must not give the majority away"


@pytest.mark.parametrize("flavour", ["given", "second", "family", "place", "water"])
def test_words_are_unique(flavour):
    found = sorted(words(flavour))
    assert len(set(found)) == len(found) == 8192
    if flavour in ("family", "place", "water"):  # they end a name: none may begin another
        assert not [a for a, b in itertools.pairwise(found) if b.startswith(a)]


def test_names_keep_their_distance_at_scale():
    """Among a million people (15 million passages), any two parts of a first-of-pair name tell the pair."""
    a, b, c, _ = Namer(Streams(1), 0.5).codes("person", np.arange(0, 1 << 20, 2))
    for x, y in ((a, b), (a, c), (b, c)):
        assert len(np.unique(x * (2 * WORDS) + y)) == 1 << 19


def test_largest_world_can_be_named():
    largest = next(m.le for m in ClosedWorldCorpus.model_fields["passages"].metadata if hasattr(m, "le"))
    assert largest // PASSAGES_PER_BLOCK * max(k.per_block for k in KINDS.values()) // 2 <= PAIRS


@pytest.fixture(scope="module")
def documents():
    return list(ClosedWorldCorpus(passages=60_000, near_duplicates=0.3).documents())


def test_passages_are_well_formed(documents):
    ids = [p.id for d in documents for p in d.passages]
    assert len(ids) == len(set(ids)) == 60_000
    assert len({d.id for d in documents}) == len(documents) == 10_000
    for document in documents:
        kind, rank = document.id.split("-")
        assert rank.isdigit()
        assert [p.id for p in document.passages] == [f"{document.id}/{f.name}" for f in KINDS[kind].facts]
        for passage in document.passages:
            assert passage.title in passage.text
            assert passage.text.endswith(".")
            assert passage.text[0].isupper() or passage.text[0] == '"' or passage.text[0].isdigit()
            assert "{" not in passage.text
            assert "  " not in passage.text
            assert 6 <= len(passage.text.split()) <= 42


def test_wordings_are_used_evenly(documents):
    frames = Counter()
    for document in documents:
        if document.id.startswith("person"):
            text = document.passages[4].text  # birthplace: a link, never noisy
            frames[next(i for i, s in enumerate(STATEMENTS["person.birthplace"]) if _matches(s, text))] += 1
    assert len(frames) == 5
    assert chisquare(list(frames.values())).pvalue > 1e-4


def _matches(template: str, text: str) -> bool:
    pattern = re.sub(r"\\\{[a-z]+\\\}", ".+", re.escape(template))
    return re.fullmatch(pattern, text) is not None


def test_names_are_unique_and_none_contains_another(documents):
    names = [d.passages[0].title for d in documents]
    known = set(names)
    assert len(known) == len(names)
    text = "\n".join(names)
    assert all(text.count(name) == 1 for name in names[:2_000])
    for name in names:
        parts = name.split(" ")
        inner = {" ".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)} - {name}
        assert not inner & known, name


def _near_duplicate_share(documents) -> float:
    """By brute force over the titles: entities that share all but one word with another of their kind."""
    holders = defaultdict(set)
    for document in documents:
        parts = document.passages[0].title.split(" ")
        for i in range(len(parts)):
            holders[document.id.split("-")[0], i, *parts[:i], "*", *parts[i + 1 :]].add(document.id)
    near = set().union(*(ids for ids in holders.values() if len(ids) > 1), set())
    return len(near) / len(documents)


def test_near_duplicate_share(documents):
    # 5,000 pairs, each a near-duplicate one with probability .3: standard error .0065
    assert abs(_near_duplicate_share(documents) - 0.3) < 4 * 0.0065


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_near_duplicates_are_exactly_the_asked_ones(share):
    assert _near_duplicate_share(list(ClosedWorldCorpus(passages=24_000, near_duplicates=share).documents())) == share


def _facts(corpus) -> dict[str, str]:
    return {p.id: p.text for d in corpus.documents() for p in d.passages}


def test_content_is_pinned():
    """If this fails, the generator's output changed: raise VERSION in options.py, then pin the new digests."""
    options = {"passages": 960, "world_seed": 7}
    found = [digest(_facts(ClosedWorldCorpus(**options)))]
    for hops in (1, 2):
        asked = ClosedWorldQuestions(**options, hops=hops, train=100, dev=20, test=20, seen=20).questions()
        found.append(digest([[q.id, q.question, q.answers, q.gold_ids] for q in asked]))
    assert found == PINNED


def test_world_is_a_prefix_of_a_larger_one_except_for_links():
    small, large = (_facts(ClosedWorldCorpus(passages=n, world_seed=4)) for n in (1_200, 12_000))
    assert list(large)[: len(small)] == list(small)
    attributes = {f"{k.name}/{f.name}" for k in KINDS.values() for f in k.facts if isinstance(f, Attribute)}
    kept = {i: t for i, t in small.items() if re.sub(r"-\d+", "", i) in attributes}
    assert len(kept) == 10 * (8 * 4 + 4 * 3 + 4 * 4 + 2 * 4 + 2 * 5)
    assert all(large[i] == text for i, text in kept.items())
    links = [i for i in small if i not in kept]
    assert sum(large[i] != small[i] for i in links) > len(links) / 4, "links reach the whole of a larger world"


def test_block_size_of_streaming_does_not_show(monkeypatch):
    from rag_exp.data.closed_world import world

    corpus = ClosedWorldCorpus(passages=2_400, world_seed=2)
    once = list(corpus.documents())
    monkeypatch.setattr(world, "_BLOCKS_AT_ONCE", 3)
    assert list(corpus.documents()) == once


def test_seed_changes_everything():
    a, b = (_facts(ClosedWorldCorpus(passages=1_200, world_seed=s)) for s in (0, 1))
    assert a.keys() == b.keys()
    assert not set(a.values()) & set(b.values())


def _towns(documents) -> dict[str, int]:
    return {d.passages[0].title: int(d.id.split("-")[1]) for d in documents if d.id.startswith("town-")}


def _birthplaces(documents) -> dict[int, int]:
    """Rank of the town where each person was born, read off the text of the passage."""
    towns, found = _towns(documents), {}
    for document in documents:
        if document.id.startswith("person-"):
            text = next(p.text for p in document.passages if p.id.endswith("/birthplace")).replace("The town of ", "")
            match = re.search(r"[A-Z][a-z]+ [A-Z][a-z]+ on [A-Z][a-z]+", text)
            assert match is not None, text
            found[int(document.id.split("-")[1])] = towns[match.group()]
    return found


@pytest.mark.parametrize("zipf", [0.0, 0.7, 1.0, 1.5])
def test_links_follow_zipf(zipf):
    documents = list(ClosedWorldCorpus(passages=36_000, zipf=zipf, dev_share=0, test_share=0).documents())
    counts = Counter(_birthplaces(documents).values())
    n = len(_towns(documents))
    weights = np.arange(1, n + 1) ** -zipf
    expected = weights / weights.sum() * sum(counts.values())
    assert sum(counts.values()) == 2_400
    top = 30 if zipf else n // 100
    observed = [counts[r] for r in range(top)] + [sum(counts[r] for r in range(top, n))]
    assert chisquare(observed, [*expected[:top], expected[top:].sum()]).pvalue > 1e-4
    if zipf:  # slope of log count against log rank over decades of ranks
        edges = [0, 1, 3, 9, 27, 81, n]
        mass = [sum(counts[r] for r in range(a, b)) for a, b in itertools.pairwise(edges)]
        assert mass[0] > 0
        slope = np.polyfit(
            [np.log(np.mean(np.arange(a + 1, b + 1))) for a, b in itertools.pairwise(edges)],
            [np.log(m / (b - a)) for m, a, b in zip(mass, edges, edges[1:], strict=False)],
            1,
        )[0]
        assert abs(slope + zipf) < 0.15


def test_facts_of_an_entity_are_independent():
    """Links and values of one entity, are uncorrelated (4 standard errors)."""
    world = World(240_000, 5, zipf=0.3, dev_share=0, test_share=0)
    for kind in KINDS.values():
        ranks = np.arange(world.count("train", kind.name))
        columns = [
            world.attribute(kind.name, f.name, ranks).value
            if isinstance(f, Attribute)
            else world.link(kind.name, f.name, ranks)
            for f in kind.facts
        ]
        columns += [world.attribute(kind.name, f.name, ranks).noisy for f in kind.facts if isinstance(f, Attribute)]
        correlations = np.corrcoef(columns) - np.eye(len(columns))
        assert np.abs(correlations).max() < 4 / np.sqrt(len(ranks)), kind.name


def test_links_stay_in_their_split(documents):
    split = split_of_blocks(500, 0.1, 0.1)
    pairs = Counter((int(split[p // 8]), int(split[t // 2])) for p, t in _birthplaces(documents).items())
    assert pairs == {(0, 0): 3_200, (1, 1): 400, (2, 2): 400}


@settings(max_examples=25, deadline=None)
@given(
    blocks=st.integers(1, 30),
    rest=st.integers(0, 119),
    seed=st.integers(0, 2**63 - 1),
    zipf=st.floats(0, 3),
    near=st.floats(0, 1),
    noisy=st.floats(0, 1),
)
def test_any_options_give_a_sound_corpus(blocks, rest, seed, zipf, near, noisy):
    corpus = ClosedWorldCorpus(
        passages=blocks * PASSAGES_PER_BLOCK + rest,
        world_seed=seed,
        zipf=zipf,
        near_duplicates=near,
        noisy_share=noisy,
        dev_share=0.2 if blocks >= 6 else 0,
        test_share=0.2 if blocks >= 6 else 0,
    )
    documents = list(corpus.documents())
    passages = [p for d in documents for p in d.passages]
    assert len(passages) == corpus.count() == blocks * PASSAGES_PER_BLOCK <= corpus.passages
    assert len({p.id for p in passages}) == len(passages)
    assert len({d.passages[0].title for d in documents}) == len(documents)
    assert documents == list(corpus.documents())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"passages": 119}, "greater than or equal to 120"),
        ({"passages": 240}, "too few for the split dev and test"),
        ({"dev_share": 0.5, "test_share": 0.5}, "leave nothing to train on"),
        ({"noisy_share": 1.2}, "less than or equal to 1"),
        ({"zipff": 1.0}, "Extra inputs"),
    ],
)
def test_wrong_options_are_refused(wrong, said):
    with pytest.raises(ValidationError, match=said):
        ClosedWorldCorpus(**wrong)


def test_content_follows_the_wordings(monkeypatch):
    from rag_exp.data.closed_world import statements

    corpus = ClosedWorldCorpus()
    before = corpus.content(ContentDigests())
    assert before == ClosedWorldQuestions().content(ContentDigests())
    monkeypatch.setitem(statements.STATEMENTS, "person.colour", ("{s} likes {v}.",))
    assert corpus.content(ContentDigests()) != before


@pytest.mark.parametrize(("name", "hops"), [("closed_world", 1), ("closed_world_two_hop", 2)])
def test_configs_describe_the_corpus_world(name, hops):
    """The YAMLs list every option at its default, and the questions' world follows the corpus's."""
    from omegaconf import OmegaConf

    def load(group: str, name: str):
        config = OmegaConf.load(CONFIGS / group / f"{name}.yaml")
        bases = [base for base in config.pop("defaults", []) if base != "_self_"]
        return OmegaConf.merge(*(load(group, base) for base in bases), config)

    root = OmegaConf.create({"corpus": load("corpus", "closed_world"), "questions": load("questions", name)})
    plain = OmegaConf.to_container(root, resolve=True)
    assert ClosedWorldCorpus(**plain["corpus"]) == ClosedWorldCorpus()
    assert ClosedWorldQuestions(**plain["questions"]) == ClosedWorldQuestions(hops=hops)
    assert plain["corpus"].keys() == ClosedWorldCorpus.model_fields.keys()
    assert plain["questions"].keys() == ClosedWorldQuestions.model_fields.keys()
    root.corpus.passages, root.corpus.noisy_share = 12_000, 0.5
    asked = ClosedWorldQuestions(**OmegaConf.to_container(root.questions, resolve=True))
    assert (asked.passages, asked.noisy_share) == (12_000, 0.5)
