"""A sample of passages, tokenized once, that the warm-up counts, mines and calibrates in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rag_exp.core.rng import numpy_rng
from rag_exp.retrieval.encoders import PassageTexts, passage_text

if TYPE_CHECKING:
    import numpy as np

    from rag_exp.retrieval.encoder import Encoder, Features


class PassagePool:
    """Passages ``rows`` of a corpus with their tokens.

    Attributes:
        rows: int64 [P], ascending corpus rows.
        tokens: tokens of all of them.
    """

    def __init__(self, encoder: Encoder, passages: PassageTexts, rows: np.ndarray, batch_size: int):
        import numpy as np

        self.rows = rows
        texts = [passage_text(*pair) for pair in passages.texts(rows)]
        order = np.argsort([-len(t) for t in texts], kind="stable")
        self._places = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        self._features = [encoder.features([texts[i] for i in places], "passage") for places in self._places]
        self.tokens = sum(encoder.tokens(f) for f in self._features)
        self._dims = encoder.dims

    @classmethod
    def draw(
        cls,
        encoder: Encoder,
        passages: PassageTexts,
        keep: Iterable[int],
        size: int,
        seed: int,
        batch_size: int = 256,
    ) -> PassagePool:
        """All passages if there are at most ``size``; else rows ``keep``, and others under ``seed`` up to ``size``."""
        import numpy as np

        if len(passages) <= size:
            return cls(encoder, passages, np.arange(len(passages)), batch_size)
        kept = np.unique(np.fromiter(keep, dtype=np.int64))
        drawn = numpy_rng(seed, "passage pool").choice(len(passages), size=size, replace=False)
        others = np.setdiff1d(drawn, kept)[: max(0, size - len(kept))]
        return cls(encoder, passages, np.union1d(kept, others), batch_size)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def features(self) -> Iterator[Features]:
        """Batches of features, every passage once, longest texts first."""
        return iter(self._features)

    def vectors(self, encoder: Encoder) -> np.ndarray:
        """Float32 [P, D] in the order of ``rows``, as ``encoder`` is now."""
        import numpy as np

        out = np.empty((len(self), self._dims), np.float32)
        for places, features in zip(self._places, self._features, strict=True):
            out[places] = encoder.vectors(features, "passage")
        return out

    def positions(self, gold: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Where each question's gold rows are in the pool (those that are there)."""
        import numpy as np

        found = []
        for rows in gold:
            places = np.searchsorted(self.rows, rows)
            inside = places < len(self.rows)
            places = places[inside]
            found.append(places[self.rows[places] == np.asarray(rows, np.int64)[inside]])
        return found
