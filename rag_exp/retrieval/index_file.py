"""An index that faiss made elsewhere, searched where it lies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from rag_exp.core.atomic import write_json
from rag_exp.core.errors import DataError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.options import NEUTRAL, SEARCH
from rag_exp.retrieval.dials import dial_range
from rag_exp.retrieval.embeddings import take_vectors
from rag_exp.retrieval.exact import rechunk
from rag_exp.retrieval.faiss_file import FaissFile, OpenFile, describe
from rag_exp.retrieval.faiss_index import ADD_ROWS, Assigned, FaissIndex, set_search, without
from rag_exp.retrieval.index import INDEXES, VectorIndexOptions
from rag_exp.retrieval.l2 import Lengths
from rag_exp.retrieval.numbering import Numbering, PassageIds, rows_of
from rag_exp.retrieval.results import NOTHING, SearchResult

if TYPE_CHECKING:
    import numpy as np

_LOOKED_AT = 64  # passages whose vectors in the file are held against those of the encoder
_FAR = 0.5  # of a vector's length: another encoder's, or another passage's
_SAME_LENGTH = 1e-3  # by which squares of lengths that are the same may differ
_ELSEWHERE = "the index was built elsewhere"
_HERE = ContentDigests()  # content is read once in a process, as that of every artifact


@dataclass(frozen=True)
class Named:
    """The encoder's vectors of a whole corpus, blocks [rows, D] (none: not known), and the ids of its passages."""

    vectors: Sequence[np.ndarray]
    passages: PassageIds


