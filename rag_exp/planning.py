"""What each stage of a run costs, by formula: bytes, FLOPs and seconds, before anything is built. Imports no torch.

Letters: M passages, d dimensions, L tokens of a passage, P non-embedding parameters of the encoder, Q questions,
C lists of an inverted file, S passages that a query is compared with. A multiply-add is two operations.

    passages    disk  L bytes_per_token M
    embeddings  disk  4 d M                           FLOPs  2 P L M   (attention left out: a few percent)
    index       disk  M (code + id) + what is learnt  FLOPs  k-means (2 d C per point and iteration) + 2 d C M
    exact       reads 4 d M                           FLOPs  2 d M Q
    search      reads the index                       FLOPs  2 d Q (C + S),   S = nprobe M / C of evenly filled lists

    seconds     FLOPs / flops_per_second + bytes written or read / bytes_per_second; training, reading and building
                an index reach a share of that rate (plan.utilization), and embedding has a rate of its own where
                it is measured or stated. On the machine itself an index has its own, of small ones (``speed.py``):
    building    k-means: FLOPs of each shape by its rate, + M (add + 2 d C / (utilization flops_per_second))
    searching   Q (ask + compare S + compare' C), compare' of a vector that is a centroid
    graphs      M add log2(M / 128),  Q ask log2(M / 128)

Codes of a product quantizer are compared by m additions each, after tables of 2 d 2^bits operations a query. A graph
looks at no more than ef_search nodes, each with 2 m links. A rotation is learnt by 50 rounds of k-means of codes (236
iterations in all) and two products each; their singular values are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field

from rag_exp.core.options import Options
from rag_exp.retrieval.faiss_file import FaissFile, describe
from rag_exp.retrieval.ivf import MAX_POINTS_PER_LIST
from rag_exp.retrieval.speed import COARSE, FLAT, LISTS, KMeans, Speed, Trial
from rag_exp.retrieval.topk import BATCH

BYTES_PER_NUMBER = 4  # float32
_ID_BYTES = 8
_LIST_ITERATIONS, _CODE_ITERATIONS = 10, 25  # of faiss's k-means
_POINTS_PER_CENTROID = 256  # the most that faiss's k-means uses
_ROTATION_ROUNDS, _ROTATION_ITERATIONS = 50, 40 + 49 * 4  # of OPQ, and of its k-means over them all
_ROTATION_CENTROIDS, _ROTATION_POINTS = 256, 65_536
_MEASURED_NUMBERS, _MEASURED_CENTROIDS = 2**21, 1024  # of a k-means; faiss compares otherwise from 2^17 numbers on
_BLOCK_CODES = 32  # of fast-scan lists, the last of which is half empty
_LEAST_POINTS = 16_384  # that a factory index is trained on, where there are so many
_SCALAR_BITS = {"8": 8, "4": 4, "6": 6, "fp16": 16, "bf16": 16}
_FACTORY = re.compile(
    r"(OPQ(?P<opq>\d+)(_(?P<out>\d+))?,)?(IVF(?P<lists>\d+),)?"
    r"(?P<codes>Flat|SQ(?P<scalar>8|4|6|fp16|bf16)|PQ(?P<m>\d+)(x(?P<bits>\d+))?(?P<fs>fs)?(np)?|(?P<rabitq>RaBitQ))"
)

Unit = KMeans | tuple[Trial, str]  # an operation of such a k-means, or what a field of :class:`Speed` is the time of
Work = tuple[tuple[Unit, float], ...]  # and how many
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PlanOptions(Options):
    """What ``rag-exp plan`` reckons with: ``plan.KEY=VALUE``, or the mapping ``plan`` of a study."""

    memory: Rate | None = Field(None, description="bytes of a machine that an index may take; null: no shards")
    tokens_per_passage: Rate = Field(130, description="of encoder and reader; a hundred words are about 130")
    tokens_per_question: Rate = Field(12, description="beside the passages of a prompt")
    tokens_per_answer: Rate = Field(7, description="that a reader is scored on, its end included")
    bytes_per_token: Rate = Field(4.5, description="on disk, of texts with titles and ids")
    passages: Rate | None = Field(None, description="of the whole corpus, where its source cannot tell at once")
    questions: Rate = Field(10_000, description="of a split that is asked whole")
    encoder_parameters: Rate | None = Field(
        None, description="non-embedding ones of a transformer that stands in the encoder's place; null: the encoder"
    )
    utilization: float = Field(
        0.4, gt=0, le=1, description="of flops_per_second, that training, reading and building an index reach"
    )
    flops_per_second: Rate | None = Field(None, description="of large matrix products; null: measured here")
    index_flops_per_second: Rate | None = Field(
        None,
        description="of indexes and exact search, which run on CPUs; null: each kind measured here, or "
        "flops_per_second where that is stated",
    )
    bytes_per_second: Rate | None = Field(None, description="to and from disk; null: written here")
    tokens_per_second: Rate | None = Field(
        None, description="embedded; null: measured here, or by FLOPs where flops_per_second or a stand-in is stated"
    )
    seconds: float = Field(10, gt=0, description="that measuring takes in all")


@dataclass(frozen=True)
class Learning:
    """K-means of ``points`` vectors of ``dims`` to ``centroids``, so many ``iterations``, of all sub-spaces in all."""

    dims: int
    centroids: int
    points: int
    iterations: int

    @property
    def flops(self) -> float:
        return 2 * self.dims * self.centroids * self.points * self.iterations

    @property
    def shape(self) -> KMeans:
        """What is measured: as many points and centroids, where that is not much longer than a moment."""
        points = min(self.points, _MEASURED_NUMBERS // self.dims)
        return KMeans(self.dims, min(self.centroids, _MEASURED_CENTROIDS, points), points)


@dataclass(frozen=True)
class Layout:
    """Sizes of an index over vectors, and the operations of building and asking it.

    Attributes:
        per_vector: bytes of one passage: its code, its id, its links.
        learnt: bytes that do not grow with the passages: centroids, codebooks, a rotation. Every shard holds them.
        train_points: vectors that are held in memory while it learns.
        add_flops: of adding one vector; None where they are not known.
        query_flops: of one query; None where they are not known.
        learning: the k-means that train it.
        turned_flops: of learning a rotation, beside its k-means.
        coarse: whole vectors that each one, added or asking, is multiplied with: centroids, rows of a rotation.
        compared: stored vectors that a query is compared with, but for centroids and the nodes of a graph; None
            where they are not known.
        trial: the small index whose speed tells its own; None where none does.
    """

    per_vector: float
    learnt: float
    train_points: int
    add_flops: float | None
    query_flops: float | None
    learning: tuple[Learning, ...] = ()
    turned_flops: float = 0
    coarse: int = 0
    compared: float | None = None
    trial: Trial | None = None

    @property
    def train_flops(self) -> float:
        return sum(k.flops for k in self.learning) + self.turned_flops

    def bytes(self, size: int) -> float:
        return size * self.per_vector + self.learnt

    def build_flops(self, size: int) -> float | None:
        return None if self.add_flops is None else self.train_flops + self.add_flops * size

    def whole_flops(self, size: int) -> float:
        """Those of building that are products of whole vectors, k-means left out."""
        return self.turned_flops + (0 if self.trial is None else 2 * self.trial.dims * self.coarse * size)

    def build_work(self, size: int) -> Work:
        """What building takes beside :meth:`whole_flops`; nothing where no trial tells."""
        if self.trial is None or self.trial.string == FLAT:
            return ()
        adding = (self.trial, "add"), size * self.trial.steps(size)
        return (*((k.shape, k.flops) for k in self.learning), adding)

    def query_work(self, queries: float, size: int) -> Work:
        """What so many queries take, in the same way."""
        if self.trial is None or self.compared is None:
            return ()
        at_once = max(1, min(math.ceil(queries), BATCH))
        trial = self.trial._replace(queries=at_once) if self.trial.string == FLAT else self.trial
        asking = ((trial, "ask"), queries * trial.steps(size))
        compared = ((trial, "compare"), queries * self.compared)
        coarse = ((Trial(COARSE, trial.dims, queries=at_once), "compare"), queries * self.coarse)
        return (asking, compared, coarse) if self.coarse else (asking, compared)

    def shards(self, size: int, memory: float) -> int | None:
        """The fewest shards that each fit into ``memory`` bytes; None where what is learnt alone does not."""
        room = math.floor((memory - self.learnt) / self.per_vector)  # whole passages
        return max(1, math.ceil(size / room)) if room >= 1 else None


def layout(options: Any, size: int, dims: int, bytes_per_number: int = BYTES_PER_NUMBER) -> Layout | None:
    """The layout of an index of the group ``index`` over ``size`` vectors of ``dims``; None where no formula is known.

    A dial that is tuned (``index.mode=iso_recall``) is not known yet, and neither are the operations of a query.

    Args:
        bytes_per_number: of the stored passage vectors, for an index that is searched where they lie.
    """
    if options.kind == "flat":
        trial = Trial(FLAT, dims)
        return Layout(bytes_per_number * dims, 0, 0, 0, 2 * dims * size, compared=size, trial=trial)
    if options.kind == "hnsw":
        found = graph_layout(options.m, options.ef_search, size, dims)
        search = f"efConstruction={options.ef_construction},efSearch={options.ef_search}"
        found = replace(found, compared=0, trial=Trial(f"HNSW{options.m}", dims, search, options.threads))
    elif options.kind == "ivf":
        derived = options.derived(size)
        found = factory_layout(f"IVF{derived['nlist']},Flat", derived.get("nprobe", 1), size, dims, least_points=1)
    elif hasattr(options, "string"):
        probe = re.search(r"\bnprobe=(\d+)", options.search)
        found = factory_layout(options.filled(size, dims), int(probe[1]) if probe else 1, size, dims)
    elif options.kind == "file":
        found = file_layout(describe(options.path), options.search, size)
    else:
        return None
    if found is not None and options.tuned:
        return replace(found, query_flops=None, compared=None)
    return found


def file_layout(known: FaissFile, search: str, size: int) -> Layout:
    """An index that was made elsewhere: its bytes as they are, and nothing to be learnt or added.

    Args:
        search: faiss's search parameters, in front of those in the file.
        size: passages that a search is held to.
    """
    given = re.search(rf"\b{known.dial}=(\d+)", search)
    value = int(given[1]) if given else known.set_to
    compared: float = size
    if known.lists and value:
        compared = known.lists + min(value, known.lists) * size / known.lists
    elif known.links and value:
        compared = min(size, known.links * value)
    counted = not known.compares_codes and (known.dial != "rescore" or known.settles_ties)
    return Layout(known.bytes / known.passages, 0, 0, 0, 2 * known.dims * compared if counted else None)


def graph_layout(m: int, ef_search: int, size: int, dims: int) -> Layout:
    """HNSW of faiss: the vector, 2 m links at the bottom and m in each of 1/(m-1) upper layers, offset and level."""
    links = 4 * (2 * m + m / (m - 1)) + 12
    looked_at = min(size, 2 * m * ef_search)
    return Layout(BYTES_PER_NUMBER * dims + links, 0, 0, None, 2 * dims * looked_at)


def factory_layout(string: str, nprobe: int, size: int, dims: int, least_points: int = _LEAST_POINTS) -> Layout | None:
    """The layout of a factory string: OPQ, inverted lists, and flat, scalar, product or RaBitQ codes, in this order.

    ``least_points``: vectors that are trained on, where the centroids do not ask for more. None for other strings.
    """
    found = _FACTORY.fullmatch(string)
    if found is None:
        return None
    rows, dims = dims, int(found["out"] or dims)  # of a rotation, and what it leaves
    lists, m = int(found["lists"] or 0), int(found["m"] or 0)
    parts = int(found["opq"] or 1)
    if dims % (m or 1) or dims % parts:
        return None  # faiss makes no such index
    centroids = 2 ** int(found["bits"] or 8) if m else 0
    code: float = BYTES_PER_NUMBER * dims
    learnt: float = BYTES_PER_NUMBER * dims * (lists + centroids + (rows if found["opq"] else 0))
    if found["scalar"]:
        code = math.ceil(_SCALAR_BITS[found["scalar"]] * dims / 8)
        learnt += 2 * BYTES_PER_NUMBER * dims if found["scalar"].isdigit() else 0  # the range of each dimension
    elif m:
        code = math.ceil(m * math.log2(centroids) / 8)
    elif found["rabitq"]:
        code = math.ceil(dims / 8) + 2 * BYTES_PER_NUMBER  # a bit each, and two factors
    if found["fs"]:
        learnt += max(lists, 1) * _BLOCK_CODES / 2 * code
    used = min(size, max(least_points, MAX_POINTS_PER_LIST * max(lists, centroids)))
    learning = []
    if lists:
        learning.append(Learning(dims, lists, min(used, _POINTS_PER_CENTROID * lists), _LIST_ITERATIONS))
    if m:
        points = min(used, _POINTS_PER_CENTROID * centroids)
        learning.append(Learning(dims // m, centroids, points, m * _CODE_ITERATIONS))
        learning += [Learning(dims, lists, points, 1)] if lists else []  # codes are of residuals
    turned, coarse = 0, lists
    if found["opq"]:
        points = min(used, _ROTATION_POINTS)
        learning.append(Learning(dims // parts, _ROTATION_CENTROIDS, points, parts * _ROTATION_ITERATIONS))
        turned, coarse = 4 * rows * dims * points * _ROTATION_ROUNDS, lists + rows
    scanned = min(nprobe, lists) * size / lists if lists else size
    learns = lists or m or (found["scalar"] or "").isdigit()
    return Layout(
        per_vector=code + (_ID_BYTES if lists else 0),
        learnt=learnt,
        train_points=used if learns else 0,
        add_flops=2 * dims * (coarse + centroids),
        query_flops=None if found["rabitq"] else 2 * dims * (coarse + centroids) + scanned * (m or 2 * dims),
        learning=tuple(learning),
        turned_flops=turned,
        coarse=coarse,
        compared=scanned,
        trial=Trial((f"IVF{LISTS}," if lists else "") + found["codes"], dims),
    )


def embedding_flops(encoder: Any, passages: int, tokens: float, parameters: float | None) -> float:
    """Operations of embedding ``passages`` of ``tokens`` each.

    Args:
        encoder: options of the group ``encoder``.
        parameters: non-embedding ones of a transformer that takes its place; None: the encoder itself.
    """
    if parameters is None and encoder.precomputed:
        return 0
    if parameters is None and encoder.kind == "static":
        return passages * encoder.dims * (2 * tokens + 12)
    if parameters is None and encoder.kind == "points":
        return passages * encoder.dims * (2 * encoder.inner_dims + 4)
    weights = encoder.parameter_counts(None)["layers"] if parameters is None else parameters
    return 2 * weights * tokens * passages


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second.

    Attributes:
        flops: float32 operations of large matrix products.
        bytes: bytes to or from disk.
        tokens: tokens embedded, by encoder (its options as JSON); of one that is missing its FLOPs tell.
        index_flops: operations of indexes and exact search, where they are stated; None: as ``flops``.
        speeds: what a trial measured, and seconds of an operation of a k-means; of a stage that needs another its FLOPs
            tell.
    """

    flops: float
    bytes: float
    tokens: dict[str, float]
    index_flops: float | None = None
    speeds: Mapping[Trial | KMeans, Speed | float] = field(default_factory=dict)

    def seconds_of(self, unit: Unit) -> float:
        """Raises KeyError where it was not measured."""
        if isinstance(unit, KMeans):
            return self.speeds[unit]
        trial, part = unit
        return getattr(self.speeds[trial], part)


