"""Dense and lexical search together: the rankings of two indexes fused into one.

``rrf`` is reciprocal rank fusion (Cormack, Clarke and Buettcher 2009, eq. 1): score(d) = sum over both rankings of
1 / (c + rank of d), ranks from 1; a passage that a ranking does not hold adds nothing. ``weighted`` is the convex
combination w dense + (1 - w) lexical of scores brought to [0, 1] over each query's candidates (Bruch et al. 2023).

Neither score is an inner product. Those of ``rrf`` lie within 2 / (c + 1) of each other, so that the softmax over them
is nearly flat unless ``retriever.temperature`` is as small as that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from rag_exp.core.atomic import write_json
from rag_exp.core.errors import DataError
from rag_exp.core.options import SEARCH
from rag_exp.retrieval.annoy_index import Annoy
from rag_exp.retrieval.factory import IVFPQ, OPQ, PQ, SQ, Factory, FastScan, RaBitQ
from rag_exp.retrieval.flat import Flat
from rag_exp.retrieval.hnsw import HNSW
from rag_exp.retrieval.index import INDEXES, BuiltIndex, IndexOptions
from rag_exp.retrieval.ivf import IVF
from rag_exp.retrieval.lexical import BM25
from rag_exp.retrieval.milvus_index import Milvus
from rag_exp.retrieval.rescore import rescored
from rag_exp.retrieval.results import NOTHING, SearchResult

if TYPE_CHECKING:
    import numpy as np

Dense = Annotated[
    Flat | IVF | HNSW | SQ | PQ | IVFPQ | OPQ | FastScan | RaBitQ | Factory | Annoy | Milvus,
    Field(discriminator="kind"),
]


@dataclass(frozen=True)
class Both:
    """Passages or questions as vectors and as texts, in one order.

    Attributes:
        vectors: of passages, blocks [rows, D]; of questions, one array [Q, D].
        texts: as many.
    """

    vectors: Any
    texts: Any

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, rows: slice) -> Both:
        return Both(self.vectors[rows], self.texts[rows])


@INDEXES.register
class Hybrid(IndexOptions):
    """A dense index and BM25, each asked for its candidates, their rankings fused."""

    needs: ClassVar[Literal["vectors", "texts", "both"]] = "both"
    any_width: ClassVar[bool] = False
    no_exact: ClassVar[str] = "hybrid fuses two rankings: there is no exact search of its own that it approximates"

    kind: Literal["hybrid"] = "hybrid"
    dense: Dense = Field(Flat(), description="any index over vectors; its search parameters as they are given")
    lexical: BM25 = Field(BM25(), description="the other ranking")
    fusion: Annotated[Literal["rrf", "weighted"], SEARCH] = Field("rrf", description="by ranks or by scores")
    rrf_c: Annotated[float, SEARCH] = Field(60.0, ge=0, description="rrf: how little the first ranks stand out")
    weight: Annotated[float, SEARCH] = Field(0.5, ge=0, le=1, description="weighted: of the dense score")
    candidates: Annotated[int, SEARCH] = Field(100, ge=1, description="of each ranking; at least k are")

    def misfits(self, dims: int) -> list[str]:
        return [p.replace("index.", "index.dense.") for p in self.dense.misfits(dims)]

    def problems(self, size: int) -> list[str]:
        found = [p.replace("index.", "index.dense.") for p in self.dense.problems(size)]
        if self.dense.tuned:
            found.append(
                "index.dense.mode: iso_recall tunes an index to what it finds by itself; inside a hybrid use "
                "index.dense.mode=fixed."
            )
        if self.dense.built == "once":
            found.append("index.dense.built: once: a hybrid takes no selection of passages; use each_size.")
        return found

    def derived(self, size: int) -> dict[str, Any]:
        return {"dense": self.dense.kind, **self.dense.derived(size)}

    def searched_by(self) -> dict[str, Any]:
        of_fusion = {"rrf": "rrf_c", "weighted": "weight"}[self.fusion]
        own = {name: getattr(self, name) for name in ("fusion", of_fusion, "candidates")}
        return {**own, "dense": self.dense.searched_by()}

    def create(self, content: Both, seed: int) -> HybridIndex:
        """Build both over passages of which ``content`` holds blocks of vectors and an iterable of texts."""
        dense = self.dense.create(content.vectors, seed)
        lexical = self.lexical.create(content.texts, seed)
        return HybridIndex(rescored(dense, self.dense, content.vectors), lexical, self)

    def load(self, folder: Path, blocks: Sequence[np.ndarray] = ()) -> HybridIndex:
        """Open what :meth:`HybridIndex.save` wrote.

        Args:
            blocks: the passages' vectors, for a dense index that reads them where they lie, or scores by them.
        """
        try:
            facts = json.loads((folder / "hybrid.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise DataError(f"{folder}: no readable hybrid index there ({e}).") from e
        if self.dense.stores_vectors:
            dense = self.dense.load(folder / "dense")
        else:
            dense = self.dense.create(blocks, 0)
        if dense.size != facts["passages"]:
            raise DataError(f"{folder}: the dense part holds {dense.size} of {facts['passages']} passages.")
        return HybridIndex(rescored(dense, self.dense, blocks), self.lexical.load(folder / "lexical"), self)


class HybridIndex(BuiltIndex):
    """Both indexes over the same passages. ``distances`` are those of the dense one: BM25 compares no vectors."""

    exact_scores = False

    def __init__(self, dense: BuiltIndex, lexical: BuiltIndex, options: Hybrid):
        if dense.size != lexical.size:
            raise DataError(f"A hybrid's parts hold {dense.size} and {lexical.size} passages; they must be the same.")
        self._dense, self._lexical, self._options = dense, lexical, options
        self.size, self.compares_codes = dense.size, dense.compares_codes

    def search(self, queries: Both, k: int) -> SearchResult:
        options = self._options
        wide = max(1, min(self.size, max(k, options.candidates)))
        dense = self._dense.search(queries.vectors, wide)
        self.distances, self.rescored = self._dense.distances, self._dense.rescored
        lexical = with_words_in_common(self._lexical.search(queries.texts, wide))
        if options.fusion == "rrf":
            return fuse(dense, lexical, by_rank(dense, options.rrf_c), by_rank(lexical, options.rrf_c), k)
        return fuse(dense, lexical, options.weight * to_unit(dense), (1 - options.weight) * to_unit(lexical), k)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "hybrid.json", {"passages": self.size})
        if self._options.dense.stores_vectors:
            self._dense.save(folder / "dense")
        self._lexical.save(folder / "lexical")

    def stats(self) -> dict[str, Any]:
        dense, lexical = self._dense.stats(), self._lexical.stats()
        flops = {name: dense[name] for name in ("build_flops", "build_flops_reason") if name in dense}
        return {
            "passages": self.size,
            "dims": dense["dims"],
            "bytes": dense["bytes"] + lexical["bytes"],
            **flops,
            "reproducible": dense["reproducible"] and lexical["reproducible"],
            "dense": dense,
            "lexical": lexical,
        }


def with_words_in_common(found: SearchResult) -> SearchResult:
    """Without the passages that only fill up: those of score 0, which share no word with the question."""
    import numpy as np

    return SearchResult.of(np.where(found.scores_QK > 0, found.ids_QK, NOTHING), found.scores_QK, found.k)


def by_rank(found: SearchResult, c: float) -> np.ndarray:
    """1 / (c + rank), float [Q, K], ranks from 1."""
    import numpy as np

    return np.broadcast_to(1 / (c + np.arange(1, found.k + 1)), found.ids_QK.shape)


def to_unit(found: SearchResult) -> np.ndarray:
    """Scores of each query's passages brought to [0, 1], float [Q, K]; 1 where all are equal, 0 where there is none."""
    import numpy as np

    low_Q1 = np.where(found.mask_QK, found.scores_QK, np.inf).min(axis=1, keepdims=True)
    high_Q1 = found.scores_QK.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):  # a query that found nothing, or equal scores
        unit = (found.scores_QK - low_Q1) / (high_Q1 - low_Q1)
    return np.where(found.mask_QK, np.where(high_Q1 > low_Q1, unit, 1.0), 0.0)


def fuse(one: SearchResult, other: SearchResult, of_one: np.ndarray, of_other: np.ndarray, k: int) -> SearchResult:
    """The best ``k`` passages by the sum of what both rankings give them."""
    import numpy as np

    ids = np.concatenate([one.ids_QK, other.ids_QK], axis=1)
    gains = np.concatenate([of_one, of_other], axis=1)
    order = np.argsort(ids, axis=1, kind="stable")
    ids, gains = np.take_along_axis(ids, order, axis=1), np.take_along_axis(gains, order, axis=1)
    again = (ids[:, 1:] == ids[:, :-1]) & (ids[:, 1:] >= 0)  # of both rankings: at most two neighbours
    gains[:, :-1] += np.where(again, gains[:, 1:], 0.0)
    ids[:, 1:][again] = NOTHING
    return SearchResult.of(ids, gains, k)
