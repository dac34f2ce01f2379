"""The exact index: every query is compared with every passage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rag_exp.core.errors import DataError
from rag_exp.retrieval.embeddings import storage_of
from rag_exp.retrieval.exact import as_vectors, exact_topk
from rag_exp.retrieval.index import INDEXES, BuiltIndex, VectorIndexOptions, check_width
from rag_exp.retrieval.results import SearchResult
from rag_exp.retrieval.vector_file import write_vectors

if TYPE_CHECKING:
    import numpy as np

_BLOCK = 65_536  # rows that faiss reads at once from the memory map


@INDEXES.register
class Flat(VectorIndexOptions):
    """Exact inner-product search over the vectors as they are stored. Nothing to set, nothing lost."""

    seeded: ClassVar[bool] = False
    stores_vectors: ClassVar[bool] = False

    kind: Literal["flat"] = "flat"

    @property
    def selects(self) -> bool:
        return True  # it reads the vectors where they lie, of a smaller corpus its own alone

    @property
    def splits_exactly(self) -> bool:
        return True

    def create(self, content: Sequence[np.ndarray], seed: int) -> FlatIndex:
        first = 0
        for block in content:
            for start in range(0, len(block), _BLOCK):
                as_vectors(block[start : start + _BLOCK], first_row=first + start)
            first += len(block)
        return FlatIndex(list(content))

    def load(self, folder: Path) -> FlatIndex:
        import numpy as np

        try:
            return FlatIndex([np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)])
        except (OSError, ValueError) as e:
            raise DataError(f"{folder}: no readable flat index there ({e}).") from e


class FlatIndex(BuiltIndex):
    """The vectors themselves, in memory or memory-mapped. Holds no copy of blocks it is given."""

    is_exact = True

    def __init__(self, blocks: list[np.ndarray]):
        self._blocks = blocks
        self.size = sum(len(b) for b in blocks)
        self.dims = blocks[0].shape[1] if blocks else 0

    def search(self, queries: np.ndarray, k: int) -> SearchResult:
        queries = as_vectors(queries, what="query")
        if self.size:
            check_width(queries, self.dims)
        self.distances = len(queries) * self.size
        parts = (b[i : i + _BLOCK] for b in self._blocks for i in range(0, len(b), _BLOCK))
        return exact_topk(queries, parts, k)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_vectors(folder / "vectors.npy", (self.size, self.dims), self._blocks, storage_of(self._blocks))

    def stats(self) -> dict[str, Any]:
        import numpy as np

        return {
            "passages": self.size,
            "dims": self.dims,
            "bytes": self.size * self.dims * np.dtype(storage_of(self._blocks)).itemsize,
            "build_flops": 0,
            "reproducible": True,
        }
