"""Input embeddings of a batch's tokens, looked up once however many groups its rows are read in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class BatchLookup:
    """The rows of the input embedding that a batch needs, in place of the whole.

    The gradient of a lookup has the size of the whole embedding: at 50,000 x 256 some 50 MB to fill with zeros and to
    add up, for every group of rows that is read by itself. Between :meth:`active`'s bounds a model looks its tokens up
    among the batch's U distinct ones, whose gradient is that small, and the whole is written once.

    Args:
        model: a model of transformers; its lookups are the ``nn.Embedding`` modules that hold its input embedding.
        ids: all token ids of the batch, padding included.
    """

    def __init__(self, model: Any, ids: Tensor):
        weight = model.get_input_embeddings().weight
        modules = [m for m in model.modules() if isinstance(m, nn.Embedding) and m.weight is weight]
        distinct_U = ids.unique()
        self._place_V = torch.zeros(len(weight), dtype=torch.int64, device=ids.device)
        self._place_V[distinct_U] = torch.arange(len(distinct_U), device=ids.device)
        self._tables: list[tuple[nn.Embedding, Tensor]] = []
        for module in modules:
            found_UD = module(distinct_U)  # by the module itself, which may scale what it finds
            self._tables.append((module, self._known(module, found_UD)))

    def _known(self, module: nn.Embedding, found_UD: Tensor) -> Tensor:
        """The table of an earlier module that finds the same (an encoder's, for the decoder), or ``found_UD``."""
        for other, table_UD in self._tables:
            if other.padding_idx == module.padding_idx and torch.equal(table_UD, found_UD):
                return table_UD
        return found_UD

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the model find its tokens in the batch's own rows."""
        handles = [m.register_forward_hook(self._finder(table_UD)) for m, table_UD in self._tables]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _finder(self, table_UD: Tensor) -> Any:
        def find(_: nn.Module, args: tuple[Tensor, ...], __: Tensor) -> Tensor:
            return nn.functional.embedding(self._place_V[args[0]], table_UD)

        return find
