"""Multiple choice from a JSON-lines file to the record: each question's own choices, ranked by a trained reader."""

import json

import pytest

from rag_exp import cli
from rag_exp.core.record import read_record
from rag_exp.evaluation.predictions import read_predictions

COLOURS = ["red", "blue", "green", "violet", "brown"]


def written(place, lacking=()):
    """24 flags and what colour each is, in ARC's form; questions in ``lacking`` have no choices."""
    passages = [{"id": f"p{i}", "title": f"Flag {i}", "text": f"The flag {i} is {COLOURS[i % 5]}."} for i in range(24)]
    questions = []
    for i in range(24):
        texts = [COLOURS[(i + shift) % 5] for shift in (1, 0, 3)]
        questions.append({"question": f"What colour is flag {i}?", "key": "B", "gold": f"p{i}", "id": f"q{i}"})
        questions[i]["set"] = "dev" if i % 2 else "train"
        questions[i]["choices"] = {} if i in lacking else {"text": texts, "label": ["A", "B", "C"]}
    for name, records in (("p", passages), ("q", questions)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


FILES = ["corpus=jsonl", "corpus.files=p.jsonl", "questions=jsonl"]
FILES += ["questions.files.train=q.jsonl", "questions.fields.split=set"]
OF_ARC = [f"questions.fields.{field}" for field in ("answers=key", "choices=choices.text", "labels=choices.label")]
TINY = ["tokenizer.vocab_size=320", "generator.size=s0", "objective=rag_token", "retrieval=oracle", "retrieval.k=1"]
TINY += ["training.warmup.steps=0", "training.steps=2", "training.batch_size=4", "trainer.threads=1"]
TINY += ["trainer.progress=false", "logger=none", "evaluation.decode=choices", "questions.fields.answers_are=labels"]


def test_choices_from_the_file_to_the_record(place):
    written(place)
    assert cli.main(["run", *FILES, *OF_ARC, *TINY]) == 0
    (path,) = (place / "outputs" / "runs").glob("*/record.json")
    record = read_record(path)
    rows = read_predictions(
        place / "outputs/store/objects/evaluation" / record.artifacts["evaluation"] / "predictions.parquet"
    ).to_pylist()
    assert len(rows) == 12
    for row in rows:
        i = int(row["id"][1:])
        assert row["choices"] == [COLOURS[(i + shift) % 5] for shift in (1, 0, 3)]
        assert row["answers"] == [COLOURS[i % 5]]
        assert -row["choice_logp"][1] == pytest.approx(row["nll"], abs=1e-4)
    right = sum(row["prediction"] in row["answers"] for row in rows)
    assert record.metrics["choice_accuracy"] == right / 12
    assert record.metrics["choice_accuracy_norm"] is not None
    assert record.metrics["choice_nll"] > 0


def test_what_lacks_choices_is_told_before_any_training(place, capsys):
    written(place, lacking=[7])
    assert cli.main(["run", *FILES, *OF_ARC, *TINY]) == 2
    assert "q.jsonl, line 8: no field 'choices.text'" in capsys.readouterr().err
    assert cli.main(["run", *FILES, "questions.fields.answers=key", *TINY[:-1]]) == 2
    assert "questions.fields.choices=choices" in capsys.readouterr().err
