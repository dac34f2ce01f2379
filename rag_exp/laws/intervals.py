"""Intervals of replicates: how many replicates they need, and where their ends lie."""

from __future__ import annotations

from typing import Any

import numpy as np

from rag_exp.core.errors import LawError
from rag_exp.laws.options import draws_within, enough_draws


def check_draws(draws: int, what: str = "bootstrap", level: float = 0.95) -> None:
    """Refuse numbers of replicates that cannot make an interval at ``level``.

    Raises:
        LawError: neither 0 nor as many as ``enough_draws`` wants.
    """
    try:
        enough_draws(draws, level)
    except ValueError as e:
        raise LawError(f"{what}: {e}.") from e


def check_level(level: float, what: str = "level") -> None:
    """Refuse what is no level of an interval.

    Raises:
        LawError: it is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise LawError(f"{what}={level:g}: a level lies between 0 and 1 (0.95 for 95% intervals).")


def percentiles(draws: Any, level: float) -> tuple[Any, Any]:
    """Lower and upper end of the interval of replicates along the first axis.

    Of R replicates the r-th smallest is taken for the r / (R + 1) quantile (Weibull's), which another draw of the
    same distribution falls below just so often; other rules make intervals of few replicates narrow.

    Raises:
        LawError: not even the outermost replicates are so far apart.
    """
    if len(draws) < (least := draws_within(level)):
        raise LawError(
            f"An interval at level {level:g} needs at least {least:,} replicates; there are {len(draws):,}. Ask for a "
            "lower level, or fit with more (bootstrap)."
        )
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull")
    return low, high
