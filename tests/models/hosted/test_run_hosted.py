"""Runs with a hosted generator, by the real verbs, against real servers on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rag_exp import cli
from rag_exp.core.record import read_record
from rag_exp.evaluation.predictions import read_predictions
from rag_exp.show import artifact_folder

KEY = "sk-Very-Secret-0123456789"


def command(url: str, *more: str, model: str = "tiny") -> list[str]:
    return [
        "run", "experiment=hosted", "corpus=closed_world_tiny", "questions=closed_world_tiny", "index=bm25",
        f"generator.base_url={url}", f"generator.model={model}", "generator.context=700", "retrieval.k=2",
        "evaluation.questions=4", "evaluation.max_new_tokens=4", "evaluation.batch_size=2",
        "trainer.progress=false", *more,
    ]  # fmt: skip


def only_record(folder: Path):
    (file,) = (folder / "outputs" / "runs").glob("*/record.json")
    return read_record(file)


def test_a_run_with_log_probabilities(served, place, monkeypatch, capsys):
    monkeypatch.setenv("TINY_KEY", KEY)
    served.failures = [(429, {"Retry-After": "0"}), (503, {})]  # of the first request
    more = ("generator.end_token='</s>'", "generator.key_variable=TINY_KEY", "generator.parameters=1000")
    assert cli.main(command(served.url, *more)) == 0
    record = only_record(place)
    assert record.status == "finished", record.error
    assert record.metrics["nll"] > record.metrics["nll_without_end"] > 0
    assert record.metrics["em"] is not None
    assert record.sizes["N"] == 1000
    assert record.sizes["N_total"] is None
    assert "hosted" in record.nulls["N_total"]
    assert record.flops["reading"] > 0
    assert any("is scored with its end token, by echo" in note for note in record.notes)
    assert {header for _, _, header in served.asked} == {f"Bearer {KEY}"}
    sent = len(served.asked)
    assert cli.main(command(served.url, *more)) == 0  # finished: nothing is asked
    assert len(served.asked) == sent
    capsys.readouterr()
    predictions = next((place / "outputs").rglob("predictions.parquet"))
    rows = pq.read_table(predictions).to_pylist()
    assert all(len(r["posterior"]) == 2 and sum(r["posterior"]) == pytest.approx(1) for r in rows)
    assert cli.main(["show", record.run_id[:12], "--question", rows[0]["id"]]) == 0
    assert "without the end token" in capsys.readouterr().out
    for file in place.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


def test_a_killed_run_pays_only_for_what_is_missing(served, place, monkeypatch):
    from rag_exp.models.hosted.endpoint import Endpoint

    sending, sent = Endpoint.post, []

    def killed(self, path, body, tokens, patient=True):
        if patient:
            sent.append(body)
            if len(sent) > 5:
                raise KeyboardInterrupt
        return sending(self, path, body, tokens, patient)

    monkeypatch.setattr(Endpoint, "post", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        raise SystemExit(cli.main(command(served.url, "generator.concurrency=1")))
    monkeypatch.setattr(Endpoint, "post", sending)
    bodies = [str(body) for _, body, _ in served.asked]
    assert cli.main(command(served.url, "generator.concurrency=1")) == 0
    after = [str(body) for _, body, _ in served.asked][len(bodies) :]
    assert len(bodies) == 1 + 5  # the question whether it answers, and what was answered before the kill
    assert set(bodies) & set(after) == {bodies[0]}  # only that question is asked again
    assert len(after) == 1 + 2 * 4 * 2 - 5
    record = only_record(place)
    assert record.metrics["nll"] is None
    assert "nll_without_end" in record.nulls["nll"]
    assert record.metrics["nll_without_end"] > 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["generator.model=tinny"], r"generator.model: .* 404: The model 'tinny' does not exist\. Did you mean 'tiny'"),
        (["generator.base_url=http://127.0.0.1:9/v1"], r"generator.base_url: .* cannot be reached"),
        (["generator.key_variable=NOT_SET_HERE"], r"generator.key_variable: .* NOT_SET_HERE is not set"),
        (["generator.end_token='</end>'"], r"generator.end_token: .* is not one token"),
        (
            ["generator.protocol=chat", "evaluation.decode=none"],
            r"evaluation.decode: none: .* nothing would be measured",
        ),
        (["training.steps=3"], r"training.steps: 3: generator=hosted does not train"),
        (["evaluation.decode=fast"], r"has no beams; use greedy \(over passages it is fast decoding\), thorough"),
        (["evaluation.decode=thorough"], r"evaluation.beam: 4: a hosted generator writes one answer a passage; use 1"),
        (["evaluation.decode=thorough", "evaluation.beam=1"], r"generator.end_token: null: thorough decoding weighs"),
        (["evaluation.decode=choices", "evaluation.choices=[a,b]"], r"say how the endpoint gives them"),
        (
            ["evaluation.decode=choices", "evaluation.choices=[a,b]", "objective=rag_token"],
            r"objective=rag_token mixes passages at every token",
        ),
    ],
)
def test_problems_are_told_before_any_work(served, place, capsys, more, words):
    import re

    assert cli.main(command(served.url, *more)) != 0
    assert re.search(words, capsys.readouterr().err)
    assert not list((place / "outputs").glob("runs/*/record.json"))


def test_a_key_in_place_of_its_name_is_not_repeated(served, place, capsys):
    assert cli.main(command(served.url, f"generator.key_variable={KEY}")) != 0
    assert cli.main(command("http://user:" + KEY + "@127.0.0.1:9/v1")) != 0
    told = capsys.readouterr()
    assert "not the key" in told.err
    assert KEY not in told.err + told.out


def test_it_teaches_a_retriever_and_stays_as_it_is(served, place, capsys):
    taught = ("objective=ensemble", "retriever=query", "index=flat", "encoder.dims=16", "tokenizer.vocab_size=400")
    few = ("training.steps=3", "training.batch_size=2", "trainer.threads=1", "retriever.warmup.steps=2")
    small = ("retriever.warmup.batch_size=16", "retriever.warmup.held_out=40", "evaluation.decode=none")
    words = command(served.url, *taught, *few, *small)
    assert cli.main(words) != 0
    assert "say how the endpoint gives them" in capsys.readouterr().err
    assert cli.main([*words, "generator.logprobs=echo"]) == 0
    record = only_record(place)
    assert record.status == "finished", record.error
    assert record.metrics["nll_without_end"] > 0
    assert record.flops["marginal"] is None
    assert "hosted" in record.nulls["flops.marginal"]
    assert "hosted" in record.nulls["flops.training"]
    found = place / "outputs" / "store" / "objects" / "checkpoint" / record.artifacts["checkpoint"]
    taught_files = [f for f in (found / "question_encoder").rglob("*.safetensors")]
    warmed = place / "outputs" / "store" / "objects" / "encoder" / record.artifacts["encoder"]
    assert taught_files
    assert all(f.read_bytes() != (warmed / f.name).read_bytes() for f in taught_files)
    read = [body for _, body, _ in served.asked if body.get("echo")]
    assert len(read) > 3 * 2 * 2  # each passage of each training question, and those of evaluation


def test_it_teaches_a_prior_over_what_words_find(served, place):
    learns = ("objective=ensemble", "retriever.learn_temperature=true", "retriever.null_document=learned")
    few = ("training.steps=3", "training.batch_size=2", "generator.logprobs=echo", "evaluation.decode=none")
    assert cli.main(command(served.url, *learns, *few)) == 0
    record = only_record(place)
    assert record.status == "finished", record.error
    assert record.metrics["prior_temperature"] != 1.0
    assert record.metrics["null_score"] != 0.0
    assert 0 < record.metrics["prior_on_null"] < 1


def test_token_marginals_where_tokens_agree(served, place):
    assert cli.main(command(served.url, "objective=rag_token", "generator.end_token='</s>'")) == 0
    record = only_record(place)
    assert record.metrics["nll"] > 0
    assert any("not mixed at every token" in note for note in record.notes)


NULL = ("retriever.null_document=fixed", "retriever.null_score=1")


def asked(served, folder: Path, *more: str):
    """The metrics of one more run in ``folder``, and what it predicts."""
    known = set(folder.glob("outputs/runs/*/record.json"))
    scores = ("generator.end_token='</s>'", "generator.logprobs=echo", *NULL)
    assert cli.main(command(served.url, *scores, *more)) == 0
    (file,) = set(folder.glob("outputs/runs/*/record.json")) - known
    record = read_record(file)
    return record.metrics, read_predictions(artifact_folder(folder / "outputs", record, "evaluation")).to_pylist()


def test_answers_are_ranked_by_what_the_endpoint_says_of_them(served, place):
    """Thorough decoding weighs what greedy wrote; a choice that is the answer has minus its nats."""
    _, greedy = asked(served, place)
    metrics, thorough = asked(served, place, "evaluation.decode=thorough", "evaluation.beam=1")
    assert metrics["fast_differs"] is not None
    for one, other in zip(greedy, thorough, strict=True):
        assert other["fast_prediction"] == one["prediction"]
        assert other["prediction"] == other["candidates"][0]
        assert one["prediction"] in other["candidates"]
        assert 1 <= len(other["candidates"]) <= 3
        assert other["candidate_logp"] == sorted(other["candidate_logp"], reverse=True)
        assert other["nll"] == pytest.approx(one["nll"])
        assert sum(one["prior"]) + one["null_prior"] == pytest.approx(1)
    targets = list(dict.fromkeys(row["target"] for row in greedy))
    choices = ",".join(f"'{text}'" for text in targets)
    _, chosen = asked(served, place, "evaluation.decode=choices", f"evaluation.choices=[{choices}]")
    for row in chosen:
        assert sorted(row["candidates"]) == sorted(targets)
        own = row["candidate_logp"][row["candidates"].index(row["target"])]
        assert own == pytest.approx(-row["nll"])
        assert row["prediction"] == row["candidates"][0]


@pytest.fixture(scope="module")
def transformers_serve(saved):
    """``transformers serve`` of the installed version with the tiny model, as a process of its own."""
    pytest.importorskip("fastapi", reason="transformers serve needs the extra transformers[serving]")
    pytest.importorskip("openai", reason="transformers serve needs the extra transformers[serving]")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    words = ["serve", str(saved), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    start = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(
        [sys.executable, "-c", start, *words], env={**os.environ, "HF_HUB_OFFLINE": "1"}, **quiet
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server did not start"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("protocol", ["completions", "chat"])
def test_transformers_serve_gives_text_only(transformers_serve, saved, place, capsys, protocol):
    model = f"'{saved}'"
    assert cli.main(command(transformers_serve, f"generator.protocol={protocol}", model=model)) == 0
    record = only_record(place)
    assert record.status == "finished", record.error
    assert record.metrics["em"] is not None
    for name in ("nll", "nll_without_end", "nll_any", "posterior_on_gold", "nll_per_byte"):
        assert record.metrics[name] is None
        assert "text only" in record.nulls[name]
    assert record.sizes["N"] is None
    assert record.flops["reading"] is None
    rows = pq.read_table(next((place / "outputs").rglob("predictions.parquet"))).to_pylist()
    assert all(isinstance(r["prediction"], str) and r["nll"] is None for r in rows)
    capsys.readouterr()
    assert cli.main(["show", record.run_id[:12], "--question", rows[0]["id"]]) == 0
    assert "text only" in capsys.readouterr().out
