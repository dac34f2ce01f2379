"""Beam search: against all answers there are where those can be listed, and against the definition elsewhere."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as hf

from rag_exp.core.errors import DataError
from rag_exp.models.decoding.beam import Search, beam_search, beam_token_marginal
from rag_exp.models.decoding.greedy import greedy, greedy_token_marginal
from rag_exp.models.packing import ReaderBatch
from rag_exp.models.reader import Generator

PRIOR = torch.tensor([[1.0, 0, 2], [0, 0, 0], [3, 1, 1], [0, 2, 1]]).log_softmax(-1)
PRIOR[1] = torch.tensor([0.5, 0.5, 0.0]).log()  # one passage masked


def search_by_hand(next_logp, eos, search):
    """The definition of rag_exp.models.decoding.beam, one hypothesis at a time: (tokens, log-probability), best first.

    Args:
        next_logp: written tokens -> log-probabilities of the next.
    """
    W, T, penalty = search.beam, search.max_new_tokens, search.length_penalty
    running, away = [([], 0.0)], []
    for t in range(T):
        continued = [
            ([*ids, y], logp + step) for ids, logp in running for y, step in enumerate(next_logp(ids).tolist())
        ]
        continued = sorted(continued, key=lambda h: -h[1])[: 2 * W]
        away += [h for h in continued[:W] if h[0][-1] == eos or t + 1 == T]
        away = sorted(away, key=lambda h: -h[1] / len(h[0]) ** penalty)[:W]
        running = [h for h in continued if h[0][-1] != eos][:W]
        if len(away) == W and running[0][1] / T**penalty <= away[-1][1] / len(away[-1][0]) ** penalty:
            break
    return [(ids[:-1] if ids[-1] == eos else ids, logp) for ids, logp in away]


def mixed(rows, generator, prompts, prior_K):
    """The next token's log-probabilities, mixed over readings by the prior."""

    def next_logp(written):
        logp_KV = torch.stack([rows.next_logits(generator, p, written).log_softmax(-1) for p in prompts])
        return (logp_KV + prior_K[:, None]).logsumexp(0)

    return next_logp


def same(ranked, expected):
    assert [ids for ids, _ in ranked] == [ids for ids, _ in expected]
    assert [logp for _, logp in ranked] == pytest.approx([logp for _, logp in expected], abs=2e-4)


V, EOS = 5, 1


@pytest.fixture(scope="module", params=["bart", "llama", "t5"])
def tiny(request) -> Generator:
    """Five tokens, so that all answers can be listed."""
    torch.manual_seed(2)
    if request.param == "llama":
        config = hf.LlamaConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=V,
            initializer_range=0.8,
        )  # fmt: skip
        model = hf.LlamaForCausalLM(config)
    elif request.param == "bart":
        config = hf.BartConfig(
            vocab_size=V, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=40, init_std=0.8,
            pad_token_id=0, bos_token_id=2, eos_token_id=EOS, decoder_start_token_id=2, forced_eos_token_id=None,
        )  # fmt: skip
        model = hf.BartForConditionalGeneration(config)
    else:
        config = hf.T5Config(
            vocab_size=V, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_decoder_layers=2, num_heads=2,
            initializer_factor=1.0, decoder_start_token_id=2, pad_token_id=0, eos_token_id=EOS,
        )  # fmt: skip
        model = hf.T5ForConditionalGeneration(config)
    tokenizer = SimpleNamespace(eos=EOS, pad=0)
    return Generator(model, tokenizer, context=40, seq2seq=request.param != "llama").eval()


def tiny_batch(generator: Generator, lengths=(3, 7, 5, 4, 4, 9), per_question=3) -> ReaderBatch:
    draw = torch.Generator().manual_seed(4)
    lengths_N = torch.tensor(lengths)
    N, L = len(lengths), max(lengths)
    mask_NL = torch.arange(L) < lengths_N[:, None]
    ids_NL = torch.randint(2, V, (N, L), generator=draw).masked_fill(~mask_NL, 0)
    zeros = np.zeros(N, np.int64)
    return ReaderBatch(
        ids_NL, mask_NL.long(), lengths_N, None, None, generator.seq2seq, per_question, np.array(lengths), zeros, zeros,
        zeros,
    )  # fmt: skip


def all_answers(next_logp, T):
    """Every answer of at most T tokens, end token included, or of T without one, with its log-probability."""
    steps = {ids: next_logp(list(ids)) for t in range(T) for ids in itertools.product(set(range(V)) - {EOS}, repeat=t)}
    found = []
    for ids, logp in steps.items():
        before = sum(float(steps[ids[:t]][y]) for t, y in enumerate(ids))
        found.append((list(ids), before + float(logp[EOS])))
        if len(ids) == T - 1:
            found += [([*ids, y], before + float(logp[y])) for y in range(V) if y != EOS]
    return sorted(found, key=lambda answer: -answer[1])


