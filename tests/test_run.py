"""One run, end to end, by the real verbs: what it writes, that it resumes, that nothing half-written is believed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rag_exp import cli
from rag_exp.core.record import read_record
from rag_exp.data.passages import PassageTable

TINY = ["debug=tiny"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with one finished run; tests copy it rather than run again."""
    folder = tmp_path_factory.mktemp("home")
    assert run(folder, *TINY) == 0
    return folder


@pytest.fixture
def copy(home, tmp_path):
    shutil.copytree(home / "outputs", tmp_path / "outputs")
    return tmp_path


def run(folder: Path, *overrides: str, verb: str = "run") -> int:
    before = os.getcwd()
    os.chdir(folder)
    try:
        return cli.main([verb, *overrides])
    finally:
        os.chdir(before)


def records(folder: Path):
    return [read_record(f) for f in sorted((folder / "outputs" / "runs").glob("*/record.json"))]


def predictions(folder: Path, record):
    return pq.read_table(
        folder / "outputs" / "store" / "objects" / "evaluation" / record.artifacts["evaluation"] / "predictions.parquet"
    )


def kinds(folder: Path, kind: str):
    return sorted(f.name for f in (folder / "outputs" / "store" / "objects" / kind).glob("*"))


def test_what_is_said_of_a_recall_that_was_tuned_to_and_of_one_that_was_not_reached(home, copy, capsys):
    lossy = ["index@evaluation.index=factory", "evaluation.index.string='IVF{nlist},PQ2x4'"]
    tuned = ["evaluation.index.mode=iso_recall", "evaluation.index.tuning_questions=100"]
    assert run(copy, *TINY, "index@evaluation.index=ivf", *tuned, "evaluation.index.recall_target=0.9") == 0
    assert run(copy, *TINY, *lossy, *tuned) == 0
    found = {r.search.get("tuning_target"): r for r in records(copy)}
    assert found[None].search == {}
    reached, short = found[0.9], found[0.95]
    assert reached.search["nprobe"] >= 1
    assert reached.search["tuning_reached"] is True
    assert reached.metrics["tuning_recall@k"] == reached.search["tuning_recall"] >= 0.9
    assert reached.metrics["index_recall@k"] > 0.8  # on other questions
    assert not reached.notes
    assert short.search["tuning_reached"] is False
    assert (note := short.notes[-1]).startswith("tuning: recall@3 of 0.95 is out of reach: at nprobe=")
    assert note.removeprefix("tuning: ") in capsys.readouterr().err
    assert reached.artifacts["checkpoint"] == short.artifacts["checkpoint"] == found[None].artifacts["checkpoint"]


def test_the_record_says_what_was_done(home):
    (record,) = records(home)
    assert (record.status, record.arm, record.seed) == ("finished", "dense", 0)
    assert record.sizes["M"] == 1200
    assert record.sizes["K"] == 3
    assert record.sizes["questions"] == 24
    assert record.sizes["N"] == sum(
        n for g, n in record.parameters["generator"].items() if g not in ("embedding", "position", "head")
    )
    assert record.sizes["N_total"] == sum(record.parameters["generator"].values())
    assert record.metrics["nll"] > 0
    assert record.metrics["index_recall@k"] == 1.0
    assert record.flops["training"] == pytest.approx(
        record.flops["reader_warmup"] + record.flops["marginal"] + record.flops["retriever_warmup"]
    )
    assert record.flops["embedding"] > 0
    assert record.sizes["D"] > record.sizes["D_target"] > 0
    for name, value in {**record.metrics, **record.flops, **record.sizes}.items():
        if value is None:
            assert name in record.nulls or f"flops.{name}" in record.nulls, f"{name} is null without a reason"
    assert record.versions["torch"]
    assert not any("KEY" in k or "TOKEN" in k for k in json.dumps(record.config))


def test_the_record_says_what_the_corpora_were(copy):
    assert run(copy, *TINY, "evaluation.corpus_size=600") == 0
    assert run(copy, *TINY, "retrieval=closed_book", "training.steps=0") == 0
    closed, small, whole = sorted(records(copy), key=lambda r: r.sizes["M"] or 0)
    assert closed.corpora == {}
    assert closed.nulls["corpora.asked"] == "a closed-book run reads no corpus"
    assert small.corpora["train"] == whole.corpora["train"] == whole.corpora["asked"]
    assert small.sizes["M"] == small.corpora["asked"]["passages"] <= 600
    table = PassageTable.open(copy / "outputs/store/objects/passages" / small.artifacts["passages"])
    for record in (small, whole):
        found, m = record.corpora["asked"], record.sizes["M"]
        assert found["documents"] == len(set(table.documents(range(m))))
        assert found["words"] == sum(len(text.split()) for _, text in table.texts(range(m)))
        assert found["tokens"] > found["words"]
        assert found["digest"] == table.ids_digest(m)
    assert small.corpora["asked"]["digest"] != whole.corpora["asked"]["digest"]


