"""A full or refused disk is said in one way, whoever met it."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from rag_exp.core.atomic import disk_errors, write_text
from rag_exp.core.errors import StoreError

FULL = Path("/dev/full")  # every write to it fails for want of space
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def python_writes(folder):
    with open(folder / "f", "wb") as f:
        f.write(bytes(1 << 16))


def faiss_writes(folder):
    import faiss

    index = faiss.IndexFlatIP(64)
    index.add(np.zeros((1 << 10, 64), np.float32))
    faiss.write_index(index, str(folder / "f"))


@needs_full
@pytest.mark.parametrize("write", [python_writes, faiss_writes])
def test_a_full_disk_is_known_by_whatever_writes(tmp_path, write):
    (tmp_path / "f").symlink_to(FULL)
    with pytest.raises(StoreError, match=r"is full.*rag-exp store gc"), disk_errors(tmp_path):
        write(tmp_path)


def full(*args, **kwargs):
    """As safetensors says it: its writes go by a file of its own, which cannot be made to be on a full disk."""
    from safetensors import SafetensorError

    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_full_disk_is_known_by_its_words(tmp_path):
    with pytest.raises(StoreError, match="is full"), disk_errors(tmp_path):
        full()


def test_a_progress_file_on_a_full_disk_leaves_the_older_one(tmp_path, monkeypatch):
    import torch

    from rag_exp.training.checkpoint import load_progress, save_progress

    model = torch.nn.Linear(2, 2)
    save_progress(tmp_path / "p", 1, model, torch.optim.SGD(model.parameters()), {}, {})
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(StoreError, match="is full"):
        save_progress(tmp_path / "p", 2, model, torch.optim.SGD(model.parameters()), {}, {})
    assert load_progress(tmp_path / "p").step == 1
    assert [f.name for f in tmp_path.iterdir()] == ["p"]


def refused(name):
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))


@pytest.mark.parametrize("name", ["store/objects/x", "store", "."])
def test_access_refused_to_the_place_or_above_it_is_said(tmp_path, name):
    with pytest.raises(StoreError, match=r"store cannot be written .*paths\.root"), disk_errors(tmp_path / "store"):
        raise refused(tmp_path / name)


def test_paths_are_compared_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="cannot be written"), disk_errors(Path("store")):
        raise refused(tmp_path / "store" / "x")


@pytest.mark.parametrize("name", ["corpus.jsonl", "store2/x"])
def test_access_refused_elsewhere_is_no_fault_of_the_place(tmp_path, name):
    with pytest.raises(PermissionError), disk_errors(tmp_path / "store"):
        raise refused(tmp_path / name)


def test_a_refused_replacement_is_said_and_leaves_no_file(tmp_path, monkeypatch):
    def no(source, target):
        raise refused(source)

    monkeypatch.setattr(os, "replace", no)
    with pytest.raises(StoreError, match="cannot be written"):
        write_text(tmp_path / "sub" / "f", "x")
    assert list((tmp_path / "sub").iterdir()) == []


def test_other_errors_pass(tmp_path):
    with pytest.raises(ValueError, match="no"), disk_errors(tmp_path):
        raise ValueError("no")
