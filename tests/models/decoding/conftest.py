"""Readers whose answers differ in length, batches for them, and one row's next token computed alone."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from rag_exp.models.decoding.greedy import greedy
from rag_exp.models.ladder import Ladder
from rag_exp.models.packing import Packer, ReaderBatch
from rag_exp.models.prompt import PromptOptions
from rag_exp.models.reader import Generator

NEW = 12


def pack(generator: Generator, answers: bool, passages: int = 3, questions: int = 4) -> ReaderBatch:
    """Random questions and passages, with random answers to score or none."""
    tokenizer = copy.copy(generator.tokenizer)
    tokenizer.eos = 2  # in prompts and answers, whatever ends the writing
    packer = Packer(tokenizer, PromptOptions(max_answer_tokens=NEW + 2), 96, generator.seq2seq)
    draw = torch.Generator().manual_seed(11)

    def ids(most: int) -> list[int]:
        return torch.randint(3, 320, (int(torch.randint(1, most, (), generator=draw)),), generator=draw).tolist()

    asked = [ids(9) for _ in range(questions)]
    read = [[(ids(4), ids(50)) for _ in range(passages)] for _ in range(questions)]
    given = [ids(9) for _ in range(questions)]
    return packer.pack(asked, read, given if answers else None)


def next_logits(generator: Generator, prompt: torch.Tensor, written: list[int]) -> torch.Tensor:
    """One row alone, everything computed anew."""
    with torch.no_grad():
        if generator.seq2seq:
            fed = torch.tensor([[*generator.decoder_start, *written]])
            return generator.model(input_ids=prompt[None], decoder_input_ids=fed, use_cache=False).logits[0, -1]
        fed = torch.cat([prompt, torch.tensor(written, dtype=torch.long)])[None]
        return generator.model(input_ids=fed, use_cache=False).logits[0, -1]


def prompts(batch: ReaderBatch) -> list[torch.Tensor]:
    """The prompt of each row, without padding."""
    return [row[:n] for row, n in zip(batch.input_ids_NL, batch.prompt_lengths_N.tolist(), strict=True)]


@pytest.fixture(scope="session")
def rows() -> SimpleNamespace:
    """``pack``, ``next_logits``, ``prompts`` and NEW, the longest answer."""
    return SimpleNamespace(pack=pack, next_logits=next_logits, prompts=prompts, NEW=NEW)


@pytest.fixture(scope="module", params=["llama", "t5", "bart"])
def reader(request, vocabulary) -> Generator:
    """A reader whose choices hang on all it read, and whose end token is one that it writes here early, there late."""
    generator = Ladder(family=request.param, size="s0", vocab_size=320, context=96).create(vocabulary, seed=5)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if parameter.ndim == 2 and "embed" not in name and "shared" not in name:
                parameter.mul_(3)
    generator.eval()
    generator.tokenizer.eos = -1  # never written
    written = greedy(generator, pack(generator, answers=False), NEW).ids
    first_at = {y: {row.index(y) for row in written if y in row} for row in written for y in row}
    generator.tokenizer.eos = max(first_at, key=lambda y: (len(first_at[y]), y))
    return generator


@pytest.fixture
def windowed(tokenizer) -> Generator:
    """A reader of sliding windows, which takes no padding."""
    import transformers as hf

    torch.manual_seed(0)
    config = hf.MistralConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=320, sliding_window=6, initializer_range=0.3,
    )  # fmt: skip
    return Generator(hf.MistralForCausalLM(config), tokenizer, context=96, seq2seq=False).eval()
