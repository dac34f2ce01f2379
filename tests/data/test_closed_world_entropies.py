"""Both entropies of a question, recomputed by enumeration and checked against sampled worlds.

Nothing here calls the entropy functions: laws are enumerated draw by draw from the schema as the process
is documented, and samples come from the generator's own texts and answers. Seeds are fixed, so a test
either always passes or always fails; chi-square tests ask for p > 1e-4, about 20 of them: a right
generator fails one of them with probability 2e-3, once, when the seed is chosen.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from scipy.stats import chisquare

from rag_exp.data.closed_world import ClosedWorldCorpus, ClosedWorldQuestions
from rag_exp.data.closed_world.schema import KINDS, Attribute
from rag_exp.data.closed_world.world import World

SHARES = {"half": "1/2", "two thirds": "2/3", "three quarters": "3/4", "four fifths": "4/5", "nine tenths": "9/10"}
MINOR = {"half": "1/2", "a third": "2/3", "a quarter": "3/4", "a fifth": "4/5", "a tenth": "9/10"}
TIMES = {"one time": "1/2", "two times": "2/3", "three times": "3/4", "four times": "4/5", "nine times": "9/10"}
VALUE = r"(?P<{}>[A-Za-z0-9, ]+?)"
PATTERNS = [
    (re.compile(r": (?P<share>[a-z ]+) of them give " + VALUE.format("v") + ", while the rest give "), SHARES),
    (re.compile(r", (?P<share>[a-z ]+) of the records say " + VALUE.format("v") + " and all the others say "), SHARES),
    (re.compile(r"with (?P<share>[a-z ]+) of the entries naming (?P<w>.+) and the remaining ones naming "), MINOR),
    (re.compile(r", (?P<share>[a-z ]+) of all accounts say " + VALUE.format("w") + ", and every other "), MINOR),
    (re.compile(r" hears " + VALUE.format("v") + r" (?P<share>[a-z]+ times?) out of [a-z]+ and "), TIMES),
    (re.compile(r"will be " + VALUE.format("v") + r" (?P<share>[a-z]+ times?) out of [a-z]+ but "), TIMES),
    (re.compile(r" vary: " + VALUE.format("w") + r" is the answer in (?P<share>[a-z ]+) of the books and "), MINOR),
]


def read_law(text: str) -> tuple[Fraction, bool, str] | None:
    """What a noisy passage says: the majority's share, whether the value found is the majority's, and the value."""
    for pattern, shares in PATTERNS:
        if match := pattern.search(text):
            major = "v" in pattern.groupindex
            return Fraction(shares[match["share"]]), major, match["v" if major else "w"]
    return None


def entropy(law: dict) -> float:
    assert math.isclose(sum(law.values()), 1, abs_tol=1e-9)
    return -sum(p * math.log(p) for p in law.values() if p > 0)


@cache
def attribute_law(fact: Attribute, noisy_share: float) -> dict[str, float]:
    """Enumerate value, noise, other value, majority's share and answer, as the process draws them."""
    weights = np.array([(i + 1) ** -fact.skew for i in range(len(fact.values))])
    prior = weights / weights.sum()
    law = (1 - noisy_share) * prior
    joint = np.zeros((len(prior), len(prior)))  # P(noisy, v, w)
    for v, p_v in enumerate(prior):
        without_v = np.where(np.arange(len(prior)) == v, 0.0, prior)
        joint[v] = noisy_share * p_v * without_v / without_v.sum()
    for majority in (1 / 2, 2 / 3, 3 / 4, 4 / 5, 9 / 10):
        law = law + joint.sum(axis=1) / 5 * majority  # the answer is v
        law = law + joint.sum(axis=0) / 5 * (1 - majority)  # the answer is w
    return dict(zip(fact.values, law.tolist(), strict=True))


def link_law(n: int, zipf: float) -> dict[int, float]:
    weights = [(r + 1) ** -zipf for r in range(n)]
    return {r: w / sum(weights) for r, w in enumerate(weights)}


# A world of 16 blocks: 12 train, 2 dev, 2 test. Entities of each kind per split = blocks x per_block.
BLOCKS = {"train": 12, "seen": 12, "dev": 2, "test": 2}
SMALL = {"passages": 16 * 120, "train": 3_000, "dev": 500, "test": 500, "seen": 500}


