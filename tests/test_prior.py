"""A prior that learns, end to end: what the record and the predictions say of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from rag_exp import cli
from rag_exp.core.record import RunRecord, read_record
from rag_exp.evaluation.predictions import read_predictions
from rag_exp.retrieval.results import SearchResult
from rag_exp.show import artifact_folder


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder whose runs share what they can."""
    return tmp_path_factory.mktemp("home")


def finished(folder: Path, *overrides: str) -> tuple[RunRecord, list[dict]]:
    """The record of a tiny run and its predictions."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        known = set(folder.glob("outputs/runs/*/record.json"))
        assert cli.main(["run", "debug=tiny", *overrides]) == 0
    finally:
        os.chdir(before)
    (file,) = set(folder.glob("outputs/runs/*/record.json")) - known
    record = read_record(file)
    return record, read_predictions(artifact_folder(folder / "outputs", record, "evaluation")).to_pylist()


def test_a_learned_temperature_is_what_questions_are_asked_with(home):
    record, rows = finished(home, "retriever.learn_temperature=true", "retriever.prior_lr=0.1")
    temperature = record.metrics["prior_temperature"]
    assert 0.5 < temperature < 2
    assert temperature != 1.0
    for row in rows:
        weight = np.exp((np.array(row["scores"]) - max(row["scores"])) / temperature)
        assert row["prior"] == pytest.approx(weight / weight.sum(), rel=1e-5)
    for name in ("nll_unnormalized", "prior_kl", "prior_mass_missed"):
        assert record.metrics[name] is None
        assert "the temperature was learned" in record.nulls[name]
    assert record.metrics["index_recall@k"] == 1.0
    arm, _ = finished(home, "retriever.learn_temperature=true", "retriever.prior_lr=0.1", "evaluation.source=oracle")
    assert arm.artifacts["checkpoint"] == record.artifacts["checkpoint"]
    assert arm.metrics["prior_temperature"] is None
    assert "searches no index" in arm.nulls["prior_temperature"]


def test_a_null_document_from_training_to_show(home, capsys):
    on = ("retriever.null_document=learned", "retriever.prior_lr=0.1")
    record, rows = finished(home, *on)
    searched = SearchResult.load(artifact_folder(home / "outputs", record, "train_topk"))
    begin = np.median(searched.scores_QK[:, -1])
    assert record.metrics["null_score"] != pytest.approx(begin)
    assert record.metrics["null_score"] == pytest.approx(begin, abs=4 * 0.1)
    assert record.sizes["K"] == 3
    for row in rows:
        weight = np.exp(np.array([*row["scores"], record.metrics["null_score"]]) - max(row["scores"]))
        assert [*row["prior"], row["null_prior"]] == pytest.approx(weight / weight.sum(), rel=1e-5)
    assert record.metrics["prior_temperature"] == 1.0
    assert 0.05 < record.metrics["prior_on_null"] < 0.95
    assert 0 < record.metrics["posterior_on_null"] < 1
    assert record.metrics["nll_unnormalized"] >= record.metrics["nll"]
    capsys.readouterr()
    root = ["--root", str(home / "outputs")]
    assert cli.main(["show", record.run_id[:12], "--question", rows[0]["id"], *root]) == 0
    assert "the question alone" in capsys.readouterr().out
    arm, asked = finished(home, *on, "evaluation.source=oracle")
    assert arm.artifacts["checkpoint"] == record.artifacts["checkpoint"]
    assert all(row["null_prior"] is None for row in asked)
    assert arm.metrics["prior_on_null"] is None


def test_scores_of_a_run_file_are_weighed_as_those_of_an_index(home, monkeypatch):
    """Asked with what the index itself found, written to a file and read again."""
    monkeypatch.chdir(home)
    on = ("retriever.temperature=2", "retriever.null_document=learned")
    searched, rows = finished(home, *on)
    assert cli.main(["export", searched.run_id[:12], "--trec", "found.trec"]) == 0
    given, asked = finished(home, *on, "evaluation.source=run", "retrieval.runs=[found.trec]")
    assert given.artifacts["checkpoint"] == searched.artifacts["checkpoint"]
    assert (given.metrics["prior_temperature"], given.metrics["null_score"]) == (2.0, searched.metrics["null_score"])
    for one, other in zip(rows, asked, strict=True):
        assert other["prior"] == pytest.approx(one["prior"], rel=1e-4)
        assert other["null_posterior"] == pytest.approx(one["null_posterior"], rel=1e-4)
        assert other["nll"] == pytest.approx(one["nll"], abs=1e-4)
