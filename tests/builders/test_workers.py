"""Processes that share work: what they return, what they are given, and that none outlives whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from rag_exp.builders.workers import Workers, workers, workers_kept

WORK = """
import os, signal, time

def where(seat, folder=None, both=1):
    if folder is not None:  # one alone does not take all tasks
        open(f"{folder}/{os.getpid()}", "w").close()
        while len(os.listdir(folder)) < both:
            time.sleep(0.01)
    return seat.device, seat.threads, os.environ["RAYON_NUM_THREADS"], os.getpid()

def half(seat, number):
    time.sleep(0.01 * (number % 3))
    return number / 2

def counts(seat, units):
    seat.count(units)
    time.sleep(0.7)

def refuses(seat, number):
    error = ValueError("no", number)
    error.add_note("a note")
    raise error

def dies(seat):
    os.kill(os.getpid(), signal.SIGKILL)

def stays(seat, folder):
    open(f"{folder}/{os.getpid()}", "w").close()
    time.sleep(600)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module that every process finds."""
    (tmp_path / "work_of_a_test.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    import work_of_a_test

    yield work_of_a_test
    del sys.modules["work_of_a_test"]


@pytest.fixture
def pids(tmp_path: Path) -> Path:
    """Where processes leave their numbers."""
    folder = tmp_path / "pids"
    folder.mkdir()
    return folder


def test_each_has_its_device_and_all_share_the_work_in_order(work, pids: Path):
    told: list[int] = []
    with Workers(("first", "second"), 3) as two:
        seats = list(two.map(work.where, [(pids, 2)] * 4, told.append))
        assert {seat[0] for seat in seats} == {"first", "second"}
        assert {seat[1:3] for seat in seats} == {(3, "3")}
        assert len({seat[3] for seat in seats} - {os.getpid()}) == 2
        assert not any(told)
        assert list(two.map(work.half, [(n,) for n in range(40)], told.append)) == [n / 2 for n in range(40)]
        assert two.ask(work.half, 5) == 2.5
        told.clear()
        for _ in range(2):  # what was counted before is none of these tasks'
            list(two.map(work.counts, [(3,), (4,)], told.append))
            assert told[-1] == 7
        with pytest.raises(ValueError, match="no") as caught:
            list(two.map(work.refuses, [(7,)], told.append))
        assert caught.value.args == ("no", 7)
        assert caught.value.__notes__ == ["a note"]
        assert "in refuses" in str(caught.value.__cause__)  # where it was raised, in that process
        with pytest.raises(BrokenProcessPool):
            list(two.map(work.dies, [()], told.append))


def test_kept_workers_serve_the_next_and_end_with_the_scope(work):
    ids = []
    with workers_kept():
        for _ in range(2):
            with workers(("cpu",), 1) as one:
                ids.append(one.ask(work.where)[3])
        assert ids[0] == ids[1]
        os.kill(ids[0], 0)
    with pytest.raises(ProcessLookupError):
        os.kill(ids[0], 0)
    with workers(("cpu",), 1) as another:
        assert another.ask(work.where)[3] != ids[0]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_process_that_started_it(work, tmp_path: Path, pids: Path, end: signal.Signals):
    script = tmp_path / "starts.py"
    script.write_text(
        "import work_of_a_test as work\n"
        "from rag_exp.builders.workers import Workers\n"
        "if __name__ == '__main__':\n"
        "    with Workers(('cpu', 'cpu'), 1) as two:\n"
        f"        list(two.map(work.stays, [({str(pids)!r},)] * 9, print))\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: len(list(pids.iterdir())) == 2)
    parent.send_signal(end)
    said = parent.communicate(timeout=20)[1]
    assert said.count("Traceback") == (end == signal.SIGINT), said  # the parent's alone
    wait_until(lambda: not any(alive(int(file.name)) for file in pids.iterdir()))


def wait_until(true, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether there is such a process that has not ended (an orphan's entry may wait for whoever adopted it)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
