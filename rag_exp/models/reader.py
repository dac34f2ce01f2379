"""The built generator: any causal or sequence-to-sequence model of transformers behind one face.

Shapes: N reader rows, L input tokens, T target tokens, V vocabulary, D width, M target tokens of the batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rag_exp.core.errors import DataError
from rag_exp.data.tokenizer import TextTokenizer
from rag_exp.models.buckets import length_buckets
from rag_exp.models.fusion import encode_apart
from rag_exp.models.packing import IGNORE, ReaderBatch

WEIGHTS = "model.safetensors"


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

    def token_logp(self, batch: ReaderBatch, encoded: Any = None) -> Tensor:
        """log p(y_t|x,z,y_<t) of every target token, shape [N, T]; exactly 0 where there is no target.

        Rows are read in groups of nearly equal length (:mod:`rag_exp.models.buckets`), so that little padding
        is computed; the result does not depend on the grouping.

        The vocabulary projection and its softmax, in float32 whatever the model's precision, are
        computed at target positions alone. A decoder-only model needs no mask over the right padding:
        it is causal, and no target stands after padding.
        """
        assert batch.targets_NT is not None, "this batch has no answers to score"
        buckets = length_buckets(batch.lengths_N, batch.input_ids_NL.device.type)
        if len(buckets) == 1:
            return self.padded_token_logp(batch)
        parts = [self.padded_token_logp(batch.select(rows)) for rows in buckets]
        T = batch.targets_NT.shape[1]
        whole_NT = torch.cat([nn.functional.pad(part, (0, T - part.shape[1])) for part in parts])
        order = torch.from_numpy(np.concatenate(buckets)).to(whole_NT.device)
        return torch.empty_like(whole_NT).index_copy(0, order, whole_NT)

    def padded_token_logp(self, batch: ReaderBatch, encoded: Any = None) -> Tensor:
        """As :meth:`token_logp`, all rows padded to the longest and read in one pass.

        Args:
            batch: rows with answers.
            encoded: for seq2seq, the encoder's output for the batch where it is known already.
        """
        assert batch.targets_NT is not None, "this batch has no answers to score"
        wanted_NT = batch.targets_NT != IGNORE
        if self.seq2seq:
            if encoded is None and batch.parts_NK is not None:
                encoded = self.encode(batch)
            prompt = {"input_ids": batch.input_ids_NL} if encoded is None else {"encoder_outputs": encoded}
            logits_MV = self.projected(
                self._decoder_positions(wanted_NT),
                **prompt,
                attention_mask=batch.attention_mask_NL,
                decoder_input_ids=self.decoder_inputs(batch.targets_NT),
                use_cache=False,
            ).logits[0]
        else:
            logits_MV = self.projected(target_index(batch), input_ids=batch.input_ids_NL, use_cache=False).logits[0]
        return self.target_logp(logits_MV, batch.targets_NT)

    def encode(self, batch: ReaderBatch) -> Any:
        """What a seq2seq decoder attends to, under ``attention_mask_NL``: states of shape [N, L, D] in the form that
        transformers takes as ``encoder_outputs``. Where a row holds several prompts, each is encoded by itself."""
        from transformers.modeling_outputs import BaseModelOutput

        encoder = self.model.get_encoder()
        if batch.parts_NK is not None:
            return BaseModelOutput(last_hidden_state=encode_apart(encoder, batch, self.tokenizer.pad))
        return encoder(input_ids=batch.input_ids_NL, attention_mask=batch.attention_mask_NL, return_dict=True)

    @staticmethod
    def target_logp(logits_MV: Tensor, targets_NT: Tensor) -> Tensor:
        """log-probabilities of the targets, [N, T], from the logits at the M target positions in row order."""
        wanted_NT = targets_NT != IGNORE
        logits_MV = logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32))
        logp_M = -nn.functional.cross_entropy(logits_MV, targets_NT[wanted_NT], reduction="none")
        return logp_M.new_zeros(targets_NT.shape).masked_scatter(wanted_NT, logp_M)

    def projected(self, index_M: Tensor, **inputs: Any) -> Any:
        """The model's output for ``inputs``, its logits [1, M, V] computed at M flat positions of [N, L] alone.

        The hidden states are gathered on their way into the output embedding, so that whatever a model
        does before it (T5 scales) and after it (BART adds a bias, Gemma caps) is kept.
        """

        def gather(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden_NLD, *rest = args
            return (hidden_NLD.flatten(0, 1).index_select(0, index_M)[None], *rest)

        handle = self.model.get_output_embeddings().register_forward_pre_hook(gather)
        try:
            return self.model(**inputs)
        finally:
            handle.remove()

    def decoder_inputs(self, targets_NT: Tensor) -> Tensor:
        """A seq2seq decoder's input: the start tokens, then the targets but the last; pad where there is none."""
        start = targets_NT.new_tensor(self.decoder_start).expand(len(targets_NT), -1)
        before = targets_NT[:, :-1].masked_fill(targets_NT[:, :-1] == IGNORE, self.tokenizer.pad)
        return torch.cat([start, before], dim=1)

    def _decoder_positions(self, wanted_NT: Tensor) -> Tensor:
        """Flat positions, among those of :meth:`decoder_inputs`, whose hidden states predict the targets."""
        shift = len(self.decoder_start) - 1
        return nn.functional.pad(wanted_NT, (shift, 0)).flatten().nonzero()[:, 0]

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
