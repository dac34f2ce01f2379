"""A toy corpus: countries with four fields each, titles and texts apart, passages of a country neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rag_exp.data.tokenizer import train_bpe
from rag_exp.retrieval.encoders import passage_text

FIELDS = ("capital", "highest point", "area", "climate")
SYLLABLES = ("ba", "ke", "li", "mo", "nu", "ra", "si", "to", "vu", "ze", "dor", "gan", "hil", "pol", "wen", "yar")


class ToyPassages:
    """``PassageTexts`` in memory: document d has four passages, one for each field."""

    def __init__(self, documents: int, seed: int = 0):
        rng = np.random.default_rng(seed)

        def name() -> str:
            return "".join(rng.choice(SYLLABLES, size=3)).capitalize()

        self.names = [f"{name()} {name()}" for _ in range(documents)]
        self.pairs = [(n, f"Facts - {f}: {name()} is the {f} here") for n in self.names for f in FIELDS]
        self.doc_ends = np.arange(1, documents + 1) * len(FIELDS)

    def __len__(self) -> int:
        return len(self.pairs)

    def texts(self, rows: Sequence[int] | np.ndarray) -> list[tuple[str, str]]:
        return [self.pairs[int(r)] for r in rows]

    def questions(self) -> tuple[list[str], list[list[int]]]:
        """Every field of every country, and its gold row."""
        asked = [f"What is the {f} of {n}?" for n in self.names for f in FIELDS]
        return asked, [[row] for row in range(len(self))]


@pytest.fixture(scope="session")
def toy() -> ToyPassages:
    return ToyPassages(60)


@pytest.fixture(scope="session")
def tokenizer_folder(toy: ToyPassages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe((passage_text(*pair) for pair in toy.pairs), 512, folder)
    return folder
