"""Asking with a null document: the question alone is one of its readings, in scoring, writing and what is told."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from rag_exp.evaluation.evaluate import Asked, evaluate
from rag_exp.evaluation.metrics import metrics_of
from rag_exp.evaluation.options import EvaluationOptions
from rag_exp.evaluation.predictions import COLUMNS, column_nulls, read_predictions, write_predictions
from rag_exp.models.objectives import PDist, RagSequence, RagToken
from rag_exp.models.prior import RetrievalPrior
from rag_exp.retrieval.results import SearchResult
from rag_exp.training.options import TrainerOptions

TEMPERATURE, NULL = 0.7, 0.4
MACHINE = TrainerOptions(accelerator="cpu", threads=1, progress=False)


def searched(towns, partition=False):
    """Three random passages with unequal scores; every fourth question has one less, the last has none."""
    draw = np.random.default_rng(0)
    ids = np.stack([draw.choice(towns.size, 3, replace=False) for _ in range(towns.size)])
    ids[::4, -1], ids[-1] = -1, -1
    mass = 3.0 + draw.random(len(ids)) if partition else None
    return SearchResult.of(ids, draw.normal(size=ids.shape).astype(np.float32), 3, mass)


def ask(towns, folder, kit, objective=None, topk=None, null_score=NULL, **options):
    reader, packer, sizes = kit
    prior = RetrievalPrior(TEMPERATURE, null_score=null_score)
    asked = Asked(towns.questions, towns.table if topk is not None else None, topk, towns.size, prior)
    options = EvaluationOptions(**{"max_new_tokens": 5, "batch_size": 7, "beam": 3} | options)
    folder.mkdir()
    stats = evaluate(reader, objective or RagSequence(), packer, asked, options, sizes, folder, MACHINE)
    return read_predictions(folder).to_pylist(), stats


def test_against_the_readings_by_themselves(towns, tmp_path):
    kit, topk, objective = towns.kit(), searched(towns), PDist()  # asked as RAG-Sequence
    rows, stats = ask(towns, tmp_path / "null", kit, objective, topk)
    plain, without = ask(towns, tmp_path / "plain", kit, objective, topk, null_score=None)
    closed, _ = ask(towns, tmp_path / "closed", kit, objective, None)
    for row, other, alone in zip(rows[:-1], plain, closed, strict=False):
        joint = np.exp(-np.array([*other["passage_nll"], alone["nll"]]))
        weight = np.exp(np.array([*row["scores"], NULL]) / TEMPERATURE)
        prior = weight / weight.sum()
        assert [*row["prior"], row["null_prior"]] == pytest.approx(prior, rel=1e-5)
        assert row["null_nll"] == pytest.approx(alone["nll"], abs=1e-4)
        assert row["nll"] == pytest.approx(-np.log(prior @ joint), abs=1e-4)
        after = prior * joint / (prior @ joint)
        assert [*row["posterior"], row["null_posterior"]] == pytest.approx(after, rel=1e-3)
        assert len(row["rows"]) == len(row["prior"]) == len(row["passage_nll"])
    assert rows[-1]["null_prior"] is None
    assert rows[-1]["nll"] == pytest.approx(closed[-1]["nll"], abs=1e-4)
    for name in ("prior_on_null", "posterior_on_null"):
        column = f"null_{name.removesuffix('_on_null')}"
        assert stats["metrics"][name] == pytest.approx(np.mean([r[column] for r in rows[:-1]]))
        assert without["metrics"][name] is None
        assert "retriever.null_document" in without["nulls"][name]
    assert stats["metrics"]["truncated"] == without["metrics"]["truncated"]


@pytest.mark.parametrize("objective", [RagSequence(), RagToken()], ids=lambda o: o.kind)
def test_a_hopeless_null_document_changes_nothing(towns, tmp_path, objective):
    kit, topk = towns.kit("t5"), searched(towns, partition=True)
    rows, _ = ask(towns, tmp_path / "null", kit, objective, topk, null_score=-np.inf)
    plain, _ = ask(towns, tmp_path / "plain", kit, objective, topk, null_score=None)
    for row, other in zip(rows, plain, strict=True):
        for name in ("nll", "nll_without_end", "nll_any", "nll_unnormalized", "posterior", "prior"):
            assert row[name] == pytest.approx(other[name], abs=1e-4), name
        assert row["prediction"] == other["prediction"]
        assert not row["null_prior"]


@pytest.mark.parametrize(
    ("objective", "decode"),
    [
        (RagSequence(), "greedy"),
        (RagSequence(), "fast"),
        (RagSequence(), "choices"),
        (RagToken(), "greedy"),
        (RagToken(), "beam"),
        (RagToken(), "choices"),
    ],
    ids=lambda x: x if isinstance(x, str) else x.kind,
)
def test_where_it_has_all_the_prior_answers_are_closed_book(towns, tmp_path, objective, decode):
    kit, options = towns.kit(), {"decode": decode, "choices": towns.rivers if decode == "choices" else None}
    rows, _ = ask(towns, tmp_path / "null", kit, objective, searched(towns), null_score=200.0, **options)
    closed, _ = ask(towns, tmp_path / "closed", kit, objective, None, **options)
    assert [r["prediction"] for r in rows] == [r["prediction"] for r in closed]
    for row, alone in zip(rows, closed, strict=True):
        assert row["nll"] == pytest.approx(alone["nll"], abs=1e-4)
        assert row["candidate_logp"][0] == pytest.approx(alone["candidate_logp"][0], abs=1e-4)


def test_thorough_decoding_takes_what_passages_propose(towns, tmp_path):
    """Ranked by the question alone, but of more candidates than its own beams hold: never worse."""
    kit = towns.kit()
    rows, _ = ask(towns, tmp_path / "null", kit, None, searched(towns), null_score=200.0, decode="thorough")
    closed, _ = ask(towns, tmp_path / "closed", kit, None, None, decode="thorough")
    for row, alone in zip(rows, closed, strict=True):
        assert set(alone["candidates"]) <= set(row["candidates"])
        assert row["candidate_logp"][0] >= alone["candidate_logp"][0] - 1e-4


def test_over_the_whole_corpus_it_has_its_share(towns, tmp_path):
    kit, topk = towns.kit(), searched(towns, partition=True)
    rows, _ = ask(towns, tmp_path / "null", kit, None, topk, decode="none")
    for q, row in enumerate(rows[:-1]):
        scaled = np.array([*row["scores"], NULL]) / TEMPERATURE
        logp = -np.array([*row["passage_nll"], row["null_nll"]])
        whole = np.logaddexp(topk.log_partition_Q[q], scaled[-1])
        assert row["nll_unnormalized"] == pytest.approx(whole - np.logaddexp.reduce(scaled + logp), abs=1e-4)


def test_a_file_from_before_there_was_one_has_none(towns, tmp_path):
    kit = towns.kit()
    rows, _ = ask(towns, tmp_path / "new", kit, None, searched(towns), null_score=None, decode="none")
    path = write_predictions(rows, tmp_path, {"nll_any": "for a reason"})
    table = pq.read_table(path)
    pq.write_table(table.drop(["null_prior", "null_posterior", "null_nll"]), path)
    again = read_predictions(path)
    assert set(again.column_names) == set(COLUMNS)
    assert column_nulls(again) == {"nll_any": "for a reason"}
    assert metrics_of(again) == metrics_of(table)
