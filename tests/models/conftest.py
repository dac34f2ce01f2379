"""A small vocabulary, trained once: what readers need to exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_exp.data.tokenizer import TextTokenizer, train_bpe

TEXTS = [
    "What is the capital of France? Paris is the capital of France.",
    "What is the highest point of Nepal? Mount Everest, 8,849 m, is the highest point of Nepal.",
    "Government type of Fiji: parliamentary republic; population 947,760 (2023 est.)",
    "Norway: kingdom; capital Oslo; highest point Galdhøpiggen 2,469 m",
]


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level BPE of 320 pieces."""
    folder = tmp_path_factory.mktemp("vocabulary")
    train_bpe(TEXTS, 320, folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(vocabulary: Path) -> TextTokenizer:
    return TextTokenizer.load(vocabulary)
