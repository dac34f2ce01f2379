"""Texts to tokens by their words: every word is tokenized once, and looked up from then on.

Words are lower-cased and set apart from punctuation by single spaces before the shared byte-level BPE reads
them: "Chad's" at the start of a title and " Chad" within a question become the same tokens. A byte-level vocabulary
joins nothing across a space, so the tokens of a text are those of its words, one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain

import numpy as np

from rag_exp.data.tokenizer import TextTokenizer

MOST_WORDS = 1 << 18  # kept at once: some 50 MB

_MARK = re.compile(r"([^\w\s])")


def words(text: str) -> list[str]:
    """Words and punctuation marks in lower case."""
    return " ".join(_MARK.split(text.lower())).split()


class WordTokens:
    """The tokens of every word that was met.

    Args:
        tokenizer: a byte-level vocabulary.
    """

    def __init__(self, tokenizer: TextTokenizer):
        self._tokenizer = tokenizer
        self._forget()

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all ``texts`` in a row, int64 [T], and how many each text has, int64 [N]."""
        split = [words(text) for text in texts]
        numbers = self._numbers_of(split)
        counts = self._ends[numbers + 1] - self._ends[numbers]
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        ids = self._ids[np.repeat(self._ends[numbers] - (ends - counts), counts) + np.arange(total)]
        last_words = np.cumsum(np.fromiter(map(len, split), np.int64, len(split)))
        return ids, np.diff(np.concatenate(([0], ends))[last_words], prepend=0)

    def _numbers_of(self, split: list[list[str]]) -> np.ndarray:
        """The numbers of all words of ``split`` in a row, after those that are new are tokenized."""
        if len(self._known) > MOST_WORDS:
            self._forget()
        numbers = np.fromiter(map(self._known.__getitem__, chain.from_iterable(split)), np.int64)
        if new := self._known.new:
            tokens = self._tokenizer.encode([" " + word for word in new])
            ends = np.cumsum(np.fromiter(map(len, tokens), np.int64, len(tokens)))
            ids = np.fromiter(chain.from_iterable(tokens), np.int64, int(ends[-1]))
            self._ids, self._ends = np.append(self._ids, ids), np.append(self._ends, self._ends[-1] + ends)
            self._known.new = []
        return numbers

    def _forget(self) -> None:
        self._known = _Numbers()
        self._ids, self._ends = np.empty(0, np.int64), np.zeros(1, np.int64)


class _Numbers(dict[str, int]):
    """The number of each word, in the order in which they were met.

    Attributes:
        new: those that are not tokenized yet.
    """

    def __init__(self) -> None:
        self.new: list[str] = []

    def __missing__(self, word: str) -> int:
        self.new.append(word)
        number = self[word] = len(self)
        return number
