"""Which runs to add next within a budget: the largest that it pays for, again and again; and levels to add to an axis.

``scripts/bench_suggest.py`` replays purchases from published points and asks for the largest, which were held out.
Designs of textbooks (D- and V-optimal) did no better than chance there: they trust the first law, which is of the
smallest runs and wrong where it matters, while a large run shows what is there. Nor did any other rule beat the largest
throughout, on the points of Hoffmann et al. 2022, Porian et al. 2024 and Llama 3. Both axes must be offered: without
lengths of training beyond those that a study has, or without sizes, the same rule erred more on all three once it had
spent 30% of the FLOPs. Leaving room for a second run of the same size (``parts=2``) was now better, now worse.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rag_exp.core.errors import LawError

PARTS = 1
LAST_TURN = 2
LEAST = 0.01
STEP = 10**0.5  # between levels of an axis that has one level yet
_WIDE = 4.0  # between levels that another one fits between
REACH = 1.0  # decades beyond its levels that an axis without an end goes on for


@dataclass(frozen=True)
class Offer:
    """A run that could be added.

    Attributes:
        size: FLOPs of the whole run, whether or not parts of it are there already.
        own: FLOPs that it alone needs.
        shared: FLOPs of what other runs need too (a training), by name; paid once.
        turn: offers of an earlier turn come before all of a later one, however small they are: without the likes of
            them the law cannot be fitted.
    """

    size: float
    own: float
    shared: Mapping[str, float] = field(default_factory=dict)
    turn: int = LAST_TURN

    def price(self, paid: set[str]) -> float:
        """FLOPs to add it, where what is named is paid for."""
        return self.own + sum(v for k, v in self.shared.items() if k not in paid)


def largest_affordable(
    offers: Sequence[Offer], budget: float, parts: int = PARTS, least: float = LEAST
) -> list[tuple[int, float]]:
    """The largest runs that the budget pays for.

    Args:
        budget: FLOPs in all.
        parts: no run may cost more than one of so many parts of the budget.
        least: a run smaller than this share of the budget is not worth its trouble.

    Returns:
        position and price of every offer taken, turn by turn, the largest first. Empty where a part of the budget pays
        for none.

    Raises:
        LawError: the budget is not positive.
    """
    if not (budget > 0 and parts >= 1):
        raise LawError(f"A budget must be positive FLOPs; it is {budget:g}.")
    most, left, paid, taken = budget / parts, budget, set[str](), []
    for i in sorted(range(len(offers)), key=lambda i: (offers[i].turn, -offers[i].size)):
        offer = offers[i]
        price = offer.price(paid)
        if price <= min(most, left) * (1 + 1e-12) and (offer.turn < LAST_TURN or offer.size >= least * budget):
            taken.append((i, price))
            left -= price
            paid |= offer.shared.keys()
    return taken


def new_levels(levels: Sequence[float], lacking: int = 0, most: float | None = None, least: float = 1.0) -> list[int]:
    """Whole numbers that go on with an axis beyond its largest level, as far apart (in logarithms) as its levels are.

    Args:
        lacking: so many are needed at least: where too few lie above, the rest halve the widest gaps, and go on below
            the smallest level where no gap is wide.
        most: what there is no more of. It is the last level, unless it is nearer than half a step to what there is;
            without it the axis goes on for ``REACH`` decades.
        least: nothing is below it.

    Returns:
        those above, nearest first, then the others. Of one level the step is ``STEP``.
    """
    known = sorted({round(v) for v in levels})
    low, high = known[0], known[-1]
    step = (high / low) ** (1 / (len(known) - 1)) if len(known) > 1 else STEP
    end = high * 10**REACH if most is None else most
    found = [high * step**i for i in range(1, 1 + int(math.log(max(end / high, 1.0)) / math.log(step) + 1e-9))]
    if most is not None and most >= high * step**0.5:
        near = bool(found) and most < found[-1] * step**0.5
        found = [*(found[:-1] if near else found), most]
    while len(found) < lacking:
        at = sorted([*known, *found])
        start, stop = max(itertools.pairwise(at), key=lambda gap: gap[1] / gap[0], default=(1.0, 1.0))
        if stop / start < _WIDE and at[0] / step < least:
            break
        found.append((start * stop) ** 0.5 if stop / start >= _WIDE else at[0] / step)
    return [v for v in dict.fromkeys(round(v) for v in found) if v not in known]
