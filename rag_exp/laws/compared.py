"""How many passages the searches of an index type compared with a question: S, as it went with the corpus size M.

What an index does at a corpus size that no run had follows from its own rules (an IVF's lists grow in number and in
length, a graph in depth). Two numbers say it as the runs did it, tuned to a recall or not: S = c M^e.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_DIGITS = 9  # of an exponent: a search of everything has 1 exactly


@dataclass(frozen=True)
class Compared:
    """S = ``coefficient`` M^``exponent``, never more than M.

    Attributes:
        exponent: within 0 to 1; 1, a constant share of the corpus, where the runs have one corpus size.
        low, high: the corpus sizes of the runs.
        spread: the largest factor between what a run compared and this.
        searches: how many the runs are.
    """

    coefficient: float
    exponent: float
    low: float
    high: float
    spread: float
    searches: int

    @classmethod
    def of(cls, M: np.ndarray, S: np.ndarray) -> Compared | None:
        """By least squares in logarithms; None where no search counted what it compares.

        Args:
            M, S: of every search, [n]; NaN where S was not counted.
        """
        known = np.isfinite(S) & (S > 0)
        if not known.any():
            return None
        log_M, log_S = np.log(M[known]), np.log(S[known])
        exponent = 1.0
        if np.ptp(log_M) > 0:
            exponent = round(float(np.clip(np.polyfit(log_M, log_S, 1)[0], 0.0, 1.0)), _DIGITS)
        level = float((log_S - exponent * log_M).mean())
        off = np.abs(log_S - level - exponent * log_M).max()
        ends = (float(M[known].min()), float(M[known].max()))
        return cls(float(np.exp(level)), exponent, *ends, float(np.exp(off)), int(known.sum()))

    def at(self, M: Any) -> np.ndarray:
        """S at corpus sizes of any shape."""
        M = np.asarray(M, dtype=float)
        return np.minimum(self.coefficient * M**self.exponent, M)

    @property
    def equation(self) -> str:
        """``51 M^0.26``; ``0.12 M``; ``640``."""
        if self.exponent in (0.0, 1.0):
            return f"{self.coefficient:.3g}" + " M" * (self.exponent == 1)
        return f"{self.coefficient:.3g} M^{self.exponent:.2f}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Compared:
        return cls(**value)