@dataclass(frozen=True)
class Stage:
    """A stage's costs, and how a reader finds them again.

    Attributes:
        name: the kind of step.
        formula: its numbers as they are multiplied, or why they are not known.
        disk: bytes that stay; None where they are not known.
        memory: bytes that must be there at once; None where they are not known.
        flops: operations; None where they are not known.
        at_most: the operations are a bound.
        moved: bytes to and from disk.
        share: the part of the matrix products' rate that it reaches.
        work: amounts of what is measured of indexes.
        whole: operations beside that.
        searches: whether it builds or asks an index, or searches exactly.
        tokens, encoder: tokens that are embedded, and what with.
        shards: parts that fit into a machine each; None: not asked, nothing to cut, or none would fit.
    """

    name: str
    formula: str
    disk: float | None = 0
    memory: float | None = 0
    flops: float | None = 0
    at_most: bool = False
    moved: float = 0
    share: float = 1
    work: Work = ()
    whole: float = 0
    searches: bool = False
    tokens: float = 0
    encoder: str = ""
    shards: int | None = None

    def seconds(self, rates: Rates) -> float | None:
        """Expected wall time on one machine; None where neither the operations are known nor what is measured."""
        if self.encoder in rates.tokens:
            return self.tokens / rates.tokens[self.encoder] + self.moved / rates.bytes
        flops, seconds = self.flops, self.moved / rates.bytes
        if self.work and rates.speeds:
            flops, seconds = self.whole, seconds + sum(n * rates.seconds_of(unit) for unit, n in self.work)
        if flops is None:
            return None
        rate = rates.index_flops if self.searches and rates.index_flops is not None else rates.flops
        return seconds + flops / (rate * self.share)


def bytes_in_words(value: float) -> str:
    """``64512000000 -> "64.5 GB"``: three digits and a decimal unit."""
    for size, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def time_in_words(seconds: float) -> str:
    """``5400 -> "1.5 h"``: three digits."""
    for size, unit in ((365.25 * 86_400, "years"), (86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"
