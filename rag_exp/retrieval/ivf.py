"""Inverted lists: passages are put in the list of their nearest centroid, a query looks into a few lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from rag_exp.core.options import NEUTRAL, SEARCH
from rag_exp.retrieval.exact import as_vectors
from rag_exp.retrieval.faiss_index import Assigned, FaissIndex, faiss_seed, read_faiss, sample_vectors, shape_of
from rag_exp.retrieval.index import INDEXES, VectorIndexOptions, check_width
from rag_exp.retrieval.products import matrix_products

if TYPE_CHECKING:
    import numpy as np

MIN_POINTS_PER_LIST = 39  # below this faiss warns that k-means centroids are poorly placed
MAX_POINTS_PER_LIST = 64  # training costs lists x points; more than this moves centroids little


def auto_nlist(size: int) -> int:
    """The power of two nearest to 4 sqrt(size) on a log scale (faiss's guideline), at most size / 39, at least 1."""
    if size < MIN_POINTS_PER_LIST:
        return 1
    wanted = round(math.log2(4 * math.sqrt(size)))
    return 2 ** min(wanted, int(math.log2(size // MIN_POINTS_PER_LIST)))


@INDEXES.register
class IVF(VectorIndexOptions):
    """Inverted file over full float32 vectors (Jegou et al. 2011, without compression)."""

    assigns: ClassVar[bool] = True

    kind: Literal["ivf"] = "ivf"
    nlist: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="number of lists; auto: the power of two nearest to 4 sqrt(passages), at most passages/39"
    )
    nprobe: Annotated[int, SEARCH] = Field(8, ge=1, description="lists a query looks into; no more than there are")

    lists: Annotated[Literal["memory", "disk"], NEUTRAL] = Field(
        "memory", description="where the lists lie while they are filled and searched; the same is found"
    )

    def problems(self, size: int) -> list[str]:
        if self.nlist == "auto":
            return []
        found = []
        if self.nlist * MIN_POINTS_PER_LIST > size:
            most = size // MIN_POINTS_PER_LIST
            say = f"index.nlist={most} is the most that will do" if most else "this corpus is too small for ivf"
            found.append(
                f"index.nlist: {self.nlist} lists need {self.nlist * MIN_POINTS_PER_LIST} passages to train on "
                f"({MIN_POINTS_PER_LIST} each), the corpus has {size}; {say}, or index.nlist=auto ({auto_nlist(size)})."
            )
        if self.nprobe > self.nlist and not self.tuned:
            found.append(f"index.nprobe: {self.nprobe} is more than the {self.nlist} lists of index.nlist.")
        return found

    def derived(self, size: int) -> dict[str, Any]:
        nlist = auto_nlist(size) if self.nlist == "auto" else self.nlist
        return {"nlist": nlist, **({} if self.tuned else {"nprobe": min(self.nprobe, nlist)})}

    @property
    def selects(self) -> bool:
        return True

    @property
    def dial(self) -> str:
        return "nprobe"

    def dial_values(self, size: int, k: int) -> range:
        return range(1, self.derived(size)["nlist"] + 1)

    @property
    def splits_exactly(self) -> bool:
        return True

    def create(self, content: Sequence[np.ndarray], seed: int) -> IVFIndex:
        index = self.train(content, seed)
        index.add(content)
        return index

    def train(self, content: Sequence[np.ndarray], seed: int) -> IVFIndex:
        import faiss

        size, dims = shape_of(content)
        nlist = self.derived(size)["nlist"]
        facts: dict[str, Any] = {"passages": 0, "dims": dims, "nlist": nlist, "reproducible": True}
        if not size:
            return IVFIndex(None, {**facts, "train_points": 0, "train_flops": 0}, self)
        native = faiss.IndexIVFFlat(faiss.IndexFlatIP(dims), dims, nlist, faiss.METRIC_INNER_PRODUCT)
        native.cp.seed = faiss_seed(seed, "ivf")
        native.cp.min_points_per_centroid = 1  # too few points are refused by problems(), not warned of on stderr
        points = sample_vectors(content, nlist * MAX_POINTS_PER_LIST, seed)
        facts["train_points"] = len(points)
        native.train(points)
        facts["train_flops"] = 2 * dims * nlist * native.cp.niter * len(points)
        return IVFIndex(native, facts, self)

    def load(self, folder: Path) -> IVFIndex:
        return IVFIndex(*read_faiss(folder, self.lists == "disk"), self)


class IVFIndex(FaissIndex):
    """faiss ``IndexIVFFlat``."""

    def __init__(self, native: Any, facts: dict[str, Any], options: IVF):
        super().__init__(native, facts, options.lists == "disk")
        if native is not None:
            self.turn(options.nprobe)

    def assign(self, queries: np.ndarray) -> Assigned:
        """The lists that each query looks into, which are those of every index filled from the same centroids."""
        queries = as_vectors(queries, what="query")
        check_width(queries, self.dims)
        with matrix_products(*queries.shape):
            scores, lists = self.native.quantizer.search(queries, self.native.nprobe)
        return Assigned(lists, scores)

    def turn(self, value: int) -> None:
        self.native.nprobe = min(value, self._facts["nlist"])

    def _costs(self) -> dict[str, Any]:
        if self.native is None:
            return {"bytes": 0, "build_flops": 0}
        nlist = self._facts["nlist"]
        return {
            "bytes": self.size * (self.dims * 4 + 8) + nlist * self.dims * 4,
            "build_flops": self._facts["train_flops"] + 2 * self.dims * nlist * self.size,
        }
