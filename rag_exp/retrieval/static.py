"""A bag-of-tokens encoder that keeps lexical matches: random embeddings, rarity weights, a title apart.

With E random, the inner product of two sums of token embeddings is close to the count of shared tokens
(Johnson and Lindenstrauss 1984; random indexing). Weighting tokens by rarity makes this TF-IDF in D dimensions:
a strong retriever before any training, for names that no training question holds, too. Training then
moves the weights and the embeddings.

    bag(S) = sum over tokens v in S of w_v E_v,  w_v = exp(log_weight_v), one set of weights for each role
    passage = unit(a unit(bag(title)) + b unit(bag(text))),   question = scale unit(bag(text))

Tokens are those of the words in lower case, punctuation apart (see ``words.py``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rag_exp.core.atomic import write_json
from rag_exp.core.errors import DataError
from rag_exp.core.rng import derive
from rag_exp.data.tokenizer import TextTokenizer
from rag_exp.retrieval.encoder import Encoder, Features
from rag_exp.retrieval.encoders import Role, Static
from rag_exp.retrieval.words import WordTokens

_WEIGHT_LR = 10.0  # token weights, mix and scale are few and far from their optimum: they learn so much faster
_LEAST_RARITY = 0.05


class StaticEncoder(Encoder):
    """See the module. Until :meth:`prepare` all tokens weigh the same.

    Args:
        tokenizer: the shared vocabulary.
        vocab_size: rows of the table, at least ``tokenizer.size``.
        options: dims, max_length and initial values.
        seed: of the embeddings.
    """

    def __init__(self, tokenizer: TextTokenizer, vocab_size: int, options: Static, seed: int):
        super().__init__()
        if vocab_size < tokenizer.size:
            raise DataError(f"The tokenizer has {tokenizer.size} pieces, the encoder only {vocab_size} rows.")
        self.dims, self.vocab_size = options.dims, vocab_size
        self._tokens, self._max_length = WordTokens(tokenizer), options.max_length
        draw = torch.Generator().manual_seed(derive(seed, "static encoder"))
        self.embedding_VD = nn.Parameter(torch.randn(vocab_size, self.dims, generator=draw) / math.sqrt(self.dims))
        self.question_log_weight_V = nn.Parameter(torch.zeros(vocab_size))
        self.passage_log_weight_V = nn.Parameter(torch.zeros(vocab_size))
        self.log_mix = nn.Parameter(torch.tensor([math.log(options.title_weight), 0.0]))
        self.log_scale = nn.Parameter(torch.tensor(math.log(options.scale)))

    def features(self, texts: Sequence[str], role: Role) -> Features:
        """``ids`` [T] of all texts in a row and ``starts`` [2N]: where each one's title and text begin in it."""
        pairs = [t.split("\n", 1) if role == "passage" and "\n" in t else ("", t) for t in texts]
        ids, lengths = self._tokens.encode([s for pair in pairs for s in pair])
        title_N, text_N = lengths[::2], lengths[1::2]
        kept = np.empty_like(lengths)
        kept[::2] = np.minimum(title_N, self._max_length)
        kept[1::2] = np.minimum(text_N, self._max_length - kept[::2])
        if (kept < lengths).any():
            place = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            ids = ids[place < np.repeat(kept, lengths)]
        return {"ids": torch.from_numpy(ids), "starts": torch.from_numpy(np.cumsum(kept) - kept)}

    def forward(self, features: Features, role: Role) -> Tensor:
        ids, starts = features["ids"].to(self.device), features["starts"].to(self.device)
        log_weight_V = self.question_log_weight_V if role == "question" else self.passage_log_weight_V
        bags = functional.embedding_bag(
            ids, self.embedding_VD, starts, mode="sum", per_sample_weights=log_weight_V[ids].exp()
        )
        parts_N2D = functional.normalize(bags.view(-1, 2, self.dims), dim=-1)  # an empty part stays zero
        vectors_ND = functional.normalize((self.log_mix.exp()[:, None] * parts_N2D).sum(1), dim=-1)
        return vectors_ND * self.log_scale.exp() if role == "question" else vectors_ND

    def tokens(self, features: Features) -> int:
        return features["ids"].numel()

    def flops(self, tokens: int, texts: int) -> int:
        """A multiply and an add per token and dimension; two parts to scale, mix and normalise per text."""
        return 2 * self.dims * tokens + 12 * self.dims * texts

    def prepare(self, passages: Iterable[Features]) -> None:
        """Set both roles' token weights to BM25's ln(1 + (n - df + 1/2) / (df + 1/2)), df counted in passages."""
        counts = torch.zeros(self.vocab_size)
        total = 0
        for features in passages:
            ids, starts = features["ids"], features["starts"][::2]
            total += len(starts)
            ends = torch.cat([starts[1:], torch.tensor([len(ids)])])
            text_of_token = torch.repeat_interleave(torch.arange(len(starts)), ends - starts)
            held = torch.unique(text_of_token * self.vocab_size + ids) % self.vocab_size
            counts += torch.bincount(held, minlength=self.vocab_size)
        rarity = torch.log1p((total - counts + 0.5) / (counts + 0.5)).clamp_min(_LEAST_RARITY)
        with torch.no_grad():
            self.question_log_weight_V.copy_(rarity.log())
            self.passage_log_weight_V.copy_(rarity.log())

    def parameter_groups(self, lr: float) -> list[dict]:
        few = [self.question_log_weight_V, self.passage_log_weight_V, self.log_mix, self.log_scale]
        return [{"params": [self.embedding_VD], "lr": lr}, {"params": few, "lr": _WEIGHT_LR * lr}]

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, folder / "encoder.safetensors")
        write_json(folder / "encoder.json", {"kind": "static", "dims": self.dims, "vocab_size": self.vocab_size})

    @classmethod
    def load(cls, folder: Path, tokenizer: TextTokenizer, options: Static) -> StaticEncoder:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: nothing readable there, or it was made with other options.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            facts = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
            encoder = cls(tokenizer, facts["vocab_size"], options, seed=0)
            encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as e:
            raise DataError(f"{folder}: no readable static encoder of {options.dims} dims there ({e}).") from e
        return encoder
