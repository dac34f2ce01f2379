"""Questions on the World Factbook: one fact of one entity, or a fact of an entity that another fact names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rag_exp.data.factbook import Entity, Fact
from rag_exp.data.factbook_wording import WORDING, ask
from rag_exp.data.normalise import normalise, searchable
from rag_exp.data.sources import Question

_AT_END = re.compile(r"\s*\(([^()]*(?:\([^()]*\)[^()]*)*)\)$")
_DATED = re.compile(r"\b(?:19|20)\d\d\b|\best\.|\bmale\b")
_DATE_FIRST = re.compile(r"^\((?:19|20)\d\d(?: est\.)?\) ")
_NOTE_AT_END = re.compile(r"[\s;,]+note\s*-.*$")
_NUMBER_FIRST = re.compile(r"[-+$~]*\d")
_NO_ANSWER = re.compile(
    r"(?:none|na|n/a|no data|note|see|tbd|unknown|unnamed)\b|\W*$|"
    r".*\b(?:vacant|not (?:available|applicable|specified))\b",
    re.IGNORECASE,
)
_HEIGHT = re.compile(r"[\s,;]+-?[\d,.]+\s*m\b.*$")
_QUOTED = re.compile(r'"([^"]+)"')
_ARTICLE = re.compile(
    r"(?:British|Central African|Democratic|Dominican|Federated|French Southern|Holy See|Isle|US|United)\b|"
    r"(?:Comoros|Gaza Strip|Maldives|Netherlands|Philippines|West Bank)$|"
    r"(?!Heard|South Georgia).*Islands(?: \(.*\))?$"
)

# Fields that hold one fact, the same kind for every entity: the questions of fields=single.
SINGLE: dict[str, tuple[str, ...]] = {
    "Airports": ("",),
    "Area": ("total",),
    "Capital": ("name", "geographic coordinates"),
    "Citizenship": ("citizenship by birth",),
    "Civil aircraft registration country code prefix": ("",),
    "Coastline": ("",),
    "Country name": ("conventional long form", "local long form", "local short form", "former"),
    "Elevation": ("highest point", "lowest point", "mean elevation"),
    "Exchange rates": ("Currency",),
    "Executive branch": ("chief of state", "head of government"),
    "Geographic coordinates": ("",),
    "Government type": ("",),
    "Independence": ("",),
    "Internet country code": ("",),
    "Land boundaries": ("total",),
    "Legal system": ("",),
    "Legislative branch": ("legislature name", "legislative structure"),
    "Map references": ("",),
    "National anthem(s)": ("title",),
    "National color(s)": ("",),
    "National heritage": ("total World Heritage Sites",),
    "National holiday": ("",),
    "National symbol(s)": ("",),
    "Nationality": ("noun", "adjective"),
    "Population": ("total",),
    "Suffrage": ("",),
}
# Facts that can stand for their entity: "the country whose capital is Santiago".
_LINKS = {
    ("Capital", "name"): "whose capital is",
    ("Civil aircraft registration country code prefix", ""): "whose civil aircraft registration prefix is",
    ("Elevation", "highest point"): "whose highest point is",
    ("Elevation", "lowest point"): "whose lowest point is",
    ("Executive branch", "chief of state"): "whose chief of state is",
    ("Internet country code", ""): "whose internet country code is",
    ("National anthem(s)", "title"): "whose national anthem is",
}
# Facts that name another entity, and how those names differ from the entities' own.
_PARTNERS = {
    ("Exports - partners", ""): "the main export partner of",
    ("Imports - partners", ""): "the main import partner of",
}
_ALIASES = {
    "Antigua & Barbuda": "Antigua and Barbuda",
    "Bahamas, The": "The Bahamas",
    "Cote d'Ivoire": "Côte d'Ivoire",
    "NZ": "New Zealand",
    "Republic of the Congo": "Congo (Brazzaville)",
    "S. Korea": "South Korea",
    "UAE": "United Arab Emirates",
    "UK": "United Kingdom",
    "USA": "United States",
}
_SHARE = re.compile(r"(.+?) (\d+(?:\.\d+)?)%")
_ONLY_BORDER = re.compile(r"([^;,\d]+?) [\d,.]+ km(?: \([^;]*\))?")


def split_entities(entities: Sequence[Entity], seed: int, dev_share: float, test_share: float) -> dict[str, str]:
    """The split of each entity, by code: in a seeded hash order first those of dev, then of test, then of train."""

    def place(code: str) -> bytes:
        return hashlib.blake2b(f"{seed}\x1fsplit\x1f{code}".encode(), digest_size=8).digest()

    order = sorted((e.code for e in entities), key=place)
    dev = round(dev_share * len(order))
    test = dev + round(test_share * len(order))
    return {code: "dev" if n < dev else "test" if n < test else "train" for n, code in enumerate(order)}


def with_article(name: str) -> str:
    """An entity's name as it stands in a sentence: "the Netherlands"."""
    return f"the {name}" if _ARTICLE.match(name) else name


