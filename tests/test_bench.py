"""`rag-exp bench`: a search measured alone, by the real verb."""

import re

import pytest

from rag_exp import cli
from rag_exp.core.record import read_record
from rag_exp.evaluation.ranking import read_rankings
from rag_exp.show import artifact_folder

POINTS = ["corpus=points", "questions=points", "encoder=points", "corpus.points=600", "questions.queries=20"]
POINTS += ["encoder.dims=16", "encoder.clusters=8", "encoder.inner_dims=4", "retrieval.k=10"]


def records(place):
    return [read_record(f) for f in (place / "outputs" / "runs").glob("*/record.json")]


def test_a_search_is_measured_without_a_reader(place, capsys):
    assert cli.main(["bench", "debug=tiny"]) == 0
    (record,) = records(place)
    assert "evaluation" not in record.artifacts
    assert "checkpoint" not in record.artifacts
    assert record.sizes["N"] is None
    assert record.nulls["N"] == "task=retrieval: nothing reads"
    assert record.metrics["index_recall@k"] == 1.0
    assert record.metrics["mrr"] is not None
    assert record.flops["reading"] is None
    assert record.flops["search"] > 0
    capsys.readouterr()
    assert cli.main(["bench", "debug=tiny"]) == 0
    assert "built" not in capsys.readouterr().err


def test_a_question_is_shown_with_what_was_found(place, capsys):
    assert cli.main(["bench", "debug=tiny"]) == 0
    (record,) = records(place)
    asked = read_rankings(artifact_folder(place / "outputs", record, "ranking")).to_pylist()
    hit = next(row for row in asked if set(row["gold"]) & set(row["rows"]))
    missed = next((row for row in asked if row["gold_in_corpus"] and not set(row["gold"]) & set(row["rows"])), None)
    for row in (hit, missed):
        if row is None:
            continue
        capsys.readouterr()
        assert cli.main(["show", record.run_id[:12], "--question", row["id"]]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"run {record.run_id[:12]} (dense)  question {row['id']}"
        assert lines[1] == f"question   {row['question']}"
        assert lines[2].startswith(f"answers    {' | '.join(row['answers'])}")
        found = [line.split() for line in lines if re.match(r" {1,2}[0-9]+ +[0-9,]+ ", line)]
        assert [int(words[1]) for words in found] == row["rows"]
        assert [float(words[2]) for words in found] == pytest.approx(row["scores"], rel=1e-3)
        assert {int(words[1]) for words in found if "gold," in words} == set(row["gold"]) & set(row["rows"])
        assert ("gold passages that were not found" in lines) == bool(set(row["gold"]) - set(row["rows"]))
    assert cli.main(["show", record.run_id[:12], "--question", "nobody"]) == 2
    assert "has no question 'nobody'" in capsys.readouterr().err


def test_what_a_reader_would_be_changes_no_search(place):
    assert cli.main(["bench", "debug=tiny"]) == 0
    assert cli.main(["bench", "debug=tiny", "generator.size=s2", "objective=rag_token"]) == 0
    assert len(records(place)) == 1


def test_a_study_of_indexes_is_reported(place, tmp_path, capsys):
    folder = tmp_path / "mine" / "study"
    folder.mkdir(parents=True)
    text = f"""name: mine
metric: index_recall@k
base: [task=retrieval, {", ".join(POINTS)}]
grids:
  - index: [flat, sq]
  - index: ivf
    index.nlist: 8
    index.nprobe: [1, 8]
"""
    (folder / "mine.yaml").write_text(text)
    words = ["study=mine", "--config-dir", str(tmp_path / "mine")]
    assert cli.main(["bench", "-m", *words]) == 0
    found = {(r.config["index"]["kind"], r.config["index"].get("nprobe")): r.metrics for r in records(place)}
    assert len(found) == 4
    assert found["flat", None]["index_recall@k"] == 1.0 == found["ivf", 8]["index_recall@k"]
    assert found["ivf", 1]["index_recall@k"] < 1.0
    capsys.readouterr()
    assert cli.main(["show", records(place)[0].run_id, "--question", "query 0"]) == 0
    shown = capsys.readouterr().out
    assert "gold       unknown" in shown
    assert "answers" not in shown
    assert cli.main(["report", *words]) == 0
    report = place / "outputs" / "studies" / "mine"
    assert (report / "figures" / "recall_against_cost.png").is_file()
    assert "No law was fitted" in (report / "report.html").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["retrieval=oracle"], "measures a search"),
        (["retriever=query"], "no reader that teaches"),
        (["index=ivf", "index.mode=iso_recall", "evaluation.split=train"], "those that are asked must be others"),
        (["corpus=points", "questions=points"], "neither goes without the other"),
        (["corpus=points", "questions=points", "encoder=points", "index=bm25"], "bm25 reads words"),
    ],
)
def test_what_is_no_search_is_refused(place, capsys, overrides, message):
    assert cli.main(["bench", *overrides]) == 2
    assert message in capsys.readouterr().err


def test_questions_without_answers_are_not_read(place, capsys):
    assert cli.main(["run", *POINTS]) == 2
    assert "rag-exp bench" in capsys.readouterr().err


def test_an_exported_search_is_read_again_as_a_run_file(place, capsys):
    assert cli.main(["bench", "debug=tiny"]) == 0
    (searched,) = records(place)
    assert cli.main(["export", searched.run_id[:10], "--trec", "found.trec"]) == 0
    assert "24 questions" in capsys.readouterr().out
    assert cli.main(["bench", "debug=tiny", "retrieval=run", "retrieval.runs=[found.trec]", "retrieval.k=3"]) == 0
    (given,) = (r for r in records(place) if r.run_id != searched.run_id)
    assert given.arm == "run"
    for name in ("gold_recall@k", "mrr", "ndcg@k", "answer_coverage"):
        assert given.metrics[name] == searched.metrics[name] is not None
    assert given.metrics["queries_per_second"] is None


def test_a_run_file_that_is_not_there_is_said_before_any_work(place, capsys):
    assert cli.main(["run", "debug=tiny", "retrieval=run", "retrieval.runs=[nowhere.trec]"]) == 2
    assert "retrieval.runs: no file 'nowhere.trec'" in capsys.readouterr().err
    assert not (place / "outputs" / "store" / "objects").exists()


def test_points_tune_a_dial_on_queries_that_are_not_asked(place):
    tuned = ["index=ivf", "index.nlist=8", "index.mode=iso_recall", "index.recall_target=0.9", "questions.tuning=40"]
    assert cli.main(["bench", *POINTS, *tuned]) == 0
    (record,) = records(place)
    assert record.search["tuning_questions"] == 40
    assert record.search["tuning_reached"] is True
    assert record.sizes["questions"] == 20


def test_an_index_in_shards_is_recorded_with_what_its_shards_learnt_from(place):
    assert cli.main(["bench", *POINTS, "index=ivf", "index.nlist=8", "retrieval.shards=2"]) == 0
    (record,) = records(place)
    for name in ("quantizer", "index_shards/0", "index_shards/1"):
        assert record.seconds[name] > 0
        assert record.bytes[name] > 0
        assert name in record.artifacts
