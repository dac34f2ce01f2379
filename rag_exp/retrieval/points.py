"""Vectors for numbered points: clustered, as embeddings of texts are, and the same wherever and however they are made.

    x_i = unit(c + spread_c W s z_i),   c = centre of cluster(i),  z_i ~ N(0, 1)^R,  s_r ~ 1 / sqrt(r)

A point lies in one of many clusters (the first ones hold more of them), inside a subspace W of few dimensions
R whose axes matter ever less (sum of s_r^2 = 1). Uniform or Gaussian noise in D dimensions has no near
neighbours, so that no index can find them: recall on it says nothing of recall on texts, and is not offered. All
randomness is a hash of the number, so a vector depends neither on batches nor on what was made before it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rag_exp.core.atomic import write_json
from rag_exp.core.errors import DataError
from rag_exp.core.rng import derive, numpy_rng
from rag_exp.retrieval.encoder import Encoder, Features
from rag_exp.retrieval.encoders import Points, Role

if TYPE_CHECKING:
    import numpy as np


class PointsEncoder(Encoder):
    """See the module."""

    def __init__(self, options: Points):
        import numpy as np

        super().__init__()
        self.options, self.dims = options, options.dims
        draw = numpy_rng(options.seed, "points")
        centres_CD = draw.standard_normal((options.clusters, options.dims), dtype="float32")
        self._centres_CD = centres_CD / math.sqrt(options.dims)
        axes_RD = draw.standard_normal((options.inner_dims, options.dims), dtype="float32") / math.sqrt(options.dims)
        weights_R = np.arange(1, options.inner_dims + 1, dtype=np.float32) ** -0.5
        self._axes_RD = weights_R[:, None] / np.linalg.norm(weights_R) * axes_RD
        self._spread_C = options.spread * draw.uniform(0.5, 1.5, (options.clusters, 1)).astype("float32")
        self.log_scale = nn.Parameter(torch.zeros(()))

    def features(self, texts: Sequence[str], role: Role) -> Features:
        try:
            numbers = [int(text.removeprefix("\n")) for text in texts]
        except ValueError as e:
            raise DataError(f"encoder=points reads the numbers of corpus=points and no words ({e}).") from e
        return {"numbers": torch.tensor(numbers, dtype=torch.long)}

    def forward(self, features: Features, role: Role) -> Tensor:
        import numpy as np

        options = self.options
        numbers_N = features["numbers"].cpu().numpy().astype(np.uint64)
        seed = derive(options.seed, "points", role)  # a query is no point of the corpus
        where_N = _uniform(_hash(numbers_N, seed))
        cluster_N = (options.clusters * where_N**2).astype(np.int64)
        axis_R2 = np.arange(2 * options.inner_dims).reshape(-1, 2)
        uniform_NR2 = _uniform(_hash(numbers_N[:, None, None], seed + 1, axis_R2))
        radius_NR = np.sqrt(-2 * np.log1p(-uniform_NR2[..., 0]))  # Box and Muller 1958
        inner_NR = (radius_NR * np.cos(2 * np.pi * uniform_NR2[..., 1])).astype(np.float32)
        vectors_ND = self._centres_CD[cluster_N] + self._spread_C[cluster_N] * (inner_NR @ self._axes_RD)
        vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        found = torch.from_numpy(vectors_ND).to(self.device)
        return found * self.log_scale.exp() if role == "question" else found

    def tokens(self, features: Features) -> int:
        return features["numbers"].numel()

    def flops(self, tokens: int, texts: int) -> int:
        """The product with the axes, the sum and the norm."""
        return texts * self.dims * (2 * self.options.inner_dims + 4)

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({"log_scale": self.log_scale.detach().cpu()}, folder / "scale.safetensors")
        write_json(folder / "encoder.json", {"kind": "points", "dims": self.dims})

    @classmethod
    def load(cls, folder: Path, options: Points) -> PointsEncoder:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: nothing readable there.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        encoder = cls(options)
        try:
            json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
            scale = load_file(folder / "scale.safetensors")["log_scale"]
        except (OSError, ValueError, KeyError, SafetensorError) as e:
            raise DataError(f"{folder}: no readable points encoder there ({e}).") from e
        with torch.no_grad():
            encoder.log_scale.copy_(scale)
        return encoder


def _hash(numbers: np.ndarray, seed: int, *more: np.ndarray) -> np.ndarray:
    """64 random bits for each number, and for each of ``more`` beside it (SplitMix64: Steele, Lea & Flood 2014)."""
    import numpy as np

    with np.errstate(over="ignore"):
        state = _mixed(numbers + np.uint64(seed & 0xFFFF_FFFF_FFFF_FFFF) * np.uint64(0x9E37_79B9_7F4A_7C15))
        for other in more:
            state = _mixed(state + (other.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E37_79B9_7F4A_7C15))
    return state


def _mixed(state: np.ndarray) -> np.ndarray:
    import numpy as np

    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return state ^ (state >> np.uint64(31))


def _uniform(bits: np.ndarray) -> np.ndarray:
    """In [0, 1), of 53 random bits."""
    import numpy as np

    return (bits >> np.uint64(11)) * np.float64(2.0**-53)
