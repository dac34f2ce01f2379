"""Prompts that have been read once, and the distribution of the token that comes next.

Prompts are right-padded as for scoring, so a batch that has answers is scored in the same pass. New tokens are
appended behind the padding: their positions are each row's own, and a mask hides the padding (and the scored
answer) from them, which is the same computation as decoding the row alone. A causal model for which this would not
hold (it takes no position ids, or some layer does not attend to everything before it) is read in groups of equal
length, without padding.

Shapes: N rows, L input tokens, T tokens, V vocabulary, J positions.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from rag_exp.core.errors import DataError
from rag_exp.models.decoding.caches import branch, pads_freely
from rag_exp.models.packing import ReaderBatch
from rag_exp.models.prefix import read_causal
from rag_exp.models.reader import Generator, target_index


def check_room(generator: Generator, batch: ReaderBatch, max_new_tokens: int) -> None:
    """Raise a DataError where a prompt and ``max_new_tokens`` do not fit the generator's context."""
    longest = len(generator.decoder_start) if generator.seq2seq else int(batch.prompt_lengths_N.max())
    if longest + max_new_tokens - 1 > generator.context:
        raise DataError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones do not fit the generator's context of "
            f"{generator.context}; lower evaluation.max_new_tokens to prompt.max_answer_tokens at most."
        )


class Prompts:
    """Rows of a batch after their prompts, and after the tokens they were fed since.

    Args:
        generator: the reader, in evaluation mode.
        batch: its rows.
        groups: rows to pad and read together; None reads all in one pass. A model that takes no padding is read in
            groups of equal length whatever is asked.

    Attributes:
        generator: the reader.
        states_NS: what the next token's distribution is made of (``Generator.states``), of the rows that are left, in
            their order.
        target_logp_NT: log-probabilities of the batch's own answers, as ``Generator.token_logp`` gives them; None
            where it has none.
    """

    def __init__(self, generator: Generator, batch: ReaderBatch, groups: Sequence[np.ndarray] | None = None):
        self.generator = generator
        self.target_logp_NT: Tensor | None = None
        N, device = len(batch.input_ids_NL), batch.input_ids_NL.device
        free = generator.seq2seq or pads_freely(generator.model)
        if not free:
            lengths_N = batch.prompt_lengths_N.cpu().numpy()
            groups = [np.flatnonzero(lengths_N == n) for n in np.unique(lengths_N)]
        elif groups is None or len(groups) == 1:
            groups = [np.arange(N)]
        start = _Seq2SeqRows if generator.seq2seq else _CausalRows
        whole = len(groups) == 1 and free
        self._parts = [start(generator, batch if whole else batch.select(rows), free) for rows in groups]
        self._rows = [torch.from_numpy(rows).to(device) for rows in groups]
        if batch.targets_NT is not None:
            if free:
                T = batch.targets_NT.shape[1]
                parts = [pad(part.target_logp_NT, (0, T - part.target_logp_NT.shape[1])) for part in self._parts]
                self.target_logp_NT = self._gathered(parts, self._rows)
            else:  # the scored answers differ in length, so that they cannot share an unpadded pass
                self.target_logp_NT = generator.token_logp(batch)

    @property
    def states_NS(self) -> Tensor:
        return self._gathered([part.states_NS for part in self._parts], self._rows)

    def branch(self) -> Prompts:
        """The same prompts, to go on from in another way. Only before a token was fed: caches are shared."""
        other = copy.copy(self)
        other._parts = [part.branch() for part in self._parts]
        return other

    def advance(self, tokens_N: Tensor) -> None:
        """Feed one token to each row."""
        for rows, part in zip(self._rows, self._parts, strict=True):
            part.advance(tokens_N[rows])

    def feed(self, tokens_NT: Tensor, wanted_NT: Tensor) -> Tensor:
        """Feed T tokens to each row at once, and leave the rows there.

        Args:
            tokens_NT: right-padded with any token.
            wanted_NT: True at tokens after which the next one's distribution is wanted.

        Returns:
            the states [J, S] after the wanted tokens, in row-major order.
        """
        places = [(rows[:, None] * tokens_NT.shape[1]).add(_steps(tokens_NT))[wanted_NT[rows]] for rows in self._rows]
        parts = [
            part.feed(tokens_NT[rows], wanted_NT[rows]) for rows, part in zip(self._rows, self._parts, strict=True)
        ]
        return self._gathered(parts, places)

    def select(self, index_N: Tensor) -> None:
        """Go on with these rows: drops, repeats and reorders them.

        Args:
            index_N: for each new row, its place among the present ones.
        """
        where, place = torch.empty((2, sum(map(len, self._rows))), dtype=torch.long, device=index_N.device)
        for p, rows in enumerate(self._rows):
            where[rows], place[rows] = p, torch.arange(len(rows), device=rows.device)
        parts, kept = [], []
        for p, part in enumerate(self._parts):
            rows = (where[index_N] == p).nonzero()[:, 0]
            if len(rows):
                part.select(place[index_N[rows]])
                parts.append(part)
                kept.append(rows)
        self._parts, self._rows = parts, kept

    @staticmethod
    def _gathered(parts: list[Tensor], places: list[Tensor]) -> Tensor:
        return parts[0] if len(parts) == 1 else torch.cat(parts)[torch.cat(places).argsort()]


