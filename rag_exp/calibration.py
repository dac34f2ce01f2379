"""What this machine does in a second, measured in some seconds; nothing is kept."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rag_exp.config import RunConfig
from rag_exp.core.errors import DataError
from rag_exp.retrieval.encoders import passage_text

_SIDE = 1024  # of the square matrices that are multiplied
_CHUNK = 1 << 24  # bytes written at once
_MOST_WRITTEN = 1 << 30  # bytes
_TEXTS = 256  # that are embedded, again and again


def matrix_rate(seconds: float, threads: int | None) -> float:
    """Float32 operations a second of large matrix products, on ``threads`` threads of torch (None: its choice)."""
    import torch

    from rag_exp.training.threads import torch_threads

    with torch_threads(threads):
        matrix = torch.rand(_SIDE, _SIDE)
        out = torch.empty_like(matrix)
        torch.mm(matrix, matrix, out=out)
        return 2 * _SIDE**3 * _per_second(lambda: torch.mm(matrix, matrix, out=out), seconds)


def disk_rate(seconds: float, folder: Path) -> float:
    """Bytes a second that are written below ``folder`` and reach the disk.

    Raises:
        DataError: nothing can be written there.
    """
    chunk = os.urandom(_CHUNK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            start, written = time.perf_counter(), 0
            while written == 0 or (time.perf_counter() - start < seconds and written < _MOST_WRITTEN):
                file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
                written += _CHUNK
            return written / (time.perf_counter() - start)
    except OSError as e:
        raise DataError(f"{folder}: nothing can be written there ({e.strerror}); state plan.bytes_per_second.") from e


def embedding_rate(config: RunConfig, seconds: float) -> float:
    """Tokens a second that the run's encoder embeds, of the first passages of its corpus.

    A static encoder, whose work is tokenizing, gets a vocabulary of those passages.

    Raises:
        DataError: the corpus cannot be read, or is empty.
    """
    from rag_exp.data.tokenizer import train_bpe
    from rag_exp.training.threads import torch_threads

    texts = list(itertools.islice(_texts(config), _TEXTS))
    if not texts:
        raise DataError("corpus: it is empty; there is nothing to measure embedding on.")
    with tempfile.TemporaryDirectory() as place, torch_threads(config.trainer.threads):
        folder = Path(place) if config.encoder.needs_tokenizer else None
        if folder is not None:
            train_bpe(texts, config.tokenizer.vocab_size, folder)
        encoder = config.encoder.create(folder, config.tokenizer.vocab_size, 0)
        tokens = encoder.encode_counted(texts, "passage")[1]
        return tokens * _per_second(lambda: encoder.encode_counted(texts, "passage"), seconds)


def embedding_rates(configs: Mapping[str, RunConfig], seconds: float) -> dict[str, float]:
    """:func:`embedding_rate` of every encoder, which share the ``seconds``."""
    return {name: embedding_rate(config, seconds / len(configs)) for name, config in configs.items()}


def _texts(config: RunConfig) -> Iterator[str]:
    for document in config.corpus.documents():
        for passage in document.passages:
            yield passage_text(passage.title, passage.text)


def _per_second(work: Callable[[], object], seconds: float) -> float:
    """How often ``work`` is done a second, after at least one and about ``seconds`` of it."""
    start, done = time.perf_counter(), 0
    while True:
        work()
        done += 1
        taken = time.perf_counter() - start
        if taken >= seconds:
            return done / taken
