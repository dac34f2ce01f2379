"""What a search parameter may be set to, where its rise makes recall rise (``index.mode=iso_recall``)."""

from __future__ import annotations

MOST_CANDIDATES = 4096  # that tuning tries; with more, a graph costs as much as looking at every passage


def dial_range(dial: str, size: int, k: int, lists: int = 0) -> range:
    """Values of a dial over ``size`` passages for ``k`` of them, rising.

    Args:
        dial: "nprobe" (of so many ``lists``); "efSearch", candidates of a graph; "rescore", times k candidates.
    """
    if dial == "nprobe":
        return range(1, lists + 1)
    most = min(size, MOST_CANDIDATES)
    return range(k, max(k, most) + 1) if dial == "efSearch" else range(1, max(1, most // k) + 1)
