"""What exists in the closed world: kinds of entities, their facts, and the law each fact is drawn from.

A fact is an attribute (a value from a list, with a prior) or a relation (a link to an entity of another
kind). Every kind has six facts, so a document has six passages. A *block* is the unit of growth: twenty
entities of fixed kinds, 120 passages.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Attribute:
    """A fact whose answer is one of ``values``; the prior of value i is proportional to (i+1)**-skew.

    ``unit`` is part of the answer ("340 metres"); the bare number is accepted too.
    """

    name: str
    values: tuple[str, ...]
    skew: float = 0.5
    unit: str = ""

    def prior(self) -> tuple[float, ...]:
        """Probability of each value."""
        weights = [(i + 1) ** -self.skew for i in range(len(self.values))]
        total = sum(weights)
        return tuple(w / total for w in weights)

    def answers(self, value: int) -> tuple[str, ...]:
        """Accepted answers for a value index, the target first."""
        text = self.values[value]
        return (f"{text} {self.unit}", text) if self.unit else (text,)


@dataclass(frozen=True, slots=True)
class Relation:
    """A fact whose answer is the name of an entity of kind ``target``, drawn by popularity."""

    name: str
    target: str


Fact = Attribute | Relation


@dataclass(frozen=True, slots=True)
class EntityKind:
    """A kind of entity: how many there are in a block (even: near-duplicates come in pairs) and its facts."""

    name: str
    per_block: int
    facts: tuple[Fact, ...]

    def fact(self, name: str) -> Fact:
        """The fact of that name (KeyError if none)."""
        for fact in self.facts:
            if fact.name == name:
                return fact
        raise KeyError(name)


# In a noisy fact the majority value holds in this share of the cases, one of these with equal probability.
MAJORITY = (Fraction(1, 2), Fraction(2, 3), Fraction(3, 4), Fraction(4, 5), Fraction(9, 10))


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(first: int, last: int, step: int = 1) -> tuple[str, ...]:
    return tuple(f"{n:,}" for n in range(first, last + 1, step))


def _years(first: int, last: int) -> tuple[str, ...]:
    return tuple(str(y) for y in range(first, last + 1))


_COLOURS = _words(
    "red, blue, green, yellow, purple, orange, white, black, brown, grey, pink, turquoise, crimson, beige, violet, "
    "scarlet, indigo, olive, maroon, amber, ivory, teal, coral, magenta"
)
_PROFESSIONS = _words(
    "teacher, carpenter, nurse, baker, engineer, farmer, lawyer, tailor, surgeon, librarian, plumber, architect, "
    "gardener, chemist, locksmith, journalist, potter, dentist, surveyor, translator, shepherd, watchmaker, "
    "midwife, blacksmith, accountant, beekeeper, geologist, miller, optician, pilot, roofer, saddler, "
    "stonemason, notary, glazier, brewer, weaver, ferryman, forester, cartographer, printer, tanner, cooper, "
    "falconer, diver, astronomer, upholsterer, lamplighter"
)
_INSTRUMENTS = _words(
    "piano, violin, guitar, flute, trumpet, cello, clarinet, harp, accordion, oboe, trombone, viola, saxophone, "
    "mandolin, banjo, bassoon, organ, tuba, zither, lute, harmonica, xylophone, piccolo, bagpipe, harpsichord, "
    "dulcimer, cornet, ukulele, sitar, recorder, marimba, theremin"
)
_GENRES = _words(
    "novel, play, opera, film, poem, comedy, tragedy, musical, essay, memoir, fable, satire, thriller, biography, "
    "novella, travelogue, chronicle, cantata, ballad, farce, melodrama, oratorio, monologue, epic"
)
_LANGUAGES = _words(
    "English, French, Spanish, German, Italian, Russian, Portuguese, Polish, Dutch, Turkish, Swedish, Greek, "
    "Arabic, Hungarian, Czech, Danish, Finnish, Persian, Norwegian, Romanian, Korean, Catalan, Basque, Welsh, "
    "Estonian, Latvian, Icelandic, Georgian, Armenian, Maltese, Breton, Sorbian"
)
_FIELDS = _words(
    "shipping, banking, printing, textiles, mining, forestry, insurance, glassmaking, brewing, publishing, "
    "fisheries, optics, steelmaking, railways, papermaking, pharmacy, clockmaking, shipbuilding, ceramics, "
    "viticulture, telegraphy, winemaking, tanning, bookbinding, surveying, quarrying, seed trading, leather goods, "
    "salt trading, bell founding, cartography, weaving"
)
_ANIMALS = _words(
    "lion, eagle, bear, wolf, stag, fox, horse, bull, swan, otter, boar, heron, badger, lynx, hare, raven, beaver, "
    "dolphin, crane, ram, hedgehog, falcon, owl, squirrel, salmon, tortoise, pelican, bee, seal, goat, marten, "
    "weasel, elk, bison, mole, ibex, stork, pike, beetle, snail"
)
_GOODS = _words(
    "wheat, wool, timber, salt, honey, olives, cheese, apples, barley, wine, tea, copper, linen, cider, almonds, "
    "cherries, marble, tobacco, walnuts, hops, lavender, rope, saffron, figs, candles, amber beads, plums, slate, "
    "butter, flax, mustard, chalk, pears, rice, charcoal, mushrooms, hazelnuts, silk, peat, clay pipes"
)
_DAYS = _words("Saturday, Wednesday, Friday, Tuesday, Thursday, Monday, Sunday")
_BIRDS = _words(
    "kingfisher, skylark, magpie, nightingale, robin, plover, curlew, buzzard, woodpecker, puffin, goldfinch, "
    "lapwing, jackdaw, cuckoo, swallow, wren, thrush, osprey, bittern, kestrel, partridge, oriole, hoopoe, siskin, "
    "starling, grebe, linnet, nuthatch, bullfinch, redstart, ptarmigan, waxwing"
)
_MINERALS = _words(
    "quartz, gypsum, iron, lead, zinc, tin, bauxite, graphite, sulphur, talc, feldspar, nickel, silver, cobalt, "
    "mica, barite, gold, manganese, tungsten, garnet, opal, antimony, fluorite, lithium"
)

# Years cannot contradict each other: people are born before any work appears, organisations are older still.
KINDS: dict[str, EntityKind] = {
    kind.name: kind
    for kind in (
        EntityKind(
            "person",
            8,
            (
                Attribute("profession", _PROFESSIONS),
                Attribute("birth_year", _years(1900, 1959), skew=0.0),
                Attribute("instrument", _INSTRUMENTS),
                Attribute("colour", _COLOURS),
                Relation("birthplace", "town"),
                Relation("employer", "organisation"),
            ),
        ),
        EntityKind(
            "work",
            4,
            (
                Attribute("genre", _GENRES),
                Attribute("year", _years(1980, 2019), skew=0.0),
                Attribute("language", _LANGUAGES),
                Relation("author", "person"),
                Relation("setting", "town"),
                Relation("publisher", "organisation"),
            ),
        ),
        EntityKind(
            "organisation",
            4,
            (
                Attribute("field", _FIELDS),
                Attribute("founded", _years(1700, 1899), skew=0.0),
                Attribute("emblem", _ANIMALS),
                Attribute("staff", _numbers(20, 2010, 10), skew=0.0),
                Relation("headquarters", "town"),
                Relation("patron", "person"),
            ),
        ),
        EntityKind(
            "town",
            2,
            (
                Attribute("population", _numbers(1_100, 51_000, 100), skew=0.0),
                Attribute("export", _GOODS),
                Attribute("elevation", _numbers(10, 1_000, 5), skew=0.0, unit="metres"),
                Attribute("market_day", _DAYS),
                Relation("region", "region"),
                Relation("mayor", "person"),
            ),
        ),
        EntityKind(
            "region",
            2,
            (
                Attribute("flag", _COLOURS),
                Attribute("bird", _BIRDS),
                Attribute("mineral", _MINERALS),
                Attribute("peak", _numbers(1_000, 4_980, 20), skew=0.0, unit="metres"),
                Attribute("districts", _numbers(11, 74), skew=0.0),
                Relation("governor", "person"),
            ),
        ),
    )
}

FACTS_PER_ENTITY = 6
ENTITIES_PER_BLOCK = sum(kind.per_block for kind in KINDS.values())
PASSAGES_PER_BLOCK = FACTS_PER_ENTITY * ENTITIES_PER_BLOCK
