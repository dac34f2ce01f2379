"""What every encoder is: a network from texts to vectors whose inner products rank passages.

Question vectors carry the learned scale, passage vectors do not, so that softmax(question . passage) over
passages is a prior as it stands, and the index of the passages stays valid when the scale moves.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rag_exp.retrieval.encoders import Role

if TYPE_CHECKING:
    import numpy as np

Features = dict[str, Tensor]
POOL_TEXTS = 1_024  # texts tokenized at once


class Encoder(nn.Module, ABC):
    """Texts to vectors. Passages are given as ``passage_text(title, text)``.

    Attributes:
        dims: width D of the vectors.
        log_scale: scalar parameter; question vectors are multiplied by its exponential.
    """

    dims: int
    log_scale: nn.Parameter

    @abstractmethod
    def features(self, texts: Sequence[str], role: Role) -> Features:
        """Tokens of N texts, ready for :meth:`forward`."""

    @abstractmethod
    def forward(self, features: Features, role: Role) -> Tensor:
        """Vectors [N, D], differentiable, on the parameters' device."""

    @abstractmethod
    def tokens(self, features: Features) -> int:
        """Tokens read, padding not counted."""

    @abstractmethod
    def flops(self, tokens: int, texts: int) -> int:
        """Floating-point operations of a forward pass over ``texts`` texts of ``tokens`` tokens in all."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and facts (JSON) into ``folder``, made if missing."""

    def prepare(self, passages: Iterable[Features]) -> None:
        """Set what is counted rather than learned (token rarity) from a corpus, before any training."""

    def parameter_groups(self, lr: float) -> list[dict]:
        """The trainable parameters as an optimizer takes them, each group with its learning rate."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": lr}]

    def encode(self, texts: Sequence[str], role: Role) -> np.ndarray:
        """Vectors of ``texts``, float32 [N, D], in their order; no gradients, no dropout."""
        return self.encode_counted(texts, role)[0]

    def encode_counted(
        self, texts: Sequence[str], role: Role, progress: Callable[[int], None] | None = None
    ) -> tuple[np.ndarray, int]:
        """Like :meth:`encode`, with the number of tokens read.

        Texts of similar length are read together, the longest first. How they are put together changes results by
        rounding alone. ``progress`` is called with the number of texts done after each batch.
        """
        import numpy as np

        out = np.empty((len(texts), self.dims), np.float32)
        order = np.argsort([-len(t) for t in texts], kind="stable")
        done = tokens = 0
        for start in range(0, len(order), POOL_TEXTS):
            pool = order[start : start + POOL_TEXTS]
            for part, features in self.batches(self.features([texts[i] for i in pool], role)):
                rows = pool[part]
                out[rows] = self.vectors(features, role)
                done, tokens = done + len(rows), tokens + self.tokens(features)
                if progress is not None:
                    progress(done)
        return out, tokens

    def batches(self, features: Features) -> Iterator[tuple[np.ndarray | slice, Features]]:
        """``features`` cut into what is read at once: the rows of each part, and their features.

        An encoder that pads no text reads all at once.
        """
        yield slice(None), features

    def vectors(self, features: Features, role: Role) -> np.ndarray:
        """:meth:`forward` without gradients and dropout, as float32 numpy."""
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self(features, role).float().cpu().numpy()
        finally:
            self.train(was_training)

    @property
    def scale(self) -> float:
        """Length of question vectors now."""
        return math.exp(self.log_scale.item())

    @property
    def device(self) -> torch.device:
        return self.log_scale.device
