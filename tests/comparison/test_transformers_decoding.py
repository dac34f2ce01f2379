"""Beams and RAG decoding against transformers' own, where the two definitions are one.

That is: ``length_penalty=0.0, early_stopping="never"`` (see rag_exp.models.decoding.beam), and no forced end token. For
the RAG-Sequence sum also a forced begin token, as BART's checkpoints have (without one transformers loses the prior of
an answer that is its end token alone), ``n_docs`` in the config (``generate`` does not pass its own on to the scoring),
and prompts of one length (its beams attend to padding: ``generate`` drops the mask on the way to them).
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as hf

from rag_exp.models.decoding.beam import Search, beam_search, beam_token_marginal
from rag_exp.models.decoding.sequence import thorough
from rag_exp.models.marginalize import doc_logprior
from rag_exp.models.packing import ReaderBatch
from rag_exp.models.reader import Generator

B, K, V, PAD, EOS, T = 4, 3, 60, 1, 2, 8
SAME_DEFINITION = {"length_penalty": 0.0, "early_stopping": "never", "max_new_tokens": T, "do_sample": False}


def bart_config() -> hf.BartConfig:
    return hf.BartConfig(
        vocab_size=V, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=40, init_std=0.6,
        dropout=0.0, pad_token_id=PAD, bos_token_id=0, eos_token_id=EOS, decoder_start_token_id=EOS,
        forced_eos_token_id=None,
    )  # fmt: skip


def end_sometimes(bart: hf.BartForConditionalGeneration, eos: float) -> None:
    """No begin or pad token is ever written, and the end token is likelier by ``eos``."""
    with torch.no_grad():
        bart.final_logits_bias[0, [0, PAD]] = -1e3
        bart.final_logits_bias[0, EOS] = eos


def rag(kind: type, seed: int, eos: float, begin: int | None = None) -> hf.PreTrainedModel:
    torch.manual_seed(seed)
    dpr = hf.DPRConfig(
        vocab_size=V, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=40,
    )  # fmt: skip
    config = hf.RagConfig.from_question_encoder_generator_configs(
        dpr, bart_config(), n_docs=K, pad_token_id=PAD, bos_token_id=0, eos_token_id=EOS, decoder_start_token_id=EOS,
        vocab_size=V, is_encoder_decoder=True, forced_eos_token_id=None,
    )  # fmt: skip
    bart = hf.BartForConditionalGeneration(bart_config())
    end_sometimes(bart, eos)
    bart.generation_config.forced_bos_token_id = begin
    return kind(config=config, question_encoder=hf.DPRQuestionEncoder(dpr), generator=bart).eval()


def read(seed: int, shortest: int = 4) -> tuple[ReaderBatch, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    lengths_N = torch.randint(shortest, 13, (B * K,), generator=draw)
    mask_NL = torch.arange(int(lengths_N.max())) < lengths_N[:, None]
    ids_NL = torch.randint(3, V, mask_NL.shape, generator=draw).masked_fill(~mask_NL, PAD)
    none = np.zeros(len(ids_NL), np.int64)
    batch = ReaderBatch(ids_NL, mask_NL.long(), lengths_N, None, None, True, K, lengths_N.numpy(), none, none, none)
    return batch, 2 * torch.randn(B, K, generator=draw)


def ours(bart: hf.PreTrainedModel) -> Generator:
    return Generator(bart, SimpleNamespace(eos=EOS, pad=PAD), context=40, seq2seq=True).eval()


def answers(sequences: torch.Tensor) -> list[list[int]]:
    """What was written: without the start and begin tokens, the end token and padding."""
    return [[y for y in row[1:] if y not in (0, EOS, PAD)] for row in sequences.tolist()]


@pytest.mark.parametrize("beam", [1, 2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_beams_of_each_row(seed, beam):
    torch.manual_seed(seed)
    bart = hf.BartForConditionalGeneration(bart_config()).eval()
    end_sometimes(bart, 2.0)
    batch, _ = read(seed)
    their = bart.generate(
        batch.input_ids_NL, attention_mask=batch.attention_mask_NL, num_beams=beam, num_return_sequences=beam,
        output_scores=True, return_dict_in_generate=True, **SAME_DEFINITION,
    )  # fmt: skip
    our = beam_search(ours(bart), batch, Search(max_new_tokens=T, beam=beam)).candidates
    assert [ids for ranked in our for ids, _ in ranked] == answers(their.sequences)
    if beam > 1:
        scores = [score for ranked in our for _, score in ranked]
        torch.testing.assert_close(torch.tensor(scores), their.sequences_scores, rtol=1e-4, atol=1e-4)


def test_their_length_penalty_is_ours_under_never():
    torch.manual_seed(7)
    bart = hf.BartForConditionalGeneration(bart_config()).eval()
    end_sometimes(bart, 1.0)
    batch, _ = read(7)
    for penalty in (0.5, 1.0):
        their = bart.generate(
            batch.input_ids_NL, attention_mask=batch.attention_mask_NL, num_beams=3, num_return_sequences=3,
            **SAME_DEFINITION | {"length_penalty": penalty},
        )  # fmt: skip
        our = beam_search(ours(bart), batch, Search(T, beam=3, length_penalty=penalty)).candidates
        assert [ids for ranked in our for ids, _ in ranked] == answers(their)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_beams_of_decoder_only_models(family):
    """Theirs is padded on the left, ours on the right."""
    torch.manual_seed(1)
    common = {"vocab_size": V, "initializer_range": 0.5, "pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": EOS}
    if family == "llama":
        config = hf.LlamaConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            **common,
        )  # fmt: skip
        model = hf.LlamaForCausalLM(config).eval()
    else:
        model = hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=40, **common)).eval()
    batch, _ = read(5)
    causal = ReaderBatch(**{**vars(batch), "seq2seq": False})
    left_NL = torch.stack([row.roll(int((row == PAD).sum())) for row in batch.input_ids_NL])
    never = torch.zeros(V)
    never[[0, PAD]] = -1e3
    model.get_output_embeddings().register_forward_hook(lambda _, __, logits: logits + never)
    their = model.generate(
        left_NL, attention_mask=(left_NL != PAD).long(), num_beams=3, num_return_sequences=3, **SAME_DEFINITION
    )
    our = beam_search(Generator(model, SimpleNamespace(eos=EOS, pad=PAD), 40, seq2seq=False), causal, Search(T, beam=3))
    written = [[y for y in row if y not in (0, EOS, PAD)] for row in their[:, left_NL.shape[1] :].tolist()]
    assert [ids for ranked in our.candidates for ids, _ in ranked] == written


@pytest.mark.parametrize("beam", [1, 2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_thorough_decoding(seed, beam):
    model = rag(hf.RagSequenceForGeneration, seed, eos=1.0, begin=0)
    batch, scores_BK = read(seed, shortest=12)
    our = thorough(ours(model.rag.generator), batch, doc_logprior(scores_BK), Search(max_new_tokens=T, beam=beam))
    returned = min(len(ranked) for ranked in our.candidates)
    their = model.generate(
        context_input_ids=batch.input_ids_NL, context_attention_mask=batch.attention_mask_NL, doc_scores=scores_BK,
        do_deduplication=True, num_return_sequences=returned, num_beams=beam,
        **SAME_DEFINITION | {"max_new_tokens": T + 1},
    )  # fmt: skip
    expected = answers(their)
    assert [ids for ranked in our.candidates for ids, _ in ranked[:returned]] == expected


@pytest.mark.parametrize("beam", [1, 2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_beams_of_the_token_marginal(seed, beam):
    model = rag(hf.RagTokenForGeneration, seed, eos=2.0)
    batch, scores_BK = read(seed)
    their = model.generate(
        context_input_ids=batch.input_ids_NL, context_attention_mask=batch.attention_mask_NL, doc_scores=scores_BK,
        num_beams=beam, num_return_sequences=beam, max_length=T + 1, length_penalty=0.0, early_stopping="never",
        do_sample=False,
    )  # fmt: skip
    our = beam_token_marginal(
        ours(model.rag.generator), batch, doc_logprior(scores_BK), Search(max_new_tokens=T, beam=beam)
    )
    assert [ids for ranked in our.candidates for ids, _ in ranked] == answers(their)
