"""What this machine does in a second, measured in some seconds; nothing is kept."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rag_exp.builders.embedding import embedding_trainer
from rag_exp.config import RunConfig
from rag_exp.core.errors import DataError
from rag_exp.retrieval.encoders import passage_text
from rag_exp.retrieval.speed import KMeans, Speed, Trial, kmeans_speed, trial_speed

if TYPE_CHECKING:
    from rag_exp.builders.workers import Seat
    from rag_exp.retrieval.encoder import Encoder

_SIDE = 1024  # of the square matrices that are multiplied
_CHUNK = 1 << 24  # bytes written at once
_MOST_WRITTEN = 1 << 30  # bytes
_TEXTS, _MOST_TEXTS = 256, 4_096  # that are embedded at once, and in all


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
    """Tokens a second that the run's encoder embeds, of the first passages of its corpus, on as many devices and by as
    many processes as the run would use, all at once.

    A static encoder, whose work is tokenizing, gets a vocabulary of some of those passages.

    Raises:
        DataError: the corpus cannot be read, or is empty.
    """
    from rag_exp.builders.parents import on_device
    from rag_exp.builders.workers import Workers
    from rag_exp.data.tokenizer import train_bpe
    from rag_exp.training.threads import shared_threads

    texts = list(itertools.islice(_texts(config), _MOST_TEXTS))
    if not texts:
        raise DataError("corpus: it is empty; there is nothing to measure embedding on.")
    trainer, size = embedding_trainer(config), config.tokenizer.vocab_size
    devices = trainer.embedding_devices()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) if config.encoder.needs_tokenizer else None
        if folder is not None:
            train_bpe(texts[:_TEXTS], size, folder)
        if len(devices) == 1:
            with on_device(trainer, config.encoder.create(folder, size, 0)) as made:
                return _tokens_per_second(made, texts, seconds)
        with Workers(devices, shared_threads(trainer.threads, len(devices))) as processes:
            create = partial(config.encoder.create, folder, size, 0)
            parts = [texts[n :: len(devices)] or texts for n in range(len(devices))]
            each = [(create, part, seconds, len(devices)) for part in parts]
            return sum(processes.map(_rate_beside_others, each, lambda _: None))


def _rate_beside_others(
    seat: Seat, create: Callable[[], Encoder], texts: Sequence[str], seconds: float, processes: int
) -> float:
    """:func:`_tokens_per_second` of one of several processes, which begin when all of them are ready."""
    import torch

    torch.set_num_threads(seat.threads)
    try:
        made = create().to(seat.device)
    finally:
        seat.count(1)  # or the others would wait for one that cannot be ready
    while seat.done.value < processes:
        time.sleep(0.01)
    return _tokens_per_second(made, texts, seconds)


def _tokens_per_second(encoder: Encoder, texts: Sequence[str], seconds: float) -> float:
    """Over texts that are new to ``encoder``, until they or the ``seconds`` are at an end."""
    parts = [texts[at : at + _TEXTS] for at in range(0, len(texts), _TEXTS)]
    encoder.encode(parts[0], "passage")  # the first call does what no other does
    start, tokens = time.perf_counter(), 0
    for part in parts[1:] or parts:
        tokens += encoder.encode_counted(part, "passage")[1]
        if time.perf_counter() - start >= seconds:
            break
    return tokens / (time.perf_counter() - start)


def embedding_rates(configs: Mapping[str, RunConfig], seconds: float) -> dict[str, float]:
    """:func:`embedding_rate` of every encoder, which share the ``seconds``."""
    return {name: embedding_rate(config, seconds / len(configs)) for name, config in configs.items()}


def index_speeds(measured: Iterable[Trial | KMeans], seconds: float) -> dict[Trial | KMeans, Speed | float]:
    """How fast small indexes are filled and asked, and a round of each k-means, which share the ``seconds``."""
    start, found = time.perf_counter(), {}
    # K-means first, which take what they take; graphs last, which take what is left and are the truer for it.
    waiting = sorted(measured, key=lambda unit: (isinstance(unit, Trial), getattr(unit, "walks", False), unit))
    while waiting:
        unit = waiting.pop(0)
        share = (seconds - (time.perf_counter() - start)) / (len(waiting) + 1)
        found[unit] = trial_speed(unit, share) if isinstance(unit, Trial) else kmeans_speed(unit)
    return found


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
