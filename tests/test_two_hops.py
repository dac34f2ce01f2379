"""Two hops of search, end to end: what the record and ``show`` say of the second one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from rag_exp import cli
from rag_exp.core.record import RunRecord, read_record
from rag_exp.evaluation.predictions import read_predictions
from rag_exp.show import artifact_folder, show_question

CHAIN = ["debug=tiny", "questions.hops=2", "retrieval=two_hop", "objective=chain"]


def finished(folder: Path, *overrides: str) -> RunRecord:
    before = os.getcwd()
    os.chdir(folder)
    try:
        known = set(folder.glob("outputs/runs/*/record.json"))
        assert cli.main(["run", *CHAIN, *overrides]) == 0
    finally:
        os.chdir(before)
    (file,) = set(folder.glob("outputs/runs/*/record.json")) - known
    return read_record(file)


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> tuple[Path, RunRecord]:
    """A folder, and the record of its first run, from which others take what they can."""
    folder = tmp_path_factory.mktemp("chain")
    return folder, finished(folder)


def test_an_exact_second_hop_misses_nothing(chain):
    assert chain[1].metrics["hop2_recall@j"] == 1.0


def test_an_index_misses_in_the_second_hop_too(chain):
    index = ("index@evaluation.index=ivf", "evaluation.index.nlist=16", "evaluation.index.nprobe=1")
    assert 0 < finished(chain[0], *index).metrics["hop2_recall@j"] < 1


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("index@evaluation.index=bm25", "no exact search of its own"),
        ("evaluation.source=oracle", "searches no index"),
    ],
)
def test_what_is_not_compared_says_why(chain, override, reason):
    record = finished(chain[0], override)
    assert record.metrics["hop2_recall@j"] is None
    assert reason in record.nulls["hop2_recall@j"]


def test_what_left_the_store_is_null_with_that_reason(chain, tmp_path):
    shutil.copytree(chain[0] / "outputs", tmp_path / "outputs")
    record = chain[1]
    (tmp_path / "outputs" / "runs" / record.run_id / "record.json").unlink()
    for kind in ("index", "topk", "paths"):
        shutil.rmtree(tmp_path / "outputs" / "store" / "objects" / kind)
    again = finished(tmp_path)
    assert (again.run_id, again.status) == (record.run_id, "finished")
    assert again.metrics["nll"] == record.metrics["nll"]
    for name in ("hop2_recall@j", "index_recall@k", "queries_per_second"):
        assert again.metrics[name] is None
        assert "no longer in the store" in again.nulls[name]


def test_a_question_shows_its_paths(chain):
    record, root = chain[1], chain[0] / "outputs"
    rows = read_predictions(artifact_folder(root, record, "evaluation")).to_pylist()
    row = next(r for r in rows if set(r["gold"]) & {p for path in r["paths"] for p in path})
    lines = show_question(root, record.run_id[:12], row["id"]).splitlines()
    shown = [line.split() for line in lines if "->" in line]
    assert len(shown) == len(row["paths"])
    for words, path, prior, posterior in zip(
        shown, row["paths"], row["path_prior"], row["path_posterior"], strict=True
    ):
        assert [int(words[1]), int(words[3])] == path
        assert float(words[4]) == pytest.approx(prior, rel=1e-3)
        assert float(words[5]) == pytest.approx(posterior, rel=1e-3)
        assert [words[7], words[9]] == ["gold" if p in row["gold"] else "other" for p in path]
    titles = [line for line in lines if line.startswith(" " * 13)]
    assert len(titles) >= len(row["rows"])
    assert any("were not read" in line for line in lines) is bool(set(row["gold"]) - set(row["rows"]))
