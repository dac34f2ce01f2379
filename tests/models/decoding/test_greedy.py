"""Greedy decoding: a batch writes what each row alone would, step by step, without a cache."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rag_exp.core.errors import DataError
from rag_exp.models.decoding.caches import pads_freely
from rag_exp.models.decoding.greedy import greedy, greedy_token_marginal

FILE = "rag_exp.models.decoding.greedy"


def alone(rows, generator, prompts: list[torch.Tensor], prior_K: torch.Tensor) -> tuple[list[int], float, bool]:
    written, total = [], 0.0
    for _ in range(rows.NEW):
        logp_KV = torch.stack([torch.log_softmax(rows.next_logits(generator, p, written), -1) for p in prompts])
        logp, token = (logp_KV + prior_K[:, None]).logsumexp(0).max(0)
        total += float(logp)
        if int(token) == generator.tokenizer.eos:
            return written, total, True
        written.append(int(token))
    return written, total, False


@pytest.mark.parametrize("answers", [False, True])
def test_greedy_equals_each_row_alone(reader, answers, rows):
    batch = rows.pack(reader, answers)
    written = greedy(reader, batch, rows.NEW)
    expected = [alone(rows, reader, [p], torch.zeros(1)) for p in rows.prompts(batch)]
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
def test_token_marginal_equals_each_question_alone(reader, answers, rows):
    batch = rows.pack(reader, answers)
    prior_BK = torch.log_softmax(torch.tensor([[1.0, 0, 2], [0, 0, 0], [3, 1, 1], [0, 2, 1]]), -1)
    prior_BK[1] = torch.tensor([0.5, 0.5, 0.0]).log()  # one passage masked
    written = greedy_token_marginal(reader, batch, prior_BK, rows.NEW)
    read = rows.prompts(batch)
    expected = [alone(rows, reader, read[3 * b : 3 * b + 3], prior_BK[b]) for b in range(4)]
    assert written.ids == [ids for ids, _, _ in expected]
    torch.testing.assert_close(written.logp_R, torch.tensor([e[1] for e in expected]), rtol=1e-4, atol=1e-4)


def test_one_passage_token_marginal_is_greedy(reader, rows):
    batch = rows.pack(reader, answers=True, passages=1)
    one, marginal = greedy(reader, batch, rows.NEW), greedy_token_marginal(reader, batch, torch.zeros(4, 1), rows.NEW)
    assert one.ids == marginal.ids
    torch.testing.assert_close(one.logp_R, marginal.logp_R, rtol=1e-5, atol=1e-5)
    assert one.counts == marginal.counts


def test_dropping_finished_rows_and_grouping_change_nothing(reader, monkeypatch, rows):
    batch = rows.pack(reader, answers=True)
    plain = greedy(reader, batch, rows.NEW)
    for crop, groups in ((0.0, 1), (1.0, 1), (1.0, 4)):
        monkeypatch.setattr(f"{FILE}.CROP_BELOW", crop)
        monkeypatch.setattr(
            f"{FILE}.length_buckets", lambda n, *_, groups=groups, **__: [n.argsort()[g::groups] for g in range(groups)]
        )
        again = greedy(reader, batch, rows.NEW)
        assert again.ids == plain.ids
        assert again.counts == plain.counts
        torch.testing.assert_close(again.target_logp_NT, plain.target_logp_NT, rtol=1e-5, atol=1e-5)


def test_rows_of_equal_length_are_read_apart_where_padding_would_show(reader, monkeypatch, rows):
    """What is done for models without position ids, or with a sliding window."""
    monkeypatch.setattr("rag_exp.models.decoding.prompts.pads_freely", lambda model: False)
    batch = rows.pack(reader, answers=True)
    written = greedy(reader, batch, rows.NEW)
    expected = [alone(rows, reader, [p], torch.zeros(1)) for p in rows.prompts(batch)]
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

    assert pads_freely(build(None))
    assert not pads_freely(build(8))


def test_sliding_window_model_writes_what_each_row_alone_would(windowed, rows):
    batch = rows.pack(windowed, answers=True)
    written = greedy(windowed, batch, rows.NEW)
    assert written.ids == [alone(rows, windowed, [p], torch.zeros(1))[0] for p in rows.prompts(batch)]


def test_counts_of_one_row_by_hand(reader, monkeypatch, rows):
    """Three tokens and no end within three steps: three projections, two tokens fed."""
    batch = rows.pack(reader, answers=False, passages=1, questions=1)
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


class Casts(TorchDispatchMode):
    """Counts how often a tensor of a given shape is turned to another type."""

    def __init__(self, shape: torch.Size):
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._to_copy.default and args[0].shape == self.shape:
            self.count += 1
        return function(*args, **(kwargs or {}))


def test_half_precision_turns_a_weight_once_and_not_at_each_word(reader, rows):
    batch = rows.pack(reader, answers=True)
    head = reader.model.get_output_embeddings()
    layers = [m.weight for m in reader.model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    shape = max((w.shape for w in layers), key=lambda shape: abs(shape[0] - shape[1]))
    with torch.autocast("cpu", torch.bfloat16), Casts(shape) as casts:
        written = greedy(reader, batch, rows.NEW)
    assert max(map(len, written.ids)) > 2
    assert casts.count == sum(w.shape == shape for w in layers)


def test_writing_leaves_training_mode_as_it_was(reader, rows):
    batch = rows.pack(reader, answers=False, passages=1, questions=1)
    reader.train()
    greedy(reader, batch, 2)
    assert reader.training
    reader.eval()
    greedy(reader, batch, 2)
    assert not reader.training


def test_no_room_is_an_error(reader, rows):
    batch = rows.pack(reader, answers=False)
    with pytest.raises(DataError, match="do not fit the generator's context of 96"):
        greedy(reader, batch, 97)
