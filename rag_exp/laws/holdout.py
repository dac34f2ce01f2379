"""Hold-outs by name: which rows a form is not shown, and what repeating the nearest shown row would err on them.

Folds are ordered, never random: a law is for what lies ahead. ``largest_AXIS`` and ``largest_compute`` ask for
what lies beyond the rest; ``leave_one_level_out_AXIS`` holds out every level in turn, of which those between the
others only ask whether the form bends as the data do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rag_exp.core.errors import LawError, did_you_mean

LARGEST, EACH = "largest_", "leave_one_level_out_"
COMPUTE_SHARE = 5  # largest_compute holds out one row in so many


def folds(holdout: str, columns: Mapping[str, Any], y: str) -> list[np.ndarray]:
    """The rows held out at a time, as masks [n].

    Args:
        holdout: ``largest_N`` (or D, M, K; ``largest_params`` is N), ``largest_compute`` (N * D, one fifth of the
            rows), or ``leave_one_level_out_N``: a fold per level.

    Raises:
        LawError: an unknown hold-out, or one of an axis that the columns lack.
    """
    if holdout == "largest_compute" and {"N", "D"} <= set(columns):
        compute = floats(columns["N"]) * floats(columns["D"])
        known = np.flatnonzero(np.isfinite(compute))
        order = known[np.argsort(compute[known], kind="stable")]
        mask = np.zeros(len(compute), dtype=bool)
        mask[order[-max(1, len(order) // COMPUTE_SHARE) :]] = True
        return [mask]
    axis = axis_of(holdout)
    if axis not in columns or axis == y:
        axes = [a for a in columns if a != y]
        known = [f"{LARGEST}{a}" for a in axes] + ["largest_params"] * ("N" in axes)
        known += ["largest_compute"] * ({"N", "D"} <= set(axes)) + [f"{EACH}{a}" for a in axes]
        raise LawError(
            f"holdout={holdout!r} is not known here.{did_you_mean(holdout, known)} Known: {', '.join(known)}."
        )
    values = floats(columns[axis])
    levels = np.unique(values[np.isfinite(values)])
    if holdout.startswith(LARGEST):
        levels = levels[-1:]
    return [values == level for level in levels] or [np.zeros(len(values), dtype=bool)]


def holdouts_of(holdout: str | Sequence[str] | None, axes: Sequence[str]) -> list[str]:
    """Hold-outs by the names that :func:`folds` knows.

    Args:
        holdout: one name or several; ``"leave_one_level_out"`` is that of every axis; None: ``largest_compute`` where
            N and D are among the axes, else the largest of every axis.

    Raises:
        LawError: an empty list.
    """
    if holdout is None:
        return ["largest_compute"] if {"N", "D"} <= set(axes) else [LARGEST + a for a in axes]
    names = [holdout] if isinstance(holdout, str) else list(holdout)
    if not names:
        raise LawError("No hold-out is named. Leave holdout out for the largest compute, or the largest of each axis.")
    every = [EACH + a for a in axes]
    return list(dict.fromkeys(name for h in names for name in (every if h == EACH.rstrip("_") else [h])))


def axis_of(holdout: str) -> str | None:
    """The axis whose levels are held out; None where it is not one axis's."""
    if holdout == "largest_params":
        return "N"
    for start in (LARGEST, EACH):
        if holdout.startswith(start) and holdout != "largest_compute":
            return holdout.removeprefix(start)
    return None


def for_axes(holdouts: Sequence[str], axes: Sequence[str]) -> list[str]:
    """Those of the hold-outs that ask a law in these axes something; each axis' largest level where none does."""
    own = [h for h in holdouts if axis_of(h) in axes or (h == "largest_compute" and "N" in axes)]
    return own or [f"{LARGEST}{a}" for a in axes]


def nearest_error(
    columns: Mapping[str, Any], masks: list[np.ndarray], y: str, axes: list[str], holdout: str
) -> float | None:
    """RMSE of log losses when each held-out row repeats the kept row nearest in log distance."""
    values, losses = np.stack([floats(columns[a]) for a in axes]), floats(columns[y])
    usable = ((values > 0) & np.isfinite(values)).all(0) & (losses > 0)
    logs = np.log(np.where(usable, values, 1.0))
    # The held-out axis is passed over for free: what repeats is the same row at the nearest kept level.
    axis = axis_of(holdout)
    scale = np.array([1e-3 if a == axis else 1.0 for a in axes])[:, None, None]
    errors = []
    for mask in masks:
        kept, held = np.flatnonzero(usable & ~mask), np.flatnonzero(usable & mask)
        if not len(kept) or not len(held):
            return None
        distance = (np.abs(logs[:, held, None] - logs[:, None, kept]) * scale).sum(0)
        errors.append(np.log(losses[kept[distance.argmin(1)]] / losses[held]))
    return float(np.sqrt((np.concatenate(errors) ** 2).mean()))


def floats(values: Any) -> np.ndarray:
    """A column with NaN for None."""
    return np.array([np.nan if v is None else float(v) for v in values])
