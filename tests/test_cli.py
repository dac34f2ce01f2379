"""The verbs on a small study, and how fast the command starts."""

import json
import shutil
import subprocess
import sys
import time

import pytest

from rag_exp import cli

STUDY = """
name: small
description: three sizes, three corpora
metric: nll
base: [debug=tiny]
grids:
  - generator.size: [s0, s1, s2]
    evaluation.corpus_size: [300, 600, null]
  - evaluation.source: [oracle, random]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "configs" / "study").mkdir(parents=True)
    (folder / "configs" / "study" / "small.yaml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["run", "-m", "study=small"]) == 0
    return folder


@pytest.fixture
def there(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


def test_help_and_unknown_verbs(capsys):
    assert cli.main(["--help"]) == 0
    assert "status study=NAME" in capsys.readouterr().out
    assert cli.main(["statsu"]) == 2
    assert "Did you mean 'status'?" in capsys.readouterr().err
    for verb in cli.VERBS:
        with pytest.raises(SystemExit) if verb in ("show", "export", "diff", "store") else _nothing():
            assert cli.main([verb, "--help"]) == 0
        assert "usage: rag-exp " + verb in capsys.readouterr().out


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def test_a_study_trains_once_per_size(there):
    assert len(list((there / "outputs/store/objects/checkpoint").glob("*"))) == 3
    assert len(list((there / "outputs/runs").glob("*/record.json"))) == 11


def test_status_and_again(there, capsys):
    assert cli.main(["status", "study=small"]) == 0
    out = capsys.readouterr().out
    assert out.count("done    ") == 11
    assert "11 done, 0 running, 0 failed, 0 missing, 11 in the plan" in out
    start = time.perf_counter()
    assert cli.main(["run", "-m", "study=small"]) == 0
    assert time.perf_counter() - start < 20
    assert "built" not in capsys.readouterr().err


def test_a_failed_run_is_listed_and_the_others_finish(there, capsys):
    code = cli.main(
        [
            "run",
            "-m",
            "study=small",
            "generator.size=s0",
            "training.steps=8",
            "optim.grad_clip=0",
            "training.lr=1e30,1e-3",
        ]
    )
    assert code == 1
    captured = capsys.readouterr()
    assert "failed:" in captured.err
    assert (
        cli.main(
            [
                "status",
                "study=small",
                "generator.size=s0",
                "training.steps=8",
                "optim.grad_clip=0",
                "training.lr=1e30,1e-3",
            ]
        )
        == 1
    )
    out = capsys.readouterr().out
    assert "failed  " in out
    assert "done    " in out
    assert cli.main(["run", "-m", "study=small"]) == 0  # the folder of the study is its own again


def test_fit_and_report(there, capsys):
    assert cli.main(["fit", "study=small", "law.bootstrap=40"]) == 0
    assert cli.main(["report", "study=small"]) == 0
    folder = there / "outputs/studies/small"
    page = (folder / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert '<script src="http' not in page
    assert list((folder / "figures").glob("*.png"))
    assert list((folder / "figures").glob("*.pdf"))
    plan = json.loads((folder / "plan.json").read_text())
    assert len(plan["runs"]) == 11
    assert plan["command"] == "rag-exp run -m study=small"


def test_load_study(there):
    import rag_exp

    table = rag_exp.load_study("small")
    assert len(table) == 11
    assert {"N", "M", "K", "nll", "arm"} <= set(table.columns)
    assert table[table.arm == "dense"].N.nunique() == 3


def test_show_diff_store(there, capsys):
    runs = sorted(f.parent.name for f in (there / "outputs/runs").glob("*/record.json"))
    assert cli.main(["show", runs[0][:8]]) == 0
    capsys.readouterr()
    import pyarrow.parquet as pq

    record = json.loads((there / "outputs/runs" / runs[0] / "record.json").read_text())
    if record["status"] == "finished":
        table = pq.read_table(
            there / "outputs/store/objects/evaluation" / record["artifacts"]["evaluation"] / "predictions.parquet"
        )
        assert cli.main(["show", runs[0], "--question", table["id"][0].as_py()]) == 0
        out = capsys.readouterr().out
        assert table["question"][0].as_py() in out
        assert "prior" in out
        assert "posterior" in out
    done = [
        r for r in runs if json.loads((there / "outputs/runs" / r / "record.json").read_text())["status"] == "finished"
    ]
    assert cli.main(["diff", done[0], done[1], "--draws", "200"]) == 0
    assert "nll" in capsys.readouterr().out
    assert cli.main(["show", "zzzz"]) == 2
    assert cli.main(["store", "ls"]) == 0
    assert "checkpoint" in capsys.readouterr().out


def test_gc_never_deletes_what_a_record_needs(home, tmp_path, monkeypatch, capsys):
    shutil.copytree(home / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    before = {f.name for f in (tmp_path / "outputs/store/objects/checkpoint").glob("*")}
    assert cli.main(["store", "gc"]) == 0
    assert {f.name for f in (tmp_path / "outputs/store/objects/checkpoint").glob("*")} == before
    for run in (tmp_path / "outputs/runs").glob("*"):
        shutil.rmtree(run)
    assert cli.main(["store", "gc"]) == 0
    assert not list((tmp_path / "outputs/store/objects").glob("*/*"))


def test_dry_says_sizes_and_store_hits(there, capsys):
    assert cli.main(["run", "--dry", "debug=tiny"]) == 0
    out = capsys.readouterr().out
    assert "non-embedding" in out
    assert "in the store" in out
    assert "to be built" not in out
    assert cli.main(["run", "--dry", "debug=tiny", "seed=5"]) == 0
    out = capsys.readouterr().out
    assert "seed = 5" in out
    assert "FLOPs" in out
    assert cli.main(["run", "--dry", "-m", "study=small"]) == 0
    assert "study small: 11 runs" in capsys.readouterr().out


def test_a_sweep_needs_m(place, capsys):
    assert cli.main(["run", "debug=tiny", "seed=0,1"]) == 2
    assert "-m" in capsys.readouterr().err


def test_cfg_job_is_hydras(place):
    done = subprocess.run(
        [sys.executable, "-m", "rag_exp.cli", "run", "--cfg", "job", "seed=7"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "seed: 7" in done.stdout


def test_joblib_builds_shared_artifacts_once(place):
    """Two processes, six runs that share everything but the search."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = [
        sys.executable,
        "-m",
        "rag_exp.cli",
        "run",
        "-m",
        "debug=tiny",
        "evaluation.k=1,2,3",
        "index@evaluation.index=flat,bm25",
    ]
    done = subprocess.run(
        [*command, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(list((place / "outputs/runs").glob("*/record.json"))) == 6
    assert sum(" built in " in line and " checkpoint " in line for line in done.stderr.splitlines()) == 1


def test_the_law_through_retrieval_a_frontier_and_the_next_run(there, capsys):
    law = ["law=factorised", "law.bootstrap=50"]
    assert cli.main(["fit", "study=small", *law]) == 0
    out = capsys.readouterr().out
    assert "factorised: nll = P u1 + (1 - P) u0" in out
    assert cli.main(["frontier", "study=small", "queries=1e4", "surface=factorised", *law]) == 0
    out = capsys.readouterr().out
    assert "costs in FLOPs: training" in out
    assert (there / "outputs" / "studies" / "small" / "frontier" / "allocation.csv").is_file()
    assert cli.main(["suggest", "study=small", "budget=1e12", *law]) == 0
    out = capsys.readouterr().out
    assert "rag-exp run -m debug=tiny" in out
    assert "generator.size=s" in out
