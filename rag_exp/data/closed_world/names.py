"""Names: unique at any scale by construction, with near-duplicates exactly where they are asked for.

A name has three parts, each a word of a syllable space; a word has a *sibling* that differs in its last
syllable ("Tiveth" / "Tivenna"). Entities of a kind come in pairs (ranks 2k, 2k+1). A seeded bijection of
[0, 4096**2) gives pair k a code (a, b), and the name's parts are the words (a, b, a+b mod 4096): any two
parts determine the third, so the names of two pairs differ in at least two parts (a code of minimum
distance 2). The second of a pair either repeats the first with one part replaced by its sibling (a
*near-duplicate*), or is made of siblings only, under a second bijection. The three forms (no sibling, one,
three) cannot meet, hence:

* all names of a kind are different, and so are those of two kinds (each kind has its own form);
* two entities share all but one name part if and only if they are a near-duplicate pair.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from rag_exp.data.closed_world.draws import HALF_BITS, Ints, Streams
from rag_exp.data.closed_world.schema import KINDS

WORDS = 1 << HALF_BITS  # words per part, siblings not counted
PAIRS = WORDS * WORDS  # pairs of entities per kind that can be named

_ONSETS = ("B", "D", "F", "G", "H", "K", "L", "M", "N", "P", "R", "S", "T", "V", "Br", "St")
_VOWELS = ("a", "e", "i", "o")
_MIDDLES = ("l", "r", "n", "m", "v", "d", "s", "t")
# Last syllables by the flavour of the part: eight ordinary ones, then their eight siblings. In the flavours
# that end a name (family, place, water) none begins another, so that no name begins another ("on Mave", "on Mavey").
_ENDINGS = {
    "given": "a ia in el as ot ian eth ero io us or an enna ick une",
    "second": "ak ane ery ille om und ya ez ek ira oy ande uel isk yn ost",
    "family": "berg sen kin ton ley strom gard wick mar dal mont nov lund qvist bach ster",
    "place": "ford burn field haven stead bridge by worth mouth port combe well hurst gate minster cliff",
    "water": "ell esk uve erre eck onne ave uin ey ure ume isse ock onda ese orne",
}
# Which flavours a kind's name is made of, and how it is written; {x} is a word that a pair shares.
_FORMS: dict[str, tuple[tuple[str, str, str], str]] = {
    "person": (("given", "second", "family"), "{0} {1} {2}"),
    "work": (("second", "given", "place"), "{0} and {1} in {2}"),
    "organisation": (("family", "place", "given"), "{0} {1} {2} {x}"),
    "town": (("place", "family", "water"), "{0} {1} on {2}"),
    "region": (("water", "second", "place"), "{0} {1} {2} {x}"),
}
_EXTRA: dict[str, tuple[str, ...]] = {
    "organisation": ("Company", "Institute", "Society", "Guild", "Foundation", "Academy", "Union", "Trust"),
    "region": ("Valley", "Highlands", "Province", "Plain", "Coast", "Marches", "Peninsula", "Lowlands"),
}
# How a name stands in a sentence: organisations and regions take the article, works quotation marks.
_SURFACE = {"person": "{}", "work": '"{}"', "organisation": "the {}", "town": "{}", "region": "the {}"}


@cache
def words(flavour: str) -> tuple[str, ...]:
    """The 2 x 4096 words of a flavour: word i and its sibling, word 4096 + i. All are different."""
    heads = [onset + vowel for onset in _ONSETS for vowel in _VOWELS]
    endings = _ENDINGS[flavour].split()
    half = len(endings) // 2
    return tuple(
        head + middle + ending
        for variant in (endings[:half], endings[half:])
        for head in heads
        for middle in _MIDDLES
        for ending in variant
    )


def tables() -> list[object]:
    """All that names are made of, as plain JSON: what identifies them beside the process."""
    return [_ENDINGS, _EXTRA, _SURFACE, {kind: list(form) for kind, form in _FORMS.items()}, _ONSETS, _VOWELS, _MIDDLES]


class Namer:
    """Names of every entity of a seeded world.

    Args:
        streams: the world's draws.
        near_duplicates: probability that a pair is a near-duplicate one, hence the share of entities that have one.
    """

    def __init__(self, streams: Streams, near_duplicates: float):
        self._streams, self._share = streams, near_duplicates
        self._words = {flavour: words(flavour) for flavour in _ENDINGS}

    def codes(self, kind: str, ranks: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """Word indices of the three parts (each in [0, 2 x 4096)) and of the shared extra word, per rank."""
        draw = self._streams
        pair, second = ranks >> 1, (ranks & 1).astype(bool)
        near = draw.uniform(f"{kind}/near", pair) < self._share
        fresh = second & ~near
        code = draw.permute(f"{kind}/name", pair)
        if fresh.any():
            code = np.where(fresh, draw.permute(f"{kind}/fresh", pair), code)
        a, b = code >> HALF_BITS, code & (WORDS - 1)
        parts = [a, b, (a + b) & (WORDS - 1)]
        changed = draw.below(f"{kind}/part", pair, 3)
        for i in range(3):
            parts[i] = parts[i] + WORDS * (fresh | (second & near & (changed == i)))
        extra = draw.below(f"{kind}/extra", pair, len(_EXTRA.get(kind, " ")))
        return parts[0], parts[1], parts[2], extra

    def names(self, kind: str, ranks: Ints) -> list[str]:
        """The names of the entities of ``kind`` at ``ranks``."""
        if len(ranks) == 0:
            return []
        flavours, form = _FORMS[kind]
        first, second, third = (self._words[f] for f in flavours)
        a, b, c, x = (part.tolist() for part in self.codes(kind, ranks))
        extra, write = _EXTRA.get(kind, ("",)), form.format
        return [write(first[i], second[j], third[k], x=extra[e]) for i, j, k, e in zip(a, b, c, x, strict=True)]


def surface(kind: str, name: str) -> str:
    """The name as it stands inside a sentence."""
    return _SURFACE[kind].format(name)


assert set(_FORMS) == set(_SURFACE) == set(KINDS)
