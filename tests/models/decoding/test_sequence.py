"""RAG-Sequence decoding: its candidates scored one by one, without a cache; the fast rule by hand; choices."""

from __future__ import annotations

import math

import pytest
import torch

from rag_exp.models.decoding.beam import Search, beam_search
from rag_exp.models.decoding.choices import rank_choices
from rag_exp.models.decoding.continuations import continuation_logp
from rag_exp.models.decoding.greedy import greedy
from rag_exp.models.decoding.prompts import Prompts
from rag_exp.models.decoding.sequence import fast, fast_sequence, thorough
from rag_exp.models.marginalize import rag_sequence_nll, rag_token_nll

PRIOR = torch.tensor([[1.0, 0, 2], [0, 0, 0], [3, 1, 1], [0, 2, 1]]).log_softmax(-1)
PRIOR[1] = torch.tensor([0.5, 0.5, 0.0]).log()  # one passage masked


def answer_logp(rows, generator, prompt, ids):
    """log p of each token of an answer, computed anew for each."""
    steps = [rows.next_logits(generator, prompt, list(ids[:t])).log_softmax(-1) for t in range(len(ids))]
    return torch.stack([step[y] for step, y in zip(steps, ids, strict=True)]).double()


def by_hand(rows, generator, batch, prior_BK, search, everywhere):
    """Candidates of each question, each scored where it was produced or given every passage."""
    eos, read, K = generator.tokenizer.eos, rows.prompts(batch), batch.per_question
    beams = beam_search(generator, batch, search).candidates
    found = []
    for b in range(len(prior_BK)):
        live = [k for k in range(K) if prior_BK[b, k] > -math.inf]
        held = {k: {tuple(ids) for ids, _ in beams[b * K + k]} for k in live}
        scores = {}
        for ids in set().union(*held.values()):
            whole = [*ids, eos] if len(ids) < search.max_new_tokens else ids
            joint = [
                float(prior_BK[b, k] + answer_logp(rows, generator, read[b * K + k], whole).sum())
                for k in live
                if everywhere or ids in held[k]
            ]
            scores[ids] = float(torch.tensor(joint, dtype=torch.float64).logsumexp(0))
        found.append(sorted(scores.items(), key=lambda c: -c[1]))
    return found


def same(found, expected):
    for ranked, by_score in zip(found, expected, strict=True):
        assert {tuple(ids) for ids, _ in ranked} == {ids for ids, _ in by_score}
        assert [score for _, score in ranked] == pytest.approx([score for _, score in by_score], abs=2e-4)
        score_of = dict(by_score)
        assert all(score == pytest.approx(score_of[tuple(ids)], abs=2e-4) for ids, score in ranked)


SEARCH = Search(max_new_tokens=6, beam=3)


@pytest.fixture(scope="module")
def batch(reader, rows):
    return rows.pack(reader, answers=True)


@pytest.fixture(scope="module")
def scored(reader, batch):
    return thorough(reader, batch, PRIOR, SEARCH)


def test_thorough_scores_every_candidate_given_every_passage(reader, rows, batch, scored):
    same(scored.candidates, by_hand(rows, reader, batch, PRIOR, SEARCH, everywhere=True))
    assert any(len(c) > SEARCH.beam for c in scored.candidates), "passages of one mind would test little"
    with torch.no_grad():
        torch.testing.assert_close(scored.target_logp_NT, reader.token_logp(batch), rtol=1e-5, atol=1e-5)


def test_fast_leaves_out_passages_that_did_not_produce_it(reader, rows, batch, scored):
    found = fast(reader, batch, PRIOR, SEARCH)
    same(found.candidates, by_hand(rows, reader, batch, PRIOR, SEARCH, everywhere=False))
    assert scored.fast == found.best
    assert scored.counts.tokens > found.counts.tokens
    for ranked, least in zip(scored.candidates, found.candidates, strict=True):
        bound = {tuple(ids): score for ids, score in least}
        assert all(score >= bound[tuple(ids)] - 1e-5 for ids, score in ranked)


def test_one_beam_fast_is_greedy_by_passage(reader, rows, batch):
    one = fast(reader, batch, PRIOR, Search(rows.NEW, beam=1))
    written = greedy(reader, batch, rows.NEW)
    for ranked, expected in zip(one.candidates, fast_sequence(written.ids, written.logp_R, PRIOR), strict=True):
        assert [ids for ids, _ in ranked] == [ids for ids, _ in expected]
        assert [score for _, score in ranked] == pytest.approx([score for _, score in expected], abs=1e-4)
    assert one.counts == written.counts


