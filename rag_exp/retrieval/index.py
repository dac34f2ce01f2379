"""What an index is: options that can build or load it, and the built thing that answers searches.

To add one: a class of options derived from :class:`IndexOptions`, registered with ``@INDEXES.register``,
a :class:`BuiltIndex` that it creates and loads, its module named in ``indexes.py``, one file in ``configs/index``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from rag_exp.core.errors import DataError
from rag_exp.core.options import SEARCH, Options, Registry
from rag_exp.retrieval.results import SearchResult

if TYPE_CHECKING:
    import numpy as np

INDEXES = Registry("index")


class IndexOptions(Options):
    """Base of every index's options. Problems and derived values are known before anything is built.

    Attributes:
        needs: what :meth:`create` and the searches take: "vectors" (blocks of float arrays), "texts" (strings), or
            "both" (:class:`rag_exp.retrieval.hybrid.Both`).
        no_exact: why there is no exact search that this index approximates; None where there is.
        seeded: whether the seed given to :meth:`create` can change what is built.
        assigns: of an index that splits exactly, whether queries are assigned to its lists once for all shards.
        stores_vectors: False for an index that searches the embeddings where they lie: there is nothing to save.
        made_elsewhere: it is not built but opened, over the whole corpus that it holds.
        any_width: vectors of any number of dimensions fit, so that :meth:`misfits` need not be asked.
    """

    needs: ClassVar[Literal["vectors", "texts", "both"]] = "vectors"
    no_exact: ClassVar[str | None] = None
    seeded: ClassVar[bool] = True
    assigns: ClassVar[bool] = False
    stores_vectors: ClassVar[bool] = True
    made_elsewhere: ClassVar[bool] = False
    any_width: ClassVar[bool] = True

    def problems(self, size: int) -> list[str]:
        """What keeps this index from being built over ``size`` passages; sentences that start with the config path."""
        return []

    def misfits(self, dims: int) -> list[str]:
        """As :meth:`problems`: what keeps this index from holding, or being searched with, vectors of ``dims``."""
        return []

    def derived(self, size: int) -> dict[str, Any]:
        """Build and search parameters that follow from ``size``, by name."""
        return {}

    @property
    def reads_vectors(self) -> bool:
        """Whether the passages' vectors are needed: to be indexed, or to be compared with."""
        return self.needs != "texts"

    @property
    def named(self) -> str:
        """Its kind, and what more tells it from others of that kind, for messages."""
        return self.kind

    @property
    def tuned(self) -> bool:
        """Whether a search parameter is set by measuring recall before the search (``index.mode=iso_recall``)."""
        return False

    def searched_by(self) -> dict[str, Any]:
        """The fields that identify a search of what was built, as far as they are chosen and not tuned."""
        return self.only(SEARCH)

    @property
    def splits_exactly(self) -> bool:
        """Whether parts of a corpus, each in an index of its own, find together what one index over all finds.

        Ties at rank k included, so it holds only of an index that gives the lowest of tied ids.
        """
        return False

    def train(self, content: Sequence[np.ndarray], seed: int) -> BuiltIndex:
        """Learn from all of ``content`` what :meth:`create` learns, and hold no passage: what shards are filled from.

        Only of kinds that store vectors and split exactly.

        Raises:
            DataError: as :meth:`create`.
        """
        raise NotImplementedError

    def create(self, content: Sequence[np.ndarray] | Iterable[str], seed: int) -> BuiltIndex:
        """Build over blocks of vectors [rows, D] (or over texts), ids running on from 0, in bounded memory.

        Raises:
            DataError: a vector holds NaN or infinity (its row is named).
        """
        raise NotImplementedError

    def load(self, folder: Path) -> BuiltIndex:
        """Open what :meth:`BuiltIndex.save` wrote; search parameters come from these options, not from the file.

        Raises:
            DataError: nothing readable there.
        """
        raise NotImplementedError


