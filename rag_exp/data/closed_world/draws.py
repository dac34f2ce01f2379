"""Counter-based random draws: the i-th draw of a stream is a pure function of the stream's key and i.

A generator object per entity costs tens of microseconds; hashing a counter costs nanoseconds, needs no
state and gives any entity's draws without those of the entities before it. The hash is SplitMix64
(Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"): draw i of stream ``key``
is the (i+1)-th output of SplitMix64 seeded with ``key``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rag_exp.core.rng import derive

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
HALF_BITS = 12  # bits of each half of a Feistel block: the permutation is of [0, 2**24)


class Streams:
    """The named streams of one seed. Keys are derived once per name and kept."""

    def __init__(self, seed: int, *names: str | int):
        self._seed = derive(seed, *names)
        self._keys: dict[str, np.uint64] = {}

    def bits(self, name: str, counters: Ints) -> NDArray[np.uint64]:
        """64 uniform bits for each counter (>= 0), uint64 of the same shape."""
        key = self._keys.get(name)
        if key is None:
            key = self._keys[name] = np.uint64(derive(self._seed, name))
        z = (np.atleast_1d(counters).astype(np.uint64) + np.uint64(1)) * _GOLDEN + key
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    def uniform(self, name: str, counters: Ints) -> Floats:
        """Uniform multiples of 2**-53 in [0, 1)."""
        return (self.bits(name, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def below(self, name: str, counters: Ints, n: int | Ints) -> Ints:
        """Uniform integers in [0, n), exact up to the 2**-53 grid of :meth:`uniform`."""
        return np.minimum((self.uniform(name, counters) * n).astype(np.int64), np.asarray(n) - 1)

    def permute(self, name: str, values: Ints) -> Ints:
        """A seeded bijection of [0, 2**24) applied to ``values``: four Feistel rounds on two halves of 12 bits."""
        mask = (1 << HALF_BITS) - 1
        left, right = values >> HALF_BITS, values & mask
        for step in range(4):
            scrambled = (self.bits(f"{name}/{step}", right) >> np.uint64(64 - HALF_BITS)).astype(np.int64)
            left, right = right, left ^ scrambled
        return (left << HALF_BITS) | right


def pick(cumulative: Floats, u: Floats) -> Ints:
    """Inverse-CDF draw: index i with probability proportional to the i-th step of ``cumulative``.

    Args:
        cumulative: non-decreasing running sums of weights, any positive total.
        u: uniform draws in [0, 1).
    """
    found = np.searchsorted(cumulative, u * cumulative[-1], side="right")
    return np.minimum(found, len(cumulative) - 1)


def pick_other(probabilities: Floats, taken: Ints, u: Floats) -> Ints:
    """A draw from ``probabilities`` conditioned on differing from ``taken``, one per uniform draw.

    The mass of the taken value is cut out of the unit interval and ``u`` is stretched over the rest, so
    the law is exactly p(w) / (1 - p(taken)) for w != taken, with no retries.
    """
    cumulative = np.cumsum(probabilities)
    mass = probabilities[taken]
    start = cumulative[taken] - mass
    point = u * (cumulative[-1] - mass)
    point = np.where(point >= start, point + mass, point)
    found = np.minimum(np.searchsorted(cumulative, point, side="right"), len(probabilities) - 1)
    # Rounding at the edges of the cut may land on the taken value itself (measure ~2**-53): step off it.
    return np.where(found == taken, np.where(taken > 0, taken - 1, 1), found)


def zipf_weights(n: int, exponent: float) -> Floats:
    """Weights (r+1)**-exponent of ranks r = 0..n-1, not normalised."""
    return np.arange(1, n + 1, dtype=np.float64) ** -exponent


def normalised(weights: Sequence[float] | Floats) -> Floats:
    """``weights`` divided by their sum."""
    array = np.asarray(weights, dtype=np.float64)
    return array / array.sum()
