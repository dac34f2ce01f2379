"""The encoder's work is done where the trainer's options say, and what is saved is the same wherever that was."""

import pytest
import torch

from rag_exp import cli
from rag_exp.retrieval.encoder import Encoder
from rag_exp.training.options import TrainerOptions


@pytest.fixture
def moves(monkeypatch):
    """Where encoders were moved, and where and with how many threads they read."""
    moved, read = [], []
    to, vectors = torch.nn.Module.to, Encoder.vectors

    def noted_to(self, device):
        moved.append(str(device))
        return to(self, "cpu")

    def noted_vectors(self, features, role):
        read.append((moved[-1] if moved else None, role, torch.get_num_threads()))
        return vectors(self, features, role)

    monkeypatch.setattr(Encoder, "to", noted_to, raising=False)
    monkeypatch.setattr(Encoder, "vectors", noted_vectors)
    monkeypatch.setattr(TrainerOptions, "resolved_device", lambda self: "cpu:0")
    return moved, read


def test_warm_up_embedding_and_questions_are_encoded_on_the_trainers_device(place, moves):
    moved, read = moves
    before = torch.get_num_threads()
    assert cli.main(["run", "debug=tiny", f"trainer.threads={before + 2}"]) == 0
    # warm-up, one shard of passages, the training and the evaluation questions; each ends on the CPU
    assert moved == ["cpu:0", "cpu"] * 4
    assert {role for _, role, _ in read} == {"question", "passage"}
    assert {(device, threads) for device, _, threads in read} == {("cpu:0", before + 2)}
    assert torch.get_num_threads() == before