@INDEXES.register
class File(VectorIndexOptions):
    """A file of ``faiss.write_index``: any index over float vectors by inner product or L2 distance, an IDMap around
    it or not. It holds a whole corpus, of which a smaller one can be searched by selection (``built=once``), where its
    type takes one.

    ``ids`` names its vectors: line i (from 0) is the id of the passage that faiss calls i. Without it, the numbers that
    faiss gives are the passages' ids: those of ``add_with_ids``, or positions.

    L2 distances are turned back into inner products. So are those of vectors that were lifted by one dimension to have
    one length (Bachrach et al. 2014, as DPR does for HNSW), which make the nearest those of the largest inner product.
    """

    seeded: ClassVar[bool] = False
    made_elsewhere: ClassVar[bool] = True
    any_width: ClassVar[bool] = False

    kind: Literal["file"] = "file"
    # NEUTRAL: files are identified by what is in them (content()), not by where they lie.
    path: Annotated[str, NEUTRAL] = Field(min_length=1, description="a file of faiss.write_index")
    ids: Annotated[str | None, NEUTRAL] = Field(
        None,
        description="the passage id of each of its vectors, by faiss's number: text lines, or .npy of strings; null: "
        "the numbers are the ids",
    )
    search: Annotated[str, SEARCH] = Field(
        "", description="faiss's search parameters, as in 'nprobe=16' or 'efSearch=64'; empty: those in the file"
    )

    compared: bool = Field(
        True,
        description="hold what is found against exact search, for which passages are embedded here; false: none is",
    )

    @property
    def reads_vectors(self) -> bool:
        return self.compared

    @property
    def no_exact(self) -> str | None:  # type: ignore[override]
        return None if self.compared else "index.compared=false: passages are not embedded to be compared with"

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        """What the files hold, by digest."""
        return {"path": digests.of(self.path), "ids": None if self.ids is None else digests.of(self.ids)}

    def misfits(self, dims: int) -> list[str]:
        if self.ids is not None and not Path(self.ids).is_file():
            return [f"index.ids: no file {self.ids!r} (looked from {Path.cwd()})."]
        try:
            known = describe(self.path)
            if self.search:
                set_search(OpenFile(self.path).native, self.search, known.type)
        except DataError as e:
            return [str(e) if str(e).startswith("index.") else f"index.path: {e}"]
        if not known.passages:
            return [f"index.path: {self.path} holds no vectors."]
        found = []
        if known.dims != dims and not (known.dims == dims + 1 and known.metric == "l2" and known.exact_scores):
            found.append(
                f"index.path: {self.path} holds vectors of {known.dims} dimensions, the encoder's have {dims}."
            )
        unlike = "index.compared: false: without the encoder's vectors of the passages"
        if not self.compared and self.tuned:
            found.append(f"{unlike} there is no recall to tune to; use index.mode=fixed, or index.compared=true.")
        if not self.compared and self.rescore is not None:
            found.append(f"{unlike} nothing can be scored anew; use index.rescore=null, or index.compared=true.")
        if not self.compared and known.metric == "l2" and not known.exact_scores:
            found.append(f"{unlike} L2 distances of codes are no inner products; use index.compared=true.")
        return found

    def rows_in(self, passages: PassageIds) -> Numbering:
        """Which passage each of its vectors is.

        Raises:
            DataError: vectors and passages do not match one to one, or a vector has the number of nothing found.
        """
        own_N, called_N = OpenFile(self.path).numbers()
        if (own_N == NOTHING).any():
            raise DataError(f"{self.path}: one of its vectors has the number {NOTHING}, by which faiss finds nothing.")
        return Numbering.of(own_N, rows_of(called_N, self.path, self.ids, passages))

    def refuse_change(self, known: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Raise a :class:`DataError` where the :meth:`content` that was ``found`` is not what was ``known`` before."""
        for name, content in found.items():
            if content != known[name]:
                raise DataError(f"{getattr(self, name)}: it changed since this run began; issue the run again.")

    def derived(self, size: int) -> dict[str, Any]:
        known = self._known
        return {} if known is None else {"type": known.type}

    @property
    def named(self) -> str:
        return self.kind if self._known is None else f"{self.kind} ({self._known.type})"

    @property
    def _known(self) -> FaissFile | None:
        """What it is; None where it cannot be read, as :meth:`misfits` says."""
        try:
            return describe(self.path)
        except DataError:
            return None

    @property
    def selects(self) -> bool:
        return self._known is None or self._known.selects

    @property
    def dial(self) -> str | None:
        return None if self._known is None else self._known.dial

    def dial_values(self, size: int, k: int) -> range:
        known = describe(self.path)
        return dial_range(known.dial, size, k, known.lists)

    def searched_by(self) -> dict[str, Any]:
        own = super().searched_by()
        return {**own, "search": without(self.dial, self.search)} if self.tuned else own

    def create(self, content: Named, seed: int) -> FileIndex:
        """Open the file over the corpus that it holds, once every vector has its passage.

        Raises:
            DataError: they do not match; vectors hold NaN or infinity (their passage is named), or are not those that
                the encoder gives.
        """
        opened = OpenFile(self.path)
        known, numbering = opened.known, self.rows_in(content.passages)
        lengths = _checked(opened, numbering, content, self.path)
        facts: dict[str, Any] = {
            "passages": known.passages,
            "dims": known.dims,
            "type": known.type,
            "metric": known.metric,
            "content": self.content(_HERE),
            "bytes": Path(self.path).stat().st_size + numbering.bytes + (lengths.squares_N.nbytes if lengths else 0),
            "build_flops": None,
            "build_flops_reason": _ELSEWHERE,
            "build_seconds_reason": _ELSEWHERE,
            "reproducible": True,
        }
        return FileIndex(opened, facts, numbering, lengths, self)

    def load(self, folder: Path) -> FileIndex:
        """Open the file again by what :meth:`FileIndex.save` wrote.

        Raises:
            DataError: nothing readable there, or the file is gone or is another one now.
        """
        try:
            facts = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            content = facts["content"]["path"]
        except (OSError, ValueError, KeyError) as e:
            raise DataError(f"{folder}: no readable index there ({e}).") from e
        self.refuse_change({"path": content}, {"path": _HERE.of(self.path)})
        lengths = Lengths.load(folder) if facts["metric"] == "l2" else None
        return FileIndex(OpenFile(self.path), facts, Numbering.load(folder), lengths, self)


class FileIndex(FaissIndex):
    """The index of a file; what it finds is told by the corpus's rows. It saves all but the file itself.

    Args:
        opened: the file.
        facts: what :meth:`stats` returns.
        numbering: which passage each vector is.
        lengths: of the vectors by row, where faiss goes by L2 distance.
        options: how it is searched.
    """

    def __init__(
        self, opened: OpenFile, facts: dict[str, Any], numbering: Numbering, lengths: Lengths | None, options: File
    ):
        super().__init__(opened.native if facts["passages"] else None, facts)
        known = opened.known
        self._opened, self._numbering, self.lengths = opened, numbering, lengths
        self.settles_ties, self.exact_scores = known.settles_ties, known.exact_scores
        self.compares_codes = known.compares_codes
        self._lifted = lengths is not None and known.exact_scores and _of_one_length(lengths.squares_N)
        if options.search:
            set_search(opened.native, options.search, known.type)

    def turn(self, value: int) -> None:
        set_search(self.native, f"{self._opened.known.dial}={value}", self._opened.known.type)

    def select(self, first: int) -> None:
        super().select(first)
        self._selector = self._numbering.selector(first)

    def search(self, queries: np.ndarray, k: int, assigned: Assigned | None = None) -> SearchResult:
        import numpy as np

        if self._lifted and np.ndim(queries) == 2 and queries.shape[1] == self.dims - 1:
            queries = np.pad(queries, ((0, 0), (0, 1)))  # nothing in the dimension that evens out lengths
        return super().search(queries, k, assigned)

    def _find(self, queries: np.ndarray, k: int, assigned: Assigned | None) -> tuple[np.ndarray, np.ndarray]:
        scores, numbers = super()._find(queries, k, assigned)
        return scores, self._numbering.rows(numbers)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "index.json", self._facts)
        self._numbering.save(folder)
        if self.lengths is not None:
            self.lengths.save(folder)

    def _costs(self) -> dict[str, Any]:
        raise NotImplementedError("nothing is added to an index of a file")


def _checked(opened: OpenFile, numbering: Numbering, content: Named, file: str) -> Lengths | None:
    """Look at the vectors; their lengths by row, where faiss goes by L2 distance.

    Those in the file, where it holds them as they are; else those of the encoder, of which it holds codes.
    """
    import numpy as np

    known = opened.known
    lengths = Lengths() if known.metric == "l2" else None
    if not known.exact_scores:
        for block in rechunk(content.vectors, ADD_ROWS):
            if lengths is not None:
                lengths.add([block])
        return lengths
    squares_N = np.zeros(known.passages, np.float32)
    step, far = max(1, known.passages // _LOOKED_AT), np.zeros(known.passages, bool)
    for numbers, vectors in opened.vectors():
        rows = numbering.rows(numbers)
        bad = ~np.isfinite(vectors).all(axis=1)
        if bad.any():
            row = int(rows[bad.argmax()])
            raise DataError(
                f"The vector of passage {row} ({content.passages.ids([row])[0]!r}) in {file} holds NaN or infinity."
            )
        squares_N[rows] = np.einsum("nd,nd->n", vectors, vectors)
        seen = rows % step == 0
        if not (content.vectors and seen.any()):
            continue
        ours = take_vectors(content.vectors, rows[seen])
        off = np.linalg.norm(vectors[seen, : ours.shape[1]] - ours, axis=1) > _FAR * np.linalg.norm(ours, axis=1)
        far[rows[seen][off]] = True
    looked_at = len(range(0, known.passages, step))
    if 2 * far.sum() > looked_at:
        raise DataError(
            f"{file}: its vectors are not those that the encoder gives: of {far.sum()} among {looked_at} passages they "
            f"are far apart, first {content.passages.ids([int(far.argmax())])[0]!r}. Another encoder made them, or "
            "they were normalised, or index.ids names other passages."
        )
    return None if lengths is None else Lengths(squares_N)


def _of_one_length(squares_N: np.ndarray) -> bool:
    return len(squares_N) > 0 and bool(squares_N.max() - squares_N.min() <= _SAME_LENGTH * squares_N.max())