class VectorIndexOptions(IndexOptions):
    """What every index over vectors has: its search is asked as it is set, or so that it reaches a recall, and what it
    finds may be scored anew.

    An index that is exact takes all this and has nothing to tune or to rescore.
    """

    mode: Annotated[Literal["fixed", "iso_recall"], SEARCH] = Field(
        "fixed", description="fixed: search parameters as given; iso_recall: tuned until recall@k reaches the target"
    )
    recall_target: Annotated[float, SEARCH] = Field(
        0.95, gt=0, le=1, description="recall@k against exact search that iso_recall tunes to"
    )
    tuning_questions: Annotated[int, SEARCH] = Field(
        512, ge=1, description="questions of the train split that iso_recall measures recall on; none are evaluated"
    )
    rescore: Annotated[int | None, SEARCH] = Field(
        None, ge=1, description="find so many times k candidates, and score them by their vectors; null: do not"
    )

    built: Annotated[Literal["each_size", "once"], SEARCH] = Field(
        "each_size",
        description="each_size: anew over a smaller corpus; once: over the whole corpus, of which a smaller one is "
        "searched by selecting its passages",
    )

    @property
    def selects(self) -> bool:
        """Whether a search can be held to the first passages (``index.built=once``)."""
        return False

    @property
    def rescores(self) -> bool:
        """Whether candidates are scored anew."""
        asked = self.rescore is not None or (self.tuned and self.dial == "rescore")
        return asked and self.stores_vectors

    @property
    def dial(self) -> str | None:
        """The one search parameter whose rise makes recall rise; None where there is none."""
        return None

    def dial_values(self, size: int, k: int) -> range:
        """What the dial may be set to over ``size`` passages, rising; the last one finds the most."""
        raise NotImplementedError

    @property
    def tuned(self) -> bool:
        return self.mode == "iso_recall" and self.dial is not None

    def tuned_by(self) -> dict[str, Any]:
        """The fields that, with the search's own, identify how the dial is set."""
        return {"recall_target": self.recall_target, "questions": self.tuning_questions}

    def searched_by(self) -> dict[str, Any]:
        own = {n: v for n, v in self.only(SEARCH).items() if n not in VectorIndexOptions.model_fields}
        found = {**own, **({"rescore": self.rescore} if self.rescores else {})}
        return {n: v for n, v in found.items() if not (self.tuned and n == self.dial)}


class BuiltIndex(ABC):
    """A searchable index.

    Attributes:
        is_exact: it finds the exact top k, ties included.
        exact_scores: the scores are inner products of the stored float32 vectors, not approximations.
        size: passages held.
        distances: how many stored vectors the last search was compared with (its coarse centroids included),
            over all its queries; None where the index does not tell.
        compares_codes: those are mostly comparisons of codes by tables or bits, no inner products of vectors.
        rescored: candidates among them whose vectors were read to score them anew.
    """

    is_exact: ClassVar[bool] = False
    exact_scores: bool = True
    compares_codes: bool = False
    size: int
    distances: int | None = None
    rescored: int = 0

    @abstractmethod
    def search(self, queries: np.ndarray | Sequence[str], k: int) -> SearchResult:
        """The best ``k`` passages of each query: vectors [Q, D] of any float dtype, or Q strings."""

    def add(self, content: Sequence[np.ndarray]) -> None:
        """Add blocks of vectors [rows, D] to what :meth:`IndexOptions.train` made, ids running on."""
        raise NotImplementedError

    def select(self, first: int) -> None:
        """Let searches find the first ``first`` passages alone."""
        raise NotImplementedError(f"{type(self).__name__} takes no selection")

    def turn(self, value: int) -> None:
        """Set the dial of its options (:attr:`VectorIndexOptions.dial`)."""
        raise NotImplementedError(f"{type(self).__name__} has no dial")

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything :meth:`IndexOptions.load` needs into ``folder`` (made if missing)."""

    @abstractmethod
    def stats(self) -> dict[str, Any]:
        """Plain JSON facts: passages, dims, bytes, build_flops, reproducible, derived parameters."""


def check_width(queries_QD: np.ndarray, dims: int) -> None:
    """Raise a :class:`DataError` when queries and passages cannot come from one encoder."""
    if queries_QD.shape[1] != dims:
        raise DataError(
            f"Queries have {queries_QD.shape[1]} dimensions, the index {dims}: both must come from one encoder."
        )
