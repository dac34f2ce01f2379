"""Fusion in the decoder: passages are encoded apart, and the decoder attends to all of them at once.

Izacard and Grave 2021, "Leveraging Passage Retrieval with Generative Models for Open Domain Question Answering",
section 3: each passage, with the question, passes the encoder by itself, so that encoding grows linearly with K; the
decoder's cross-attention reads the K encodings as one sequence. They are laid one behind the other without the padding
that encoding them together needed, so that the decoder's keys and values are computed of tokens alone.

Shapes: N questions, K passages a question, S tokens of a question's prompts together, L of one, P of all, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rag_exp.models.buckets import length_buckets
from rag_exp.models.packing import ReaderBatch


def encode_apart(encoder: Any, batch: ReaderBatch, pad: int) -> Tensor:
    """The encoder's states of a batch's prompts, each of which it saw by itself, shape [N, S, D].

    Prompts of nearly equal length are encoded together, whatever questions they are of.

    Args:
        encoder: of a sequence-to-sequence model of transformers.
        batch: rows of several prompts (``parts_NK``).
        pad: the vocabulary's pad id.
    """
    assert batch.parts_NK is not None, "these rows are prompts, not sequences of them"
    there_NS = batch.attention_mask_NL.bool()
    ids_P = batch.input_ids_NL[there_NS]
    lengths_R = batch.parts_NK[batch.parts_NK > 0]
    starts_R = np.concatenate([[0], lengths_R.cumsum()[:-1]])
    states, places = [], []
    for rows in length_buckets(lengths_R, ids_P.device.type):
        length_R1 = torch.from_numpy(lengths_R[rows]).to(ids_P.device)[:, None]
        start_R1 = torch.from_numpy(starts_R[rows]).to(ids_P.device)[:, None]
        step_L = torch.arange(int(lengths_R[rows].max()), device=ids_P.device)
        inside_RL = step_L < length_R1
        place_RL = torch.where(inside_RL, start_R1 + step_L, 0)
        ids_RL = torch.where(inside_RL, ids_P[place_RL], pad)
        out_RLD = encoder(input_ids=ids_RL, attention_mask=inside_RL.long(), return_dict=True).last_hidden_state
        states.append(out_RLD[inside_RL])
        places.append(place_RL[inside_RL])
    flat_PD = torch.cat(states)
    flat_PD = torch.empty_like(flat_PD).index_copy(0, torch.cat(places), flat_PD)
    out_MD = flat_PD.new_zeros(there_NS.numel(), flat_PD.shape[-1])
    return out_MD.index_copy(0, there_NS.flatten().nonzero()[:, 0], flat_PD).unflatten(0, there_NS.shape)
