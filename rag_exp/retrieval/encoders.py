"""Options of the encoders, and how a passage's title and text become the one string that all of them read.

The networks are in ``static.py`` and ``sentence.py``; nothing here imports torch before an encoder is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field

from rag_exp.core.errors import ConfigError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.options import NEUTRAL, Options, Registry

if TYPE_CHECKING:
    import numpy as np

    from rag_exp.retrieval.encoder import Encoder
    from rag_exp.retrieval.points import PointsEncoder
    from rag_exp.retrieval.sentence import SentenceEncoder
    from rag_exp.retrieval.static import StaticEncoder

ENCODERS = Registry("encoder")
Role = Literal["question", "passage"]
Storage = Literal["float32", "float16"]


class PassageTexts(Protocol):
    """The access to passages that retrieval needs; ``data.passages.PassageTable`` gives it.

    Attributes:
        doc_ends: int64, cumulative passage counts by document: passages of a document are neighbours.
    """

    doc_ends: np.ndarray

    def __len__(self) -> int: ...

    def texts(self, rows: Sequence[int] | np.ndarray) -> list[tuple[str, str]]:
        """(title, text) of each row."""
        ...


def passage_text(title: str, text: str) -> str:
    """The string that encoders and BM25 read: the title, a newline, the text. Without a title the newline stays,
    so that the first newline always tells the two apart; newlines inside a title become spaces."""
    return " ".join(title.split()) + "\n" + text


class EncoderOptions(Options):
    """Base of every encoder's options.

    Attributes:
        warmup_steps, warmup_lr, warmup_pool: what ``auto`` means for this encoder in ``retriever.warmup``.
        needs_tokenizer: it reads the run's shared vocabulary.
        precomputed: there is nothing to load: vectors are looked up by the ids of passages and questions.
    """

    warmup_steps: ClassVar[int] = 0
    warmup_lr: ClassVar[float] = 2e-5
    warmup_pool: ClassVar[int] = 4_096  # a transformer reads some tens of passages a second on a CPU
    needs_tokenizer: ClassVar[bool] = False
    precomputed: ClassVar[bool] = False

    storage: Storage = Field(
        "float32",
        description="numbers of stored passage vectors; float16: half the bytes, scores of unit vectors to about 1e-4",
    )

    def identity(self, *leave_out: str) -> dict[str, Any]:
        found = super().identity(*leave_out)
        if self.storage == "float32":
            del found["storage"]  # as all were before there was another
        return found

    @property
    def bytes_per_number(self) -> int:
        """Of passage vectors as they are stored."""
        return 2 if self.storage == "float16" else 4

    def problems(self) -> list[str]:
        """What keeps this encoder from being made here; sentences that start with the config path."""
        return []

    def lacks_passages(self) -> list[str]:
        """What keeps this encoder from giving passages' vectors, though it can give those of questions; as above."""
        return []

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        """What the options point to, by content: belongs to the encoder's key beside ``identity()``."""
        return {}

    def known_dims(self) -> int:
        """Width of the vectors, found without torch."""
        raise NotImplementedError

    def parameter_counts(self, vocab_size: int | None) -> dict[str, int]:
        """Parameters by group; they sum to what the built network has. Without torch where files allow it."""
        raise NotImplementedError

    def create(self, tokenizer_folder: Path | None, vocab_size: int | None, seed: int) -> Encoder:
        """A new encoder: weights drawn under ``seed``, or the pretrained ones.

        Args:
            tokenizer_folder: holds the shared ``tokenizer.json`` (static only).
            vocab_size: rows of the embedding table, at least the tokenizer's size (static only).
            seed: of the initial weights.
        """
        raise NotImplementedError

    def load(self, folder: Path, tokenizer_folder: Path | None) -> Encoder:
        """What :meth:`Encoder.save` wrote into ``folder``."""
        raise NotImplementedError