def test_a_prior_that_does_not_sum_to_one_shifts_scores_alone(reader, batch, scored):
    pruned = thorough(reader, batch, PRIOR - 0.5, SEARCH)
    for a, b in zip(pruned.candidates, scored.candidates, strict=True):
        assert [ids for ids, _ in a] == [ids for ids, _ in b]
        assert [score + 0.5 for _, score in a] == pytest.approx([score for _, score in b], abs=1e-6)


def test_one_reading_is_beam_search(reader, rows):
    batch = rows.pack(reader, answers=False, passages=1)
    one, beams = thorough(reader, batch, torch.zeros(4, 1), SEARCH), beam_search(reader, batch, SEARCH)
    assert [[ids for ids, _ in c] for c in one.candidates] == [[ids for ids, _ in c] for c in beams.candidates]
    assert one.counts == beams.counts


@pytest.mark.parametrize(("cached", "projected"), [(1, 1), (300, 7)])
def test_groups_change_nothing(reader, batch, scored, monkeypatch, cached, projected):
    monkeypatch.setattr("rag_exp.models.decoding.grouping.cache_groups.__defaults__", (cached,))
    monkeypatch.setattr("rag_exp.models.decoding.continuations.CACHED", cached)
    monkeypatch.setattr("rag_exp.models.reader.PROJECTION_CHUNK", 4 * 320 * projected)
    parts = thorough(reader, batch, PRIOR, SEARCH)
    for a, b in zip(parts.candidates, scored.candidates, strict=True):
        assert [ids for ids, _ in a] == [ids for ids, _ in b]
        assert [score for _, score in a] == pytest.approx([score for _, score in b], abs=1e-4)
    assert parts.counts.decoder_squares == scored.counts.decoder_squares


def test_models_that_take_no_padding(windowed, rows):
    batch = rows.pack(windowed, answers=True)
    found = thorough(windowed, batch, PRIOR, SEARCH)
    same(found.candidates, by_hand(rows, windowed, batch, PRIOR, SEARCH, everywhere=True))


def test_continuations_one_by_one(reader, rows, batch):
    """Of one token and of many, that begin alike, of one prompt and of another; what was read stays as it was."""
    prompts = Prompts(reader, batch)
    before = prompts.states_NS.clone()
    at = [0, 0, 0, 0, 2, 2, 5]
    texts = [[7], [7, 8, 9], [7, 8, 10, 11], [9, 8], [7, 8, 9], [4], [4, 4, 4, 4, 4]]
    with torch.no_grad():
        for _ in range(2):
            logp_MT, counts = continuation_logp(prompts, batch, at, texts)
            for row, ids, n in zip(logp_MT, texts, at, strict=True):
                expected = answer_logp(rows, reader, rows.prompts(batch)[n], ids)
                torch.testing.assert_close(row[: len(ids)].double(), expected, rtol=1e-4, atol=1e-4)
                assert not row[len(ids) :].any()
    torch.testing.assert_close(prompts.states_NS, before)
    # Distinct beginnings: 7, 7 8, 7 8 10, 9 of row 0; 7, 7 8 of row 2; four of row 5.
    assert (counts.target_tokens, counts.tokens) == (10, sum(len(ids) - 1 for ids in texts))


@pytest.mark.parametrize("marginal", [rag_sequence_nll, rag_token_nll])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_choices_by_their_log_probability(reader, rows, batch, marginal, penalty):
    draw = torch.Generator().manual_seed(3)
    choices = [[torch.randint(3, 320, (n,), generator=draw).tolist() for n in (1, 4, 2)] for _ in range(4)]
    choices[2] = [choices[2][0], choices[2][1], choices[2][0]]
    found = rank_choices(reader, batch, PRIOR, choices, marginal, penalty)
    read, eos = rows.prompts(batch), reader.tokenizer.eos
    for b, (ranked, given) in enumerate(zip(found.candidates, choices, strict=True)):
        expected = {}
        for ids in given:
            logp_KT = torch.stack([answer_logp(rows, reader, p, [*ids, eos]) for p in read[3 * b : 3 * b + 3]])
            nats = marginal(logp_KT[None], PRIOR[b : b + 1].double(), torch.ones(1, len(ids) + 1))
            expected[tuple(ids)] = -float(nats)
        assert {tuple(ids): logp for ids, logp in ranked} == pytest.approx(expected, abs=1e-4)
        assert ranked == sorted(ranked, key=lambda c: -c[1] / (len(c[0]) + 1) ** penalty)
        assert len(ranked) == len(set(map(tuple, given)))


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
