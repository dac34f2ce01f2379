"""Two evaluations of the same questions: paired differences with bootstrap intervals.

The questions are resampled, both evaluations alike (Efron & Tibshirani 1993, chapters 13 and 16;
Koehn 2004 for the paired form), so what is common to both cancels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag_exp.core.errors import DataError
from rag_exp.core.rng import numpy_rng

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

PAIRED = ("nll", "nll_without_end", "nll_any", "nll_per_byte", "em", "f1", "gold_found", "answer_found")
_CELLS = 4_000_000  # resampled numbers held at once


@dataclass(frozen=True)
class Difference:
    """One metric of two evaluations.

    Attributes:
        metric: as a column of the predictions, or ``nll_per_byte`` (a ratio of sums).
        questions: how many questions have the metric in both.
        a, b: its value in each over those questions.
        difference: ``b - a``.
        low, high: percentile interval of the difference, at the level that was asked for.
        p: two-sided bootstrap p-value of "no difference", never below 1 / (draws + 1).
    """

    metric: str
    questions: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float


def compare(a: pa.Table, b: pa.Table, draws: int = 10_000, seed: int = 0, level: float = 0.95) -> list[Difference]:
    """Paired bootstrap of every metric in :data:`PAIRED` that both predictions tables have.

    Args:
        a, b: predictions (see :mod:`rag_exp.evaluation.predictions`) over the same questions in any order.
        draws: bootstrap resamples.
        seed: seed of the resampling.
        level: coverage of the interval.

    Raises:
        DataError: the two do not have the same questions with the same scored answers, or they have none.
    """
    import numpy as np

    positions = _matched(a, b)
    b = b.take(positions)
    found = []
    for metric in PAIRED:
        columns = ("nll", "answer_bytes") if metric == "nll_per_byte" else (metric,)
        sides = [np.stack([_floats(t, c) for c in columns]) for t in (a, b)]
        both = ~(np.isnan(sides[0]).any(0) | np.isnan(sides[1]).any(0))
        if both.any():
            found.append(_difference(metric, sides[0][:, both], sides[1][:, both], draws, seed, level))
    return found


def _difference(metric: str, a: np.ndarray, b: np.ndarray, draws: int, seed: int, level: float) -> Difference:
    """``a`` and ``b``: [1, n] values, or [2, n] numerators and denominators of a ratio of sums."""
    import numpy as np

    n = a.shape[1]
    rng = numpy_rng(seed, "paired_bootstrap")  # the same resamples for every metric
    observed = float(_value(b) - _value(a))
    drawn = []
    step = max(1, _CELLS // n)
    for start in range(0, draws, step):
        picks = rng.integers(0, n, size=(min(step, draws - start), n))
        if len(a) == 1:
            drawn.append((b[0] - a[0])[picks].mean(-1))
        else:
            drawn.append(_value(b[:, picks]) - _value(a[:, picks]))
    differences = np.concatenate(drawn)
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    below, above = int((differences <= 0).sum()), int((differences >= 0).sum())
    p = min(1.0, 2 * (min(below, above) + 1) / (draws + 1))
    return Difference(metric, n, float(_value(a)), float(_value(b)), observed, float(low), float(high), p)


def _value(x: np.ndarray) -> np.ndarray:
    return x[0].mean(-1) if len(x) == 1 else x[0].sum(-1) / x[1].sum(-1)


def _matched(a: pa.Table, b: pa.Table) -> list[int]:
    """For each row of ``a`` the position of its question in ``b``."""
    ids_a, ids_b = a["id"].to_pylist(), b["id"].to_pylist()
    if not ids_a:
        raise DataError("The first run asked no questions; there is nothing to compare.")
    where = {id: i for i, id in enumerate(ids_b)}
    if set(ids_a) != set(ids_b) or len(ids_a) != len(ids_b):
        only_a, only_b = set(ids_a) - set(ids_b), set(ids_b) - set(ids_a)
        raise DataError(
            f"The two runs did not ask the same questions ({len(only_a)} only in the first, {len(only_b)} only in the "
            "second); a paired comparison needs equal questions and evaluation.{split,questions}."
        )
    positions = [where[id] for id in ids_a]
    targets_b = b["target"].to_pylist()
    for id, target, position in zip(ids_a, a["target"].to_pylist(), positions, strict=True):
        if target != targets_b[position]:
            raise DataError(f"Question {id!r} has two scored answers: {target!r} and {targets_b[position]!r}.")
    return positions


def _floats(table: pa.Table, name: str) -> np.ndarray:
    import numpy as np

    return np.array([np.nan if v is None else v for v in table[name].to_pylist()], dtype=np.float64)
