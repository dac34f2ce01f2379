"""Caches of keys and values that are fed word by word.

transformers' plain cache is concatenated anew at every token, prompt and all: for many hypotheses behind long prompts
that is as much work as the model itself. Here its layers have room behind them, and a token is written into it.

Shapes: N rows, H heads, L cached tokens, D width of a head.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache

ROOM = 32  # tokens that fit before what is cached moves again


def pads_freely(model: Any) -> bool:
    """Whether rows of unequal length may be read together, new tokens standing behind the padding.

    It takes position ids, which make a token's place in the cache irrelevant, and layers that attend to all
    that is cached (a sliding window would count padding).
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    layers = DynamicCache(config=model.config).layers
    return all(type(layer) is DynamicLayer for layer in layers)


def branch(cache: Any, grows: bool = True) -> Any:
    """A cache of its own over the same tensors: what is done to it, the other does not see.

    Args:
        grows: whether it will be fed; what a decoder attends to across is not.
    """
    if isinstance(cache, EncoderDecoderCache):
        return EncoderDecoderCache(branch(cache.self_attention_cache), branch(cache.cross_attention_cache, False))
    other = copy.copy(cache)
    other.layers = [
        RoomyLayer(layer) if grows and layer.is_initialized and type(layer) in (DynamicLayer, RoomyLayer)
        else copy.copy(layer) for layer in cache.layers
    ]  # fmt: skip
    return other


class RoomyLayer(DynamicLayer):
    """A plain layer over the keys and values of another, which are not copied before something is added to them."""

    def __init__(self, layer: DynamicLayer):
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.keys, self.values = layer.keys, layer.values
        self._held: list[Tensor | None] = [None, None]  # the keys and the room behind them; the values and theirs

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.keys = self._appended(0, self.keys, key_states)
        self.values = self._appended(1, self.values, value_states)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.keys, self.values = self._selected(0, self.keys, beam_idx), self._selected(1, self.values, beam_idx)

    def _appended(self, which: int, states_NHLD: Tensor, new_NHTD: Tensor) -> Tensor:
        L, held = states_NHLD.shape[2], self._held[which]
        end = L + new_NHTD.shape[2]
        if held is None or end > held.shape[2]:
            held = self._roomy(which, states_NHLD, len(states_NHLD), end)
            held[:, :, :L] = states_NHLD
        held[:, :, L:end] = new_NHTD
        return held[:, :, :end]

    def _selected(self, which: int, states_NHLD: Tensor, index_N: Tensor) -> Tensor:
        L = states_NHLD.shape[2]
        selected = self._roomy(which, states_NHLD, len(index_N), L)[:, :, :L]
        return torch.index_select(states_NHLD, 0, index_N, out=selected)

    def _roomy(self, which: int, like_NHLD: Tensor, N: int, L: int) -> Tensor:
        _, H, _, D = like_NHLD.shape
        held = self._held[which] = like_NHLD.new_empty(N, H, L + ROOM, D)
        return held