@ENCODERS.register
class Static(EncoderOptions):
    """A bag of token embeddings over the shared vocabulary, trained from scratch (see ``StaticEncoder``)."""

    warmup_steps: ClassVar[int] = 100
    warmup_lr: ClassVar[float] = 3e-3
    warmup_pool: ClassVar[int] = 50_000
    needs_tokenizer: ClassVar[bool] = True

    kind: Literal["static"] = "static"
    dims: int = Field(192, ge=1, description="width of the vectors")
    max_length: int = Field(256, ge=2, description="tokens read of title and text together")
    title_weight: float = Field(2.0, gt=0, description="initial weight of the title against the text (1); learned")
    scale: float = Field(20.0, gt=0, description="initial length of question vectors, the sharpness of scores; learned")

    def known_dims(self) -> int:
        return self.dims

    def parameter_counts(self, vocab_size: int | None) -> dict[str, int]:
        assert vocab_size is not None, "the static encoder needs the vocabulary's size"
        return {"embedding": vocab_size * self.dims, "token_weights": 2 * vocab_size, "mix_and_scale": 3}

    def create(self, tokenizer_folder: Path | None, vocab_size: int | None, seed: int) -> StaticEncoder:
        from rag_exp.data.tokenizer import TextTokenizer
        from rag_exp.retrieval.static import StaticEncoder

        assert tokenizer_folder is not None, "the static encoder needs the shared tokenizer"
        tokenizer = TextTokenizer.load(tokenizer_folder)
        return StaticEncoder(tokenizer, vocab_size or tokenizer.size, self, seed)

    def load(self, folder: Path, tokenizer_folder: Path | None) -> StaticEncoder:
        from rag_exp.data.tokenizer import TextTokenizer
        from rag_exp.retrieval.static import StaticEncoder

        assert tokenizer_folder is not None, "the static encoder needs the shared tokenizer"
        return StaticEncoder.load(folder, TextTokenizer.load(tokenizer_folder), self)


@ENCODERS.register
class SentenceTransformers(EncoderOptions):
    """Any sentence-transformers model."""

    kind: Literal["sentence_transformers"] = "sentence_transformers"
    # NEUTRAL: a model is identified by what is in it (content()), not by where it lies.
    model: Annotated[str, NEUTRAL] = Field(
        ..., min_length=1, description="a folder, package:NAME (its get_model_path() is asked), or a hub name"
    )
    revision: Annotated[str | None, NEUTRAL] = Field(None, description="branch, tag or commit of a hub model")
    max_length: int | None = Field(None, ge=2, description="tokens read of a text; null: the model's own limit")
    normalize: bool = Field(True, description="unit vectors; false for models trained with plain inner products")
    batch_tokens: Annotated[int, NEUTRAL] = Field(
        4_096, ge=1, description="tokens read at once, padding included; a longer text is read alone"
    )
    question_prompt: str | None = Field(None, description="put before questions; null: the model's own 'query' prompt")
    passage_prompt: str | None = Field(None, description="put before passages; null: its 'document' or 'passage' one")
    scale: float = Field(20.0, gt=0, description="initial length of question vectors, the sharpness of scores; learned")

    def problems(self) -> list[str]:
        from importlib.util import find_spec

        if find_spec("sentence_transformers") is None:
            return ["encoder.kind: needs sentence-transformers: pip install 'rag-exp[sentence-transformers]'."]
        try:
            self.location()
        except ConfigError as e:
            return e.problems
        return []

    def location(self) -> Path | str:
        """The model's folder, or its hub name.

        Raises:
            ConfigError: neither a folder, nor an installed package, nor what a hub name looks like.
        """
        from rag_exp.retrieval.pretrained import locate

        return locate(self.model, "encoder.model")

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        from rag_exp.retrieval.pretrained import content_of

        return content_of(self.location(), self.revision, digests, "encoder")

    def known_dims(self) -> int:
        from rag_exp.retrieval.pretrained import sentence_dims

        found = sentence_dims(self.location())
        return found if found is not None else self.create(None, None, 0).dims

    def parameter_counts(self, vocab_size: int | None) -> dict[str, int]:
        from rag_exp.retrieval.pretrained import count_tensors

        found = count_tensors(self.location())
        if found is None:  # no safetensors files here: only the built model can tell
            network = self.create(None, None, 0)
            sizes = {name: p.numel() for name, p in network.named_parameters() if not name.startswith("log_scale")}
        else:
            sizes = found
        embedding = sum(n for name, n in sizes.items() if "embeddings." in name)
        return {"embedding": embedding, "layers": sum(sizes.values()) - embedding, "scale": 1}

    def create(self, tokenizer_folder: Path | None, vocab_size: int | None, seed: int) -> SentenceEncoder:
        from rag_exp.retrieval.sentence import SentenceEncoder

        return SentenceEncoder(str(self.location()), self)

    def load(self, folder: Path, tokenizer_folder: Path | None) -> SentenceEncoder:
        from rag_exp.retrieval.sentence import SentenceEncoder

        return SentenceEncoder.load(folder, self)


