"""Forests of random projections: Annoy (https://github.com/spotify/annoy, extra ``annoy``)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from rag_exp.core.atomic import write_json
from rag_exp.core.errors import DataError
from rag_exp.core.options import SEARCH
from rag_exp.core.rng import derive
from rag_exp.core.scratch import ScratchFolder
from rag_exp.retrieval.exact import as_vectors, rechunk
from rag_exp.retrieval.index import INDEXES, BuiltIndex, VectorIndexOptions, check_width
from rag_exp.retrieval.results import NOTHING, SearchResult

if TYPE_CHECKING:
    import numpy as np

_ROWS = 65_536  # vectors handed over at once
_MOST_CANDIDATES = 4096  # of each tree that tuning tries
_MISSING = "index=annoy needs the package annoy, which is not installed: pip install 'rag-exp[annoy]' (a C++ compiler)"


@INDEXES.register
class Annoy(VectorIndexOptions):
    """Trees that halve the vectors by random hyperplanes, searched together. Held in memory while it is built.

    Metric ``dot`` finds by inner product. ``angular`` finds by angle: of vectors of one length the same; its distances
    are turned back into inner products, so that scores of both are exact.
    """

    kind: Literal["annoy"] = "annoy"
    metric: Literal["dot", "angular"] = Field("dot", description="what neighbours are found by")
    trees: int = Field(32, ge=1, description="more of them find more, and take more memory and time to build")
    search_k: Annotated[int | None, SEARCH] = Field(
        None, ge=1, description="candidates looked at, over all trees; null: trees x k"
    )

    def problems(self, size: int) -> list[str]:
        return [] if find_spec("annoy") else [f"index.kind: {_MISSING}."]

    @property
    def dial(self) -> str:
        return "search_k"

    def dial_values(self, size: int, k: int) -> range:
        return range(k, max(k, self.trees * min(size, _MOST_CANDIDATES)) + 1)

    def create(self, content: Sequence[np.ndarray], seed: int) -> AnnoyForest:
        import numpy as np

        size, dims = sum(len(b) for b in content), content[0].shape[1] if content else 0
        facts: dict[str, Any] = {
            "passages": size,
            "dims": dims,
            "metric": self.metric,
            "trees": self.trees,
            "bytes": 0,
            "build_flops": None,
            "build_flops_reason": "annoy does not count what splitting costs",
            "reproducible": True,
        }
        if not size:
            return AnnoyForest(None, np.empty(0, np.float32), facts, self.search_k)
        native = _forest(dims, self.metric)
        native.set_seed(derive(seed, "annoy") & 0x7FFF_FFFF)
        norms, row = np.empty(size, np.float32), 0
        for block in rechunk(content, _ROWS):
            for vector in block:
                native.add_item(row, vector.tolist())
                row += 1
            norms[row - len(block) : row] = np.linalg.norm(block, axis=1)
        native.build(self.trees, 1)  # one thread: with more, no two builds give the same trees
        home = ScratchFolder("annoy")
        file = Path(home.name) / "index.annoy"
        native.save(str(file))  # and read from there from now on: the memory of the build is free
        facts["bytes"] = file.stat().st_size
        return AnnoyForest(native, norms, facts, self.search_k, file, home)

    def load(self, folder: Path) -> AnnoyForest:
        import numpy as np

        try:
            facts = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            norms = np.load(folder / "norms.npy", allow_pickle=False)
            native, file = None, folder / "index.annoy"
            if facts["passages"]:
                native = _forest(facts["dims"], facts["metric"])
                native.load(str(file))
                if native.get_n_items() != facts["passages"]:
                    raise ValueError(f"{native.get_n_items()} vectors of {facts['passages']}")
        except (OSError, ValueError, KeyError) as e:
            raise DataError(f"{folder}: no readable index there ({e}).") from e
        return AnnoyForest(native, norms, facts, self.search_k, file)


class AnnoyForest(BuiltIndex):
    """Annoy's trees over the vectors themselves, memory-mapped. Which of several tied passages is found is its choice.

    Args:
        native: None where there are no passages.
        norms_N: float32, lengths of the vectors.
        facts: what :meth:`stats` returns.
        search_k: None: trees x k.
        file: where ``native`` is mapped from.
        home: what keeps ``file`` there for as long as this index lives.
    """

    settles_ties = False

    def __init__(
        self,
        native: Any,
        norms_N: np.ndarray,
        facts: dict[str, Any],
        search_k: int | None,
        file: Path | None = None,
        home: ScratchFolder | None = None,
    ):
        self._native, self._norms, self._facts, self._search_k = native, norms_N, facts, search_k
        self._file, self._home = file, home
        self.size, self.dims = facts["passages"], facts["dims"]

    def search(self, queries: np.ndarray, k: int) -> SearchResult:
        import numpy as np

        queries = as_vectors(queries, what="query")
        if self._native is None or not len(queries):
            return SearchResult.empty(len(queries), k)
        check_width(queries, self.dims)
        width = min(k, self.size)
        ids, measures = np.full((len(queries), width), NOTHING, np.int64), np.zeros((len(queries), width), np.float32)
        for q, query in enumerate(queries.tolist()):
            found, measure = self._native.get_nns_by_vector(query, width, self._search_k or -1, include_distances=True)
            ids[q, : len(found)], measures[q, : len(found)] = found, measure
        return SearchResult.of(ids, self._inner_products(queries, ids, measures), k)

    def _inner_products(self, queries: np.ndarray, ids: np.ndarray, measures: np.ndarray) -> np.ndarray:
        """Of annoy's measures: inner products already, or the distance sqrt(2 - 2 cos) of vectors of length one."""
        import numpy as np

        if self._facts["metric"] == "dot":
            return measures
        lengths = np.linalg.norm(queries, axis=1, keepdims=True) * self._norms[ids]
        return (1 - np.square(measures) / 2) * lengths

    def turn(self, value: int) -> None:
        self._search_k = value

    def save(self, folder: Path) -> None:
        import numpy as np

        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "index.json", self._facts)
        np.save(folder / "norms.npy", self._norms, allow_pickle=False)
        if self._native is not None:
            assert self._file is not None
            shutil.copyfile(self._file, folder / "index.annoy")

    def stats(self) -> dict[str, Any]:
        return dict(self._facts)


def _forest(dims: int, metric: str) -> Any:
    try:
        from annoy import AnnoyIndex
    except ImportError as e:
        raise DataError(f"{_MISSING}.") from e
    return AnnoyIndex(dims, metric)
