"""The passages artifact: a corpus cut into passages, in corpus order, memory-mapped.

Corpus order is a seeded hash order of document ids, so that corpora of every size are nested
prefixes of one order, whatever order the source comes in. A passage's position in it, its *row*,
is its name everywhere downstream.

Files: ``passages.arrow`` (columns id, doc, title, text), ``doc_ends.npy`` and ``doc_words.npy``
(cumulative passages and words by document, int64), ``id_hash.npy`` and ``id_row.npy`` (which rows an id
names), ``manifest.json`` (the stats), and where documents come by nearness ``hash_place.npy`` (the place of
each document in hash order, int64).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from rag_exp.core.atomic import write_json
from rag_exp.core.errors import DataError
from rag_exp.core.fingerprint import file_digest
from rag_exp.core.options import Options, Registry
from rag_exp.data.arrow_rows import BATCH_ROWS, ArrowRows, batch_ranges
from rag_exp.data.sources import CorpusOptions, Passage
from rag_exp.data.spool import COLUMNS, Spool, as_pairs, id_hash, passage_schema

if TYPE_CHECKING:
    import numpy as np

PASSAGES = Registry("passages")


class PassageOptions(Options):
    """Base of every way to make passages of what the corpus calls a passage."""

    def parts(self, passage: Passage) -> Sequence[Passage]:
        """The passages that ``passage`` becomes; itself alone where it is not split."""
        raise NotImplementedError


@PASSAGES.register
class Whole(PassageOptions):
    """Every source passage stays as it is."""

    kind: Literal["whole"] = "whole"

    def parts(self, passage: Passage) -> Sequence[Passage]:
        return (passage,)


@PASSAGES.register
class Words(PassageOptions):
    """Source passages longer than ``max_words`` are cut into windows of so many words (DPR cuts at 100).

    Parts are called ``<id>#0``, ``<id>#1``, ...; a gold id that was split means its parts that hold an answer.
    """

    kind: Literal["words"] = "words"
    max_words: int = Field(100, ge=1, description="longest passage, in whitespace-separated words")
    overlap: int = Field(0, ge=0, description="words that a part repeats from the part before it")

    @model_validator(mode="after")
    def _windows_move_on(self) -> Words:
        if self.overlap >= self.max_words:
            raise ValueError(f"overlap ({self.overlap}) must be less than max_words ({self.max_words})")
        return self

    def parts(self, passage: Passage) -> Sequence[Passage]:
        words = [m.span() for m in re.finditer(r"\S+", passage.text)]
        if len(words) <= self.max_words:
            return (passage,)
        found = []
        for start in range(0, len(words) - self.overlap, self.max_words - self.overlap):
            last = min(start + self.max_words, len(words)) - 1
            text = passage.text[words[start][0] : words[last][1]]
            found.append(Passage(f"{passage.id}#{len(found)}", passage.title, text))
        return found


Texts = Iterator[tuple[str, str]]  # (title, text) of passages


def write_passages(
    corpus: CorpusOptions,
    chunking: PassageOptions,
    folder: Path,
    gold_ids: set[str] | None = None,
    nearness: Callable[[Texts, np.ndarray], np.ndarray] | None = None,
) -> dict[str, Any]:
    """Write the passages artifact of ``corpus`` into ``folder`` and return its stats.

    Streams: memory stays at some 100 bytes a passage plus two record batches, whatever the corpus.

    Args:
        corpus: the source; its ``order_seed`` seeds the order, its ``size`` is not looked at.
        chunking: how source passages are cut.
        gold_ids: for distractor growth alone: documents that hold any of these source passages come first
            (both groups in hash order).
        nearness: of documents, float [documents], 0 where nothing is known, from the texts of all passages in hash
            order and the cumulative passage counts of their documents, int64 [documents]. Of the documents without
            gold the nearest come first, those equally near in hash order. None: all in hash order.

    Returns:
        ``passages``, ``documents``, ``words``, ``source_passages`` and ``split_passages`` (before cutting, and those
        that were cut), ``empty_texts``, ``gold_documents`` (null without ``gold_ids``) and ``digest`` of the content;
        with ``nearness`` also ``near_documents``, those without gold that are nearer than 0.

    Raises:
        DataError: empty corpus; a passage or document id that comes twice; a text that is no valid Unicode.
    """
    import numpy as np
    import pyarrow as pa

    spool = folder / ".source-order.arrow"
    try:
        source = Spool(corpus, chunking, spool, gold_ids)
        rows = ArrowRows(spool)
        source.refuse_duplicates(rows)
        hashes = as_pairs(source.doc_hashes)
        counts = np.asarray(source.doc_passages)
        by_hash = np.lexsort((hashes[:, 1], hashes[:, 0]))
        with_gold = np.asarray(source.doc_gold) == 1  # without gold_ids none is
        near: dict[str, int] = {}
        order = by_hash[np.argsort(~with_gold[by_hash], kind="stable")]
        if nearness is not None:
            ends, permutation = _moved(counts, by_hash)
            far = np.where(with_gold[by_hash], -np.inf, -nearness(_texts(rows, permutation), ends))
            places = np.argsort(far, kind="stable")
            order = by_hash[places]
            np.save(folder / "hash_place.npy", places)
            near["near_documents"] = int((np.isfinite(far) & (far < 0)).sum())
        ends, permutation = _moved(counts, order)
        with pa.OSFile(str(folder / "passages.arrow"), "wb") as sink, pa.ipc.new_file(sink, passage_schema()) as writer:
            for start, stop in batch_ranges(np.asarray(source.chars)[permutation]):
                writer.write_batch(rows.take(permutation[start:stop], COLUMNS))
        del rows
    finally:
        spool.unlink(missing_ok=True)
    np.save(folder / "doc_ends.npy", ends)
    np.save(folder / "doc_words.npy", np.cumsum(np.asarray(source.doc_words)[order]))
    new_row = np.empty_like(permutation)
    new_row[permutation] = np.arange(len(permutation))
    hashes, spooled = source.index()
    sorted_names = np.lexsort((new_row[spooled], hashes))
    np.save(folder / "id_hash.npy", hashes[sorted_names])
    np.save(folder / "id_row.npy", new_row[spooled][sorted_names])
    stats = {
        "passages": int(ends[-1]),
        "documents": len(ends),
        "words": int(sum(source.doc_words)),
        "source_passages": len(source.source_rows),
        "split_passages": source.split_passages,
        "empty_texts": source.empty_texts,
        "gold_documents": None if gold_ids is None else int(sum(source.doc_gold)),
        "digest": file_digest(folder / "passages.arrow"),
        **near,
    }
    write_json(folder / "manifest.json", stats)
    return stats


def _moved(counts: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Documents of ``counts`` passages in another order: their cumulative counts, and the old row of each new one."""
    import numpy as np

    starts, ends = np.cumsum(counts) - counts, np.cumsum(counts[order])
    # Each document's run is moved as a whole.
    return ends, np.repeat(starts[order] - (ends - counts[order]), counts[order]) + np.arange(ends[-1])


