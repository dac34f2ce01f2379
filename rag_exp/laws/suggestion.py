"""Which runs to add next within a budget: the largest that it pays for, again and again.

``scripts/bench_suggest.py`` replays purchases from published points and asks for the largest, which were held out.
Designs of textbooks (D- and V-optimal) did no better than chance there: they trust the first law, which is of the
smallest runs and wrong where it matters, while a large run shows what is there. Nor did any other rule beat the largest
throughout, on the points of Hoffmann et al. 2022, Porian et al. 2024 and Llama 3. Leaving room for a second run of the
same size (``parts=2``) was now better, now worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rag_exp.core.errors import LawError

PARTS = 1
LEAST = 0.01


@dataclass(frozen=True)
class Offer:
    """A run that could be added.

    Attributes:
        size: FLOPs of the whole run, whether or not parts of it are there already.
        own: FLOPs that it alone needs.
        shared: FLOPs of what other runs need too (a training), by name; paid once.
    """

    size: float
    own: float
    shared: Mapping[str, float] = field(default_factory=dict)

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
        position and price of every offer taken, largest first. Empty where a part of the budget pays for none.

    Raises:
        LawError: the budget is not positive.
    """
    if not (budget > 0 and parts >= 1):
        raise LawError(f"A budget must be positive FLOPs; it is {budget:g}.")
    most, left, paid, taken = budget / parts, budget, set[str](), []
    for i in sorted(range(len(offers)), key=lambda i: -offers[i].size):
        price = offers[i].price(paid)
        if price <= min(most, left) * (1 + 1e-12) and offers[i].size >= least * budget:
            taken.append((i, price))
            left -= price
            paid |= offers[i].shared.keys()
    return taken
