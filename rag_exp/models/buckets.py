"""Rows of unequal length, read in groups of nearly equal length, so that padding is not computed."""

from __future__ import annotations

import numpy as np

# What starting one more pass costs, in tokens, and the most tokens of one pass. On a CPU, small models spend as long
# on launching a pass as on some 100 tokens, and beyond about 8,000 tokens their activations leave the cache; a GPU
# wants few, large passes. Both only decide how the work is cut.
CPU_PASS, CPU_MOST = 128, 8192
GPU_PASS, GPU_MOST = 16_384, 1 << 30


def length_buckets(lengths_N: np.ndarray, device: str, most: int | None = None, passes: int = 1) -> list[np.ndarray]:
    """Groups of rows to pad and read together: every row once, long rows first.

    Rows are sorted by length and cut where it saves most, as long as the padding saved is worth the
    start of another pass; groups with too many tokens are then cut evenly.

    Args:
        lengths_N: tokens of each row.
        device: torch device type.
        most: tokens of one pass, padding included, at most (a longer row is read alone); None takes the device's.
        passes: how many passes a group makes: one to be read, one more for each word that it writes.
    """
    start, usual = (CPU_PASS, CPU_MOST) if device == "cpu" else (GPU_PASS, GPU_MOST)
    most = usual if most is None else most
    order = np.argsort(-lengths_N, kind="stable")
    buckets = []
    for low, high in _cuts(lengths_N[order], 0, len(order), start * passes):
        parts = -(-(high - low) // max(1, most // max(1, int(lengths_N[order[low]]))))
        buckets += [part for part in np.array_split(order[low:high], max(1, parts)) if len(part)]
    return buckets


def _cuts(falling_N: np.ndarray, low: int, high: int, start: int) -> list[tuple[int, int]]:
    """Ranges of ``falling_N[low:high]``, cut in two where that saves most, again and again."""
    if high - low < 2:
        return [(low, high)]
    at = np.arange(low + 1, high)
    saved = (falling_N[low] - falling_N[at]) * (high - at)  # padded to the length at the cut, not to low's
    best = int(saved.argmax())
    if saved[best] <= start:
        return [(low, high)]
    return _cuts(falling_N, low, int(at[best]), start) + _cuts(falling_N, int(at[best]), high, start)
