"""BM25 over words (Robertson and Zaragoza 2009; the Lucene variant of Kamphuis et al. 2020), scored by bm25s.

Words are runs of at least two letters, digits or underscores, in lower case; English stop words are left out
unless told otherwise; nothing is stemmed. A passage's text is what ``passage_text`` makes of title and text.
"""

from __future__ import annotations

import json
import logging
import re
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from rag_exp.core.atomic import write_json
from rag_exp.core.errors import DataError
from rag_exp.retrieval.exact import top_of_scores
from rag_exp.retrieval.index import INDEXES, BuiltIndex, IndexOptions
from rag_exp.retrieval.results import SearchResult

_WORD = re.compile(r"\b\w\w+\b")

# It says at DEBUG what it does, whatever the root's level, and sets its own level when it is imported.
logging.getLogger("bm25s").addFilter(lambda record: record.levelno >= logging.WARNING)


@INDEXES.register
class BM25(IndexOptions):
    """score(q, d) = sum over words w of q of idf(w) tf / (tf + k1 (1 - b + b |d| / mean |d|)).

    idf(w) = ln(1 + (N - df + 1/2) / (df + 1/2)); a word that occurs twice in the question counts twice.
    """

    needs: ClassVar[Literal["vectors", "texts", "both"]] = "texts"
    no_exact: ClassVar[str] = "bm25 ranks by words: there is no exact search of its own that it approximates"
    seeded: ClassVar[bool] = False
    kind: Literal["bm25"] = "bm25"
    k1: float = Field(0.9, ge=0, description="how slowly repeated words saturate")
    b: float = Field(0.4, ge=0, le=1, description="how much long passages are held back")
    stopwords: Literal["en"] | None = Field("en", description="en: leave out English stop words; null: keep all")

    def create(self, content: Iterable[str], seed: int) -> BM25Index:
        """Build over passage texts, read once. ``seed`` is not used: nothing here is random."""
        import bm25s

        words = Words(self.stopwords)
        vocabulary: dict[str, int] = {}
        ids = [array("i", [vocabulary.setdefault(w, len(vocabulary)) for w in words.of(text)]) for text in content]
        scorer = bm25s.BM25(k1=self.k1, b=self.b, method="lucene")
        if vocabulary:
            scorer.index((ids, vocabulary), create_empty_token=False, show_progress=False)
        return BM25Index(scorer if vocabulary else None, len(ids), words)

    def load(self, folder: Path) -> BM25Index:
        import bm25s

        try:
            facts = json.loads((folder / "lexical.json").read_text(encoding="utf-8"))
            scorer = None
            if facts["words"]:
                scorer = bm25s.BM25.load(folder, mmap=True, show_progress=False)
            return BM25Index(scorer, facts["passages"], Words(facts["stopwords"]))
        except (OSError, ValueError, KeyError) as e:
            raise DataError(f"{folder}: no readable BM25 index there ({e}).") from e


class BM25Index(BuiltIndex):
    """The bm25s score matrix, its postings memory-mapped after loading.

    A passage that shares no word with the question scores 0. Such passages fill up a result that would
    else hold fewer than k, lowest ids first, so that a reader always has k passages where the corpus has them.
    """

    def __init__(self, scorer: Any, size: int, words: Words):
        self._scorer, self.size, self._words = scorer, size, words

    def search(self, queries: Sequence[str], k: int) -> SearchResult:
        import numpy as np

        width = min(k, self.size)
        ids = np.empty((len(queries), width), np.int64)
        scores = np.empty((len(queries), width), np.float32)
        for q, question in enumerate(queries):
            row = self._scores(question)
            if width < self.size:
                found, score = top_of_scores(row[None, :], width)
                ids[q], scores[q] = found[0], score[0]
            else:
                ids[q], scores[q] = np.arange(self.size), row
        return SearchResult.of(ids, scores, k)

    def _scores(self, question: str) -> Any:
        import numpy as np

        row = np.zeros(self.size, np.float32)
        if self._scorer is not None:
            matrix, vocabulary = self._scorer.scores, self._scorer.vocab_dict
            for word in self._words.of(question):
                if (column := vocabulary.get(word)) is not None:
                    start, end = matrix["indptr"][column], matrix["indptr"][column + 1]
                    row[matrix["indices"][start:end]] += matrix["data"][start:end]  # a passage occurs once a column
        return row

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        words = 0 if self._scorer is None else len(self._scorer.vocab_dict)
        write_json(folder / "lexical.json", {"passages": self.size, "words": words, "stopwords": self._words.stopwords})
        if self._scorer is not None:
            self._scorer.save(folder, show_progress=False)

    def stats(self) -> dict[str, Any]:
        matrix = self._scorer.scores if self._scorer is not None else {}
        return {
            "passages": self.size,
            "dims": None,
            "words": 0 if self._scorer is None else len(self._scorer.vocab_dict),
            "bytes": sum(int(matrix[name].nbytes) for name in ("data", "indices", "indptr") if name in matrix),
            "build_flops": None,
            "build_flops_reason": "BM25 counts words; it does no dense arithmetic",
            "reproducible": True,
        }


class Words:
    """Text to words, as this module's description says.

    Attributes:
        stopwords: "en" or None.
    """

    def __init__(self, stopwords: str | None):
        self.stopwords = stopwords
        self._left_out: frozenset[str] = frozenset()
        if stopwords == "en":
            from bm25s.stopwords import STOPWORDS_EN

            self._left_out = frozenset(STOPWORDS_EN)

    def of(self, text: str) -> list[str]:
        return [w for w in _WORD.findall(text.lower()) if w not in self._left_out]
