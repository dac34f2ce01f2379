"""What costs next to nothing is computed again in backward instead of being kept for it.

Of a layer's activations, the outputs of its norms, of its activation function and of the products that gate them are a
quarter or a third, and each is an elementwise function of tensors that its own derivative needs anyway. Where a matrix
product would keep such an output for its backward pass, it keeps how the output was made, and makes it again there, by
the same operation of the same numbers: gradients are equal to the bit.

Unlike a layer that is read again (``torch.utils.checkpoint``) this needs no second matrix product, and to know nothing
of how an architecture is written: outputs are recognised by the graph that autograd builds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# What made a tensor, to the tensor.
Make = Callable[[Any], Tensor]


@dataclass(frozen=True)
class _Again:
    """In place of a tensor: the node of the graph that made it, how it is made, and its shape."""

    node: Any
    make: Make
    shape: torch.Size


class Recomputing(torch.autograd.graph.saved_tensors_hooks):
    """A context in which the forward pass of ``model`` leaves less to keep."""

    def __init__(self, model: nn.Module):
        # A norm's node does not know what was added to the variance.
        norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm) and module.elementwise_affine]
        self._eps = {norm.weight.data_ptr(): norm.eps for norm in norms}
        super().__init__(self._pack, _unpack)

    def _pack(self, kept: Tensor) -> Tensor | _Again:
        whole = kept if kept._base is None else kept._base
        make = None if whole.grad_fn is None else self._maker(whole.grad_fn)
        # A view may be of a part, or lie otherwise.
        if make is None or kept.numel() != whole.numel() or not (kept.is_contiguous() and whole.is_contiguous()):
            return kept.detach()  # an output that knew its node, kept by that node, would keep itself
        return _Again(whole.grad_fn, make, kept.shape)

    def _maker(self, node: Any) -> Make | None:
        """How to make again what ``node`` made; None where that is not cheap, or not known."""
        match node.name():
            case "GeluBackward0":
                return _gelu
            case "SiluBackward0":
                return _silu
            case "MulBackward0" if all(before is not None for before, _ in node.next_functions):
                return _product  # a factor is kept if the other has a gradient
            case "NativeLayerNormBackward0" if node._saved_weight is not None:
                eps = self._eps.get(node._saved_weight.data_ptr())
                return None if eps is None else _Norm(eps)
        return None


@dataclass(frozen=True)
class _Norm:
    eps: float

    def __call__(self, node: Any) -> Tensor:
        shape = node._saved_normalized_shape
        return nn.functional.layer_norm(node._saved_input, shape, node._saved_weight, node._saved_bias, self.eps)


def _gelu(node: Any) -> Tensor:
    return nn.functional.gelu(node._saved_self, approximate=node._saved_approximate)


def _silu(node: Any) -> Tensor:
    return nn.functional.silu(node._saved_self)


def _product(node: Any) -> Tensor:
    return node._saved_self * node._saved_other


def _unpack(kept: Tensor | _Again) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    with torch.no_grad():
        return kept.make(kept.node).view(kept.shape)
