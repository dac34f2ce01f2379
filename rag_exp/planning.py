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
                it is measured or stated

Codes of a product quantizer are compared by m additions each, after tables of 2 d 2^bits operations a query. A graph
looks at no more than ef_search nodes, each with 2 m links.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from rag_exp.core.options import Options
from rag_exp.retrieval.faiss_file import FaissFile, describe
from rag_exp.retrieval.ivf import MAX_POINTS_PER_LIST

BYTES_PER_NUMBER = 4  # float32
_ID_BYTES = 8
_LIST_ITERATIONS, _CODE_ITERATIONS = 10, 25  # of faiss's k-means
_POINTS_PER_CENTROID = 256  # the most that faiss's k-means uses
_LEAST_POINTS = 16_384  # that a factory index is trained on, where there are so many
_SCALAR_BITS = {"8": 8, "4": 4, "6": 6, "fp16": 16, "bf16": 16}
_FACTORY = re.compile(
    r"(?P<opq>OPQ\d+(_\d+)?,)?(IVF(?P<lists>\d+),)?"
    r"(Flat|SQ(?P<scalar>8|4|6|fp16|bf16)|PQ(?P<m>\d+)(x(?P<bits>\d+))?(fs)?(np)?|(?P<rabitq>RaBitQ))"
)

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
        0.4, gt=0, le=1, description="of flops_per_second, that training, reading and the k-means of an index reach"
    )
    flops_per_second: Rate | None = Field(None, description="of large matrix products; null: measured here")
    bytes_per_second: Rate | None = Field(None, description="to and from disk; null: written here")
    tokens_per_second: Rate | None = Field(
        None, description="embedded; null: measured here, or by FLOPs where flops_per_second or a stand-in is stated"
    )
    seconds: float = Field(10, gt=0, description="that measuring takes in all")


@dataclass(frozen=True)
class Layout:
    """Sizes of an index over vectors, and the operations of building and asking it.

    Attributes:
        per_vector: bytes of one passage: its code, its id, its links.
        learnt: bytes that do not grow with the passages: centroids, codebooks, a rotation. Every shard holds them.
        train_points: vectors that are held in memory while it learns.
        train_flops, add_flops: of training, and of adding one vector; None where they are not known.
        query_flops: of one query; None where they are not known.
    """

    per_vector: float
    learnt: float
    train_points: int
    train_flops: float | None
    add_flops: float | None
    query_flops: float | None

    def bytes(self, size: int) -> float:
        return size * self.per_vector + self.learnt

    def build_flops(self, size: int) -> float | None:
        if self.train_flops is None or self.add_flops is None:
            return None
        return self.train_flops + self.add_flops * size

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
        return Layout(bytes_per_number * dims, 0, 0, 0, 0, 2 * dims * size)
    if options.kind == "hnsw":
        found = graph_layout(options.m, options.ef_search, size, dims)
    elif options.kind == "ivf":
        derived = options.derived(size)
        found = factory_layout(f"IVF{derived['nlist']},Flat", derived.get("nprobe", 1), size, dims, least_points=1)
    elif hasattr(options, "string"):
        probe = re.search(r"nprobe=(\d+)", options.search)
        found = factory_layout(options.filled(size, dims), int(probe[1]) if probe else 1, size, dims)
    elif options.kind == "file":
        found = file_layout(describe(options.path), options.search, size)
    else:
        return None
    if found is not None and options.tuned:
        return replace(found, query_flops=None)
    return found


def file_layout(known: FaissFile, search: str, size: int) -> Layout:
    """An index that was made elsewhere: its bytes as they are, and nothing to be learnt or added.

    Args:
        search: faiss's search parameters, in front of those in the file.
        size: passages that a search is held to.
    """
    given = re.search(rf"{known.dial}=(\d+)", search)
    value = int(given[1]) if given else known.set_to
    compared: float = size
    if known.lists and value:
        compared = known.lists + min(value, known.lists) * size / known.lists
    elif known.links and value:
        compared = min(size, known.links * value)
    counted = not known.compares_codes and (known.dial != "rescore" or known.settles_ties)
    return Layout(known.bytes / known.passages, 0, 0, 0, 0, 2 * known.dims * compared if counted else None)


def graph_layout(m: int, ef_search: int, size: int, dims: int) -> Layout:
    """HNSW of faiss: the vector, 2 m links at the bottom and m in each of 1/(m-1) upper layers, offset and level."""
    links = 4 * (2 * m + m / (m - 1)) + 12
    looked_at = min(size, 2 * m * ef_search)
    return Layout(BYTES_PER_NUMBER * dims + links, 0, 0, 0, None, 2 * dims * looked_at)


def factory_layout(string: str, nprobe: int, size: int, dims: int, least_points: int = _LEAST_POINTS) -> Layout | None:
    """The layout of a factory string: OPQ, inverted lists, and flat, scalar, product or RaBitQ codes, in this order.

    ``least_points``: vectors that are trained on, where the centroids do not ask for more. None for other strings.
    """
    found = _FACTORY.fullmatch(string)
    if found is None:
        return None
    lists, m = int(found["lists"] or 0), int(found["m"] or 0)
    centroids = 2 ** int(found["bits"] or 8) if m else 0
    code: float = BYTES_PER_NUMBER * dims
    learnt: float = BYTES_PER_NUMBER * dims * (lists + centroids + (dims if found["opq"] else 0))
    if found["scalar"]:
        code = math.ceil(_SCALAR_BITS[found["scalar"]] * dims / 8)
        learnt += 2 * BYTES_PER_NUMBER * dims if found["scalar"].isdigit() else 0  # the range of each dimension
    elif m:
        code = math.ceil(m * math.log2(centroids) / 8)
    elif found["rabitq"]:
        code = math.ceil(dims / 8) + 2 * BYTES_PER_NUMBER  # a bit each, and two factors
    used = min(size, max(least_points, MAX_POINTS_PER_LIST * max(lists, centroids)))
    learns = lists or m or (found["scalar"] or "").isdigit()
    train: float = 2 * dims * lists * _LIST_ITERATIONS * min(used, _POINTS_PER_CENTROID * lists)
    if m:
        points = min(used, _POINTS_PER_CENTROID * centroids)
        train += 2 * dims * points * (centroids * _CODE_ITERATIONS + lists)  # codes are of residuals
    scanned = min(nprobe, lists) * size / lists if lists else size
    rotated = 2 * dims * dims if found["opq"] else 0
    query = 2 * dims * (lists + centroids) + scanned * (m or 2 * dims) + rotated
    return Layout(
        per_vector=code + (_ID_BYTES if lists else 0),
        learnt=learnt,
        train_points=used if learns else 0,
        train_flops=None if found["opq"] else train,  # a rotation is learnt in rounds that nobody counts
        add_flops=2 * dims * (lists + centroids) + rotated,
        query_flops=None if found["rabitq"] else query,
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
    """

    flops: float
    bytes: float
    tokens: dict[str, float]


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
    tokens: float = 0
    encoder: str = ""
    shards: int | None = None

    def seconds(self, rates: Rates) -> float | None:
        """Expected wall time on one machine; None where the operations are not known."""
        if self.encoder in rates.tokens:
            return self.tokens / rates.tokens[self.encoder] + self.moved / rates.bytes
        if self.flops is None:
            return None
        return self.flops / (rates.flops * self.share) + self.moved / rates.bytes


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
