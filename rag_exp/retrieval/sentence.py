"""Any sentence-transformers model as an encoder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rag_exp.core.atomic import write_json
from rag_exp.core.errors import DataError
from rag_exp.retrieval.encoder import Encoder, Features
from rag_exp.retrieval.encoders import Role, SentenceTransformers
from rag_exp.retrieval.pretrained import quietly

if TYPE_CHECKING:
    import numpy as np


class SentenceEncoder(Encoder):
    """A sentence-transformers model and a learned scale for questions.

    Args:
        model: folder or hub name.
        options: prompts, limits and the initial scale.

    Raises:
        DataError: the model cannot be loaded.
    """

    def __init__(self, model: str, options: SentenceTransformers):
        super().__init__()
        from sentence_transformers import SentenceTransformer

        try:
            with quietly():
                self.network = SentenceTransformer(model, revision=options.revision, device="cpu").float()
        except (OSError, ValueError) as e:
            raise DataError(f"encoder.model: {model} cannot be loaded as a sentence-transformers model: {e}") from e
        if options.max_length is not None:
            self.network.max_seq_length = options.max_length
        self._normalize, self._batch_tokens = options.normalize, options.batch_tokens
        own = self.network.prompts
        self._prompts: dict[str, str] = {
            "question": _first(options.question_prompt, own.get("query")),
            "passage": _first(options.passage_prompt, own.get("document"), own.get("passage")),
        }
        self.log_scale = nn.Parameter(torch.tensor(math.log(options.scale)))
        self.dims = self._width()

    def features(self, texts: Sequence[str], role: Role) -> Features:
        prompt = self._prompts[role]
        texts = [prompt + t for t in texts] if prompt else list(texts)
        read = getattr(self.network, "preprocess", None) or self.network.tokenize  # named preprocess since 5.2
        return {name: value for name, value in read(texts).items() if isinstance(value, Tensor)}

    def batches(self, features: Features) -> Iterator[tuple[np.ndarray | slice, Features]]:
        """The longest texts first, each batch padded to its own longest and at most ``batch_tokens`` with padding."""
        mask_NT = features["attention_mask"]
        lengths = mask_NT.sum(1)
        order = lengths.argsort(descending=True, stable=True)
        start = 0
        while start < len(order):
            longest = max(int(lengths[order[start]]), 1)
            rows = order[start : start + max(self._batch_tokens // longest, 1)]
            start += len(rows)
            columns = mask_NT[rows].any(0).nonzero()[:, 0]  # padding may stand on either side
            yield rows.numpy(), {name: value[rows][:, columns] for name, value in features.items()}

    def forward(self, features: Features, role: Role) -> Tensor:
        given: dict[str, Any] = {name: value.to(self.device) for name, value in features.items()}
        vectors_ND = self.network(given)["sentence_embedding"]
        if self._normalize:
            vectors_ND = functional.normalize(vectors_ND, dim=-1)
        return vectors_ND * self.log_scale.exp() if role == "question" else vectors_ND

    def tokens(self, features: Features) -> int:
        return int(features["attention_mask"].sum())

    def flops(self, tokens: int, texts: int) -> int:
        """Two operations per token and non-embedding weight, and the attention scores and sums.

        Kaplan et al. 2020, section 2.1; texts are taken as equally long.
        """
        weights = sum(p.numel() for n, p in self.network.named_parameters() if "embeddings." not in n)
        config = getattr(
            getattr(self.network[0], "model", getattr(self.network[0], "auto_model", None)), "config", None
        )
        layers, width = getattr(config, "num_hidden_layers", 0), getattr(config, "hidden_size", 0)
        length = tokens / max(texts, 1)
        return int(2 * weights * tokens + 4 * layers * width * length * tokens)

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        with quietly():
            self.network.save(str(folder / "model"), create_model_card=False)
        save_file({"log_scale": self.log_scale.detach().cpu()}, folder / "scale.safetensors")
        write_json(folder / "encoder.json", {"kind": "sentence_transformers", "dims": self.dims})
        for file in (folder / "model").rglob("*.safetensors"):
            file.chmod(0o644)  # written 0600, which would hide a shared store from colleagues

    @classmethod
    def load(cls, folder: Path, options: SentenceTransformers) -> SentenceEncoder:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: nothing readable there.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
            encoder = cls(str(folder / "model"), options.model_copy(update={"revision": None}))
            scale = load_file(folder / "scale.safetensors")["log_scale"]
        except (OSError, ValueError, KeyError, SafetensorError) as e:
            raise DataError(f"{folder}: no readable sentence-transformers encoder there ({e}).") from e
        with torch.no_grad():
            encoder.log_scale.copy_(scale)
        return encoder

    def _width(self) -> int:
        for name in ("get_embedding_dimension", "get_sentence_embedding_dimension"):  # renamed in version 6
            if hasattr(self.network, name) and (found := getattr(self.network, name)()) is not None:
                return int(found)
        return int(self.vectors(self.features(["x"], "passage"), "passage").shape[1])


def _first(*prompts: str | None) -> str:
    return next((p for p in prompts if p is not None), "")
