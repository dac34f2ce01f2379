"""The built generator: any causal or sequence-to-sequence model of transformers behind one face.

Shapes: N reader rows, L input tokens, T target tokens, V vocabulary, D width, M target tokens of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rag_exp.core.errors import DataError
from rag_exp.data.tokenizer import TextTokenizer
from rag_exp.models.buckets import length_buckets
from rag_exp.models.fusion import encode_apart
from rag_exp.models.lookup import BatchLookup
from rag_exp.models.packing import IGNORE, ReaderBatch
from rag_exp.models.prefix import read_causal
from rag_exp.models.projection import log_probabilities, target_logprobs
from rag_exp.models.recomputing import Recomputing
from rag_exp.models.rereading import read_twice

WEIGHTS = "model.safetensors"
RECOMPUTED_FROM = 3 * 10**6  # bytes of one activation of a batch; of less, noting how to compute it again costs more
PROJECTION_CHUNK = 32 * 10**6  # bytes of logits that are computed at once


@dataclass(frozen=True)
class Memory:
    """What scoring may keep for its backward pass; the options of ``trainer`` that bear these names.

    Attributes:
        microbatch_tokens: tokens, padding included, that are read at once, and read again in backward; None keeps
            what was read.
        gradient_checkpointing: whether each layer's activations are computed again in backward.
        projection_mb: probabilities over the vocabulary that may wait for backward, in MB; more are computed again.
    """

    microbatch_tokens: int | None = None
    gradient_checkpointing: bool = False
    projection_mb: int = 256


class Generator(nn.Module):
    """Scores answers token by token.

    Args:
        model: a causal or sequence-to-sequence language model of transformers.
        tokenizer: its vocabulary.
        context: tokens it holds (its encoder, for seq2seq).
        seq2seq: whether it has an encoder.

    Attributes:
        decoder_start: ids a seq2seq decoder is given before the first target (its start token and, where the
            checkpoint forces one as BART's do, the begin token); empty for decoder-only.
    """

    def __init__(self, model: Any, tokenizer: TextTokenizer, context: int, seq2seq: bool):
        super().__init__()
        self.model, self.tokenizer, self.context, self.seq2seq = model, tokenizer, context, seq2seq
        self.decoder_start = _decoder_start(model) if seq2seq else []
        self.memory = Memory()

    def keep(self, memory: Memory) -> None:
        """Let scoring keep so much for backward.

        Raises:
            DataError: ``gradient_checkpointing`` of an architecture that has none.
        """
        if memory.gradient_checkpointing and not self.model.supports_gradient_checkpointing:
            raise DataError(
                f"{self.model.config.model_type}: transformers has no gradient checkpointing for it; "
                "set trainer.gradient_checkpointing=false (trainer.microbatch_tokens saves memory with any model)."
            )
        # Newer versions of transformers call it activation checkpointing, and the old name is to go.
        name = "activation" if hasattr(self.model, "activation_checkpointing_enable") else "gradient"
        if memory.gradient_checkpointing:
            getattr(self.model, f"{name}_checkpointing_enable")({"use_reentrant": False})
        elif self.memory.gradient_checkpointing:
            getattr(self.model, f"{name}_checkpointing_disable")()
        self.memory = memory

    def token_logp(self, batch: ReaderBatch) -> Tensor:
        """log p(y_t|x,z,y_<t) of every target token, shape [N, T]; exactly 0 where there is no target.

        Rows are read in groups of nearly equal length (:mod:`rag_exp.models.buckets`), so that little padding
        is computed; the result does not depend on the grouping. With ``memory.microbatch_tokens`` a group's
        activations are not kept but computed again in backward, its dropout drawn again as it was.

        The vocabulary projection and its softmax, in float32 whatever the model's precision, are
        computed at target positions alone, once for all groups. A decoder-only model needs no mask over
        the right padding: it is causal, and no target stands after padding.
        """
        assert batch.targets_NT is not None, "this batch has no answers to score"
        most = self.memory.microbatch_tokens
        buckets = length_buckets(batch.lengths_N, batch.input_ids_NL.device.type, most)
        groups = [batch.select(rows) for rows in buckets]
        recomputing = Recomputing(self.model) if self._recomputes(batch) else nullcontext()

        def read(group: ReaderBatch) -> Tensor:
            with recomputing:
                return self._target_states(group)

        head_VD = None
        if len(groups) == 1 or not torch.is_grad_enabled():
            states = torch.cat([read(group) for group in groups])
        else:
            lookup = BatchLookup(self.model, self._all_ids(batch))
            head_VD = lookup.head
            if most is None:
                with lookup.active():
                    states = torch.cat([read(group) for group in groups])
            else:
                states = read_twice(lookup.reading(read), groups, lookup.tables, self.model.parameters())
        order = torch.from_numpy(np.concatenate(buckets)).to(batch.targets_NT.device)
        targets_NT = batch.targets_NT[order]
        logp_NT = self.target_logp(states, targets_NT, head_VD)
        return torch.empty_like(logp_NT).index_copy(0, order, logp_NT)

    def padded_token_logp(self, batch: ReaderBatch, encoded: Any = None) -> Tensor:
        """As :meth:`token_logp`, all rows padded to the longest and read in one pass.

        Args:
            batch: rows with answers.
            encoded: for seq2seq, the encoder's output for the batch where it is known already.
        """
        assert batch.targets_NT is not None, "this batch has no answers to score"
        return self.target_logp(self._target_states(batch, encoded), batch.targets_NT)

    def _recomputes(self, batch: ReaderBatch) -> bool:
        """Whether reading keeps less for backward than torch would; layers that are read again whole keep nothing."""
        if not torch.is_grad_enabled() or self.memory.gradient_checkpointing:
            return False
        width = self.model.get_input_embeddings().weight.shape[1]
        return self.memory.microbatch_tokens is not None or 4 * width * batch.lengths_N.sum() >= RECOMPUTED_FROM

    def _target_states(self, batch: ReaderBatch, encoded: Any = None) -> Tensor:
        """What the logits are made of (see :meth:`states`) at the M target positions of a batch, in row order."""
        if not self.seq2seq:
            return read_causal(self, batch.input_ids_NL, target_index(batch), cached=False)[0]
        index_M, inputs = self._decoding(batch, encoded)
        return self.states(index_M, **inputs)[0]

    def _decoding(self, batch: ReaderBatch, encoded: Any) -> tuple[Tensor, dict[str, Any]]:
        """The decoder's target positions of a seq2seq batch and the model's inputs that read it."""
        assert batch.targets_NT is not None
        if encoded is None and batch.parts_NK is not None:
            encoded = self.encode(batch)
        prompt = {"input_ids": batch.input_ids_NL} if encoded is None else {"encoder_outputs": encoded}
        return self.predicting(batch.targets_NT).flatten().nonzero()[:, 0], {
            **prompt,
            "attention_mask": batch.attention_mask_NL,
            "decoder_input_ids": self.decoder_inputs(batch.targets_NT),
            "use_cache": False,
        }

    def _all_ids(self, batch: ReaderBatch) -> Tensor:
        ids = batch.input_ids_NL.flatten()
        if not self.seq2seq:
            return ids
        assert batch.targets_NT is not None
        return torch.cat([ids, self.decoder_inputs(batch.targets_NT).flatten()])

    def encode(self, batch: ReaderBatch) -> Any:
        """What a seq2seq decoder attends to, under ``attention_mask_NL``: states of shape [N, L, D] in the form that
        transformers takes as ``encoder_outputs``. Where a row holds several prompts, each is encoded by itself."""
        from transformers.modeling_outputs import BaseModelOutput

        encoder = self.model.get_encoder()
        if batch.parts_NK is not None:
            return BaseModelOutput(last_hidden_state=encode_apart(encoder, batch, self.tokenizer.pad))
        return encoder(input_ids=batch.input_ids_NL, attention_mask=batch.attention_mask_NL, return_dict=True)

    def states(self, index_M: Tensor, **inputs: Any) -> tuple[Tensor, Any]:
        """Read ``inputs``; what the logits at M flat positions of [N, L] are made of, and the model's output.

        The output embedding's input is caught at these positions, [M, D], and nothing is projected. Where the logits
        are more than a linear layer of it, the states are the M logits themselves, [M, V]: whatever a model does
        before the projection (T5 scales) and after it (Gemma caps) is kept.
        """
        caught: list[Tensor] = []

        def gather(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden_NLD, *rest = args
            caught.append(hidden_NLD.flatten(0, 1).index_select(0, index_M))
            return (hidden_NLD[:, :0] if affine else caught[0][None], *rest)

        affine = self._head_is_affine  # asked before the hook is there: it is found by running the model
        handle = self.model.get_output_embeddings().register_forward_pre_hook(gather)
        try:
            out = self.model(**inputs)
        finally:
            handle.remove()
        return (caught[0] if affine else out.logits[0]), out

    def target_logp(self, states_MX: Tensor, targets_NT: Tensor, head_VD: Tensor | None = None) -> Tensor:
        """log-probabilities of the targets, [N, T], from the states (:meth:`states`) at the M target positions.

        Args:
            head_VD: the weight to project by, where it is known by another node of the graph than the model's own.
        """
        wanted_NT = targets_NT != IGNORE
        if self._head_is_affine:
            weight_VD, bias_V = self._head()
            weight_VD = weight_VD if head_VD is None else head_VD
            row = 4 * len(weight_VD)
            logp_M = target_logprobs(
                states_MX[None],
                weight_VD,
                targets_NT[wanted_NT][None],
                bias_V,
                chunk=max(1, PROJECTION_CHUNK // row),
                keep=len(states_MX) * row <= self.memory.projection_mb * 10**6,
            )[0]
        else:
            logits_MV = states_MX.to(torch.promote_types(states_MX.dtype, torch.float32))
            logp_M = -nn.functional.cross_entropy(logits_MV, targets_NT[wanted_NT], reduction="none")
        return logp_M.new_zeros(targets_NT.shape).masked_scatter(wanted_NT, logp_M)

    def log_probabilities(self, states_MX: Tensor, together: int = 1) -> Iterator[tuple[slice, Tensor]]:
        """log p of every token, float32 at least [C, V], after each of M states (:meth:`states`), C rows at a time.

        Args:
            together: C is a multiple of this.

        Yields:
            which rows, and their log-probabilities, the caller's to write to until it asks for the next.
        """
        affine = self._head_is_affine
        V = len(self._head()[0]) if affine else states_MX.shape[1]
        chunk = max(1, PROJECTION_CHUNK // (4 * V * together)) * together
        if affine:
            yield from log_probabilities(states_MX, *self._head(), chunk=chunk)
            return
        exact = torch.promote_types(states_MX.dtype, torch.float32)
        for low in range(0, len(states_MX), chunk):
            logp_CV = states_MX[low : low + chunk].log_softmax(-1, dtype=exact)
            yield slice(low, low + len(logp_CV)), logp_CV

    def _head(self) -> tuple[Tensor, Tensor | None]:
        """Weight [V, D] and bias [V] of the projection onto the vocabulary."""
        head = self.model.get_output_embeddings()
        bias_V, beside = head.bias, getattr(self.model, "final_logits_bias", None)
        if beside is not None:
            bias_V = beside[0] if bias_V is None else bias_V + beside[0]
        return head.weight, bias_V

    @cached_property
    def _head_is_affine(self) -> bool:
        """Whether the logits are a linear layer of the last hidden states and a bias, and no more: found by asking.

        Where they are more (Gemma caps them, Cohere scales them), the logits of all targets are computed at once.
        """
        head, caught = self.model.get_output_embeddings(), []
        if type(head) is not nn.Linear:
            return False
        device = head.weight.device
        ids = torch.arange(4, device=device)[None]  # one alone may be the pad, whose embedding is zero
        inputs = {"decoder_input_ids": ids} if self.seq2seq else {}
        handle = head.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                logits = self.model(input_ids=ids, use_cache=False, **inputs).logits
        finally:
            handle.remove()
        beside = getattr(self.model, "final_logits_bias", None)
        with torch.no_grad():
            expected = nn.functional.linear(caught[0], head.weight, head.bias)
            return torch.equal(logits, expected if beside is None else expected + beside)

    def decoder_inputs(self, targets_NT: Tensor) -> Tensor:
        """A seq2seq decoder's input: the start tokens, then the targets but the last; pad where there is none."""
        start = targets_NT.new_tensor(self.decoder_start).expand(len(targets_NT), -1)
        before = targets_NT[:, :-1].masked_fill(targets_NT[:, :-1] == IGNORE, self.tokenizer.pad)
        return torch.cat([start, before], dim=1)

    def predicting(self, targets_NT: Tensor) -> Tensor:
        """True at the positions of :meth:`decoder_inputs` whose hidden states predict the targets, in their order."""
        return nn.functional.pad(targets_NT != IGNORE, (len(self.decoder_start) - 1, 0))

    def save(self, folder: Path) -> None:
        """Write ``folder/model.safetensors`` (tied weights once) and the model's configs: transformers can load it."""
        from safetensors.torch import save_file

        # Not save_model: it notes tied names in an order that changes from process to process, and equal weights
        # are to be equal files.
        once = {t.data_ptr(): name for name, t in reversed(sorted(self.model.state_dict().items()))}
        state = self.model.state_dict()
        save_file({name: state[name].contiguous() for name in sorted(once.values())}, str(folder / WEIGHTS))
        self.model.config.save_pretrained(folder)
        self.model.generation_config.save_pretrained(folder)


def target_index(batch: ReaderBatch) -> Tensor:
    """Flat positions in [N, L] of a decoder-only batch whose hidden states predict the targets, in row order."""
    assert batch.targets_NT is not None
    assert batch.target_positions_NT is not None, "this batch was packed for a seq2seq reader"
    first_N1 = torch.arange(len(batch.input_ids_NL), device=batch.input_ids_NL.device)[:, None]
    return (first_N1 * batch.input_ids_NL.shape[1] + batch.target_positions_NT)[batch.targets_NT != IGNORE]


def load_weights(model: nn.Module, folder: Path) -> None:
    """Fill ``model`` with the weights that :meth:`Generator.save` wrote to ``folder``.

    Raises:
        DataError: there are none, or they belong to another architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    file = folder / WEIGHTS
    if not file.is_file():
        raise DataError(f"{file}: no generator weights there.")
    try:
        load_model(model, str(file))
    except (RuntimeError, SafetensorError) as e:
        raise DataError(f"{file}: not the weights of this generator: {str(e).splitlines()[0]}") from e


def _decoder_start(model: Any) -> list[int]:
    config, generation = model.config, getattr(model, "generation_config", None)
    start = getattr(config, "decoder_start_token_id", None)
    if start is None:
        start = getattr(generation, "decoder_start_token_id", None)
    if start is None:
        raise DataError(f"{config.model_type}: its config names no decoder_start_token_id; add it to config.json.")
    forced = getattr(generation, "forced_bos_token_id", None)
    if forced is None:
        forced = getattr(config, "forced_bos_token_id", None)
    return [start] if forced is None else [start, forced]
