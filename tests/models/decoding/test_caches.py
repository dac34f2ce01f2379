"""Caches with room: the same keys and values as transformers' own, whatever is done to them, and nothing moved."""

import pytest
import torch
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from rag_exp.models.decoding.caches import ROOM, branch


def states(seed: int, rows: int = 3, tokens: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.randn(2, rows, 4, tokens, 8, generator=torch.Generator().manual_seed(seed)))


def prompted() -> DynamicCache:
    cache = DynamicCache()
    for layer in range(2):
        cache.update(*states(layer, tokens=5), layer)
    return cache


def same(ours: DynamicCache, theirs: DynamicCache) -> bool:
    pairs = zip(ours.layers, theirs.layers, strict=True)
    return all(torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values) for a, b in pairs)


@pytest.mark.parametrize("tokens", [1, 3, ROOM, ROOM + 7])
def test_equal_to_concatenation_whatever_is_selected(tokens):
    ours, theirs = branch(prompted()), prompted()
    index = torch.tensor([2, 0, 0, 1])
    for step in range(4):
        if step in (1, 3):
            ours.reorder_cache(index)
            theirs.reorder_cache(index)
        for layer in range(2):
            new = states(10 * step + layer, len(theirs.layers[layer].keys), tokens)
            found = ours.update(*new, layer)
            assert all(torch.equal(a, b) for a, b in zip(found, theirs.update(*new, layer), strict=True))
        assert same(ours, theirs)
        assert ours.get_seq_length() == theirs.get_seq_length() == 5 + (step + 1) * tokens


def test_what_is_cached_stays_where_it_is():
    ours = branch(prompted())
    ours.reorder_cache(torch.tensor([0, 0, 1, 1]))
    (layer, _), places = ours.layers, set()
    for step in range(ROOM):
        layer.update(*states(step, rows=4))
        places.add((layer.keys.data_ptr(), layer.values.data_ptr()))
    assert len(places) == 1


@pytest.mark.parametrize("fed", [False, True])
def test_branches_do_not_see_each_other(fed):
    whole = EncoderDecoderCache(prompted(), prompted())
    first = branch(whole)
    if fed:
        first.self_attention_cache.update(*states(3), 0)
    parts = (first.self_attention_cache, first.cross_attention_cache)
    kept = [layer.keys.clone() for part in parts for layer in part.layers]
    second = branch(first)
    for one in (second, first):
        one.self_attention_cache.update(*states(4 if one is first else 5), 0)
    second.reorder_cache(torch.tensor([1]))
    found = [layer.keys for part in parts for layer in part.layers]
    assert all(torch.equal(a[:, :, : b.shape[2]], b) for a, b in zip(found, kept, strict=True))
    assert torch.equal(first.self_attention_cache.layers[0].keys[:, :, -1:], states(4)[0])
    assert torch.equal(second.self_attention_cache.layers[0].keys[:, :, -1:], states(5)[0][[1]])
    assert same(whole.cross_attention_cache, prompted())