@pytest.mark.parametrize("marginal", [False, True])
def test_wide_beams_find_the_best_of_all_answers(tiny, rows, marginal):
    batch, T, W = tiny_batch(tiny), 4, 150
    read = rows.prompts(batch)
    search = Search(max_new_tokens=T, beam=W)
    if marginal:
        prior = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.4, 0.0]]).log()
        found = beam_token_marginal(tiny, batch, prior, search)
        expected = [all_answers(mixed(rows, tiny, read[3 * b : 3 * b + 3], prior[b]), T) for b in range(2)]
    else:
        found = beam_search(tiny, batch, search)
        expected = [all_answers(mixed(rows, tiny, [p], torch.zeros(1)), T) for p in read]
    for ranked, listed in zip(found.candidates, expected, strict=True):
        assert len({tuple(ids) for ids, _ in ranked}) == len(ranked) == W
        assert [logp for _, logp in ranked] == pytest.approx([logp for _, logp in listed[:W]], abs=1e-4)
        logp_of = {tuple(ids): logp for ids, logp in listed}
        assert all(logp == pytest.approx(logp_of[tuple(ids)], abs=1e-4) for ids, logp in ranked)
        assert sum(math.exp(logp) for _, logp in listed) == pytest.approx(1, abs=1e-5), "they are all there are"


def test_beams_as_wide_as_all_answers_hold_them_all(tiny, rows):
    """Answers run out before beams do: none is invented and none comes twice."""
    batch = tiny_batch(tiny, lengths=(4,), per_question=1)
    found = beam_search(tiny, batch, Search(max_new_tokens=2, beam=100))
    listed = all_answers(mixed(rows, tiny, rows.prompts(batch), torch.zeros(1)), 2)
    same(found.candidates[0], listed)
    assert len(listed) == 1 + 4 + 16


@pytest.mark.parametrize("penalty", [0.0, 0.8])
@pytest.mark.parametrize("marginal", [False, True])
def test_narrow_beams_follow_the_definition(reader, rows, marginal, penalty):
    batch = rows.pack(reader, answers=True)
    search = Search(max_new_tokens=6, beam=3, length_penalty=penalty)
    eos, read = reader.tokenizer.eos, rows.prompts(batch)
    if marginal:
        found = beam_token_marginal(reader, batch, PRIOR, search)
        steps = [mixed(rows, reader, read[3 * b : 3 * b + 3], PRIOR[b]) for b in range(4)]
    else:
        found = beam_search(reader, batch, search)
        steps = [mixed(rows, reader, [p], torch.zeros(1)) for p in read]
    for ranked, next_logp in zip(found.candidates, steps, strict=True):
        same(ranked, search_by_hand(next_logp, eos, search))
    if not marginal:
        lengths = {len(ids) for ranked in found.candidates for ids, _ in ranked}
        assert len(lengths) > 2, "answers of one length would test little"
    with torch.no_grad():
        torch.testing.assert_close(found.target_logp_NT, reader.token_logp(batch), rtol=1e-5, atol=1e-5)


def test_a_length_penalty_favours_longer_answers(reader, rows):
    batch = rows.pack(reader, answers=False)
    plain, divided = (beam_search(reader, batch, Search(rows.NEW, 4, penalty)).best for penalty in (0.0, 2.0))
    assert sum(map(len, divided)) > sum(map(len, plain))


def test_one_beam_is_greedy(reader, rows):
    batch = rows.pack(reader, answers=True)
    search = Search(rows.NEW, beam=1)
    for one, many in (
        (beam_search(reader, batch, search), greedy(reader, batch, rows.NEW)),
        (
            beam_token_marginal(reader, batch, PRIOR, search),
            greedy_token_marginal(reader, batch, PRIOR, rows.NEW),
        ),
    ):
        assert one.best == many.ids
        assert [ranked[0][1] for ranked in one.candidates] == pytest.approx(many.logp_R.tolist(), abs=1e-4)
        assert one.counts == many.counts


def test_models_that_take_no_padding(windowed, rows):
    batch = rows.pack(windowed, answers=True)
    search = Search(max_new_tokens=5, beam=3)
    found = beam_search(windowed, batch, search)
    for ranked, p in zip(found.candidates, rows.prompts(batch), strict=True):
        same(ranked, search_by_hand(mixed(rows, windowed, [p], torch.zeros(1)), windowed.tokenizer.eos, search))


@pytest.mark.parametrize("cached", [1, 400])
def test_groups_change_nothing(reader, rows, monkeypatch, cached):
    batch = rows.pack(reader, answers=True)
    search = Search(max_new_tokens=rows.NEW, beam=3)
    whole = beam_token_marginal(reader, batch, PRIOR, search)
    monkeypatch.setattr("rag_exp.models.decoding.grouping.cache_groups.__defaults__", (cached,))
    parts = beam_token_marginal(reader, batch, PRIOR, search)
    for a, b in zip(parts.candidates, whole.candidates, strict=True):
        same(a, b)
    assert parts.counts == whole.counts
    torch.testing.assert_close(parts.target_logp_NT, whole.target_logp_NT, rtol=1e-5, atol=1e-5)


def test_counts_of_one_row_by_hand(reader, rows, monkeypatch):
    """Three tokens, two beams, no end: one projection, then twice two tokens fed and projected."""
    batch = rows.pack(reader, answers=False, passages=1, questions=1)
    monkeypatch.setattr(reader.tokenizer, "eos", -1)
    counts = beam_search(reader, batch, Search(max_new_tokens=3, beam=2)).counts
    L = int(batch.lengths_N[0])
    assert (counts.rows, counts.target_tokens, counts.tokens) == (1, 1 + 4, L + 4)
    if reader.seq2seq:
        assert (counts.decoder_tokens, counts.decoder_squares, counts.cross) == (4, 2 * 2**2, 4 * L)
    else:
        assert counts.input_squares == L**2 + 2 * ((L + 2) ** 2 - L**2)


def test_no_room_is_an_error(reader, rows):
    with pytest.raises(DataError, match="do not fit the generator's context of 96"):
        beam_search(reader, rows.pack(reader, answers=False), Search(max_new_tokens=97))
