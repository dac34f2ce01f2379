"""Loggers mirror; they never decide."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import pytest

from rag_exp.training.loggers import Mirror, mirror
from rag_exp.training.options import LoggerOptions


def test_none_logs_nothing(tmp_path):
    wall = Mirror.build(LoggerOptions(), tmp_path / "logs", "curves")
    assert not wall.there
    wall.log({"loss": 1.0}, 1)
    wall.close()
    assert not (tmp_path / "logs").exists()


def test_csv_writes_a_file_with_every_row(tmp_path):
    wall = Mirror.build(LoggerOptions(kind="csv"), tmp_path, "curves")
    wall.log({"loss": 2.0}, 10)
    wall.log({"loss": 1.5}, 20)
    wall.close()
    assert (tmp_path / "curves" / "metrics.csv").read_text().splitlines() == ["loss,step", "2.0,10", "1.5,20"]


@pytest.mark.parametrize("fails", ["import", "start"])
def test_wandb_that_cannot_start_is_left_out(tmp_path, monkeypatch, caplog, fails):
    if fails == "import":
        monkeypatch.setitem(sys.modules, "wandb", None)
    else:
        monkeypatch.setattr("rag_exp.training.loggers._wandb", lambda *_: (_ for _ in ()).throw(OSError("no disk")))
    with caplog.at_level(logging.WARNING):
        wall = Mirror.build(LoggerOptions(kind="wandb"), tmp_path, "curves")
    assert not wall.there
    assert "logger=wandb cannot be used" in caplog.text


def test_a_logger_that_fails_at_its_end_is_survived(caplog):
    class Logger:
        def finalize(self, status):
            pass

        @property
        def experiment(self):
            raise RuntimeError("gone")

    with caplog.at_level(logging.WARNING):
        Mirror(Logger()).close()
    assert "gone" in caplog.text


def test_a_record_is_mirrored_to_wandb_alone(monkeypatch, tmp_path):
    seen = []

    class Logger:
        def log_hyperparams(self, facts):
            seen.append(facts)

        def log_metrics(self, values, step):
            seen.append(values)

        def finalize(self, status):
            seen.append(status)

    monkeypatch.setattr("rag_exp.training.loggers._wandb", lambda *_: Logger())
    record = SimpleNamespace(
        run_id="abc", arm="dense", config={"seed": 0}, sizes={"N": 5, "M": None}, metrics={"nll": 2.5}, flops={}
    )
    mirror(LoggerOptions(), record, tmp_path)
    assert seen == []
    mirror(LoggerOptions(kind="wandb"), record, tmp_path)
    assert seen[0] == {"run_id": "abc", "arm": "dense", "seed": 0}
    assert seen[1] == {"sizes/N": 5.0, "metrics/nll": 2.5}
