"""Folders for work in progress."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rag_exp.core.scratch import ScratchFolder, sweep

OWNER = """
import sys, time
from rag_exp.core.scratch import ScratchFolder
mine = ScratchFolder("test")
print(mine.name, flush=True)
time.sleep(60)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def old(folder: Path) -> None:
    os.utime(folder / ".lock", (time.time() - 3600,) * 2)


def test_a_folder_ends_with_its_owner(place):
    mine = ScratchFolder("test")
    folder = Path(mine.name)
    assert folder.parent == place
    (folder / "file").write_text("x")
    del mine
    assert not folder.exists()


def test_what_the_living_hold_or_have_just_made_stays(place):
    mine = ScratchFolder("test")
    old(Path(mine.name))
    young = place / "rag-exp-test-young"
    young.mkdir()
    (young / ".lock").touch()
    (place / "rag-exp-without-a-lock").mkdir()
    assert sweep(place) == []
    assert Path(mine.name).is_dir()
    assert young.is_dir()


def test_what_a_killed_process_left_is_swept(place):
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(place)}
    ) as owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        old(folder)
        assert sweep(place) == []
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert folder.is_dir()
    old(folder)
    assert sweep(place) == [folder]
    assert not folder.exists()
