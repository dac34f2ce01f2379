"""Reading twice: the gradients of reading once, and a graph that does not grow with the groups."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rag_exp.models.ladder import Ladder
from rag_exp.models.packing import Packer, ReaderBatch
from rag_exp.models.prompt import PromptOptions
from rag_exp.models.reader import Generator, Memory

FAMILIES = ["llama", "t5", "bart"]


def made(family: str, vocabulary, rows: int = 6, dropout: float = 0.3) -> tuple[Generator, ReaderBatch]:
    """A reader in training, and a batch of rows of which none is as long as another."""
    options = Ladder(family=family, size="xs", vocab_size=320, context=160, dropout=dropout)
    reader = options.create(vocabulary, seed=0)
    packer = Packer(reader.tokenizer, PromptOptions(max_answer_tokens=24), 160, reader.seq2seq)
    questions = packer.tokens([f"What is the capital {'of Norway ' * n}?" for n in range(rows)], "question")
    read = [[(packer.tokens(["Norway"], "title")[0], packer.tokens(["capital Oslo"], "text")[0])]] * rows
    batch = packer.pack(questions, read, packer.tokens(["Oslo", "Fiji"] * (rows // 2), "answer"))
    reader.train().keep(Memory(microbatch_tokens=1))  # every row alone
    return reader, batch


def gradients(reader: Generator, batch: ReaderBatch, memory: Memory) -> dict[str, Tensor | None]:
    reader.keep(memory)
    reader.zero_grad()
    torch.manual_seed(7)
    (-reader.token_logp(batch).sum()).backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in reader.named_parameters()}


def nodes(root: torch.autograd.graph.Node | None) -> int:
    """Nodes of a graph."""
    seen, rest = set(), [root]
    while rest:
        node = rest.pop()
        if node is not None and node not in seen:
            seen.add(node)
            rest += [before for before, _ in node.next_functions]
    return len(seen)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_does_not_grow_with_the_groups(family, vocabulary):
    few, many = (
        nodes(reader.token_logp(batch).grad_fn) for reader, batch in (made(family, vocabulary, n) for n in (2, 8))
    )
    assert few == many
    reader, batch = made(family, vocabulary, 2)
    reader.keep(Memory())
    assert nodes(reader.token_logp(batch).grad_fn) > few


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("frozen", ["embedding", "all but the embedding", "the last layer's norm alone learns"])
def test_a_frozen_part_gets_no_gradient_and_passes_it_on(family, frozen, vocabulary, monkeypatch):
    reader, batch = made(family, vocabulary)
    embedding = reader.model.get_input_embeddings().weight
    last = list(reader.parameters())[-1]
    for p in reader.parameters():
        learns = {"embedding": p is not embedding, "all but the embedding": p is embedding}.get(frozen, p is last)
        p.requires_grad_(learns)
    monkeypatch.setattr("rag_exp.models.buckets.CPU_MOST", 1)
    found, expected = (gradients(reader, batch, memory) for memory in (Memory(microbatch_tokens=1), Memory()))
    assert any(g is not None for g in expected.values())
    assert [name for name, g in found.items() if g is None] == [name for name, g in expected.items() if g is None]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_wholly_frozen_reader_has_no_graph(vocabulary):
    reader, batch = made("bart", vocabulary)
    logp_NT = reader.requires_grad_(False).token_logp(batch)
    assert not logp_NT.requires_grad
    with torch.no_grad():
        torch.manual_seed(7)
        reader.requires_grad_(True)
        expected_NT = reader.token_logp(batch)
    torch.manual_seed(7)
    assert torch.equal(reader.token_logp(batch), expected_NT)


@pytest.mark.parametrize("family", FAMILIES)
def test_under_autocast_each_group_is_cast_as_it_was(family, vocabulary, monkeypatch):
    """Kept groups share their weights' casts, and so sum gradients in half precision unless each is cast anew."""
    reader, batch = made(family, vocabulary)
    monkeypatch.setattr("rag_exp.models.buckets.CPU_MOST", 1)
    scored = []
    for memory in (Memory(microbatch_tokens=1), Memory()):
        reader.keep(memory)
        reader.zero_grad()
        torch.manual_seed(7)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            logp_NT = reader.token_logp(batch)
        (-logp_NT.sum()).backward()  # outside, as a trainer does
        scored.append([logp_NT.detach(), *(p.grad.clone() for p in reader.parameters())])
    torch.testing.assert_close(*scored, rtol=1e-6, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = (gradients(reader, batch, memory) for memory in (Memory(microbatch_tokens=1), Memory()))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0.05, atol=0.02 * float(gradient.abs().max()), msg=name)


def test_backward_leaves_the_random_numbers_where_they_were(vocabulary):
    reader, batch = made("bart", vocabulary)
    torch.manual_seed(3)
    logp_NT = reader.token_logp(batch)
    before = torch.get_rng_state()
    logp_NT.sum().backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_can_be_asked_for_twice_and_without_being_summed_up(vocabulary):
    reader, batch = made("bart", vocabulary)
    weights = list(reader.parameters())
    torch.manual_seed(3)
    loss = -reader.token_logp(batch).sum()
    first = torch.autograd.grad(loss, weights, retain_graph=True)
    assert all(p.grad is None for p in weights)
    loss.backward()
    for p, gradient in zip(weights, first, strict=True):
        assert torch.equal(p.grad, gradient)


def test_weights_that_changed_between_the_two_readings_are_an_error(vocabulary):
    reader, batch = made("llama", vocabulary)
    logp_NT = reader.token_logp(batch)
    with torch.no_grad():
        list(reader.parameters())[3].mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logp_NT.sum().backward()


def test_a_second_derivative_is_refused(vocabulary):
    reader, batch = made("llama", vocabulary)
    weight = reader.model.get_input_embeddings().weight
    with pytest.raises(RuntimeError, match="derivative"):
        torch.autograd.grad(reader.token_logp(batch).sum(), weight, create_graph=True)
