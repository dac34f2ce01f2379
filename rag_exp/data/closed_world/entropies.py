"""Exact entropies of a question's answer under the generating process, in nats.

What is known and what is not. Write C for the *catalogue*: which entities exist, their names, kinds,
splits and popularity ranks, and the laws of :mod:`.world` with their parameters. W is the *draw* of all
facts (values, noise, links). A question q is drawn independently of W (kind of question, subject by
popularity, wording), so being asked it tells nothing about W. Then

* ``entropy`` = H(A | q, C) = - sum_a P(a|q,C) log P(a|q,C): the reader knows the process and the names,
  not the draw. It is the least expected loss of any closed-book reader of a dev or test question,
  whatever the reader has learned from questions about other splits, since those facts are independent of
  this one's. (A reader of *seen* questions may go below it: it has met the fact.)
* ``entropy_given_gold`` = H(A | q, C, gold passages): the least expected loss of any reader at all.
  Answers are drawn anew each time a noisy fact is asked, so memory cannot go below it either.

One hop, attribute with prior p of v, noisy with probability s, majority's share m uniform over
``MAJORITY`` with mean M (w is drawn from p given w != v):

    P(a) = (1-s) p(a) + s [ M p(a) + (1-M) sum_{v != a} p(v) p(a) / (1 - p(v)) ]
    gold: 0 if the fact is not noisy, else -m log m - (1-m) log(1-m)

One hop, relation to kind e, subject in split S with n entities of kind e: the answer is the target's name,

    P(t) = t^-zipf / sum_{r=1..n} r^-zipf,  t = 1..n (popularity rank in S);  gold: 0

Two hops, relation r and then fact f of the target: gold passages are the link's and the target's fact's,

    P(a) = sum_t P(link(x, r) = t) P(f(t) = a)

Facts of different entities, and links and attributes, are drawn independently, so no term is conditioned
on another; and P(f(t) = a) is the same for every t that the link can reach (all are in S). The sum over
t is therefore the one-hop law of f, whatever the popularity weights. Given gold, the entropy is that of
the second fact given its passage, as the link is never noisy. (Where the second fact is a relation its
target may be x itself: links are drawn from the whole kind.)
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from rag_exp.data.closed_world.draws import Floats, normalised, zipf_weights
from rag_exp.data.closed_world.schema import KINDS, MAJORITY, Attribute
from rag_exp.data.closed_world.world import World, prior_of


def entropy(probabilities: Floats) -> float:
    """Shannon entropy in nats of a distribution that sums to 1; zeros contribute nothing."""
    p = probabilities[probabilities > 0]
    return float(-(p * np.log(p)).sum())


def attribute_law(prior: Floats, noisy_share: float) -> Floats:
    """P(answer) of an attribute question, the first formula above."""
    kept = float(sum(MAJORITY) / len(MAJORITY))
    ratios = prior / (1 - prior)
    others = prior * (ratios.sum() - ratios)
    return (1 - noisy_share) * prior + noisy_share * (kept * prior + (1 - kept) * others)


def share_entropy(majority: Fraction) -> float:
    """Entropy of an answer that is one value with probability ``majority`` and another otherwise."""
    m = float(majority)
    return -m * math.log(m) - (1 - m) * math.log(1 - m)


class Entropies:
    """H(answer | question) for every question of a world, each law computed once."""

    def __init__(self, world: World):
        self._world = world
        self._known: dict[tuple[str, str], float] = {}

    def of(self, split: str, kind: str, fact: str) -> float:
        """Entropy of a question whose last hop asks ``fact`` of an entity of ``kind`` in the world's ``split``."""
        found = KINDS[kind].fact(fact)
        key = (kind, fact) if isinstance(found, Attribute) else (split, found.target)
        if key not in self._known:
            if isinstance(found, Attribute):
                law = attribute_law(prior_of(kind, fact), self._world.noisy_share)
            else:
                law = normalised(zipf_weights(self._world.count(split, found.target), self._world.zipf))
            self._known[key] = entropy(law)
        return self._known[key]
