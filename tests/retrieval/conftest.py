"""What tests of retrieval share: a toy corpus of countries with four fields each, and shards on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rag_exp.data.tokenizer import train_bpe
from rag_exp.retrieval.encoders import passage_text
from rag_exp.retrieval.index import IndexOptions
from rag_exp.retrieval.sharded import ShardJob, ShardPlace, Share
from rag_exp.retrieval.vector_file import write_vectors

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


class ShardFiles:
    """Embeddings and shards below a folder, as the store would hold them."""

    SEED = 3

    def __init__(self, folder: Path):
        self.folder = folder

    @staticmethod
    def clustered(rows: int, dims: int = 16, seed: int = 0) -> np.ndarray:
        """Unit vectors around a few centres, float32 [rows, dims]."""
        rng = np.random.default_rng(seed)
        vectors = np.random.default_rng(99).standard_normal((12, dims))[rng.integers(0, 12, rows)]
        vectors = (vectors + 0.4 * rng.standard_normal((rows, dims))).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def embeddings(self, vectors: np.ndarray) -> tuple[Path, ...]:
        """``vectors`` in three parts, which are not those that an index is cut into."""
        folders = tuple(self.folder / f"embeddings_{n}" for n in range(3))
        for part, place in zip(np.array_split(vectors, 3), folders, strict=True):
            place.mkdir(parents=True)
            write_vectors(place / "vectors.npy", part.shape, [part])
        return folders

    def write(self, options: IndexOptions, vectors: np.ndarray, shards: int) -> list[ShardPlace]:
        """Build the shards of an index over ``vectors``; where each of them lies."""
        embeddings = self.embeddings(vectors)
        shares = [Share(n, shards, len(vectors)) for n in range(shards)]
        if not options.stores_vectors:
            return [ShardPlace(share, options, embeddings=embeddings) for share in shares]
        trained = None
        if options.splits_exactly:
            trained = self.folder / "quantizer"
            options.train([vectors], self.SEED).save(trained)
        places = [ShardPlace(s, options, self.folder / f"shard_{s.number}", trained=trained) for s in shares]
        for place in places:
            assert place.folder is not None
            ShardJob(place.share, options, trained, embeddings, place.folder, self.SEED).build()
        return places


@pytest.fixture
def shard_files(tmp_path: Path) -> ShardFiles:
    return ShardFiles(tmp_path / "shards")
