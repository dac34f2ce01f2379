"""Computing again what is cheap: fewer bytes kept, the same gradients to the bit."""

from __future__ import annotations

import gc
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from rag_exp.models.ladder import Ladder
from rag_exp.models.recomputing import Recomputing

N, D = 5, 8


class Block(nn.Module):
    """A norm, a gated feed-forward and a norm, through views as transformers' layers have them."""

    def __init__(self, activation, eps: float = 1e-5):
        super().__init__()
        self.before, self.after = nn.LayerNorm(D, eps=eps), nn.LayerNorm(D, eps=eps, bias=False)
        self.gate, self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(D, 4 * D), nn.Linear(4 * D, D)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x)
        return self.after(x + self.down(self.activation(self.gate(h)) * self.up(h)))


def gradients(module: nn.Module, x: Tensor, context) -> list[Tensor]:
    module.zero_grad()
    x = x.clone().requires_grad_()
    with context:
        out = module(x)
    out.square().sum().backward()
    return [out.detach(), x.grad, *(p.grad.clone() for p in module.parameters())]


def kept(module: nn.Module, context: saved_tensors_hooks, *inputs, **named) -> int:
    """The bytes that a forward pass keeps for its backward, weights left out."""
    sizes, pack = {}, context.pack_hook
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}

    def watched(tensor: Tensor):
        packed = pack(tensor)
        if isinstance(packed, Tensor) and packed.untyped_storage().data_ptr() not in weights:
            sizes[packed.untyped_storage().data_ptr()] = packed.untyped_storage().nbytes()
        return packed

    context.pack_hook = watched
    with context:
        out = module(*inputs, **named)  # noqa: F841 (its graph keeps what is counted)
    return sum(sizes.values())


def plainly() -> saved_tensors_hooks:
    return saved_tensors_hooks(lambda tensor: tensor.detach(), lambda tensor: tensor)


@pytest.mark.parametrize("shape", [(N, D), (2, N, D)])
@pytest.mark.parametrize("activation", [F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.silu, F.relu, torch.tanh])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_are_equal_to_the_bit(activation, shape, autocast):
    torch.manual_seed(0)
    block, x = Block(activation, eps=0.3), torch.randn(shape)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found, expected = gradients(block, x, Recomputing(block)), gradients(block, x, nullcontext())
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_of_a_block_what_a_matrix_product_makes_and_what_a_norm_reads_is_kept():
    block, x = Block(F.silu), torch.randn(N, D, requires_grad=True)
    narrow, wide, statistics = 4 * N * D, 4 * N * 4 * D, 2 * 4 * N  # bytes of [N, D], of [N, 4 D], of one norm's
    needed = narrow + narrow + wide + wide + 2 * statistics  # what the norms read, gate and up
    assert kept(block, Recomputing(block), x) == needed
    assert kept(block, plainly(), x) == needed + narrow + wide + wide  # normed, activated, gated


@pytest.mark.parametrize(("family", "share"), [("llama", 0.75), ("t5", 0.8), ("bart", 0.75)])
def test_a_reader_keeps_less(family, share, vocabulary):
    model = Ladder(family=family, size="s0", vocab_size=320, context=64).create(vocabulary, 0).model.train()
    ids = torch.arange(4, 44).view(2, 20)
    named = {"input_ids": ids, "use_cache": False} | ({} if family == "llama" else {"decoder_input_ids": ids[:, :4]})
    body = model.base_model
    assert kept(body, Recomputing(body), **named) < share * kept(body, plainly(), **named)


def test_parts_and_other_layouts_are_kept_as_they_are():
    """Only the whole of an output, lying as it was made, is what making it again gives."""
    x = torch.randn(N, D, requires_grad=True)
    weight = torch.randn(D, N, requires_grad=True)
    for view in (lambda y: y[:, 1:5], lambda y: y.T, lambda y: y[2:4], lambda y: y.view(D, N)):
        found = []
        for context in (Recomputing(nn.Identity()), nullcontext()):
            with context:
                y = view(F.gelu(x))
                out = y @ weight[: y.shape[1]] if y.shape[1] <= D else y @ weight.T
            found.append(torch.autograd.grad(out.sum(), [x, weight]))
        assert all(map(torch.equal, *found))


def test_a_product_with_a_constant_is_kept():
    """Its other factor is not there to make it again: dropout's mask is such a constant."""
    x, weight = torch.randn(N, D, requires_grad=True), torch.randn(D, D, requires_grad=True)

    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * torch.ones(N, D)) @ weight

    found = []
    for context in (Recomputing(nn.Identity()), nullcontext()):
        with context:
            out = Masked()(x)
        found.append(torch.autograd.grad(out.sum(), [x, weight]))
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("backward", [True, False])
def test_nothing_stays_of_a_graph_that_is_done_with(backward):
    """Without the garbage collector's help: what keeps its own output, as attention does, is not kept by it."""

    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x)

    module, x = Attention(), torch.randn(2, N, D, requires_grad=True)
    gradients(module, x.detach(), Recomputing(module))

    def tensors() -> int:
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = tensors()
        for _ in range(3):
            with Recomputing(module):
                out = module(x)
            if backward:
                out.sum().backward()
            del out
        assert tensors() == before
    finally:
        gc.enable()
