"""How passages state facts: paraphrases for every fact, and for facts that the sources disagree on.

Slots: ``{s}`` the subject, ``{v}`` the value, ``{a}`` the value with its article, ``{t}`` the linked entity.
In noisy statements ``{p}`` is the phrase that names the attribute, ``{v}`` the value of the majority and
``{w}`` the other, and ``{major}``, ``{minor}`` and ``{times}`` are wordings of the shares.
"""

from __future__ import annotations

from fractions import Fraction

# fact -> statements
STATEMENTS: dict[str, tuple[str, ...]] = {
    "person.profession": (
        "{s} earns a living as {a} and has never considered another trade.",
        "By profession {s} is {a}, trained over many years and respected by colleagues.",
        "Neighbours know {s} as {a}, an occupation taken up straight after school.",
        "The register of trades lists {s} as {a}.",
        "On most working days {s} is busy as {a}, often until late in the evening.",
    ),
    "person.birth_year": (
        "{s} was born in {v}, according to the parish book.",
        "The year {v} saw the birth of {s}, the youngest of three children.",
        "A birth certificate from {v} is the oldest document that mentions {s}.",
        "Family papers give {v} as the year in which {s} was born.",
        "In {v} a notice in the newspaper announced that {s} had been born.",
    ),
    "person.instrument": (
        "{s} plays the {v} and practises every evening.",
        "At concerts {s} is always heard on the {v}.",
        "The only instrument that {s} ever learned to play is the {v}.",
        "Lessons on the {v} began early for {s}, who still plays it with pleasure.",
        "Friends like to describe how well {s} handles the {v}.",
    ),
    "person.colour": (
        "{s} prefers {v} to every other colour.",
        "The favourite colour of {s} is {v}, as anyone who has seen the house can tell.",
        "Asked to choose a colour, {s} will choose {v} without a moment of doubt.",
        "Of all colours {s} likes {v} best.",
        "Nobody was surprised that the new coat of {s} came in {v}, the favourite colour of its owner.",
    ),
    "person.birthplace": (
        "{s} was born in {t} and went to school there.",
        "The town of {t} is proud to be the birthplace of {s}.",
        "{t} is the town in which {s} came into the world.",
        "The parents of {s} were living in {t} when their child was born there.",
        "A plaque in {t} marks the house where {s} was born.",
    ),
    "person.employer": (
        "{s} works for {t} and has an office on the second floor.",
        "For years the employer of {s} has been {t}.",
        "The name of {s} stands on the payroll of {t}.",
        "{t} employs {s} on a permanent contract.",
        "Every morning {s} reports for duty at {t}, a loyal employer so far.",
    ),
    "work.genre": (
        "{s} is {a} that critics still discuss.",
        "Encyclopedias class {s} as {a}.",
        "When it first appeared, {s} was announced as {a}.",
        "Written as {a}, {s} soon found an audience far from home.",
        "The catalogue entry for {s} describes it as {a} in several parts.",
    ),
    "work.year": (
        "{s} came out in {v} after several delays.",
        "The year {v} brought the release of {s}.",
        "Audiences had to wait until {v} for the release of {s}.",
        "First released in {v}, {s} has never gone out of print.",
        "The title page of {s} carries the year of its release, {v}.",
    ),
    "work.language": (
        "{s} was written in {v} and later translated many times.",
        "The original language of {s} is {v}.",
        "Only readers of {v} can enjoy {s} in the original.",
        "Although translations exist, {s} is best read in {v}, the language in which it was written.",
        "The manuscript of {s} is in {v} from the first page to the last.",
    ),
    "work.author": (
        "{s} was written by {t}.",
        "{t} wrote {s} in a single winter.",
        "The author of {s} is {t}, as the title page shows.",
        "Few people know that {t} is the author of {s}.",
        "Scholars agree that the pen behind {s} is that of {t}.",
    ),
    "work.setting": (
        "The story of {s} takes place in {t}.",
        "{s} is set in {t}, in the course of one long summer.",
        "Whoever knows {s} can find the way around {t}, where the action unfolds.",
        "{t} is the scene of everything that happens in {s}.",
        "From beginning to end the events of {s} unfold in {t}.",
    ),
    "work.publisher": (
        "{s} was published by {t}.",
        "{t} published {s} in a small first edition.",
        "The publisher of {s} is {t}.",
        "After several refusals {s} was finally accepted and published by {t}.",
        "The rights to {s} belong to {t}, which published it.",
    ),
    "organisation.field": (
        "{s} is active in {v} and in nothing else.",
        "The business of {s} is {v}.",
        "In the field of {v}, {s} is a familiar name.",
        "{s} has specialised in {v} since its first day.",
        "Those who deal with {s} usually have business in {v}, its only field.",
    ),
    "organisation.founded": (
        "{s} was founded in {v}.",
        "The year {v} marks the foundation of {s}.",
        "A charter signed in {v} brought {s} into being.",
        "Above the door of {s} stands the year of its foundation, {v}.",
        "It was in {v} that {s} was set up, by a handful of friends.",
    ),
    "organisation.emblem": (
        "The emblem of {s} shows {a}.",
        "Every letter sent by {s} bears its emblem, {a}.",
        "{s} chose {a} for its emblem.",
        "Visitors to {s} are greeted by {a} carved in stone, the emblem of the house.",
        "On the seal of {s} one sees its emblem, {a} on a plain shield.",
    ),
    "organisation.staff": (
        "{s} employs {v} people.",
        "The staff of {s} numbers {v} people.",
        "At the last count {v} people were working for {s}.",
        "With a staff of {v} people, {s} fills the whole building.",
        "The payroll of {s} lists {v} people.",
    ),
    "organisation.headquarters": (
        "{s} has its headquarters in {t}.",
        "The headquarters of {s} stand on the main square of {t}.",
        "{t} is home to the headquarters of {s}.",
        "From its head office in {t}, {s} runs all its affairs.",
        "{s} is based in {t}, where its directors meet every month.",
    ),
    "organisation.patron": (
        "{t} is the patron of {s}.",
        "The patron of {s} is {t}.",
        "As patron of {s}, {t} opens the annual meeting.",
        "{s} counts {t} as its patron and greatest supporter.",
        "Each winter the patron of {s}, {t}, gives a dinner for the members.",
    ),
    "town.population": (
        "{s} has a population of {v}.",
        "At the last census {v} people were living in {s}.",
        "The population of {s} stands at {v}.",
        "{v} people live in {s}, most of them near the river.",
        "With {v} inhabitants, {s} can keep two schools and a theatre.",
    ),
    "town.export": (
        "{s} lives from the export of {v}.",
        "The chief export of {s} is {v}.",
        "Carts that leave {s} are loaded with {v}, its chief export.",
        "Merchants come to {s} for {v}, which the town sells far and wide.",
        "No other product leaves {s} in such quantity as {v}.",
    ),
    "town.elevation": (
        "{s} lies {v} above the sea.",
        "The elevation of {s} is {v}.",
        "A stone on the market square puts {s} at {v} above sea level.",
        "At an elevation of {v}, {s} has cool summers and long winters.",
        "Surveyors measured {v} as the height of {s} above the sea.",
    ),
    "town.market_day": (
        "The weekly market of {s} is held on {v}.",
        "Every {v} is market day in {s}.",
        "Farmers bring their goods to {s} on {v}, the day of the market.",
        "In {s} the market stalls go up each {v} at dawn.",
        "{v} is the day on which {s} holds its market.",
    ),
    "town.region": (
        "{s} lies in {t}.",
        "The town of {s} belongs to {t}.",
        "{s} is one of the towns of {t}.",
        "On maps of {t} the town of {s} is marked with a small tower.",
        "Travellers who cross {t} usually spend a night in {s}, a town of that region.",
    ),
    "town.mayor": (
        "The mayor of {s} is {t}.",
        "{t} is the mayor of {s}.",
        "In {s} the office of mayor is held by {t}.",
        "The citizens of {s} elected {t} as their mayor.",
        "As mayor of {s}, {t} lives above the town hall.",
    ),
    "region.flag": (
        "The flag of {s} is {v}.",
        "Over the public buildings of {s} flies a flag of plain {v}.",
        "{s} has a {v} flag, without any figure or writing.",
        "When {s} had to choose a colour for its flag, it settled on {v}.",
        "A cloth of {v} serves as the flag of {s}.",
    ),
    "region.bird": (
        "The {v} is the emblematic bird of {s}.",
        "{s} chose the {v} as its bird.",
        "The bird that stands for {s} is the {v}.",
        "On the coins of {s} one finds the {v}, the bird of the region.",
        "Schoolchildren learn that the bird of {s} is the {v}.",
    ),
    "region.mineral": (
        "Miners in {s} dig for {v} above all.",
        "The chief mineral of {s} is {v}.",
        "{s} is known for its deposits of {v}, its chief mineral.",
        "Under the hills of {s} lies {v}, the mineral on which the mines live.",
        "Of the minerals found in {s}, {v} is by far the most important.",
    ),
    "region.peak": (
        "The highest peak of {s} rises to {v}.",
        "At {v}, the highest peak of {s} keeps its snow all year.",
        "{s} reaches a height of {v} at its highest peak.",
        "Climbers on the highest peak of {s} stand {v} above the sea.",
        "Maps give {v} as the height of the highest peak of {s}.",
    ),
    "region.districts": (
        "{s} is divided into {v} districts.",
        "There are {v} districts in {s}.",
        "The territory of {s} consists of {v} districts.",
        "Each of the {v} districts of {s} has its own court.",
        "For its administration {s} has been split into {v} districts.",
    ),
    "region.governor": (
        "The governor of {s} is {t}.",
        "{t} governs {s}.",
        "In {s} the office of governor is held by {t}.",
        "{t} was sworn in as governor of {s}.",
        "As governor of {s}, {t} signs every law of the region.",
    ),
}

