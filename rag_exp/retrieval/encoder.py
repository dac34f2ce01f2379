"""What every encoder is: a network from texts to vectors whose inner products rank passages.

Question vectors carry the learned scale, passage vectors do not, so that softmax(question . passage) over
passages is a prior as it stands, and the index of the passages stays valid when the scale moves.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rag_exp.retrieval.encoders import Role

if TYPE_CHECKING:
    import numpy as np

Features = dict[str, Tensor]


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

    def remember_tokens(self, on: bool) -> None:
        """While on, an encoder for which tokenizing is the main work may keep the tokens of every text it meets."""

    def parameter_groups(self, lr: float) -> list[dict]:
        """The trainable parameters as an optimizer takes them, each group with its learning rate."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": lr}]

    def encode(self, texts: Sequence[str], role: Role, batch_size: int = 256) -> np.ndarray:
        """Vectors of ``texts``, float32 [N, D], in their order; no gradients, no dropout."""
        return self.encode_counted(texts, role, batch_size)[0]

    def encode_counted(self, texts: Sequence[str], role: Role, batch_size: int = 256) -> tuple[np.ndarray, int]:
        """Like :meth:`encode`, with the number of tokens read.

        Batches hold texts of similar length, which saves padding; the batch size changes results by rounding alone.
        """
        import numpy as np

        out = np.empty((len(texts), self.dims), np.float32)
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        tokens = 0
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            features = self.features([texts[i] for i in rows], role)
            tokens += self.tokens(features)
            out[rows] = self.vectors(features, role)
        return out, tokens

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
