"""Optimal sizes from isoFLOP curves (Hoffmann et al. 2022, approach 2), without a law of the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rag_exp.core.errors import LawError
from rag_exp.laws.columns import column_of, numbers

if TYPE_CHECKING:
    import pandas as pd

PER_GAP = 25  # interpolated sizes per measured one
MIN_SIZES = 4


def isoflop(data: Any, *, y: str = "loss", compute: str = "C", size: str = "N") -> pd.DataFrame:
    """The size of least loss at every budget, and how it grows with compute.

    Per budget the best loss of every size is interpolated by Akima's splines in logarithms (Porian et al. 2024); a
    minimum at the smallest or largest size is no minimum, and its budget has nulls.

    Args:
        data: a DataFrame or a mapping of arrays, a row for each run.
        y, compute, size: its columns of the loss, the budget in FLOPs and the parameters.

    Returns:
        per budget: ``C``, ``N``, ``loss``, ``sizes`` and a ``reason`` where there is no optimum. ``attrs["exponent"]``
        and ``attrs["log_coefficient"]`` are those of N = coefficient * C^exponent by least squares of logs.

    Raises:
        LawError: a column is absent, a value is not positive, or fewer than two budgets have an optimum.
    """
    import pandas as pd
    from scipy.interpolate import Akima1DInterpolator

    asked = {"C": ("compute", compute), "N": ("size", size), "loss": ("y", y)}
    table = pd.DataFrame({name: numbers(column_of(data, own, what), own) for name, (what, own) in asked.items()})
    if not (table.to_numpy() > 0).all():
        raise LawError(f"isoflop takes logarithms: {compute}, {size} and {y} must all be positive and present.")
    rows = []
    for budget, group in table.groupby("C"):
        best = group.groupby("N")["loss"].min()
        row: dict[str, Any] = {"C": budget, "N": None, "loss": None, "sizes": len(best), "reason": None}
        rows.append(row)
        if len(best) < MIN_SIZES:
            row["reason"] = f"fewer than {MIN_SIZES} sizes"
            continue
        logs = np.log(best.index.to_numpy())
        fine = np.linspace(logs[0], logs[-1], PER_GAP * (len(best) - 1))
        curve = Akima1DInterpolator(logs, np.log(best.to_numpy()))(fine)
        lowest = int(curve.argmin())
        if lowest in (0, len(fine) - 1):
            row["reason"] = "the least loss is at the end of the sizes"
            continue
        row["N"], row["loss"] = float(np.exp(fine[lowest])), float(np.exp(curve[lowest]))
    found = pd.DataFrame(rows).astype({"N": object, "loss": object})
    found = found.where(found.notna(), None)
    usable = [r for r in rows if r["N"] is not None]
    if len(usable) < 2:
        raise LawError(f"{len(usable)} of {len(rows)} budgets have a least loss inside their sizes; two are needed.")
    slope, intercept = np.polyfit(np.log([r["C"] for r in usable]), np.log([r["N"] for r in usable]), 1)
    found.attrs.update(exponent=float(slope), log_coefficient=float(intercept))
    return found
