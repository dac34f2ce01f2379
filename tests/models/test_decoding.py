"""Decoding: a batch writes what each row alone would, step by step, without a cache."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from rag_exp.core.errors import DataError
from rag_exp.models import decoding
from rag_exp.models.decoding import fast_sequence, greedy, greedy_token_marginal
from rag_exp.models.ladder import Ladder
from rag_exp.models.packing import Packer, ReaderBatch
from rag_exp.models.prompt import PromptOptions
from rag_exp.models.reader import Generator

FAMILIES = ["llama", "t5", "bart"]
NEW = 12


@pytest.fixture(scope="module", params=FAMILIES)
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


def pack(generator: Generator, answers: bool, passages: int = 3, questions: int = 4) -> ReaderBatch:
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


def alone(generator: Generator, prompts: list[torch.Tensor], prior_K: torch.Tensor) -> tuple[list[int], float, bool]:
    written, total = [], 0.0
    for _ in range(NEW):
        logp_KV = torch.stack([torch.log_softmax(next_logits(generator, p, written), -1) for p in prompts])
        logp, token = (logp_KV + prior_K[:, None]).logsumexp(0).max(0)
        total += float(logp)
        if int(token) == generator.tokenizer.eos:
            return written, total, True
        written.append(int(token))
    return written, total, False


def prompts(batch: ReaderBatch) -> list[torch.Tensor]:
    return [row[:n] for row, n in zip(batch.input_ids_NL, batch.prompt_lengths_N.tolist(), strict=True)]


@pytest.mark.parametrize("answers", [False, True])
def test_greedy_equals_each_row_alone(reader, answers):
    batch = pack(reader, answers)
    written = greedy(reader, batch, NEW)
    expected = [alone(reader, [p], torch.zeros(1)) for p in prompts(batch)]
    assert written.ids == [ids for ids, _, _ in expected]
    torch.testing.assert_close(written.logp_R, torch.tensor([e[1] for e in expected]), rtol=1e-4, atol=1e-4)
    assert written.finished_R.tolist() == [e[2] for e in expected]
    assert len({len(ids) for ids in written.ids}) > 1, "rows of one length would test little"
    if answers:
        with torch.no_grad():
            torch.testing.assert_close(written.target_logp_NT, reader.token_logp(batch), rtol=1e-5, atol=1e-5)
    else:
        assert written.target_logp_NT is None


@pytest.mark.parametrize("answers", [False, True])
def test_token_marginal_equals_each_question_alone(reader, answers):
    batch = pack(reader, answers)
    prior_BK = torch.log_softmax(torch.tensor([[1.0, 0, 2], [0, 0, 0], [3, 1, 1], [0, 2, 1]]), -1)
    prior_BK[1] = torch.tensor([0.5, 0.5, 0.0]).log()  # one passage masked
    written = greedy_token_marginal(reader, batch, prior_BK, NEW)
    rows = prompts(batch)
    expected = [alone(reader, rows[3 * b : 3 * b + 3], prior_BK[b]) for b in range(4)]
    assert written.ids == [ids for ids, _, _ in expected]
    torch.testing.assert_close(written.logp_R, torch.tensor([e[1] for e in expected]), rtol=1e-4, atol=1e-4)


def test_one_passage_token_marginal_is_greedy(reader):
    batch = pack(reader, answers=True, passages=1)
    one, marginal = greedy(reader, batch, NEW), greedy_token_marginal(reader, batch, torch.zeros(4, 1), NEW)
    assert one.ids == marginal.ids
    torch.testing.assert_close(one.logp_R, marginal.logp_R, rtol=1e-5, atol=1e-5)
    assert one.counts == marginal.counts


def test_dropping_finished_rows_and_grouping_change_nothing(reader, monkeypatch):
    batch = pack(reader, answers=True)
    plain = greedy(reader, batch, NEW)
    for crop, groups in ((0.0, 1), (1.0, 1), (1.0, 4)):
        monkeypatch.setattr(decoding, "CROP_BELOW", crop)
        monkeypatch.setattr(
            decoding, "length_buckets", lambda n, device, groups=groups: [n.argsort()[g::groups] for g in range(groups)]
        )
        again = greedy(reader, batch, NEW)
        assert again.ids == plain.ids
        assert again.counts == plain.counts
        torch.testing.assert_close(again.target_logp_NT, plain.target_logp_NT, rtol=1e-5, atol=1e-5)


def test_rows_of_equal_length_are_read_apart_where_padding_would_show(reader, monkeypatch):
    """What is done for models without position ids, or with a sliding window."""
    monkeypatch.setattr(decoding, "_pads_freely", lambda model: False)
    batch = pack(reader, answers=True)
    written = greedy(reader, batch, NEW)
    expected = [alone(reader, [p], torch.zeros(1)) for p in prompts(batch)]
    assert written.ids == [ids for ids, _, _ in expected]
    with torch.no_grad():
        torch.testing.assert_close(written.target_logp_NT, reader.token_logp(batch), rtol=1e-5, atol=1e-5)


def test_sliding_windows_are_told():
    import transformers as hf

    shape = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 32,
    }

    def build(window: int | None) -> hf.MistralForCausalLM:
        return hf.MistralForCausalLM(hf.MistralConfig(**shape, num_key_value_heads=2, sliding_window=window))

    assert decoding._pads_freely(build(None))
    assert not decoding._pads_freely(build(8))


def test_sliding_window_model_writes_what_each_row_alone_would(tokenizer):
    import transformers as hf

    torch.manual_seed(0)
    config = hf.MistralConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=320, sliding_window=6, initializer_range=0.3,
    )  # fmt: skip
    generator = Generator(hf.MistralForCausalLM(config), tokenizer, context=96, seq2seq=False).eval()
    batch = pack(generator, answers=True)
    written = greedy(generator, batch, NEW)
    assert written.ids == [alone(generator, [p], torch.zeros(1))[0] for p in prompts(batch)]


def test_counts_of_one_row_by_hand(reader, monkeypatch):
    """Three tokens and no end within three steps: three projections, two tokens fed."""
    batch = pack(reader, answers=False, passages=1, questions=1)
    monkeypatch.setattr(reader.tokenizer, "eos", -1)
    written = greedy(reader, batch, 3)
    assert len(written.ids[0]) == 3
    L = int(batch.lengths_N[0])
    assert written.counts.target_tokens == 3
    assert written.counts.tokens == L + 2
    assert written.counts.rows == 1
    if reader.seq2seq:
        assert (written.counts.decoder_tokens, written.counts.cross) == (2, 2 * L)
    else:
        assert written.counts.input_squares == (L + 2) ** 2


def test_writing_leaves_training_mode_as_it_was(reader):
    batch = pack(reader, answers=False, passages=1, questions=1)
    reader.train()
    greedy(reader, batch, 2)
    assert reader.training
    reader.eval()
    greedy(reader, batch, 2)
    assert not reader.training


def test_no_room_is_an_error(reader):
    batch = pack(reader, answers=False)
    with pytest.raises(DataError, match="do not fit the generator's context of 96"):
        greedy(reader, batch, 97)


def test_fast_sequence_by_hand():
    """Two passages of question 0 agree: .5 * .2 + .2 * .4 = .18 beats .3 * .5 = .15; question 1 has one passage."""
    ids = [[7], [8], [7], [9], [9], []]
    logp_N = torch.tensor([0.2, 0.5, 0.4, 0.1, 0.9, 0.9]).log()
    prior_BK = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]]).log()
    first, second = fast_sequence(ids, logp_N, prior_BK)
    assert [y for y, _ in first] == [[7], [8]]
    assert [math.exp(s) for _, s in first] == pytest.approx([0.18, 0.15], abs=1e-6)
    assert [y for y, _ in second] == [[9]]
    assert math.exp(second[0][1]) == pytest.approx(0.1, abs=1e-6)


def test_fast_sequence_keeps_rank_order_among_equals():
    first = fast_sequence([[5], [4]], torch.zeros(2), torch.tensor([[0.5, 0.5]]).log())[0]
    assert [y for y, _ in first] == [[5], [4]]