@ENCODERS.register
class Points(EncoderOptions):
    """Clustered vectors for the numbers of ``corpus=points`` (see ``retrieval/points.py``)."""

    kind: Literal["points"] = "points"
    dims: int = Field(384, ge=1, description="width of the vectors")
    clusters: int = Field(1_000, ge=1, description="groups of points; point densities differ between them")
    inner_dims: int = Field(32, ge=1, description="dimensions in which the points of a cluster differ")
    spread: float = Field(1.0, gt=0, description="mean distance of points from their cluster's centre, of length 1")
    seed: int = Field(0, ge=0, description="of centres, axes and points")

    def known_dims(self) -> int:
        return self.dims

    def parameter_counts(self, vocab_size: int | None) -> dict[str, int]:
        return {"scale": 1}

    def create(self, tokenizer_folder: Path | None, vocab_size: int | None, seed: int) -> PointsEncoder:
        from rag_exp.retrieval.points import PointsEncoder

        return PointsEncoder(self)

    def load(self, folder: Path, tokenizer_folder: Path | None) -> PointsEncoder:
        from rag_exp.retrieval.points import PointsEncoder

        return PointsEncoder.load(folder, self)


@ENCODERS.register
class Precomputed(EncoderOptions):
    """Vectors that were made elsewhere, looked up by the ids of passages and questions."""

    precomputed: ClassVar[bool] = True

    kind: Literal["precomputed"] = "precomputed"
    # NEUTRAL: files are identified by what is in them (content()), not by where they lie.
    passages: Annotated[str | None, NEUTRAL] = Field(
        None, description="an .npy file, floats [passages, dims]; null where no passage's vector is needed"
    )
    passage_ids: Annotated[str | None, NEUTRAL] = Field(
        None, description="the id of each row: text lines, or .npy of strings"
    )
    questions: Annotated[str, NEUTRAL] = Field(description="an .npy file, floats [questions, dims]")
    question_ids: Annotated[str, NEUTRAL] = Field(description="the id of each row, of all splits that are asked")

    def problems(self) -> list[str]:
        from rag_exp.core.errors import DataError
        from rag_exp.retrieval.precomputed import matrix

        if (self.passages is None) != (self.passage_ids is None):
            return ["encoder.passage_ids: it names the rows of encoder.passages; give both, or neither."]
        absent = [name for name, file in self._files().items() if not Path(file).is_file()]
        if absent:
            return [f"encoder.{name}: no file {getattr(self, name)!r} (looked from {Path.cwd()})." for name in absent]
        try:
            widths = [matrix(file).shape[1] for file in (self.passages or self.questions, self.questions)]
        except DataError as e:
            return [f"encoder: {e}"]
        if widths[0] != widths[1]:
            return [f"encoder.questions: {widths[1]} dimensions, those of encoder.passages have {widths[0]}."]
        return []

    def lacks_passages(self) -> list[str]:
        return [] if self.passages else ["encoder.passages: null: passages' vectors are needed here; name their files."]

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        return {name: digests.of(file) for name, file in self._files().items()}

    def known_dims(self) -> int:
        from rag_exp.retrieval.precomputed import matrix

        return int(matrix(self.questions).shape[1])

    def _files(self) -> dict[str, str]:
        """The files that are given, by the option that names them."""
        named = {name: getattr(self, name) for name in ("passages", "passage_ids", "questions", "question_ids")}
        return {name: file for name, file in named.items() if file is not None}

    def parameter_counts(self, vocab_size: int | None) -> dict[str, int]:
        return {}
