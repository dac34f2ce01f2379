"""What exactly a corpus is: counts of what it holds, and a digest of its ids. Tokens are counted once for all sizes."""

from __future__ import annotations

from collections.abc import Callable

from rag_exp.builders.parents import SHARD_ROWS, passage_table, tokenizer_folder
from rag_exp.core.store import Build, Step

_FILE = "tokens.npy"


def manifest(size: int | None, token_counts: Callable[[int], Step] | None, build: Build) -> None:
    """What exactly a corpus of ``size`` is: counts of its documents, passages, words and tokens, a digest of its ids.

    Tokens are those of title and text, as the vocabulary of the corpus is trained on them; null without one.

    Args:
        token_counts: the steps that counted them by shard of the passages; None without a vocabulary.
    """
    from rag_exp.core.atomic import write_json

    table = passage_table(build)
    passages = table.prefix_size(size)
    build.stats |= {
        "documents": table.documents_in(passages),
        "passages": passages,
        "words": table.words_in(passages),
        "tokens": None if token_counts is None else _tokens_in(passages, token_counts, build),
        "digest": table.ids_digest(passages),
    }
    write_json(build.folder / "manifest.json", build.stats)


def _tokens_in(passages: int, token_counts: Callable[[int], Step], build: Build) -> int:
    import numpy as np

    total = 0
    for shard, first in enumerate(range(0, passages, SHARD_ROWS)):
        counts = np.load(build.ensure(token_counts(shard)).path / _FILE, allow_pickle=False)
        total += int(counts[: passages - first].sum())
    return total


def token_counts(shard: int, build: Build) -> None:
    """The tokens of each passage of a shard, int64 [passages]."""
    import numpy as np

    from rag_exp.data.tokenizer import TextTokenizer

    folder = tokenizer_folder(build)
    assert folder is not None
    table, vocabulary = passage_table(build), TextTokenizer.load(folder)
    first, end = shard * SHARD_ROWS, min((shard + 1) * SHARD_ROWS, len(table))
    counts = [
        len(ids)
        for _, batch in table.batches(end, first=first)
        for ids in vocabulary.encode([f"{title}\n{text}" for title, text in batch])
    ]
    np.save(build.folder / _FILE, np.array(counts, np.int64), allow_pickle=False)
    build.stats["passages"] = len(counts)