class _Rows:
    """Rows that are fed together: their cache, and how many of its places are the prompt's."""

    cache: Any
    states_NS: Tensor
    target_logp_NT: Tensor | None = None

    def __init__(self, generator: Generator, N: int, device: torch.device):
        self._generator = generator
        self._prompt_N = torch.arange(N, device=device)  # which prompt each row goes on from

    def branch(self) -> _Rows:
        other = copy.copy(self)
        other.cache = branch(self.cache)
        return other

    def advance(self, tokens_N: Tensor) -> None:
        """Feed one token to each row."""
        self.states_NS = self._fed(tokens_N[:, None], torch.arange(len(tokens_N), device=tokens_N.device))

    def feed(self, tokens_NT: Tensor, wanted_NT: Tensor) -> Tensor:
        """Feed T tokens; the states after the wanted ones."""
        return self._fed(tokens_NT, wanted_NT.flatten().nonzero()[:, 0])

    def select(self, index_N: Tensor) -> None:
        """Go on with these of the rows."""
        prompt_N = self._prompt_N[index_N]
        if torch.equal(prompt_N, self._prompt_N):
            self._reorder(index_N)
        else:
            self.cache.reorder_cache(index_N)
            self._select(index_N)
        self._prompt_N = prompt_N
        self.states_NS = self.states_NS[index_N]

    def _fed(self, tokens_NT: Tensor, index_J: Tensor) -> Tensor:
        """Feed T tokens; the states at J flat positions."""
        raise NotImplementedError

    def _select(self, index_N: Tensor) -> None:
        """Take what belongs to a prompt along."""
        raise NotImplementedError

    def _reorder(self, index_N: Tensor) -> None:
        """Permute rows of equal prompts: what belongs to the prompt can stay."""
        raise NotImplementedError


class _CausalRows(_Rows):
    """Rows of a decoder-only model: their cache, and what of it each row may see."""

    def __init__(self, generator: Generator, batch: ReaderBatch, padded: bool):
        lengths_N = batch.prompt_lengths_N
        ids_NL = batch.input_ids_NL if padded else batch.input_ids_NL[:, : int(lengths_N[0])]
        N, L = ids_NL.shape
        super().__init__(generator, N, ids_NL.device)
        last_N = torch.arange(N, device=ids_NL.device) * L + lengths_N - 1
        scores = padded and batch.targets_NT is not None
        index = torch.cat([last_N, target_index(batch)]) if scores else last_N
        states, cache = read_causal(generator, ids_NL, index, cached=True)
        self.cache = branch(cache)
        self.states_NS = states[:N]
        if scores:
            assert batch.targets_NT is not None
            self.target_logp_NT = generator.target_logp(states[N:], batch.targets_NT)
        self._lengths_N = lengths_N if padded else None
        self._mask_NL = (torch.arange(L, device=ids_NL.device) < lengths_N[:, None]).long()
        self._fed_tokens = 0

    def _fed(self, tokens_NT: Tensor, index_J: Tensor) -> Tensor:
        T = tokens_NT.shape[1]
        inputs: dict[str, Any] = {"input_ids": tokens_NT, "past_key_values": self.cache, "use_cache": True}
        if self._lengths_N is not None:
            inputs["attention_mask"] = pad(self._mask_NL, (0, self._fed_tokens + T), value=1)
            inputs["position_ids"] = self._lengths_N[:, None] + self._fed_tokens + _steps(tokens_NT)
        self._fed_tokens += T
        return self._generator.states(index_J, **inputs)[0]

    def _select(self, index_N: Tensor) -> None:
        self._mask_NL = self._mask_NL[index_N]
        if self._lengths_N is not None:
            self._lengths_N = self._lengths_N[index_N]

    def _reorder(self, index_N: Tensor) -> None:
        if self._lengths_N is None:
            self.cache.reorder_cache(index_N)
            return
        L = self._mask_NL.shape[1]
        for layer in self.cache.layers:  # plain ones, see pads_freely
            for states in (layer.keys, layer.values):
                states[:, :, L:] = states[:, :, L:][index_N]


class _Seq2SeqRows(_Rows):
    """Rows of a sequence-to-sequence model: encoded prompts and the decoder's cache."""

    def __init__(self, generator: Generator, batch: ReaderBatch, padded: bool):
        super().__init__(generator, len(batch.input_ids_NL), batch.input_ids_NL.device)
        self._mask_NL = batch.attention_mask_NL
        self._encoded = generator.encode(batch)
        self.cache = None
        if batch.targets_NT is not None:
            self.target_logp_NT = generator.padded_token_logp(batch, encoded=self._encoded)
        start_NT = torch.tensor(generator.decoder_start, device=self._mask_NL.device).expand(len(self._mask_NL), -1)
        N, T = start_NT.shape
        self.states_NS = self._fed(start_NT, torch.arange(1, N + 1, device=start_NT.device) * T - 1)

    def _fed(self, tokens_NT: Tensor, index_J: Tensor) -> Tensor:
        states_JS, out = self._generator.states(
            index_J,
            encoder_outputs=self._encoded,
            attention_mask=self._mask_NL,
            decoder_input_ids=tokens_NT,
            past_key_values=self.cache,
            use_cache=True,
        )
        if self.cache is None:
            self.cache = branch(out.past_key_values)
        return states_JS

    def branch(self) -> _Rows:
        other = super().branch()
        other._encoded = copy.copy(self._encoded)
        return other

    def _select(self, index_N: Tensor) -> None:
        self._mask_NL = self._mask_NL[index_N]
        self._encoded.last_hidden_state = self._encoded.last_hidden_state[index_N]

    def _reorder(self, index_N: Tensor) -> None:
        self.cache.self_attention_cache.reorder_cache(index_N)


def _steps(tokens_NT: Tensor) -> Tensor:
    return torch.arange(tokens_NT.shape[1], device=tokens_NT.device)
