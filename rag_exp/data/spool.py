"""The first pass over a corpus: its passages, spooled to disk in source order, and some bytes kept of each.

Corpus order is known only when every document has been seen, so :func:`rag_exp.data.passages.write_passages`
spools first and permutes after. What is kept in memory is some 50 bytes a passage, so that a corpus of
10^7 passages fits a small machine.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.core.errors import DataError
from rag_exp.data.arrow_rows import BATCH_CHARS, BATCH_ROWS, ArrowRows
from rag_exp.data.sources import CorpusOptions, Passage

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from rag_exp.data.passages import PassageOptions

COLUMNS = ("id", "doc", "title", "text")


def passage_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in COLUMNS])


def id_hash(text: str, salt: str = "") -> bytes:
    return hashlib.blake2b(f"{salt}\x1f{text}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def as_pairs(hashes: bytearray) -> np.ndarray:
    """uint64 [n, 2] of n 16-byte hashes, in the order of their bytes."""
    import numpy as np

    return np.frombuffer(bytes(hashes), dtype=">u8").astype(np.uint64).reshape(-1, 2)


def _twice(hashes: bytearray) -> tuple[int, int] | None:
    """Where the first hash that comes again was before, and where it comes again; None if all differ."""
    import numpy as np

    pairs = as_pairs(hashes)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))  # stable: equal hashes stay in the order they came
    same = np.flatnonzero((pairs[order[1:]] == pairs[order[:-1]]).all(axis=1))
    if not len(same):
        return None
    at = same[np.argmin(order[same + 1])]
    return int(order[at]), int(order[at + 1])


class Spool:
    """One pass over the source: passages go to a spool file in source order, some bytes of each are kept."""

    def __init__(self, corpus: CorpusOptions, chunking: PassageOptions, spool: Path, gold_ids: set[str] | None):
        import pyarrow as pa

        self.doc_hashes, self.doc_gold = bytearray(), array("b")
        self.doc_passages, self.doc_words = array("q"), array("q")
        # By source passage: hash of its id and the row of its first part. By part of a split one: hash and row.
        self.source_hashes, self.source_rows = bytearray(), array("q")
        self.part_hashes, self.part_rows = bytearray(), array("q")
        self.chars = array("q")
        self.split_passages = self.empty_texts = 0
        self._held: list[tuple[str, str, str, str]] = []
        held_chars, salt = 0, str(corpus.order_seed)
        with pa.OSFile(str(spool), "wb") as sink, pa.ipc.new_file(sink, passage_schema()) as writer:
            for document in corpus.documents():
                if not document.passages:
                    continue  # nothing to retrieve: it takes no place in the order
                begun, words = len(self.chars), 0
                for passage in document.passages:
                    for part in self._parts(passage, chunking):
                        self._held.append((part.id, document.id, part.title, part.text))
                        self.chars.append(len(part.title) + len(part.text))
                        held_chars += self.chars[-1]
                        words += (n := len(part.text.split()))
                        self.empty_texts += n == 0
                    if len(self._held) >= BATCH_ROWS or held_chars >= BATCH_CHARS:
                        self._flush(writer)
                        held_chars = 0
                self.doc_hashes += id_hash(document.id, salt)
                self.doc_passages.append(len(self.chars) - begun)
                self.doc_words.append(words)
                self.doc_gold.append(gold_ids is not None and any(p.id in gold_ids for p in document.passages))
            self._flush(writer)
        if not self.chars:
            raise DataError(
                f"The corpus (corpus={getattr(corpus, 'kind', '?')}) is empty: its source yields no passage."
            )

    def _parts(self, passage: Passage, chunking: PassageOptions) -> Sequence[Passage]:
        parts = chunking.parts(passage)
        self.source_hashes += id_hash(passage.id)
        self.source_rows.append(len(self.chars))
        if len(parts) > 1:
            self.split_passages += 1
            for n, part in enumerate(parts):
                self.part_hashes += id_hash(part.id)
                self.part_rows.append(len(self.chars) + n)
        return parts

    def _flush(self, writer: Any) -> None:
        import pyarrow as pa

        if not self._held:
            return
        columns = list(zip(*self._held, strict=True))
        try:
            writer.write_batch(pa.record_batch([pa.array(c, pa.string()) for c in columns], schema=passage_schema()))
        except UnicodeEncodeError as e:
            for row in self._held:
                for name, value in zip(COLUMNS, row, strict=True):
                    if any("\ud800" <= c <= "\udfff" for c in value):
                        raise DataError(
                            f"Passage {row[0]!r} of document {row[1]!r}: its {name} holds half a surrogate pair, "
                            "which is no valid Unicode text. Mend it in the source."
                        ) from e
            raise
        self._held.clear()

    def index(self) -> tuple[np.ndarray, np.ndarray]:
        """Every name a row goes by: (uint64 hash, row in the spool), first those of source passages, then of parts."""
        import numpy as np

        first = np.asarray(self.source_rows)
        lengths = np.diff(np.append(first, len(self.chars)))
        hashes = np.concatenate(
            [np.repeat(as_pairs(self.source_hashes)[:, 0], lengths), as_pairs(self.part_hashes)[:, 0]]
        )
        return hashes, np.concatenate([np.arange(len(self.chars)), np.asarray(self.part_rows, dtype=np.int64)])

    def refuse_duplicates(self, rows: ArrowRows) -> None:
        """Raise for an id that comes twice. Found by hashes at the end: a set of all ids would fill the memory.

        Raises:
            DataError: naming the id and both places.
        """
        import numpy as np

        docs = _twice(self.doc_hashes)
        if docs is not None:
            first = int(np.asarray(self.doc_passages)[: docs[0]].sum())
            name = rows.values(np.asarray([first]), "doc")[0]
            raise DataError(
                f"Document id {name!r} comes twice, as document {docs[0] + 1} and as document {docs[1] + 1} of the "
                "source. Passages of one document must follow one another: sort the source by document, or let every "
                "passage be a document of its own."
            )
        found = _twice(self.source_hashes + self.part_hashes)
        if found is None:
            return
        # The parts come after all source passages, so the later place may be a part whose name is taken.
        sources = len(self.source_rows)
        where = np.asarray([self.source_rows[i] if i < sources else self.part_rows[i - sources] for i in found])
        numbers = np.searchsorted(np.asarray(self.source_rows), where, side="right")
        name, docs_of = rows.values(where, "id")[0], rows.values(where, "doc")
        if found[0] < sources and name.endswith("#0") and id_hash(name) != self.source_hashes[16 * found[0] :][:16]:
            name = name.removesuffix("#0")
        raise DataError(
            f"Passage id {name!r} comes twice: as passage {numbers[0]} of the source (document {docs_of[0]!r}) and as "
            f"passage {numbers[1]} (document {docs_of[1]!r}). Passage ids must be unique."
        )
