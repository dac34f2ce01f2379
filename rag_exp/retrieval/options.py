"""Options of the groups ``retriever`` (what trains, how sharp the prior is) and ``retrieval`` (what is read)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from rag_exp.core.options import NEUTRAL, SEARCH, Options
from rag_exp.retrieval.hop2 import SecondHop
from rag_exp.retrieval.ray_shards import RayOptions

if TYPE_CHECKING:
    from rag_exp.retrieval.encoders import EncoderOptions

NegativeSource = Literal["encoder", "bm25", "document"]


class RetrieverWarmup(Options):
    """Contrastive training of the encoder before anything else (Karpukhin et al. 2020, DPR)."""

    steps: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="0: none; auto: what the encoder needs (none for a pretrained one)"
    )
    batch_size: int = Field(128, ge=2, description="questions a step; their gold passages are each other's negatives")
    lr: Annotated[float, Field(gt=0)] | Literal["auto"] = Field("auto", description="auto: the encoder's own")
    hard_negatives: int = Field(2, ge=0, description="mined passages a question, new ones at each step")
    negatives_from: tuple[NegativeSource, ...] = Field(
        ("encoder", "document"),
        description="encoder: what it ranks high before training; bm25: what BM25 ranks high; document: the gold's own",
    )
    mined: int = Field(16, ge=1, description="candidates that each source gives a question")
    drop_answer_matches: bool = Field(
        False, description="leave out mined passages that hold an answer (for corpora whose gold labels are incomplete)"
    )
    pool: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="passages that are mined and calibrated in, the questions' gold included; auto: the encoder's",
    )
    held_out: int = Field(
        512, ge=0, description="questions of documents kept out of training, to set the scale and measure recall"
    )

    def resolved(self, encoder: EncoderOptions) -> RetrieverWarmup:
        """With numbers in place of ``auto``: what identifies the warm-up and what :func:`warm_up` takes."""
        own = {"steps": encoder.warmup_steps, "lr": encoder.warmup_lr, "pool": encoder.warmup_pool}
        return self.model_copy(update={name: value for name, value in own.items() if getattr(self, name) == "auto"})


class RetrieverOptions(Options):
    """The ``retriever`` group."""

    train: Literal["frozen", "query", "both"] = Field(
        "frozen", description="what the end-to-end training moves: nothing, the query encoder, or both (index rebuilt)"
    )
    temperature: float = Field(
        1.0, gt=0, description="prior = softmax(score / temperature) over the retrieved passages"
    )
    learn_temperature: bool = Field(
        False, description="train it (its logarithm) in the end-to-end stage, whatever else trains; above is its start"
    )
    null_document: Literal["none", "fixed", "learned"] = Field(
        "none",
        description="one more reading, of the question alone (Guu et al. 2020, REALM): fixed: with null_score as its "
        "retrieval score; learned: with one that trains in the end-to-end stage, from there",
    )
    null_score: Annotated[float, Field(allow_inf_nan=False)] | Literal["auto"] = Field(
        "auto",
        description="on the scale of the index's scores; auto: where it is learned, it begins at the median score of "
        "the last passage found with a training question",
    )
    prior_lr: float = Field(0.01, gt=0, description="peak learning rate of what is learned of the prior itself")
    refresh_every: int = Field(200, ge=1, description="steps between rebuilding the index (train=both only)")
    warmup: RetrieverWarmup = RetrieverWarmup()

    @property
    def learns_prior(self) -> bool:
        """Whether anything of the prior itself is learned, with or without the encoders."""
        return self.learn_temperature or self.null_document == "learned"

    def prior_identity(self) -> dict[str, Any]:
        """The fields that decide the prior over what is found; without those of what is off."""
        found: dict[str, Any] = {"temperature": self.temperature}
        if self.learn_temperature:
            found["learn_temperature"] = True
        if self.null_document != "none":
            found |= {"null_document": self.null_document, "null_score": self.null_score}
        return {**found, "prior_lr": self.prior_lr} if self.learns_prior else found


class RetrievalOptions(Options):
    """The ``retrieval`` group. ``SEARCH``: neither the index nor the embeddings depend on it."""

    source: Annotated[Literal["index", "run", "oracle", "random", "none"], SEARCH] = Field(
        "index",
        description="index: search; run: what retrieval.runs say was found; oracle: gold passages first; random: any; "
        "none: closed book",
    )
    runs: Annotated[tuple[str, ...], NEUTRAL] = Field(
        (), description="source=run: files of results, TREC runs or JSON lines, that hold every question"
    )
    k: Annotated[int, SEARCH] = Field(
        4, ge=1, description="passages read with each question (with a second hop: passages found by the first)"
    )
    hop2: Annotated[SecondHop | None, SEARCH] = Field(
        None, description="search again after each passage, and read paths of two; null: one hop"
    )
    shards: Annotated[int, NEUTRAL] = Field(
        1,
        ge=1,
        description="parts of the corpus, each in an index of its own, searched as one (of hnsw and other graphs this "
        "is another index)",
    )
    backend: Annotated[Literal["local", "ray"], NEUTRAL] = Field(
        "local", description="local: this process holds all shards; ray: the actors of a Ray cluster hold one each"
    )
    ray: Annotated[RayOptions, NEUTRAL] = RayOptions()

    @property
    def on_ray(self) -> RayOptions | None:
        """The cluster that holds the shards; None where this process does."""
        return self.ray if self.backend == "ray" else None