@pytest.mark.parametrize(("noisy_share", "zipf"), [(0.25, 1.0), (0.0, 0.0), (1.0, 1.7)])
@pytest.mark.parametrize("hops", [1, 2])
def test_entropy_by_enumeration(hops, noisy_share, zipf):
    known: dict[tuple[str, str], float] = {}
    for question in ClosedWorldQuestions(**SMALL, hops=hops, noisy_share=noisy_share, zipf=zipf).questions():
        key = (BLOCKS[question.split], question.template)
        if key not in known:
            known[key] = entropy(_answer_law(*key, noisy_share, zipf))
        assert question.entropy == pytest.approx(known[key], abs=1e-10)
    assert len(known) == 2 * {1: 30, 2: 60}[hops]


def _answer_law(blocks: int, template: str, noisy_share: float, zipf: float) -> dict:
    """P(answer), for two hops by an explicit sum over every entity that the first link can lead to."""
    *relations, asked = template.split(">")
    kind, fact = asked.split(".")
    found = KINDS[kind].fact(fact)

    def of_holder() -> dict:
        if isinstance(found, Attribute):
            return attribute_law(found, noisy_share)
        return link_law(blocks * KINDS[found.target].per_block, zipf)

    if not relations:
        return of_holder()
    holders = link_law(blocks * KINDS[kind].per_block, zipf)
    law: dict = defaultdict(float)
    conditional = of_holder()  # the process draws every holder's facts alike
    for p_holder in holders.values():
        for answer, p in conditional.items():
            law[answer] += p_holder * p
    return law


def test_known_values():
    """By hand: a fair two-way noise has ln 2; 60 equally likely years, noisy or not, have ln 60."""
    questions = list(ClosedWorldQuestions(passages=12_000, kinds=("person.birth_year",), train=2_000).questions())
    assert {round(q.entropy, 12) for q in questions} == {round(math.log(60), 12)}
    by_hand = {0.0, math.log(2)} | {-m * math.log(m) - (1 - m) * math.log(1 - m) for m in (2 / 3, 3 / 4, 4 / 5, 9 / 10)}
    assert {round(q.entropy_given_gold, 9) for q in questions} == {round(h, 9) for h in by_hand}


@pytest.mark.parametrize("hops", [1, 2])
def test_entropy_given_gold_is_what_the_passage_says(hops):
    passages = {p.id: p.text for d in ClosedWorldCorpus(passages=SMALL["passages"]).documents() for p in d.passages}
    laws = 0
    for question in ClosedWorldQuestions(**SMALL, hops=hops).questions():
        law = read_law(passages[question.gold_ids[-1]])
        if law is None:
            assert question.entropy_given_gold == 0.0
            continue
        laws += 1
        m = float(law[0])
        assert question.entropy_given_gold == pytest.approx(-m * math.log(m) - (1 - m) * math.log(1 - m), abs=1e-12)
        if hops == 2:
            assert read_law(passages[question.gold_ids[0]]) is None, "links are never noisy"
    assert laws > 300


def test_answers_follow_the_law_in_the_passage():
    """Per stated share, the majority's value is the answer in that share of questions (|z| < 4)."""
    passages = {p.id: p.text for d in ClosedWorldCorpus(passages=12_000).documents() for p in d.passages}
    options = ClosedWorldQuestions(passages=12_000, asked="uniform", train=40_000, dev=0, test=3_000, seen=3_000)
    hits: Counter = Counter()
    asked: Counter = Counter()
    for question in options.questions():
        if law := read_law(passages[question.gold_ids[0]]):
            share, major, value = law
            group = (share, "train" if question.split == "train" else "other")
            asked[group] += 1
            hits[group] += (question.answers[0] == value) == major
    assert len(asked) == 10
    for (share, _), n in asked.items():
        m = float(share)
        z = (hits[share, _] - n * m) / math.sqrt(n * m * (1 - m))
        assert n > 100
        assert abs(z) < 4, (share, n, z)


def test_noisy_share_of_facts():
    texts = [
        p.text
        for d in ClosedWorldCorpus(passages=60_000, noisy_share=0.4).documents()
        for p in d.passages
        if not any(p.id.endswith("/" + f.name) for k in KINDS.values() for f in k.facts if not isinstance(f, Attribute))
    ]
    laws = [law for law in map(read_law, texts) if law]
    n = len(texts)
    assert n == 500 * 78
    assert abs(len(laws) / n - 0.4) < 4 * math.sqrt(0.4 * 0.6 / n)
    counts = Counter(share for share, _, _ in laws)
    assert chisquare(list(counts.values())).pvalue > 1e-4
    assert len(counts) == 5


