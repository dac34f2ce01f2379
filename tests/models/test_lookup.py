"""Looking tokens up among a batch's own: the same states and gradients, one table for modules that find the same."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from rag_exp.models.lookup import BatchLookup
from rag_exp.models.projection import target_logprobs

V, PAD = 50, 1


@pytest.mark.parametrize(("scale", "tables"), [(4.0, 1), (3.0, 2)])
def test_an_encoder_and_its_decoder_share_a_table_unless_it_scales_differently(scale, tables):
    torch.manual_seed(0)
    config = hf.BartConfig(
        vocab_size=V, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=20, dropout=0.0,
        scale_embedding=True, pad_token_id=PAD, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    model = hf.BartForConditionalGeneration(config).double()
    model.get_decoder().embed_tokens.embed_scale = scale  # the encoder's is the root of the width, 4
    prompt_NL, answer_NT = torch.tensor([[0, 7, 9, 7, 2], [0, 8, 2, PAD, PAD]]), torch.tensor([[2, 9, 30], [2, 8, PAD]])

    def logits_and_gradient() -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        logits = model(input_ids=prompt_NL, decoder_input_ids=answer_NT, use_cache=False).logits
        logits.square().mean().backward()
        return logits.detach(), model.get_input_embeddings().weight.grad.clone()

    expected = logits_and_gradient()
    lookup = BatchLookup(model, torch.cat([prompt_NL.flatten(), answer_NT.flatten()]))
    assert len(lookup.tables) == tables
    with lookup.active():
        found = logits_and_gradient()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("tied", [True, False])
def test_the_gradients_of_a_tied_embedding_are_summed_in_the_memory_of_one(tied):
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=V, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=20, tie_word_embeddings=tied, pad_token_id=PAD,
    )  # fmt: skip
    model = hf.LlamaForCausalLM(config).double()
    weight, ids_NL = model.get_input_embeddings().weight, torch.tensor([[0, 7, 9, 7, 2], [0, 8, 2, PAD, PAD]])

    def gradient(head_VD: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        states_NLD = model.model(input_ids=ids_NL, use_cache=False).last_hidden_state
        target_logprobs(states_NLD, head_VD, ids_NL, chunk=100).sum().backward()
        return weight.grad

    expected = gradient(model.get_output_embeddings().weight).clone()
    lookup, places = BatchLookup(model, ids_NL), []
    assert (lookup.head is not None) is tied
    if tied:
        lookup.head.register_hook(lambda gradient: places.append(gradient.data_ptr()))
    with lookup.active():
        found = gradient(model.get_output_embeddings().weight if lookup.head is None else lookup.head)
    torch.testing.assert_close(found, expected)
    assert places == [found.data_ptr()] * tied