def test_metrics_are_those_of_the_predictions(home):
    from rag_exp.evaluation.metrics import metrics_of

    (record,) = records(home)
    values, _ = metrics_of(predictions(home, record))
    for name, value in values.items():
        assert record.metrics[name] == value


def test_again_is_nothing(home, capsys):
    built = {k: kinds(home, k) for k in ("checkpoint", "evaluation")}
    start = time.perf_counter()
    assert run(home, *TINY) == 0
    assert time.perf_counter() - start < 10
    assert {k: kinds(home, k) for k in ("checkpoint", "evaluation")} == built
    assert "built" not in capsys.readouterr().err


def test_an_evaluation_setting_reuses_the_checkpoint(copy):
    assert run(copy, *TINY, "evaluation.corpus_size=600") == 0
    assert len(kinds(copy, "checkpoint")) == 1
    small = next(r for r in records(copy) if r.sizes["M"] <= 600)
    assert small.metrics["gold_in_corpus"] < 1
    assert small.metrics["nll"] > 0


@pytest.mark.parametrize(
    ("overrides", "arm"),
    [
        (["retrieval=closed_book"], "closed_book"),
        (["evaluation.source=oracle"], "oracle"),
        (["evaluation.source=random"], "random"),
        (["index@evaluation.index=bm25"], "bm25"),
    ],
)
def test_arms(copy, overrides, arm):
    assert run(copy, *TINY, *overrides) == 0
    record = next(r for r in records(copy) if r.arm == arm)
    assert record.status == "finished"
    if arm == "closed_book":
        assert record.sizes["M"] is None
        assert record.metrics["gold_recall@k"] is None
        assert "gold_recall@k" in record.nulls
    if arm == "oracle":
        assert record.metrics["gold_found"] == 1.0
    if arm in ("bm25", "random", "oracle"):
        assert record.metrics["index_recall@k"] is None
        assert record.nulls["index_recall@k"]


@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_indexes_say_their_recall(copy, index):
    assert run(copy, *TINY, f"index@evaluation.index={index}") == 0
    record = next(r for r in records(copy) if r.config["evaluation"].get("index"))
    assert 0 < record.metrics["index_recall@k"] <= 1
    assert record.metrics["queries_per_second"] > 0


def test_an_index_that_is_built_once_is_searched_at_every_size(copy):
    tuned = ["evaluation.index.mode=iso_recall", "evaluation.index.tuning_questions=50"]
    once = ["index@evaluation.index=ivf", "evaluation.index.built=once", "evaluation.index.nprobe=2"]
    for size, more in ((600, []), (900, []), (900, tuned)):
        assert run(copy, *TINY, *once, *more, f"evaluation.corpus_size={size}") == 0
    assert len(kinds(copy, "index")) == 2  # that of the training, and one for all these
    found = [r for r in records(copy) if r.search]
    assert {r.search["built"] for r in found} == {"once"}
    assert sorted(r.sizes["M"] for r in found) == [600, 900, 900]
    assert len({r.artifacts["index"] for r in found}) == 1
    assert all(0.5 < r.metrics["index_recall@k"] <= 1 for r in found)
    few = {r.sizes["M"]: r.metrics["distances_per_query"] for r in found if "tuning_target" not in r.search}
    assert few[600] < few[900]


@pytest.mark.parametrize("train", ["query", "both"])
def test_the_retriever_trains_with_the_reader(copy, train):
    assert run(copy, *TINY, f"retriever={train}", "retriever.refresh_every=2") == 0
    record = next(r for r in records(copy) if r.config["retriever"]["train"] == train)
    assert record.status == "finished", record.error
    frozen = next(r for r in records(copy) if r.config["retriever"]["train"] == "frozen")
    shared = record.artifacts["index"] == frozen.artifacts["index"]
    assert shared == (train == "query"), "with `query` the passages' index stays, with `both` it is built anew"
    a, b = predictions(copy, record), predictions(copy, frozen)
    assert a.column("scores").to_pylist() != b.column("scores").to_pylist()


