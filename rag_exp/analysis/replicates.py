"""Seeds are replicates: runs that differ in nothing else give a mean, a count and an interval, never a silent mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from rag_exp.core.errors import DataError
from rag_exp.core.rng import numpy_rng

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

# The same run under another seed has other artifacts, times and ids; none of them makes it another point.
_NOT_A_POINT = ("artifacts.", "seconds.", "bytes.", "flops.")
_IDENTITY = ("arm", "index", "growth", "N", "M", "M_train", "K", "K_train")


def aggregate(
    table: pd.DataFrame,
    over: str = "seed",
    metrics: list[str] | None = None,
    interval: Literal["t", "bootstrap"] = "t",
    level: float = 0.95,
    draws: int = 2000,
) -> pd.DataFrame:
    """One row per point: the mean over its replicates, how many there are, and an interval of the mean.

    Args:
        table: as from ``load_study``; failed runs are passed over.
        over: what tells replicates apart.
        metrics: numeric columns to average (default: the study's primary metric).
        interval: Student's t, or percentiles of resampled means (which are too narrow below about ten replicates).

    Returns:
        the columns that make a point, ``n``, the replicates' ``over`` values as a list, and for each metric its mean
        under its own name, ``<metric>.low`` and ``<metric>.high``. With one replicate the interval is null: nothing is
        known about the spread.

    Raises:
        DataError: a column is absent.
    """
    import pandas as pd

    from rag_exp.analysis.tables import varying

    metrics = metrics or [table.attrs["metric"]]
    absent = [c for c in (over, *metrics) if c not in table]
    if absent:
        raise DataError(f"The table has no column {', '.join(absent)}.")
    done = table[table["status"] == "finished"]
    keys = list(dict.fromkeys([*(k for k in _IDENTITY if k in done), *varying(done)]))
    keys = [k for k in keys if k not in (over, f"config.{over}") and not k.startswith(_NOT_A_POINT)]
    rows = []
    for _, group in done.groupby([done[k].map(str) for k in keys], sort=False):
        row: dict[str, Any] = {k: group[k].iloc[0] for k in keys}
        row |= {"n": len(group), over: group[over].tolist(), "run_id": group["run_id"].tolist()}
        for metric in metrics:
            values = group[metric].dropna().to_numpy(dtype=float)
            row[metric] = float(values.mean()) if len(values) else None
            row[f"{metric}.low"], row[f"{metric}.high"] = _interval(values, interval, level, draws)
        rows.append(row)
    found = pd.DataFrame(rows, columns=None if rows else [*keys, "n", over, "run_id", *metrics])
    found.attrs = dict(table.attrs)
    return found


def _interval(values: np.ndarray, kind: str, level: float, draws: int) -> tuple[float | None, float | None]:
    if len(values) < 2:
        return None, None
    import numpy as np

    if kind == "bootstrap":
        rng = numpy_rng(0, "analysis", "aggregate")
        means = rng.choice(values, size=(draws, len(values))).mean(1)
        low, high = np.percentile(means, [50 * (1 - level), 50 * (1 + level)])
        return float(low), float(high)
    from scipy.stats import t

    half = float(t.ppf(0.5 * (1 + level), len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half
