"""A byte-level BPE vocabulary trained on the corpus, shared by from-scratch readers and encoders.

Byte-level: any text can be written, so there is no unknown token, and nats per answer are comparable
between runs with one vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from rag_exp.core.errors import DataError
from rag_exp.core.options import Options

PAD, BOS, EOS = "<pad>", "<s>", "</s>"


class TokenizerOptions(Options):
    """The vocabulary of from-scratch generators and encoders."""

    vocab_size: int = Field(4096, ge=300, description="pieces, the 256 bytes and 3 special tokens among them")
    passages: int = Field(200_000, ge=1, description="passages read for training it, from the head of the corpus")


def train_bpe(texts: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Train a byte-level BPE of at most ``vocab_size`` pieces on ``texts`` and write ``folder/tokenizer.json``.

    Ids 0, 1, 2 are pad, begin and end. A small corpus may yield fewer pieces; models still allot
    ``vocab_size`` rows, so that a parameter count never depends on the corpus.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


class TextTokenizer:
    """Text to ids and back, without special tokens unless asked, whatever library made the vocabulary.

    Attributes:
        pad, bos, eos: ids; ``bos`` is None where the model has none. ``pad`` falls back to ``eos``.
        size: number of ids a model must have rows for.
    """

    def __init__(self, backend: Any, pad: int, bos: int | None, eos: int, size: int):
        self._backend, self.pad, self.bos, self.eos, self.size = backend, pad, bos, eos, size

    @classmethod
    def load(cls, folder: Path) -> TextTokenizer:
        """Load ``folder/tokenizer.json`` as written by :func:`train_bpe`.

        Raises:
            DataError: no such file.
        """
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise DataError(f"{file}: no tokenizer there.")
        backend = Tokenizer.from_file(str(file))
        ids = [backend.token_to_id(t) for t in (PAD, BOS, EOS)]
        return cls(backend, ids[0], ids[1], ids[2], backend.get_vocab_size())

    @classmethod
    def from_transformers(cls, tokenizer: Any, size: int) -> TextTokenizer:
        """Wrap a fast tokenizer of transformers; ``size`` is the model's number of embedding rows.

        Raises:
            DataError: the tokenizer is not a fast one or has no end token.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        if backend is None or eos is None:
            raise DataError(f"{tokenizer.name_or_path}: needs a fast tokenizer (tokenizer.json) with an end token.")
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos
        return cls(backend, pad, tokenizer.bos_token_id, eos, size)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, no special tokens added, nothing truncated."""
        return [e.ids for e in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Text of each row of ids, special tokens left out, stripped."""
        return [t.strip() for t in self._backend.decode_batch([list(r) for r in rows], skip_special_tokens=True)]
