"""Hierarchical navigable small-world graphs (Malkov and Yashunin 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from rag_exp.core.options import SEARCH
from rag_exp.retrieval.dials import dial_range
from rag_exp.retrieval.faiss_index import FaissIndex, faiss_seed, read_faiss, shape_of
from rag_exp.retrieval.index import INDEXES, VectorIndexOptions

if TYPE_CHECKING:
    import numpy as np


@INDEXES.register
class HNSW(VectorIndexOptions):
    """A graph over full float32 vectors, built and searched by inner product.

    The graph's quality rests on vectors of similar length (every encoder here makes unit vectors).
    """

    kind: Literal["hnsw"] = "hnsw"
    m: int = Field(16, ge=2, le=256, description="links of a node in each upper layer; twice that in the lowest")
    ef_construction: int = Field(100, ge=4, description="candidates kept while a node is linked in")
    ef_search: Annotated[int, SEARCH] = Field(64, ge=1, description="candidates kept while searching; at least k are")
    threads: int = Field(
        1, ge=1, description="threads that build; more than 1 is faster, but no two builds give the same graph"
    )

    @property
    def selects(self) -> bool:
        return True

    @property
    def dial(self) -> str:
        return "ef_search"

    def dial_values(self, size: int, k: int) -> range:
        return dial_range("efSearch", size, k)

    def create(self, content: Sequence[np.ndarray], seed: int) -> HNSWIndex:
        import faiss

        size, dims = shape_of(content)
        facts: dict[str, Any] = {"passages": 0, "dims": dims, "m": self.m, "reproducible": self.threads == 1}
        if not size:
            return HNSWIndex(None, {**facts, "bytes": 0, "build_flops": 0}, self.ef_search)
        native = faiss.IndexHNSWFlat(dims, self.m, faiss.METRIC_INNER_PRODUCT)
        native.hnsw.efConstruction = self.ef_construction
        native.hnsw.rng = faiss.RandomGenerator(faiss_seed(seed, "hnsw"))
        index = HNSWIndex(native, facts, self.ef_search)
        index.add(content, self.threads)
        return index

    def load(self, folder: Path) -> HNSWIndex:
        return HNSWIndex(*read_faiss(folder), self.ef_search)


class HNSWIndex(FaissIndex):
    """faiss ``IndexHNSWFlat``. May find fewer than k passages where the graph is not connected; those are masked."""

    settles_ties = False  # the candidates kept depend on how many are asked for

    def __init__(self, native: Any, facts: dict[str, Any], ef_search: int):
        super().__init__(native, facts)
        if native is not None:
            self.turn(ef_search)

    def turn(self, value: int) -> None:
        self.native.hnsw.efSearch = value

    def _costs(self) -> dict[str, Any]:
        graph = self.native.hnsw
        links = graph.neighbors.size() * 4 + graph.offsets.size() * 8 + graph.levels.size() * 4
        return {
            "bytes": self.size * self.dims * 4 + int(links),
            "build_flops": None,
            "build_flops_reason": "faiss does not count comparisons while it builds a graph",
        }