def core(value: str) -> str:
    """``value`` without what only dates or details it: "12,429 km (2019 est.)" is "12,429 km".

    A note goes; a bracket at the end goes if it holds a year, or if a number stands before it ("107 (all elected)").
    """
    found = _NOTE_AT_END.sub("", _DATE_FIRST.sub("", value))
    while (bracket := _AT_END.search(found)) and (rest := found[: bracket.start()]):
        dated, of_number = _DATED.search(bracket.group(1)), _NUMBER_FIRST.match(rest)
        if not dated and (not of_number or bracket.group(1) == "of GDP"):
            break
        found = rest
    return found.rstrip(" ;,")


def answers_of(fact: Fact, max_words: int) -> tuple[str, ...]:
    """Answers to the question for ``fact``, the target first, each taken from the passage word for word.

    Empty where the fact tells nothing ("NA", "none", "see France") or its target has more than ``max_words`` words.
    """
    target = core(fact.value)
    match fact.field, fact.sub:
        case "Capital", "name":
            target = _AT_END.sub("", target) or target
        case "Elevation", "highest point" | "lowest point":
            target = _AT_END.sub("", _HEIGHT.sub("", target)) or target
        case "National anthem(s)", "title":
            target = quoted.group(1) if (quoted := _QUOTED.match(target)) else target
        case ("Government type", "") | ("Executive branch", "chief of state" | "head of government"):
            target = core(fact.value.partition(";")[0])  # what follows is about territories and deputies
        case "Exchange rates", "Currency":
            target = target.removesuffix(" per US dollar")
    if "date" in fact.sub and target.isdecimal() and len(target) > 4:
        return ()  # a spreadsheet's number of a day, such as 45161, where a date should be
    if _NO_ANSWER.match(target) or len(target.split()) > max_words:
        return ()
    others = (_NOTE_AT_END.sub("", fact.value), _AT_END.sub("", target))
    return tuple(dict.fromkeys((target, *(o for o in others if o and len(o.split()) <= 2 * max_words))))


def _kind(fact: Fact) -> str:
    """The question's template: the field, and the sub-field unless it is a year."""
    named = fact.sub in WORDING.get(fact.field, {}) and fact.sub
    return f"{fact.field}: {fact.sub}" if named else fact.field


def _asked(entity: Entity, max_words: int, single: bool) -> Iterator[tuple[Fact, tuple[str, ...]]]:
    """The facts of ``entity`` that are asked for, with their answers."""
    for fact in entity.facts:
        if single and fact.sub not in SINGLE.get(fact.field, ()):
            continue
        if ask(fact.field, fact.sub, "") is not None and (answers := answers_of(fact, max_words)):
            yield fact, answers