def test_objectives_and_families_run(copy):
    assert run(copy, *TINY, "objective=rag_token") == 0
    assert run(copy, *TINY, "objective=concat", "generator.context=256") == 0
    assert run(copy, *TINY, "generator=t5", "generator.size=s0") == 0
    assert {r.status for r in records(copy)} == {"finished"}
    assert len(records(copy)) == 4


def test_a_damaged_artifact_is_found_rebuilt_and_said(copy, capsys):
    (record,) = records(copy)
    weights = copy / "outputs/store/objects/checkpoint" / record.artifacts["checkpoint"] / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert run(copy, *TINY, "evaluation.k=2") == 0
    again = next(r for r in records(copy) if r.sizes["K"] == 2)
    assert any("damaged" in note for note in again.notes)
    assert "fails its checksum" in capsys.readouterr().err


def test_a_nan_loss_fails_the_run_and_says_where(copy, capsys):
    assert run(copy, *TINY, "training.lr=1e30", "optim.grad_clip=0", "training.steps=8") == 1
    record = next(r for r in records(copy) if r.status == "failed")
    assert "step" in record.error
    assert "FAILED" in capsys.readouterr().err


def test_bad_data_stops_before_any_work(place, capsys):
    (place / "p.jsonl").write_text('{"id": "a", "title": "t", "text": "x"}\n{"id": "b", "title"')
    (place / "q.jsonl").write_text('{"question": "x?", "answers": ["x"], "gold": ["a"]}\n')
    files = ["corpus=jsonl", "corpus.files=p.jsonl", "questions=jsonl", "retrieval.k=1"]
    files += ["questions.files.train=q.jsonl", "questions.files.dev=q.jsonl"]
    assert cli.main(["run", *files]) == 2
    assert "p.jsonl, line 2" in capsys.readouterr().err
    (place / "p.jsonl").write_text('{"id": "a", "title": "t", "text": "x"}\n{"id": "a", "title": "t", "text": "y"}\n')
    assert cli.main(["run", *files]) == 2
    assert "'a'" in capsys.readouterr().err
    (place / "p.jsonl").write_text('{"id": "b", "title": "t", "text": "x"}\n')
    assert cli.main(["run", *files]) == 2
    assert "gold" in capsys.readouterr().err
    (place / "p.jsonl").write_text("")
    assert cli.main(["run", *files]) == 2
    assert "empty" in capsys.readouterr().err.lower()
    assert not (place / "outputs" / "runs").exists()


LONG = [*TINY, "training.steps=40", "training.warmup.steps=40", "generator.dropout=0.1", "trainer.checkpoint_every=3"]


def start(folder: Path, *overrides: str) -> subprocess.Popen:
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "rag_exp.cli", "run", *overrides],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    """Killed in mid-epoch in each stage, with shuffling and dropout on."""
    for stage in ("reader_warmup", "checkpoint"):
        child = start(tmp_path / "killed", *LONG)
        store = tmp_path / "killed" / "outputs" / "store"
        until = time.monotonic() + 120
        while not list((store / "partial").glob(f"{stage}-*/*.safetensors")):
            assert time.monotonic() < until, "no progress was written"
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not list((store / "objects" / stage).glob("*")), "it was killed too late to tell anything"
    assert not list((tmp_path / "killed" / "outputs" / "runs").glob("*/record.json"))
    for name in ("killed", "unbroken"):
        child = start(tmp_path / name, *LONG)
        assert child.wait(300) == 0, child.stderr.read()
    (a,), (b,) = records(tmp_path / "killed"), records(tmp_path / "unbroken")
    assert a.run_id == b.run_id
    for role in ("reader_warmup", "checkpoint"):
        weights = [
            tmp_path / n / "outputs/store/objects" / role / a.artifacts[role] / "model.safetensors"
            for n in ("killed", "unbroken")
        ]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    assert predictions(tmp_path / "killed", a).equals(predictions(tmp_path / "unbroken", b))
    assert a.metrics["nll"] == b.metrics["nll"]


def test_two_processes_that_start_one_run_do_it_once(tmp_path):
    children = [start(tmp_path, *TINY) for _ in range(2)]
    said = [child.communicate(timeout=300)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    assert sum(text.count("checkpoint") and text.count("evaluation") and "built" in text for text in said) >= 1
    assert sum(line.count(" built in ") for text in said for line in text.splitlines() if " evaluation " in line) == 1
