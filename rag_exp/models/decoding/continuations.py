"""Log-probabilities of given continuations of prompts that have been read.

Many continuations of one prompt begin alike, as beams do. The distribution after a common beginning is the same for
all of them, so the vocabulary projection, which is most of the work for a large vocabulary, is computed once for each
distinct beginning.

Shapes: N prompts, M continuations, T tokens, V vocabulary, J distinct beginnings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from rag_exp.models.decoding.costs import written_counts
from rag_exp.models.decoding.grouping import CACHED
from rag_exp.models.decoding.next_token import logp_of
from rag_exp.models.decoding.prompts import Prompts
from rag_exp.models.flops import TokenCounts
from rag_exp.models.packing import Ids, ReaderBatch


def continuation_logp(
    prompts: Prompts, batch: ReaderBatch, rows: Sequence[int], continuations: Sequence[Ids]
) -> tuple[Tensor, TokenCounts]:
    """log p(y_t|prompt, y_<t) of each token of each continuation.

    Args:
        prompts: what was read; stays as it is.
        batch: its rows.
        rows: which prompt each continuation belongs to, ascending.
        continuations: at least one token each.

    Returns:
        float32 [M, T], 0 after the end of each; and the tokens processed.
    """
    generator, states_NS = prompts.generator, prompts.states_NS
    device = states_NS.device
    lengths_M = np.array([len(ids) for ids in continuations], np.int64)
    logp_MT = torch.zeros(len(continuations), int(lengths_M.max(initial=0)), device=device)
    index_M = torch.tensor(rows, dtype=torch.long, device=device)
    first_M = torch.tensor([ids[0] for ids in continuations], dtype=torch.long, device=device)
    logp_MT[:, 0] = logp_of(generator, states_NS, index_M, first_M)
    projected = 0
    cached_M = batch.lengths_N[np.asarray(rows, np.int64)] + lengths_M
    for part in _parts(rows, continuations, cached_M):
        later = [continuations[m] for m in part]
        T = max(map(len, later)) - 1
        tokens_NT, wanted_NT, node_NT = (np.zeros((len(part), T), kind) for kind in (np.int64, bool, np.int64))
        nodes: dict[tuple[int, int], int] = {}
        for n, ids in enumerate(later):
            node = -1 - rows[part[n]]  # the beginning of length 0
            for t, token in enumerate(ids[:-1]):
                known = len(nodes)
                node = nodes.setdefault((node, token), known)
                tokens_NT[n, t], node_NT[n, t], wanted_NT[n, t] = token, node, node == known
        branch = prompts.branch()
        branch.select(index_M[part])
        states_JS = branch.feed(*(torch.from_numpy(x).to(device) for x in (tokens_NT, wanted_NT)))
        steps_N = np.array([len(ids) - 1 for ids in later])
        there = torch.from_numpy(np.arange(T) < steps_N[:, None]).to(device)
        node_X = torch.from_numpy(node_NT).to(device)[there]
        next_X = torch.tensor([token for ids in later for token in ids[1:]], device=device)
        logp_NT = logp_MT.new_zeros(len(part), T)
        logp_NT[there] = logp_of(generator, states_JS, node_X, next_X)
        logp_MT[torch.tensor(part, device=device), 1 : T + 1] = logp_NT
        projected += len(nodes)
    return logp_MT, _counts(batch, rows, lengths_M, projected)


def _parts(rows: Sequence[int], continuations: Sequence[Ids], cached_M: np.ndarray) -> Iterator[list[int]]:
    """Continuations to feed at once (those of one token need no feeding): few enough cached tokens."""
    part: list[int] = []
    cached = 0
    for m, ids in enumerate(continuations):
        if len(ids) == 1:
            continue
        cached += int(cached_M[m])
        if part and cached > CACHED:
            yield part
            part, cached = [], int(cached_M[m])
        part.append(m)
    if part:
        yield part


def _counts(batch: ReaderBatch, rows: Sequence[int], lengths_M: np.ndarray, projected: int) -> TokenCounts:
    """Every token of a continuation but its last is fed; ``projected`` distinct beginnings were projected."""
    fed_NT = np.zeros((len(batch.lengths_N), max(int(lengths_M.max(initial=1)) - 1, 0)), np.int64)
    for row, length in zip(rows, lengths_M.tolist(), strict=True):
        fed_NT[row, : length - 1] += 1
    return written_counts(batch, fed_NT, projected - int(fed_NT.sum()))
