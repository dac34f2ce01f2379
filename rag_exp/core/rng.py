"""Named seed streams: every random choice draws from a seed derived from (seed, what it is for).

Streams with different names are independent, so that adding a random choice in one place never
shifts the numbers in another, and a step's randomness is a pure function of the seed and the step.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream ``names`` under ``seed`` (BLAKE2b of both; the same on every machine)."""
    text = "\x1f".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def numpy_rng(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator (PCG64) on the stream ``names`` under ``seed``."""
    import numpy as np

    return np.random.default_rng(derive(seed, *names))
