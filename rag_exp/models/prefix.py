"""What all rows of a decoder-only batch begin with (instructions, examples) is read once.

A causal model computes the same keys and values for a common beginning whatever follows it. They are computed for
one row and handed to all others. A common beginning is all that passages of one question share in a
decoder-only reader: whatever stands behind a passage depends on it. FLOPs are counted as if every row were read
whole, which is what reading costs where nothing is shared.

Shapes: N rows, L input tokens, P tokens of the common beginning, M wanted positions, S as ``Generator.states``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rag_exp.models.reader import Generator

SHARED_FROM = 16  # tokens; a shorter beginning is not worth a pass of its own


def common_beginning(ids_NL: Tensor, index_M: Tensor) -> int:
    """P: columns that are equal in all rows and stand before every wanted position; 0 where too few to share.

    Args:
        index_M: flat positions in [N, L].
    """
    N, L = ids_NL.shape
    if N < 2 or not len(index_M):
        return 0
    most = int((index_M % L).min())
    differs = (ids_NL[:, :most] != ids_NL[:1, :most]).any(0).nonzero()
    P = int(differs[0, 0]) if len(differs) else most
    return P if P >= SHARED_FROM else 0


def read_causal(generator: Generator, ids_NL: Tensor, index_M: Tensor, cached: bool) -> tuple[Tensor, Any]:
    """Read right-padded rows with a decoder-only model; the states [M, S] at flat positions of [N, L].

    The same as ``generator.states`` up to rounding; beginnings are shared in evaluation mode, where no gradients are
    wanted and every layer keeps plain keys and values.

    Args:
        cached: whether the keys and values of all tokens are wanted, too.

    Returns:
        the states, and the cache (None unless wanted).
    """
    from rag_exp.models.decoding.caches import pads_freely

    P = 0
    if not torch.is_grad_enabled() and not generator.model.training and pads_freely(generator.model):
        P = common_beginning(ids_NL, index_M)
    if not P:
        states_MS, out = generator.states(index_M, input_ids=ids_NL, use_cache=cached)
        return states_MS, out.past_key_values if cached else None
    N, L = ids_NL.shape
    _, first = generator.states(index_M[:0], input_ids=ids_NL[:1, :P], use_cache=True)
    cache = first.past_key_values
    cache.batch_repeat_interleave(N)
    index_M = index_M - (index_M // L + 1) * P
    states_MS, _ = generator.states(index_M, input_ids=ids_NL[:, P:], past_key_values=cache, use_cache=True)
    return states_MS, cache if cached else None
