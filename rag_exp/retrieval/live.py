"""A retriever that trains with the reader: it searches in every step, and gradients flow through the scores.

Without a passage encoder (``train=query``, Lewis et al. 2020) the question encoder learns; passage vectors and
index stay as they are. With one (``train=both``, as REALM, Guu et al. 2020) the passages that were found are encoded
anew, with gradients; the index goes stale meanwhile, until :meth:`LiveRetriever.refresh` builds it again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rag_exp.core.scratch import ScratchFolder
from rag_exp.retrieval.embeddings import embed_passages, load_blocks, storage_of, take_vectors
from rag_exp.retrieval.encoder import Encoder
from rag_exp.retrieval.encoders import PassageTexts, passage_text
from rag_exp.retrieval.hop2 import SecondHop
from rag_exp.retrieval.index import BuiltIndex, VectorIndexOptions
from rag_exp.retrieval.paths import Paths, compose_all, others
from rag_exp.retrieval.rescore import rescored
from rag_exp.retrieval.results import SearchResult
from rag_exp.retrieval.topk import join_queries

_READ_ROWS = 8_192
_FLOPS, _WEIGHTS = "flops", "indexed."


class LiveRetriever(nn.Module):
    """Encoders in training, passage vectors and an index over them, built when first needed.

    Args:
        question_encoder: learns.
        passage_encoder: learns too, a network of its own that begins as the one that made ``blocks``; None where
            passages stay as they are.
        passages: texts of at least as many passages as there are vectors.
        blocks: passage vectors; they decide the corpus size.
        index_options: an index that needs vectors.
        seed: of every build of the index.
        folder: where vectors are written at a refresh; None: a temporary folder.

    Attributes:
        flops: of all searches (forward and backward) and refreshes until now; kept by :meth:`state`.
    """

    def __init__(
        self,
        question_encoder: Encoder,
        passage_encoder: Encoder | None,
        passages: PassageTexts,
        blocks: Sequence[np.ndarray],
        index_options: VectorIndexOptions,
        seed: int,
        folder: Path | None = None,
    ):
        super().__init__()
        assert index_options.needs == "vectors", "an index of texts has nothing that trains"
        assert passage_encoder is not question_encoder, "the encoders must be two networks"
        self.question_encoder, self.passage_encoder = question_encoder, passage_encoder
        if passage_encoder is not None:
            passage_encoder.log_scale.requires_grad_(False)  # only questions are scaled
        self._passages, self._blocks, self._size = passages, list(blocks), sum(len(b) for b in blocks)
        self._options, self._seed = index_options, seed
        self._index: BuiltIndex | None = None
        self._folder = folder
        self._temporary: ScratchFolder | None = None
        self._indexed: dict[str, Tensor] | None = None  # passage weights of the last refresh
        self._stale = False
        self.flops = 0

    @property
    def index(self) -> BuiltIndex:
        """The index that is searched now."""
        if self._stale:
            self._restore()
        if self._index is None:
            self._index = self._built()
        return self._index

    def _built(self) -> BuiltIndex:
        return rescored(self._options.create(self._blocks, self._seed), self._options, self._blocks)

    def search(self, questions: Sequence[str], k: int) -> tuple[np.ndarray, Tensor]:
        """The best ``k`` passages of each question.

        Returns:
            ``rows_BK``: int64, in the order of the index, best first; -1 where there is no passage.
            ``scores_BK``: inner products by the encoders as they are now, differentiable; -inf where there is none.
        """
        question_BD = self._encoded(questions)
        found = self._found(question_BD, k)
        (vectors_BKD,) = self._vectors(found)
        return found.ids_QK, _scores(question_BD, vectors_BKD, found)

    def find(self, questions: Sequence[str], k: int) -> SearchResult:
        """What the index gives for each question now; no gradients, no dropout; counted."""
        vectors_QD, tokens = self.question_encoder.encode_counted(questions, "question")
        found = self.index.search(vectors_QD, k)
        self.flops += self.question_encoder.flops(tokens, len(questions))
        self.flops += 2 * vectors_QD.shape[1] * (self.index.distances or 0)
        return found

    def search_paths(self, questions: Sequence[str], k: int, hop2: SecondHop) -> tuple[Paths, Tensor, Tensor]:
        """The best ``k`` passages of each question, and after each of them the best of the second hop.

        Different questions with a passage are encoded once, all of them in one batch; with a passage encoder in
        training, so are the different passages of both hops.

        Returns:
            what was found; ``scores_BK`` and ``scores_BKJ`` of both hops as :meth:`search` gives them, both
            differentiable in the question encoder.
        """
        question_BD = self._encoded(questions)
        hop1 = self._found(question_BD, k)
        asked, place = np.nonzero(hop1.mask_QK)
        rows = hop1.ids_QK[asked, place]
        texts = compose_all(hop2, [questions[q] for q in asked], rows, self._passages)
        different = {text: n for n, text in enumerate(dict.fromkeys(texts))}
        of_text = np.array([different[text] for text in texts], np.int64)
        composed_UD = self._encoded(list(different))
        found = others(self._found(composed_UD, hop2.j + 1).of_queries(of_text), rows, hop2.j)
        # Whatever follows no passage is an empty row: as of the row added at the end.
        of_path = np.full(hop1.ids_QK.shape, len(found), np.int64)
        of_path[asked, place] = np.arange(len(found))
        second = join_queries([found, SearchResult.empty(1, hop2.j)], hop2.j).of_queries(of_path.reshape(-1))
        vectors_BKD, vectors_RJD = self._vectors(hop1, second)
        of_query = torch.from_numpy(np.append(of_text, 0)[of_path.reshape(-1)]).to(composed_UD.device)
        scores_RJ = _scores(composed_UD[of_query], vectors_RJD, second)
        paths = Paths(hop1, second)
        return paths, _scores(question_BD, vectors_BKD, hop1), scores_RJ.view(paths.ids_QKJ.shape)

    def _encoded(self, questions: Sequence[str]) -> Tensor:
        """Vectors of questions, differentiable; counted."""
        asked = self.question_encoder.features(questions, "question")
        self.flops += 3 * self.question_encoder.flops(self.question_encoder.tokens(asked), len(questions))
        return self.question_encoder(asked, "question")

    def _found(self, question_BD: Tensor, k: int) -> SearchResult:
        index = self.index
        found = index.search(question_BD.detach().float().cpu().numpy(), k)
        self.flops += 2 * question_BD.shape[1] * ((index.distances or 0) + 3 * found.ids_QK.size)
        return found

    def _vectors(self, *results: SearchResult) -> list[Tensor]:
        """Vectors [B, K, D] of what each of ``results`` found, by the passage encoder as it is, where it trains."""
        ids_N = np.concatenate([r.ids_QK.reshape(-1) for r in results])
        if self.passage_encoder is None or not (ids_N >= 0).any():
            weight = self.question_encoder.log_scale
            vectors_ND = torch.from_numpy(take_vectors(self._blocks, ids_N)).to(weight)
        else:
            vectors_ND = self._encode_again(self.passage_encoder, ids_N)
        parts = vectors_ND.split([r.ids_QK.size for r in results])
        return [part.view(*r.ids_QK.shape, -1) for part, r in zip(parts, results, strict=True)]

    def _encode_again(self, encoder: Encoder, ids_N: np.ndarray) -> Tensor:
        """Vectors [N, D] of the passages by the encoder as it is, each distinct passage encoded once."""
        mask_N = ids_N >= 0
        rows_U, place = np.unique(ids_N[mask_N], return_inverse=True)
        texts = [passage_text(*pair) for pair in self._passages.texts(rows_U)]
        features = encoder.features(texts, "passage")
        vectors_UD = encoder(features, "passage")
        self.flops += 3 * encoder.flops(encoder.tokens(features), len(rows_U))
        place_N = np.zeros(ids_N.shape, np.int64)
        place_N[mask_N] = place
        return vectors_UD[torch.from_numpy(place_N).to(vectors_UD.device)]

    def refresh(self) -> dict[str, Any]:
        """Encode all passages with the passage encoder as it is now and build the index anew.

        Returns:
            ``tokens``, ``flops`` (of encoding, and of building where the index tells) and ``seconds``.

        Raises:
            DataError: the encoder makes vectors that are not finite.
        """
        assert self.passage_encoder is not None, "the passages of this retriever do not move"
        start = time.perf_counter()
        stats = self._rebuild(self.passage_encoder)
        weights = self.passage_encoder.state_dict()
        self._indexed = {name: value.detach().cpu().clone() for name, value in weights.items()}
        self._stale = False
        self.flops += stats["flops"]
        return {"tokens": stats["tokens"], "flops": stats["flops"], "seconds": time.perf_counter() - start}

    def _rebuild(self, encoder: Encoder) -> dict[str, Any]:
        pairs = (
            pair
            for first in range(0, self._size, _READ_ROWS)
            for pair in self._passages.texts(np.arange(first, min(first + _READ_ROWS, self._size)))
        )
        folder = self._where()
        # Written beside and renamed: memory maps of the old vectors stay whole.
        stats = embed_passages(encoder, pairs, self._size, folder / "building", storage=storage_of(self._blocks))
        (folder / "current").mkdir(parents=True, exist_ok=True)
        os.replace(folder / "building" / "vectors.npy", folder / "current" / "vectors.npy")
        self._blocks = load_blocks([folder / "current"], self._size)
        self._index = self._built()
        return {**stats, "flops": stats["flops"] + (self._index.stats()["build_flops"] or 0)}

    def _where(self) -> Path:
        if self._folder is None:
            self._temporary = ScratchFolder("refresh")
            self._folder = Path(self._temporary.name)
        return self._folder

    def _restore(self) -> None:
        """Build the index from the weights of the last refresh, then take up the present weights again."""
        assert self.passage_encoder is not None
        assert self._indexed is not None
        now = {name: value.clone() for name, value in self.passage_encoder.state_dict().items()}
        self.passage_encoder.load_state_dict(self._indexed)
        try:
            self._rebuild(self.passage_encoder)
        finally:
            self.passage_encoder.load_state_dict(now)
        self._stale = False

    def state(self) -> dict[str, Tensor]:
        """What a resumed training needs beside the parameters: the passage weights that the index was last built from
        (nothing before the first refresh), and the operations counted."""
        found = {f"{_WEIGHTS}{name}": value for name, value in (self._indexed or {}).items()}
        return {_FLOPS: torch.tensor(self.flops, dtype=torch.int64), **found}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`state` gave; the index is rebuilt from it at the next search, to the same bits."""
        self.flops = int(state[_FLOPS]) if _FLOPS in state else 0
        weights = {n.removeprefix(_WEIGHTS): t for n, t in state.items() if n.startswith(_WEIGHTS)}
        self._indexed = weights or None
        self._stale = bool(weights)

    def save(self, folder: Path) -> None:
        """Write the encoders that trained into ``folder/question_encoder`` and ``folder/passage_encoder``."""
        self.question_encoder.save(folder / "question_encoder")
        if self.passage_encoder is not None:
            self.passage_encoder.save(folder / "passage_encoder")


def _scores(question_BD: Tensor, vectors_BKD: Tensor, found: SearchResult) -> Tensor:
    """Inner products [B, K], -inf where nothing was found."""
    empty_BK = torch.tensor(~found.mask_QK, device=question_BD.device)
    return torch.einsum("bd,bkd->bk", question_BD, vectors_BKD).masked_fill(empty_BK, -torch.inf)
