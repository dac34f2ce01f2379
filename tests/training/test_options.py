"""Options of training: what is identity, what is not, and what costs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from rag_exp.core.errors import TrainingError
from rag_exp.training import options as module
from rag_exp.training.options import (
    LoggerOptions,
    OptimOptions,
    TrainerOptions,
    TrainingOptions,
    shared_out,
    stage_optim,
)


def test_machine_and_logger_are_no_part_of_any_identity():
    assert TrainerOptions().identity() == {}
    assert LoggerOptions(kind="csv").identity() == {}


def test_everything_else_is():
    assert set(TrainingOptions().identity()) == set(TrainingOptions.model_fields)
    assert TrainingOptions().identity()["warmup"] == {"steps": 1800, "batch_size": 32, "lr": "auto"}
    assert set(OptimOptions().identity()) == set(OptimOptions.model_fields)


def test_a_stage_is_identified_by_the_rate_it_has():
    assert stage_optim(OptimOptions(lr=1e-3), None) == stage_optim(OptimOptions(lr=5.0), 1e-3)
    assert stage_optim(OptimOptions(lr=1e-3), None) != stage_optim(OptimOptions(lr=1e-3), 2e-3)


@pytest.mark.parametrize(
    "bad", [{"steps": -1}, {"batch_size": 0}, {"warmup": {"stepz": 3}}, {"precision": "16"}, {"bucket": 0}]
)
def test_bad_values_are_refused(bad):
    with pytest.raises(ValidationError):
        TrainingOptions.model_validate(bad)


def test_precision_is_resolved_without_torch(monkeypatch):
    monkeypatch.setattr(module, "cuda_present", lambda: True)
    assert TrainingOptions().resolved_precision() == "bf16"
    assert TrainingOptions().resolved_precision("cpu") == "32"
    assert TrainingOptions(precision="32").resolved_precision("gpu") == "32"
    monkeypatch.setattr(module, "cuda_present", lambda: False)
    assert TrainingOptions().resolved_precision("gpu") == "32"
    assert TrainingOptions(precision="bf16").resolved_precision("cpu") == "bf16"


@pytest.mark.parametrize(("visible", "present"), [("", False), ("-1", False)])
def test_hidden_devices_are_not_there(monkeypatch, visible, present):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert module.cuda_present() is present


def test_a_missing_gpu_is_said(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert TrainerOptions().resolved_device() == "cpu"
    with pytest.raises(TrainingError, match=r"trainer\.device=0: 0 CUDA devices"):
        TrainerOptions(accelerator="gpu").resolved_device()


def test_the_options_import_nothing_heavy():
    code = (
        "import sys, rag_exp.training.options, rag_exp.evaluation.options;"
        "print([m for m in ('torch', 'numpy', 'pytorch_lightning', 'pyarrow', 'wandb') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize(
    ("device", "gpus", "processes", "expected"),
    [
        ("cpu", 0, "auto", ["cpu"]),
        ("mps", 0, "auto", ["mps"]),
        ("cpu", 0, 3, ["cpu"] * 3),
        ("cuda:0", 1, "auto", ["cuda:0"]),
        ("cuda:0", 4, "auto", ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda:2", 4, "auto", ["cuda:2", "cuda:3", "cuda:0", "cuda:1"]),
        ("cuda:2", 4, 1, ["cuda:2"]),
        ("cuda:3", 4, 2, ["cuda:3", "cuda:0"]),
        ("cuda:0", 2, 5, ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]),
    ],
)
def test_processes_that_embed_share_the_gpus(device, gpus, processes, expected):
    assert list(shared_out(device, gpus, processes)) == expected


def test_the_gpus_of_this_machine_are_counted(monkeypatch):
    import torch

    assert TrainerOptions(accelerator="cpu", embedders=2).embedding_devices() == ("cpu", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert TrainerOptions(device=1).embedding_devices() == ("cuda:1", "cuda:0")
    assert TrainerOptions(accelerator="cpu").embedding_devices() == ("cpu",)
