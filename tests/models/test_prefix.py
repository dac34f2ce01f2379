"""A common beginning is read once, and nothing else changes."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from rag_exp.models import prefix
from rag_exp.models.decoding.prompts import Prompts
from rag_exp.models.packing import Packer
from rag_exp.models.prefix import common_beginning, read_causal
from rag_exp.models.prompt import PromptOptions
from rag_exp.models.reader import Generator

PASSAGES = [
    [("Norway", "kingdom; capital Oslo"), ("Chad", "x")],
    [("Fiji", "much more of it than of others"), ("", "")],
]
LONG = "Answer the question with a few words of the passages, and with nothing else at all.\n{passages}{question}\n"


@pytest.fixture(params=["llama", "gpt2"])
def generator(request, tokenizer):
    torch.manual_seed(0)
    sizes = {"vocab_size": 320, "pad_token_id": tokenizer.pad, "bos_token_id": None, "eos_token_id": None}
    if request.param == "llama":
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = LlamaForCausalLM(LlamaConfig(**sizes, **shape, num_key_value_heads=2))
    else:
        model = GPT2LMHeadModel(GPT2Config(**sizes, n_positions=256, n_embd=32, n_layer=2, n_head=4))
    return Generator(model.double().eval(), tokenizer, 256, seq2seq=False)


@pytest.fixture
def batch(generator):
    packer = Packer(generator.tokenizer, PromptOptions(template=LONG, max_answer_tokens=24), 256, False)
    read = [
        list(zip(packer.tokens([t for t, _ in row], "title"), packer.tokens([x for _, x in row], "text"), strict=True))
        for row in PASSAGES
    ]
    asked, answers = packer.tokens(["Which?", "Why is it so?"], "question"), packer.tokens(["Oslo", "a b c"], "answer")
    return packer.pack(asked, read, answers)


def test_where_rows_part():
    ids = torch.tensor([[1] * 20 + [2, 3, 4], [1] * 20 + [2, 5, 4]])
    assert common_beginning(ids, torch.tensor([22, 23 + 22])) == 21
    assert common_beginning(ids, torch.tensor([18, 23 + 22])) == 18  # what is wanted is read behind it
    assert common_beginning(ids, torch.tensor([10, 23 + 22])) == 0  # too short
    assert common_beginning(ids[:1], torch.tensor([22])) == 0
    assert common_beginning(ids, torch.tensor([], dtype=torch.long)) == 0


def test_states_and_cache_are_those_of_whole_rows(generator, batch, monkeypatch):
    index = (torch.arange(len(batch.input_ids_NL)) * batch.input_ids_NL.shape[1]) + batch.prompt_lengths_N - 1
    assert common_beginning(batch.input_ids_NL, index) >= prefix.SHARED_FROM
    with torch.no_grad():
        shared, cache = read_causal(generator, batch.input_ids_NL, index, cached=True)
        monkeypatch.setattr(prefix, "SHARED_FROM", 10**6)
        whole, plain = read_causal(generator, batch.input_ids_NL, index, cached=True)
    torch.testing.assert_close(shared, whole, rtol=1e-10, atol=1e-12)
    for a, b in zip(cache.layers, plain.layers, strict=True):
        torch.testing.assert_close(a.keys, b.keys, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(a.values, b.values, rtol=1e-10, atol=1e-12)


def test_scores_and_what_is_written_stay(generator, batch, monkeypatch):
    def read():
        with torch.no_grad():
            logp_NT = generator.token_logp(batch)
            prompts = Prompts(generator, batch)
            tokens = []
            for _ in range(4):
                tokens.append(next(logp for _, logp in generator.log_probabilities(prompts.states_NS)).argmax(-1))
                prompts.advance(tokens[-1])
        return logp_NT, prompts.target_logp_NT, torch.stack(tokens)

    shared = read()
    monkeypatch.setattr(prefix, "SHARED_FROM", 10**6)
    whole = read()
    for a, b in zip(shared[:2], whole[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)  # log-probabilities are float32
    assert torch.equal(shared[2], whole[2])


def test_the_beginning_goes_through_the_model_once(generator, batch):
    shapes = []
    generator.model.register_forward_pre_hook(
        lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    _ = generator._head_is_affine
    shapes.clear()
    with torch.no_grad():
        Prompts(generator, batch)
    N, L = batch.input_ids_NL.shape
    (one, P), (rows, rest) = shapes
    assert (one, rows, P + rest) == (1, N, L)
    assert P >= prefix.SHARED_FROM


def test_training_reads_whole_rows(generator, batch):
    shapes = []
    generator.model.register_forward_pre_hook(
        lambda _, __, given: shapes.append(given["input_ids"].shape[0]), with_kwargs=True
    )
    _ = generator._head_is_affine
    shapes.clear()
    generator.padded_token_logp(batch).sum().backward()
    assert shapes == [len(batch.input_ids_NL)]