def _texts(rows: ArrowRows, order: np.ndarray) -> Texts:
    """Title and text of the rows in that order, read a batch at a time."""
    for start in range(0, len(order), BATCH_ROWS):
        batch = rows.take(order[start : start + BATCH_ROWS], ["title", "text"])
        yield from zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)


class PassageTable:
    """A passages artifact, memory-mapped: opening it costs nothing, rows are read when asked for.

    Attributes:
        folder: the artifact's folder.
        stats: what :func:`write_passages` returned.
        doc_ends: int64 [documents], cumulative passage counts in corpus order.
        doc_words: int64 [documents], cumulative word counts in corpus order.
    """

    def __init__(self, folder: Path):
        import json

        import numpy as np

        self.folder = Path(folder)
        if not (self.folder / "manifest.json").is_file():
            raise DataError(f"{folder}: no passages there (manifest.json is missing).")
        self.stats: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        self.doc_ends: np.ndarray = np.load(self.folder / "doc_ends.npy")
        self.doc_words: np.ndarray = np.load(self.folder / "doc_words.npy")

    @classmethod
    def open(cls, folder: Path) -> PassageTable:
        """Open the artifact in ``folder``.

        Raises:
            DataError: there is none.
        """
        return cls(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return PassageTable, (self.folder,)  # a worker process opens its own map

    @cached_property
    def _rows(self) -> ArrowRows:
        return ArrowRows(self.folder / "passages.arrow")

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        return np.load(self.folder / "id_hash.npy", mmap_mode="r"), np.load(self.folder / "id_row.npy", mmap_mode="r")

    def __len__(self) -> int:
        return int(self.doc_ends[-1])

    def prefix_size(self, asked: int | None) -> int:
        """M: the number of passages in the longest prefix of whole documents with at most ``asked`` (None: all).

        Raises:
            DataError: not even the first document fits.
        """
        if asked is None or asked >= len(self):
            return len(self)
        documents = self.documents_in(asked)
        if documents == 0:
            first = int(self.doc_ends[0])
            raise DataError(
                f"corpus.size={asked} holds no whole document: the first one in corpus order has {first} passages. "
                f"Ask for at least {first}, or choose another corpus.order_seed."
            )
        return int(self.doc_ends[documents - 1])

    def documents_in(self, size: int) -> int:
        """How many whole documents the first ``size`` passages hold."""
        import numpy as np

        return int(np.searchsorted(self.doc_ends, size, side="right"))

    def words_in(self, size: int) -> int:
        """How many words the whole documents among the first ``size`` passages hold."""
        documents = self.documents_in(size)
        return int(self.doc_words[documents - 1]) if documents else 0

    def rows_in(self, by_hash: PassageTable, rows: np.ndarray) -> np.ndarray:
        """Where passages stand in the same corpus in hash order; here they are in that order, or in one by nearness."""
        import numpy as np

        if self.stats["gold_documents"] is None:
            return rows  # this is hash order
        documents = np.searchsorted(self.doc_ends, rows, side="right")
        places = np.load(self.folder / "hash_place.npy", mmap_mode="r", allow_pickle=False)[documents]
        return rows - self.doc_ends[documents] + by_hash.doc_ends[places]  # as far from its document's end

    def ids_digest(self, size: int) -> str:
        """BLAKE2b of 16 bytes, in hex, of the ids of the first ``size`` passages in their order, a newline after each.

        ``b2sum -l 128`` of a file of those ids says the same.
        """
        import hashlib

        import numpy as np

        found = hashlib.blake2b(digest_size=16)
        for start in range(0, size, BATCH_ROWS):
            found.update("".join(f"{i}\n" for i in self.ids(np.arange(start, min(start + BATCH_ROWS, size)))).encode())
        return found.hexdigest()

    def texts(self, rows: Sequence[int] | np.ndarray) -> list[tuple[str, str]]:
        """(title, text) of each row, in the order asked."""
        batch = self._rows.take(self._checked(rows), ["title", "text"])
        return list(zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True))

    def ids(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Passage id of each row, in the order asked."""
        return self._rows.values(self._checked(rows), "id")

    def documents(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Document id of each row, in the order asked."""
        return self._rows.values(self._checked(rows), "doc")

    def rows_of(self, ids: Iterable[str]) -> list[list[int]]:
        """Rows that each id names, ascending: one; several for a source passage that was split; none if absent."""
        import numpy as np

        wanted = list(ids)
        if not wanted:
            return []
        hashes, rows = self._index
        keys = np.frombuffer(b"".join(id_hash(i)[:8] for i in wanted), dtype=">u8").astype(np.uint64)
        left, right = np.searchsorted(hashes, keys, side="left"), np.searchsorted(hashes, keys, side="right")
        candidates = [np.asarray(rows[a:b]) for a, b in zip(left, right, strict=True)]
        names = iter(self.ids(np.concatenate(candidates)))
        found = []
        for id, rows_of_id in zip(wanted, candidates, strict=True):
            # 64 bits find the candidates, the names themselves decide.
            named = [(int(row), next(names)) for row in rows_of_id]
            found.append([row for row, name in named if name == id or name.rpartition("#")[0] == id])
        return found

    def batches(
        self, size: int | None = None, batch_rows: int = 8_192, first: int = 0
    ) -> Iterator[tuple[int, list[tuple[str, str]]]]:
        """(first row, [(title, text), ...]) over the first ``size`` rows (None: all), ``batch_rows`` at a time, from
        row ``first`` on."""
        import numpy as np

        stop = len(self) if size is None else min(size, len(self))
        for start in range(first, stop, batch_rows):
            yield start, self.texts(np.arange(start, min(start + batch_rows, stop)))

    def _checked(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        import numpy as np

        found = np.asarray(rows, dtype=np.int64).reshape(-1)
        # A negative row is some index's "nothing found"; Python would read it as the last passage.
        if len(found) and (found.min() < 0 or found.max() >= len(self)):
            raise IndexError(
                f"row {found.min() if found.min() < 0 else found.max()} of a corpus of {len(self)} passages"
            )
        return found
