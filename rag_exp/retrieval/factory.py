"""Any index that faiss's factory language names, and the common ones of it by names of their own.

A factory string (https://github.com/facebookresearch/faiss/wiki/The-index-factory) may hold ``{nlist}``, ``{m}`` and
``{dims}``, which follow from the corpus: ``nlist`` as for ``index=ivf``; ``m``, the sub-quantizers of a product
quantizer, the largest divisor of the dimensions that gives each at least 4 of them; ``dims`` themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from rag_exp.core.errors import DataError, did_you_mean
from rag_exp.core.options import NEUTRAL, SEARCH
from rag_exp.retrieval.dials import dial_range
from rag_exp.retrieval.faiss_costs import adding_flops, training_flops
from rag_exp.retrieval.faiss_index import (
    FaissIndex,
    faiss_seed,
    faiss_threads,
    read_faiss,
    reason,
    sample_vectors,
    set_search,
    shape_of,
    without,
)
from rag_exp.retrieval.index import INDEXES, VectorIndexOptions
from rag_exp.retrieval.ivf import MAX_POINTS_PER_LIST, MIN_POINTS_PER_LIST, auto_nlist
from rag_exp.retrieval.l2 import Lengths

if TYPE_CHECKING:
    import numpy as np

_FILLED = ("nlist", "m", "dims")  # what may stand in braces
_LEAST_POINTS = 16_384  # training points, where there are so many and quantizers have few centroids
_DIMS_PER_CODE = 4
_GRAPH = re.compile(r"HNSW|NSG|NNDescent")
_CENTROID_GRAPH = re.compile(r"IVF(\{nlist\}|\d+)_HNSW\d*")
_CODES = re.compile(r"PQ|RQ|LSQ|RaBitQ|ITQ|LSH")  # compared by tables or bits; a scalar quantizer's are decoded
_CAN_BE_ON_DISK = re.compile(  # lists of plain codes; those for registers come in blocks
    r"([^,]+,)?IVF(\d+|\{nlist\})(_HNSW\d*)?,(Flat|SQ\w+|PQ(\d+|\{m\})(x\d+)?(np)?|RaBitQ)"
)
_SELECTS = re.compile(r"(.+,)?(IVF[^,]*(,[^,]+)?|HNSW\w*(,[^,]+)?|Flat|SQ\w+|RaBitQ\d*)")
_LINKED = re.compile(r"NSG|NNDescent")
_REFINED = re.compile(r"RFlat|Refine")
_UNCOMPRESSED = re.compile(r"(IVF\d+(_HNSW\d+)?,)?Flat|(HNSW|NSG)\d+(,Flat)?")  # scores are true inner products


class FactoryOptions(VectorIndexOptions):
    """What every index by a factory string has."""

    any_width: ClassVar[bool] = False

    string: str = Field(description="faiss factory string; {nlist}, {m} and {dims} follow from the corpus")
    search: Annotated[str, SEARCH] = Field(
        "", description="faiss's search parameters, as in 'nprobe=16' or 'efSearch=64'; empty: faiss's own"
    )

    metric: Literal["inner_product", "l2"] = Field(
        "inner_product", description="what faiss goes by; of l2 the distances are turned back into inner products"
    )
    lists: Annotated[Literal["memory", "disk"], NEUTRAL] = Field(
        "memory", description="where inverted lists lie while they are filled and searched; the same is found"
    )

    def identity(self, *leave_out: str) -> dict[str, Any]:
        found = super().identity(*leave_out)
        if self.metric == "inner_product":
            del found["metric"]  # as all were before there was another
        return found

    def problems(self, size: int) -> list[str]:
        if "ht" in [pair.partition("=")[0].strip() for pair in self.search.split(",")]:
            return ["index.search: ht (polysemous codes): codes are not trained for it here; leave it out."]
        if self.lists == "disk" and not _CAN_BE_ON_DISK.fullmatch(self.string):
            return [f"index.lists: disk: faiss keeps no lists of {self.string} on disk; use index.lists=memory."]
        needed = MIN_POINTS_PER_LIST * self._centroids(size)
        if needed <= size:
            return []
        return [
            f"index.string: {self.filled(size)} trains {self._centroids(size)} centroids, which need {needed} "
            f"passages ({MIN_POINTS_PER_LIST} each), the corpus has {size}; give the lists {{nlist}}, the product "
            "quantizer fewer bits (PQ{m}x4: 624 passages), or use index=sq, which trains none."
        ]

    def misfits(self, dims: int) -> list[str]:
        if unknown := sorted(set(re.findall(r"\{(\w*)\}", self.string)) - set(_FILLED)):
            hint = did_you_mean(unknown[0], _FILLED)
            return [f"index.string: {{{unknown[0]}}} stands for nothing.{hint} Known: {{{'}, {'.join(_FILLED)}}}."]
        if "IDMap" in self.string:
            return ["index.string: passages are numbered by their rows here; leave IDMap out."]
        if "LSH" in self.string:
            return [
                f"index.string: {self.string} compares bits, whose distances are neither inner products nor L2; "
                "index=rabitq makes one bit a dimension that is."
            ]
        return [] if (refused := _refusal(self.filled(1, dims), dims, self.metric, self.search)) is None else [refused]

    def derived(self, size: int) -> dict[str, Any]:
        return {"string": self.filled(size)}

    @property
    def named(self) -> str:
        return f"{self.kind} ({self.string})"

    @property
    def splits_exactly(self) -> bool:
        """Unless passages are linked to each other, or some are looked at again because they are the best of all."""
        return self.metric == "inner_product" and _splits(self.string)

    @property
    def selects(self) -> bool:
        """Only of kinds whose searches faiss holds to a selection: lists, HNSW, and plain codes that are not PQ's."""
        return _SELECTS.fullmatch(self.string) is not None and not _LINKED.search(self.string)

    @property
    def dial(self) -> str:
        """That of the lists, else of the graph; where every code is compared, how many candidates are rescored."""
        return "nprobe" if "IVF" in self.string else "efSearch" if "HNSW" in self.string else "rescore"

    def dial_values(self, size: int, k: int) -> range:
        lists = re.findall(r"IVF(\d+)", self.filled(size))
        return dial_range(self.dial, size, k, int(lists[0]) if lists else 0)

    def searched_by(self) -> dict[str, Any]:
        own = super().searched_by()
        if self.tuned:  # the dial may be one of several parameters in one string
            own["search"] = without(self.dial, self.search)
        return own

    def create(self, content: Sequence[np.ndarray], seed: int) -> FactoryIndex:
        index = self.train(content, seed)
        index.add(content, self._threads)
        return index

    def train(self, content: Sequence[np.ndarray], seed: int) -> FactoryIndex:
        size, dims = shape_of(content)
        string = self.filled(size, dims) if size else self.string
        facts: dict[str, Any] = {"passages": 0, "dims": dims, "string": string, "reproducible": True}
        if not size:
            return FactoryIndex(None, {**facts, "train_points": 0}, self)
        if problems := [*self.misfits(dims), *self.problems(size)]:
            raise DataError(problems[0])
        native = _empty(string, dims, self.metric)
        facts["train_points"] = 0
        if not native.is_trained:
            _seed(native, seed)
            wanted = max(_LEAST_POINTS, MAX_POINTS_PER_LIST * self._centroids(size))
            points = sample_vectors(content, wanted, seed)
            facts["train_points"] = len(points)
            with faiss_threads(self._threads) if self._threads else nullcontext():
                native.train(points)
        facts["train_flops"] = training_flops(native, facts["train_points"])
        return FactoryIndex(native, facts, self)

    def load(self, folder: Path) -> FactoryIndex:
        found = FactoryIndex(*read_faiss(folder, self.lists == "disk"), self)
        if found.lengths is not None:
            found.lengths = Lengths.load(folder)
        return found

    @property
    def _threads(self) -> int | None:
        """Threads that build: one for a graph, which several would link in another order each time."""
        return 1 if _GRAPH.search(self.string) else None

    def filled(self, size: int, dims: int | None = None) -> str:
        """The string over ``size`` passages, filled in; what follows from unknown ``dims`` as it stands."""
        string = self.string.replace("{nlist}", str(auto_nlist(size)))
        if dims is None:
            return string
        m = max(d for d in range(1, max(1, dims // _DIMS_PER_CODE) + 1) if dims % d == 0)
        return string.replace("{m}", str(m)).replace("{dims}", str(dims))

    def _centroids(self, size: int) -> int:
        """The most centroids that one k-means of this string trains; 0 where there is none."""
        string = self.filled(size)
        lists = [int(n) for n in re.findall(r"IVF(\d+)", string)]
        codes = [2 ** int(bits or 8) for bits in re.findall(r"PQ(?:\{m\}|\d+)(?:x(\d+))?(?![\d_])", string)]
        rotations = [256] if "OPQ" in string else []  # learnt with codes of 8 bits, whatever is stored
        return max([n for n in lists if n > 1] + codes + rotations, default=0)


class FactoryIndex(FaissIndex):
    """Whatever faiss made. Compressed codes give approximate scores, of which ``exact_scores`` tells."""

    def __init__(self, native: Any, facts: dict[str, Any], options: FactoryOptions):
        super().__init__(native, facts, options.lists == "disk")
        if options.metric == "l2":
            self.lengths = Lengths()
        self.settles_ties = self.lengths is None and _splits(facts["string"])
        self.exact_scores = _UNCOMPRESSED.fullmatch(facts["string"]) is not None
        self.compares_codes = _CODES.search(facts["string"]) is not None
        self._dial = options.dial
        if native is not None and options.search:
            set_search(native, options.search, facts["string"])

    def turn(self, value: int) -> None:
        set_search(self.native, f"{self._dial}={value}", self._facts["string"])

    def _costs(self) -> dict[str, Any]:
        if self.native is None:
            return {"bytes": 0, "build_flops": 0}
        bytes_ = _bytes(self.native) + (0 if self._lists is None else self._lists.file.stat().st_size)
        bytes_ += 0 if self.lengths is None else self.lengths.squares_N.nbytes
        trained, (adding, why_not) = self._facts.get("train_flops"), adding_flops(self.native)
        if trained is None or adding is None:
            return {"bytes": bytes_, "build_flops": None, "build_flops_reason": why_not}
        return {"bytes": bytes_, "build_flops": trained + adding * self.size}


@INDEXES.register
class Factory(FactoryOptions):
    """Any factory string."""

    kind: Literal["factory"] = "factory"


@INDEXES.register
class SQ(FactoryOptions):
    """Each component in 8 bits (or 4, 6, fp16, bf16): a scalar quantizer over all passages."""

    seeded: ClassVar[bool] = False
    kind: Literal["sq"] = "sq"
    string: str = "SQ8"


@INDEXES.register
class PQ(FactoryOptions):
    """Product quantization (Jegou et al. 2011) over all passages."""

    kind: Literal["pq"] = "pq"
    string: str = "PQ{m}"


@INDEXES.register
class IVFPQ(FactoryOptions):
    """Inverted lists of product-quantized residuals (Jegou et al. 2011)."""

    kind: Literal["ivfpq"] = "ivfpq"
    string: str = "IVF{nlist},PQ{m}"
    search: Annotated[str, SEARCH] = "nprobe=8"


@INDEXES.register
class OPQ(FactoryOptions):
    """The same after a rotation that is learnt for it (Ge et al. 2013)."""

    kind: Literal["opq"] = "opq"
    string: str = "OPQ{m}_{dims},IVF{nlist},PQ{m}"
    search: Annotated[str, SEARCH] = "nprobe=8"


@INDEXES.register
class FastScan(FactoryOptions):
    """Inverted lists of 4-bit codes that are scanned in registers (Andre et al. 2015)."""

    kind: Literal["fastscan"] = "fastscan"
    string: str = "IVF{nlist},PQ{m}x4fs"
    search: Annotated[str, SEARCH] = "nprobe=8"


@INDEXES.register
class RaBitQ(FactoryOptions):
    """Inverted lists of one bit a dimension (Gao and Long 2024)."""

    kind: Literal["rabitq"] = "rabitq"
    string: str = "IVF{nlist},RaBitQ"
    search: Annotated[str, SEARCH] = "nprobe=8"


def _empty(string: str, dims: int, metric: str) -> Any:
    """The index of a filled-in string, before it is trained.

    Raises:
        DataError: faiss makes none.
    """
    import faiss

    try:
        by = faiss.METRIC_INNER_PRODUCT if metric == "inner_product" else faiss.METRIC_L2
        return faiss.index_factory(dims, string, by)
    except RuntimeError as e:
        raise DataError(
            f"index.string: faiss cannot make {string!r} over {dims} dimensions by {metric} ({reason(e)})."
        ) from e


@cache
def _refusal(string: str, dims: int, metric: str, search: str) -> str | None:
    """Why faiss does not take a filled-in string or its search parameters; None where it does."""
    try:
        native = _empty(string, dims, metric)
        if search:
            set_search(native, search, string)
    except DataError as e:
        return str(e)
    return None


def _splits(string: str) -> bool:
    # A graph over the centroids alone is the same for every shard.
    return not (_GRAPH.search(_CENTROID_GRAPH.sub("", string)) or _REFINED.search(string))


def _seed(native: Any, seed: int) -> None:
    """Seed the k-means of lists and codes; too few points are refused by ``problems``, not warned of on stderr."""
    import faiss

    lists = faiss.try_extract_index_ivf(native)
    inner = faiss.downcast_index(lists if lists is not None else native)
    for clustering in [getattr(inner, "cp", None), getattr(getattr(inner, "pq", None), "cp", None)]:
        if clustering is not None:
            clustering.seed = faiss_seed(seed, "factory")
            clustering.min_points_per_centroid = 1
    if hasattr(inner, "do_polysemous_training"):
        # It numbers centroids so that codes could be held against each other bit by bit (search parameter "ht"), takes
        # most of the time of training, and changes no distance.
        inner.do_polysemous_training = False


def _bytes(native: Any) -> int:
    """What the index writes, counted without keeping it."""
    import faiss

    total = 0

    def count(chunk: bytes) -> int:
        nonlocal total
        total += len(chunk)
        return len(chunk)

    faiss.write_index(native, faiss.PyCallbackIOWriter(count))
    return total