def test_minority_values_follow_the_prior_without_the_majority():
    """P(w) = sum over v != w of p(v) p(w) / (1 - p(v)), read off the texts that name the minority first."""
    fact = KINDS["person"].fact("profession")
    observed: Counter = Counter()
    for document in ClosedWorldCorpus(passages=120_000, noisy_share=1.0).documents():
        if document.id.startswith("person"):
            _, major, value = read_law(document.passages[0].text)
            if not major:
                observed[value] += 1
    prior = np.array(fact.prior())
    law = {v: sum(p * prior[i] / (1 - p) for j, p in enumerate(prior) if j != i) for i, v in enumerate(fact.values)}
    assert sum(observed.values()) > 3_000
    assert _pooled_p(observed, law) > 1e-4


# ---- sampled worlds: the draw that `entropy` averages over is the world's, so here the seed varies ----

WORLDS = 1_500


def _pooled_p(observed: Counter, law: dict) -> float:
    """Chi-square p-value, cells with an expected count under 8 pooled."""
    n = sum(observed.values())
    assert set(observed) <= set(law)
    big = [a for a, p in law.items() if p * n >= 8]
    seen, expected = [observed[a] for a in big], [law[a] * n for a in big]
    if (rest := n - sum(expected)) > 1e-6:
        seen, expected = [*seen, n - sum(seen)], [*expected, rest]
    return float(chisquare(seen, expected).pvalue)


@pytest.mark.parametrize(
    "template",
    [
        "person.colour",
        "person.birthplace>town.market_day",
        "region.governor>person.instrument",
    ],
)
def test_attribute_answers_over_worlds(template):
    """One test question from each of many worlds; high noise, so that the noisy part of the law is seen."""
    hops, kinds = template.count(">") + 1, (template,)
    observed: Counter = Counter()
    for seed in range(WORLDS):
        options = ClosedWorldQuestions(
            passages=960, world_seed=seed, noisy_share=0.9, hops=hops, kinds=kinds, train=0, dev=0, test=1, seen=0
        )
        (question,) = options.questions()
        observed[question.answers[0]] += 1
    kind, fact = template.split(">")[-1].split(".")
    law = attribute_law(KINDS[kind].fact(fact), 0.9)
    assert _pooled_p(observed, law) > 1e-4
    assert question.entropy == pytest.approx(entropy(law), abs=1e-10)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("chain", ["person.birthplace", "work.author>person.employer", "town.region>region.governor"])
def test_link_answers_over_worlds(split, chain):
    """Where a chain from the most popular subject of a split ends: always a place in the same split."""
    zipf = 0.8
    observed: Counter = Counter()
    for seed in range(WORLDS):
        world = World(960, seed, zipf=zipf)
        ranks = world.members(split, chain.split(".")[0], np.array([0]))
        for hop in chain.split(">"):
            kind, fact = hop.split(".")
            ranks = world.link(kind, fact, ranks)
            target = KINDS[kind].fact(fact).target
        places = world.members(split, target, np.arange(world.count(split, target))).tolist()
        observed[places.index(int(ranks[0]))] += 1
    blocks = {"train": 6, "test": 1}[split]
    law = link_law(blocks * KINDS[target].per_block, zipf)
    assert _pooled_p(observed, law) > 1e-4


@pytest.mark.parametrize("hops", [1, 2])
def test_cross_entropy_of_the_process_equals_the_mean_entropy(hops):
    """E[-log P(answer)] under the enumerated law is the entropy: both means agree within 4 standard errors.

    One world, uniform subjects of the attributes: with popularity, a few entities would carry the mean.
    """
    options = ClosedWorldQuestions(
        passages=60_000, noisy_share=0.6, zipf=0, hops=hops, train=0, dev=0, test=6_000, seen=0, test_share=0.6
    )
    laws: dict[str, dict] = {}
    gaps = []
    for question in options.questions():
        kind, fact = question.template.split(">")[-1].split(".")
        found = KINDS[kind].fact(fact)
        if isinstance(found, Attribute):
            law = laws.setdefault(question.template, attribute_law(found, 0.6))
            value = question.answers[-1]  # without its unit
            gaps.append(-math.log(law[value]) - question.entropy)
    assert len(gaps) > 3_000
    assert abs(np.mean(gaps)) < 4 * np.std(gaps) / math.sqrt(len(gaps))
    assert np.std(gaps) > 0.1
