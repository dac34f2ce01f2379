"""A vocabulary for readers whose own is not at hand: text in, the very same text out.

A piece is a stretch of text, and its id the place where it was first met. Packing a prompt then counts pieces, cuts
passages at them, and joins them to the text that is sent, without a difference to the template's letters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rag_exp.core.errors import DataError
from rag_exp.data.tokenizer import TextTokenizer


class Pieces(TextTokenizer):
    """Splits text by ``split``, whose parts must join to the text again.

    The pad and end ids stand for no text: the server has its own.
    """

    def __init__(self, split: Callable[[str], list[str]]):
        super().__init__(backend=None, pad=0, bos=None, eos=1, size=0)
        self._split = split
        self._texts: list[str] = ["", ""]  # pad and end
        self._ids: dict[str, int] = {}

    @classmethod
    def of_characters(cls, together: int) -> Pieces:
        """So many characters a piece: a stand-in for tokens."""
        return cls(partial(_characters, together))

    @classmethod
    def of_tokenizer(cls, file: Path) -> Pieces:
        """The pieces of a ``tokenizer.json``.

        Raises:
            DataError: there is none, or it cannot be read.
        """
        from tokenizers import Tokenizer

        try:
            return cls(partial(_tokens, Tokenizer.from_file(str(file))))
        except Exception as e:  # tokenizers raises bare exceptions
            raise DataError(f"{file}: no tokenizer that can be read ({e}).") from e

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[self._id(piece) for piece in self._split(text)] for text in texts]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row, to the letter."""
        return ["".join(self._texts[i] for i in row) for row in rows]

    def _id(self, piece: str) -> int:
        if piece not in self._ids:
            self._ids[piece] = len(self._texts)
            self._texts.append(piece)
        return self._ids[piece]


def _characters(together: int, text: str) -> list[str]:
    return [text[i : i + together] for i in range(0, len(text), together)]


def _tokens(tokenizer: Any, text: str) -> list[str]:
    """One piece a token, whatever the tokenizer's normalisation: a piece ends where its token's offsets end."""
    ends = [end for _, end in tokenizer.encode(text, add_special_tokens=False).offsets]
    if not ends:
        return [text] if text else []
    ends[-1] = len(text)
    return [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