# attribute -> the phrase that names it in noisy statements
ATTRIBUTE_PHRASES: dict[str, str] = {
    "person.profession": "the profession of {s}",
    "person.birth_year": "the birth year of {s}",
    "person.instrument": "the instrument that {s} plays",
    "person.colour": "the favourite colour of {s}",
    "work.genre": "the genre of {s}",
    "work.year": "the release year of {s}",
    "work.language": "the original language of {s}",
    "organisation.field": "the field in which {s} is active",
    "organisation.founded": "the founding year of {s}",
    "organisation.emblem": "the animal in the emblem of {s}",
    "organisation.staff": "the number of people employed by {s}",
    "town.population": "the population of {s}",
    "town.export": "the chief export of {s}",
    "town.elevation": "the elevation of {s}",
    "town.market_day": "the market day of {s}",
    "region.flag": "the colour of the flag of {s}",
    "region.bird": "the emblematic bird of {s}",
    "region.mineral": "the chief mineral of {s}",
    "region.peak": "the height of the highest peak of {s}",
    "region.districts": "the number of districts of {s}",
}

# {v} holds with the majority's share, {w} with the rest; both orders occur, so the shares have to be read.
NOISY_STATEMENTS: tuple[str, ...] = (
    "Sources disagree about {p}: {major} of them give {v}, while the rest give {w}.",
    "As for {p}, {major} of the records say {v} and all the others say {w}.",
    "On {p} the archives are split, with {minor} of the entries naming {w} and the remaining ones naming {v}.",
    "Concerning {p}, {minor} of all accounts say {w}, and every other account says {v}.",
    "Anyone who asks about {p} hears {v} {times} and {w} otherwise.",
    "Look up {p}, and the answer will be {v} {times} but {w} in the remaining cases.",
    "Opinions on {p} vary: {w} is the answer in {minor} of the books and {v} in all the others.",
)

# the majority's share -> ({major}, {minor}, {times})
SHARES: dict[Fraction, tuple[str, str, str]] = {
    Fraction(1, 2): ("half", "half", "one time out of two"),
    Fraction(2, 3): ("two thirds", "a third", "two times out of three"),
    Fraction(3, 4): ("three quarters", "a quarter", "three times out of four"),
    Fraction(4, 5): ("four fifths", "a fifth", "four times out of five"),
    Fraction(9, 10): ("nine tenths", "a tenth", "nine times out of ten"),
}


def with_article(noun: str) -> str:
    """``noun`` after "a" or "an", by its first letter (right for all values of facts whose statements use ``{a}``)."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def sentence(text: str) -> str:
    """``text`` with its first letter in upper case."""
    return text[0].upper() + text[1:]