def one_hop(
    entities: Sequence[Entity], split_of: Mapping[str, str], max_words: int, single: bool
) -> Iterator[Question]:
    """One question for each fact of each entity that has an answer of at most ``max_words`` words."""
    for entity in entities:
        for fact, answers in _asked(entity, max_words, single):
            yield Question(
                id=f"{fact.passage_id}/{fact.sub}",
                question=str(ask(fact.field, fact.sub, with_article(entity.name))),
                answers=answers,
                gold_ids=(fact.passage_id,),
                split=split_of[entity.code],
                template=_kind(fact),
            )


@dataclass(frozen=True, slots=True)
class _Link:
    """A way to speak of ``target`` through a fact: ``words`` in its place, ``fact`` to be read first."""

    target: Entity
    words: str
    fact: Fact


def two_hop(
    entities: Sequence[Entity], split_of: Mapping[str, str], max_words: int, single: bool
) -> Iterator[Question]:
    """A question for each link to an entity and each fact of it that stands in another passage than the link.

    Links are used only where they lead to one entity alone, do not hold its name, and come from an entity of the same
    split.
    """
    for link in (*_own_links(entities, max_words), *_links_between(entities)):
        split = split_of[link.target.code]
        if split_of[link.fact.passage_id.partition("/")[0]] != split:
            continue
        for fact, answers in _asked(link.target, max_words, single):
            if fact.passage_id == link.fact.passage_id:
                continue
            yield Question(
                id=f"{fact.passage_id}/{fact.sub} < {link.fact.passage_id}/{link.fact.sub}",
                question=str(ask(fact.field, fact.sub, link.words)),
                answers=answers,
                gold_ids=(link.fact.passage_id, fact.passage_id),
                split=split,
                hops=2,
                template=f"{_kind(fact)} < {_kind(link.fact)}",
            )


def _own_links(entities: Sequence[Entity], max_words: int) -> list[_Link]:
    """Links by a fact of the entity itself that no other entity shares."""
    found = []
    for entity in entities:
        for fact in entity.facts:
            phrase = _LINKS.get((fact.field, fact.sub))
            answers = answers_of(fact, max_words) if phrase else ()
            if answers:
                found.append((fact, answers[0], _Link(entity, f"the country {phrase} {answers[0]}", fact)))
    said_of: dict[tuple[str, str], list[str]] = {}
    for entity in entities:
        for fact in entity.facts:
            if (fact.field, fact.sub) in _LINKS:
                said_of.setdefault((fact.field, fact.sub), []).append(searchable(fact.value))
    alone = []
    for fact, said, link in found:
        form = searchable(said)
        if sum(form in value for value in said_of[fact.field, fact.sub]) == 1 and not _gives_away(
            said, link.target.name
        ):
            alone.append(link)
    return alone


def _gives_away(said: str, name: str) -> bool:
    """Whether ``said`` holds the beginning of a word of ``name`` (Guatemala City, Guatemala; Algiers, Algeria)."""
    stems = {word[:4] for word in normalise(name).split() if len(word) >= 4}
    return any(stem in normalise(said) for stem in stems) or normalise(said) == normalise(name)


def _links_between(entities: Sequence[Entity]) -> list[_Link]:
    """Links by a fact of one entity that names another: its main trade partners, its only neighbour."""
    by_name = {e.name: e for e in entities}
    found = []
    for entity in entities:
        for fact in entity.facts:
            phrase = name = None
            if (fact.field, fact.sub) in _PARTNERS:
                shares = [(m.group(1), float(m.group(2))) for m in map(_SHARE.match, fact.value.split(", ")) if m]
                # The main partner must be told: listed first, with more than the next.
                if shares and (len(shares) == 1 or shares[0][1] > max(share for _, share in shares[1:])):
                    phrase, name = _PARTNERS[fact.field, fact.sub], shares[0][0]
            elif (fact.field, fact.sub) == ("Land boundaries", "border countries"):
                only = _ONLY_BORDER.fullmatch(fact.value)
                if only:
                    phrase, name = "the only country that borders", only.group(1)
            target = by_name.get(_ALIASES.get(name, name)) if name else None
            if target is not None and target is not entity:
                found.append(_Link(target, f"{phrase} {with_article(entity.name)}", fact))
    return found
