"""Input embeddings of a batch's tokens, looked up once however many groups its rows are read in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class _Last(torch.autograd.Function):
    """A weight as it is, whose gradient goes on only after those of all that is made of the weight later."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class BatchLookup:
    """The rows of the input embedding that a batch needs, in place of the whole.

    The gradient of a lookup has the size of the whole embedding: at 50,000 x 256 some 50 MB to fill with zeros and to
    add up, for every group of rows that is read by itself. Between :meth:`active`'s bounds a model looks its tokens up
    among the batch's U distinct ones, whose gradient is that small, and the whole is written once.

    Args:
        model: a model of transformers; its lookups are the ``nn.Embedding`` modules that hold its input embedding.
        ids: all token ids of the batch, padding included.

    Where the output embedding is the same matrix, its gradient has that size as well. The two are summed in the memory
    of one: the tables' is then sparse, and comes first.

    Attributes:
        head: the weight of the output embedding, to be projected by; None where it is a matrix of its own.
        tables: what the lookups find of the distinct tokens, [U, D]: one table where they find the same, as a seq2seq
            model's two mostly do.
    """

    def __init__(self, model: Any, ids: Tensor):
        weight = model.get_input_embeddings().weight
        output = model.get_output_embeddings()
        tied = output is not None and output.weight is weight
        self.head: Tensor | None = _Last.apply(weight) if tied else None  # before the tables, which are to come first
        distinct_U = ids.unique()
        self._place_V = torch.zeros(len(weight), dtype=torch.int64, device=ids.device)
        self._place_V[distinct_U] = torch.arange(len(distinct_U), device=ids.device)
        self.tables: list[Tensor] = []
        self._modules: list[tuple[nn.Embedding, int]] = []  # and which table each looks in
        paddings: list[int | None] = []
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.weight is weight:
                found_UD = _found(module, distinct_U, sparse=tied)
                known = zip(self.tables, paddings, strict=True)
                same = [p == module.padding_idx and torch.equal(table_UD, found_UD) for table_UD, p in known]
                if not any(same):
                    self.tables.append(found_UD)
                    paddings.append(module.padding_idx)
                self._modules.append((module, same.index(True) if any(same) else len(same)))

    @contextmanager
    def active(self, tables: Sequence[Tensor] | None = None) -> Iterator[None]:
        """Let the model find its tokens in the batch's own rows.

        Args:
            tables: leaves that take the place of :attr:`tables`; their gradients are sparse, of the tokens found alone.
        """
        sparse = tables is not None
        tables = self.tables if tables is None else tables
        handles = [m.register_forward_hook(self._finder(tables[at], sparse)) for m, at in self._modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def reading(self, read: Callable[[Any], Tensor]) -> Callable[[Any, Sequence[Tensor]], Tensor]:
        """``read`` with the tables to find tokens in as its second argument."""

        def read_with(group: Any, tables: Sequence[Tensor]) -> Tensor:
            with self.active(tables):
                return read(group)

        return read_with

    def _finder(self, table_UD: Tensor, sparse: bool) -> Any:
        def find(_: nn.Module, args: tuple[Tensor, ...], __: Tensor) -> Tensor:
            return nn.functional.embedding(self._place_V[args[0]], table_UD, sparse=sparse)

        return find


def _found(module: nn.Embedding, ids: Tensor, sparse: bool) -> Tensor:
    """What a lookup finds, by the module itself, which may scale it; with a sparse gradient if asked for."""
    usual = module.sparse
    module.sparse = sparse or usual
    try:
        return module(ids)
    finally:
        module.sparse = usual
