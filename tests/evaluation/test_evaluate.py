"""The evaluation against a loop written by hand, and what it says about each question."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rag_exp.core.errors import ConfigError, DataError, TrainingError
from rag_exp.data.normalise import answer_in_text
from rag_exp.evaluation.arms import oracle_result, random_result
from rag_exp.evaluation.evaluate import Asked, evaluate
from rag_exp.evaluation.metrics import exact_match, f1_score
from rag_exp.evaluation.options import EvaluationOptions
from rag_exp.evaluation.predictions import read_predictions
from rag_exp.models.objectives import Concat, RagSequence, RagToken
from rag_exp.models.packing import Packer
from rag_exp.models.prior import RetrievalPrior
from rag_exp.models.prompt import PromptOptions
from rag_exp.retrieval.results import SearchResult
from rag_exp.training.options import TrainerOptions

MACHINE = TrainerOptions(accelerator="cpu", threads=1, progress=False)
TEMPERATURE = 0.7


def searched(towns, k=3):
    """Random passages with unequal scores; every fourth row has one passage less."""
    ids = random_result(towns.questions.ids, k, towns.size, 0).ids_QK.copy()
    ids[::4, -1] = -1
    scores = np.random.default_rng(0).normal(size=ids.shape).astype(np.float32)
    return SearchResult.of(ids, scores, k)


def ask(towns, folder, kit=None, objective=None, topk=None, size=16, precision="32", prior=None, **options):
    reader, packer, sizes = kit or towns.kit()
    asked = Asked(
        towns.questions, towns.table, topk, size if topk is not None else None, prior or RetrievalPrior(TEMPERATURE)
    )
    options = EvaluationOptions(**{"max_new_tokens": 6, "batch_size": 7} | options)
    folder.mkdir(exist_ok=True)
    stats = evaluate(reader, objective or RagSequence(), packer, asked, options, sizes, folder, MACHINE, precision)
    return read_predictions(folder).to_pylist(), stats


def answer_logp(kit, question, rows, answer, table):
    """log p of each answer token, by one plain forward pass a passage: [K, T]; joint rows are not for this."""
    reader, packer, _ = kit
    answer = [*packer.tokens([answer], "answer")[0], packer.tokenizer.eos]
    question = packer.tokens([question], "question")[0]
    found = []
    for row in rows or [None]:
        read = []
        if row is not None:
            title, text = table.texts([row])[0]
            read = [(packer.tokens([title], "title")[0], packer.tokens([text], "text")[0])]
        ids = packer.pack([question], [read]).input_ids_NL[0].tolist()
        with torch.no_grad():
            logp = reader.model(torch.tensor([ids + answer])).logits[0].double().log_softmax(-1)
        found.append([float(logp[len(ids) - 1 + t, a]) for t, a in enumerate(answer)])
    return np.array(found)


def marginal(kind, prior, logp):
    if kind == "rag_sequence":
        return -math.log((prior * np.exp(logp.sum(1))).sum())
    return -np.log((prior[:, None] * np.exp(logp)).sum(0)).sum()


@pytest.mark.parametrize("objective", [RagSequence(), RagToken()])
def test_against_a_loop_by_hand(towns, tmp_path, objective):
    kit, topk = towns.kit(), searched(towns)
    rows, stats = ask(towns, tmp_path, kit, objective, topk)
    kit[0].eval()
    assert [r["id"] for r in rows] == towns.questions.ids
    for q, r in enumerate(rows):
        live = topk.mask_QK[q]
        read = topk.ids_QK[q][live].tolist()
        prior = np.exp(topk.scores_QK[q][live].astype(float) / TEMPERATURE)
        prior /= prior.sum()
        logp = answer_logp(kit, r["question"], read, r["target"], towns.table)
        assert r["rows"] == read
        assert r["prior"] == pytest.approx(prior, rel=1e-5)
        assert r["nll"] == pytest.approx(marginal(objective.kind, prior, logp), abs=2e-5)
        assert r["nll_without_end"] == pytest.approx(marginal(objective.kind, prior, logp[:, :-1]), abs=2e-5)
        assert r["passage_nll"] == pytest.approx(-logp.sum(1), abs=2e-5)
        posterior = prior * np.exp(logp.sum(1))
        assert r["posterior"] == pytest.approx(posterior / posterior.sum(), rel=1e-4)
        assert r["target_tokens"] == logp.shape[1]
        either = sum(
            math.exp(-marginal(objective.kind, prior, answer_logp(kit, r["question"], read, a, towns.table)))
            for a in set(r["answers"])
        )
        assert r["nll_any"] == pytest.approx(-math.log(either), abs=2e-5)
    assert stats["metrics"]["nll"] == pytest.approx(np.mean([r["nll"] for r in rows]))
    assert any(r["nll_any"] < r["nll"] - 1e-9 for r in rows)


@pytest.mark.parametrize("objective", [RagSequence(), RagToken()])
def test_the_bound_over_the_whole_corpus(towns, tmp_path, objective):
    """With log Z of the corpus the nats fall as more is read, and equal the plain ones once everything is."""
    kit, Q = towns.kit(), len(towns.questions)
    scores = np.random.default_rng(1).normal(size=(Q, towns.size)).astype(np.float32)
    whole = np.logaddexp.reduce(scores.astype(float) / TEMPERATURE, axis=1)
    ids = np.tile(np.arange(towns.size), (Q, 1))
    of = {}
    for k in (3, 9, towns.size):
        found = SearchResult.of(ids, scores, k, whole)
        rows, stats = ask(towns, tmp_path / str(k), kit, objective, found, decode="none")
        of[k] = np.array([r["nll_unnormalized"] for r in rows])
        assert stats["metrics"]["nll_unnormalized"] == pytest.approx(of[k].mean())
        kept = np.array([np.logaddexp.reduce(row.astype(float) / TEMPERATURE) for row in found.scores_QK])
        times = np.array([r["target_tokens"] if objective.kind == "rag_token" else 1 for r in rows])
        assert of[k] == pytest.approx(np.array([r["nll"] for r in rows]) + times * (whole - kept), abs=2e-5)
    assert (of[3] > of[9]).all()
    assert (of[9] > of[towns.size]).all()
    assert of[towns.size] == pytest.approx([r["nll"] for r in rows], abs=1e-5)
    rows, stats = ask(towns, tmp_path / "unknown", kit, objective, searched(towns), decode="none")
    assert stats["metrics"]["nll_unnormalized"] is None
    assert "exact scores" in stats["nulls"]["nll_unnormalized"]


def test_closed_book_by_hand(towns, tmp_path):
    kit = towns.kit()
    rows, stats = ask(towns, tmp_path, kit)
    kit[0].eval()
    for r in rows[:5]:
        logp = answer_logp(kit, r["question"], [], r["target"], towns.table)
        assert r["nll"] == pytest.approx(-logp.sum(), abs=2e-5)
        assert (r["rows"], r["prior"], r["posterior"], r["gold_found"], r["answer_found"]) == ([], [], [], None, None)
    assert stats["closed_book"] == len(rows)
    assert stats["nulls"]["gold_recall@k"] == "no passages are read"


def test_joint_reading_has_one_prompt_and_no_posterior(towns, tmp_path):
    kit, topk = towns.kit(), searched(towns, 2)
    rows, _ = ask(towns, tmp_path, kit, Concat(), topk, decode="none")
    reader, packer, _ = kit
    reader.eval()
    r = rows[1]
    texts = towns.table.texts(r["rows"])
    read = [(packer.tokens([t], "title")[0], packer.tokens([x], "text")[0]) for t, x in texts]
    question = packer.tokens([r["question"]], "question")[0]
    batch = packer.pack([question], [read], [packer.tokens([r["target"]], "answer")[0]], joint=True)
    with torch.no_grad():
        assert r["nll"] == pytest.approx(-float(reader.token_logp(batch).sum()), abs=2e-5)
    assert r["posterior"] is None
    assert r["passage_nll"] is None
    assert (r["prediction"], r["em"]) == (None, None)
    assert sum(r["prior"]) == pytest.approx(1)


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("objective", [RagSequence(), RagToken(), Concat()])
def test_the_batch_size_changes_nothing(towns, tmp_path, family, objective):
    kit, topk = towns.kit(family), searched(towns)
    one, _ = ask(towns, tmp_path / "1", kit, objective, topk, batch_size=1)
    for size in (5, 64):
        many, _ = ask(towns, tmp_path / str(size), kit, objective, topk, batch_size=size)
        for a, b in zip(one, many, strict=True):
            for name in ("nll", "nll_any", "posterior", "passage_nll"):
                assert a[name] == b[name] or a[name] == pytest.approx(b[name], abs=1e-5), name
            assert a["prediction"] == b["prediction"]
            assert a["truncated"] == b["truncated"]


def test_scores_do_not_depend_on_writing(towns, tmp_path):
    kit, topk = towns.kit(), searched(towns)
    written, costs = ask(towns, tmp_path / "a", kit, None, topk)
    scored, cheaper = ask(towns, tmp_path / "b", kit, None, topk, decode="none")
    assert [r["nll"] for r in written] == pytest.approx([r["nll"] for r in scored], abs=1e-5)
    assert all(isinstance(r["prediction"], str) for r in written)
    assert cheaper["flops"] < costs["flops"]
    assert cheaper["nulls"]["em"] == "no answers were written (evaluation.decode=none)"


def test_what_retrieval_found(towns, tmp_path):
    kit, topk = towns.kit(), searched(towns, 6)
    rows, stats = ask(towns, tmp_path, kit, None, topk, size=10, decode="none")
    for q, r in enumerate(rows):
        gold = towns.questions.gold[q]
        assert r["gold"] == gold
        rank = next((i + 1 for i, row in enumerate(r["rows"]) if row in gold), None)
        assert r["gold_rank"] == rank
        assert r["gold_found"] == ((rank is not None) if gold else None)
        assert r["gold_in_corpus"] == ((gold[0] < 10) if gold else None)
        texts = towns.table.texts(r["rows"])
        assert r["answer_found"] == any(answer_in_text(r["answers"], f"{t}\n{x}") for t, x in texts)
        assert (r["entropy"], r["hops"], r["template"]) == (2.0, 1, "river")
        assert r["answer_bytes"] == len(r["target"])
    assert 0 < stats["metrics"]["gold_found"] < 1
    assert stats["metrics"]["entropy_given_gold"] == 0.5


def test_the_oracle_reads_gold_and_asks_the_rest_closed_book(towns, tmp_path):
    rows, stats = ask(towns, tmp_path, None, None, oracle_result(towns.questions.gold, 2), size=None, decode="none")
    assert stats["closed_book"] == 4
    assert stats["metrics"]["gold_recall@k"] == 1.0
    assert stats["metrics"]["gold_in_corpus"] is None
    assert all(r["rows"] == r["gold"] and r["prior"] == [1.0] * len(r["gold"]) for r in rows)
    assert all(math.isfinite(r["nll"]) for r in rows)


def test_em_and_f1_are_of_the_written_answer(towns, tmp_path):
    """A reader trained to say one thing says it, and is scored for it."""
    kit = towns.kit()
    reader, packer, _ = kit
    answer = packer.tokens(["R0"], "answer")[0]
    question = packer.tokens([towns.questions.questions[0]], "question")[0]
    batch = packer.pack([question], [[]], [answer])
    optimizer = torch.optim.Adam(reader.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        (-reader.token_logp(batch).sum()).backward()
        optimizer.step()
    rows, stats = ask(towns, tmp_path, kit)
    assert {r["prediction"] for r in rows} == {"R0"}
    for r in rows:
        assert r["em"] == exact_match("R0", r["answers"])
        assert r["f1"] == f1_score("R0", r["answers"])
    assert stats["metrics"]["em"] == 1 / 24


def test_truncated_passages_are_counted_by_question(towns, tmp_path):
    rows, stats = ask(towns, tmp_path, towns.kit(context=64), None, searched(towns), decode="none")
    counts = [r["truncated"] for r in rows]
    assert 0 < sum(counts) < sum(len(r["rows"]) for r in rows)
    assert stats["metrics"]["truncated"] == sum(counts) / sum(len(r["rows"]) for r in rows)


def test_only_so_many_answers_are_scored(towns, tmp_path):
    kit, topk = towns.kit(), searched(towns)
    rows, _ = ask(towns, tmp_path, kit, None, topk, decode="none", max_answers=1)
    assert [r["nll_any"] for r in rows] == pytest.approx([r["nll"] for r in rows])


def test_a_broken_reader_is_an_error_and_not_a_number(towns, tmp_path):
    kit = towns.kit()
    with torch.no_grad():
        next(kit[0].parameters()).fill_(math.nan)
    with pytest.raises(TrainingError, match="24 of 24 questions"):
        ask(towns, tmp_path, kit, decode="none")
    assert list(tmp_path.iterdir()) == []


def test_half_precision_is_close(towns, tmp_path):
    kit, topk = towns.kit(), searched(towns)
    rows, _ = ask(towns, tmp_path / "a", kit, None, topk)
    half, _ = ask(towns, tmp_path / "b", kit, None, topk, precision="bf16")
    difference = [a["nll"] - b["nll"] for a, b in zip(rows, half, strict=True)]
    assert 0 < max(map(abs, difference)) < 0.2
    assert abs(np.mean(difference)) < 0.05


def test_bad_input_is_told(towns, tmp_path):
    with pytest.raises(DataError, match="3 rows for 24 questions"):
        ask(towns, tmp_path, None, None, searched(towns).of_queries(slice(3)))
    reader, _, sizes = towns.kit()
    short = Packer(reader.tokenizer, PromptOptions(max_answer_tokens=2), reader.context, reader.seq2seq)
    with pytest.raises(ConfigError, match=r"prompt\.max_answer_tokens"):
        ask(towns, tmp_path, (reader, short, sizes))
