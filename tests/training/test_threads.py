"""Threads are set inside and given back, whatever happens."""

import subprocess
import sys

import pytest
import torch

from rag_exp.training.threads import shared_threads, torch_threads


def test_threads_are_given_back():
    before = torch.get_num_threads()
    seen = []

    def fails() -> None:
        with torch_threads(before + 1):
            seen.append(torch.get_num_threads())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert (seen, torch.get_num_threads()) == ([before + 1], before)
    with torch_threads(None):
        assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("threads", "processes", "each"), [(8, 2, 4), (8, 3, 2), (1, 2, 1), (None, 1, 5), (None, 2, 2)]
)
def test_processes_share_the_threads(threads, processes, each):
    with torch_threads(5):
        assert shared_threads(threads, processes) == each


def test_no_lightning_is_loaded_for_it():
    code = "import sys, rag_exp.training.threads; assert not any('lightning' in m for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
