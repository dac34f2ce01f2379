"""How much of a decoder's cross-attention falls on each of the passages that it fuses.

Where the prompts of a question's passages are one sequence to the decoder, its attention says which of them it drew the
answer from (Izacard and Grave 2021, "Distilling Knowledge from Reader to Retriever for Question Answering"). With
weight a_lhts of target position t on prompt token s, in head h of layer l, and v_lhs that token's value,

    mass_k = sum over l, h, t and the tokens s of passage k's prompt of   a_lhts   or   a_lhts |v_lhs|,

the second being Izacard et al. 2022 ("Atlas"), section 2.2: what a token adds to the output is its value, so that a
token of small value is heard little however much it is looked at.

Shapes: N questions, K passages, S tokens of a question's prompts together, T positions of the decoder's input, H heads,
E width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rag_exp.core.errors import DataError
from rag_exp.models.buckets import length_buckets
from rag_exp.models.packing import ReaderBatch
from rag_exp.models.reader import Generator


def passage_attention(generator: Generator, batch: ReaderBatch, value_norms: bool = False) -> Tensor:
    """The attention mass of each passage while the answer is read, shape [N, K]; 0 where there is no passage.

    Without value norms a question's masses sum to layers * heads * target tokens. Rows are read in groups as
    :meth:`Generator.token_logp` reads them.

    Args:
        generator: a sequence-to-sequence reader.
        batch: rows with answers, whose passages are fused (or are one).
        value_norms: whether a token's attention is multiplied by the Euclidean norm of its value.

    Raises:
        DataError: an architecture whose cross-attention transformers does not report.
    """
    assert generator.seq2seq, "there is no cross-attention without an encoder"
    assert batch.targets_NT is not None, "this batch has no answers to attend from"
    device = batch.input_ids_NL.device
    buckets = length_buckets(batch.lengths_N, device.type, generator.memory.microbatch_tokens)
    mass_NK = torch.cat([_group_attention(generator, batch.select(rows), value_norms) for rows in buckets])
    order = torch.from_numpy(np.concatenate(buckets)).to(device)
    return torch.empty_like(mass_NK).index_copy(0, order, mass_NK)


def _group_attention(generator: Generator, batch: ReaderBatch, value_norms: bool) -> Tensor:
    """:func:`passage_attention` of rows that are read at once."""
    from transformers import DynamicCache, EncoderDecoderCache

    assert batch.targets_NT is not None
    encoded = generator.encode(batch)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    with _eager(generator.model):
        out = generator.model.get_decoder()(
            input_ids=generator.decoder_inputs(batch.targets_NT),
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=batch.attention_mask_NL,
            past_key_values=cache,
            use_cache=True,
            output_attentions=True,
            return_dict=True,
        )
    weights = getattr(out, "cross_attentions", None)
    if not weights or any(layer is None for layer in weights):
        raise DataError(
            f"{generator.model.config.model_type}: transformers does not report its cross-attention; use an objective "
            "that teaches the retriever by likelihoods (pdist, loop, emdr2)."
        )
    predicts_NT = generator.predicting(batch.targets_NT)
    values = [layer.values for layer in cache.cross_attention_cache.layers] if value_norms else [None] * len(weights)
    mass_NS = torch.stack([token_mass(*layer, predicts_NT) for layer in zip(weights, values, strict=True)]).sum(0)
    return _by_passage(mass_NS, batch.lengths_N[:, None] if batch.parts_NK is None else batch.parts_NK)


def token_mass(weight_NHTS: Tensor, value_NHSE: Tensor | None, counted_NT: Tensor) -> Tensor:
    """One layer's attention on each token, summed over heads and counted positions, shape [N, S], float32 at least.

    Args:
        weight_NHTS: attention weights, which sum to 1 over S.
        value_NHSE: what the heads read at each token, whose norm then multiplies its weight; None takes the weights.
        counted_NT: True at the positions that count.
    """
    dtype = torch.promote_types(weight_NHTS.dtype, torch.float32)
    mass_NHS = torch.einsum("nhts,nt->nhs", weight_NHTS.to(dtype), counted_NT.to(dtype))
    return (mass_NHS if value_NHSE is None else mass_NHS * value_NHSE.to(dtype).norm(dim=-1)).sum(1)


def _by_passage(mass_NS: Tensor, parts_NK: np.ndarray) -> Tensor:
    """Sums over the tokens of each prompt, [N, K], of rows whose prompts lie one behind the other; padding has none."""
    ends_NK = torch.from_numpy(parts_NK.cumsum(1)).to(mass_NS.device)
    place_NS = torch.arange(mass_NS.shape[1], device=mass_NS.device).expand(mass_NS.shape).contiguous()
    owner_NS = torch.searchsorted(ends_NK, place_NS, right=True)  # K where padding is
    mass_NK = nn.functional.pad(torch.zeros_like(ends_NK, dtype=mass_NS.dtype), (0, 1))
    return mass_NK.scatter_add(1, owner_NS, mass_NS)[:, :-1]


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """The model with the attention that leaves its weights; fused kernels never have them in one piece."""
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(usual)
