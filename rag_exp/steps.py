"""One run as a graph of steps: what is built from what, and the key of each, before anything is built.

    passages -> questions -> tokenizer -> encoder -> embeddings -> index -> topk
                                      \\-> reader_warmup ----------------> checkpoint -> evaluation

The *training setting* (corpus size and growth, index, source, k) leads to the checkpoint; the
*evaluation setting* to the top-k it is asked with. They share every step whose fields agree, so a
sweep over evaluation settings alone trains once. What cannot affect a run is in none of its steps: a
closed-book run has no index, an oracle run no encoder.

The warm-ups read the gold passages that the training questions name, wherever those stand in the
corpus: supervision is part of the questions, not of the corpus size under study.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from rag_exp import builders
from rag_exp.config import RunConfig
from rag_exp.core.errors import ConfigError
from rag_exp.core.fingerprint import ContentDigests, digest
from rag_exp.core.options import SEARCH, Options
from rag_exp.core.store import Step

# Raise a version when the code of its builder (or of what that calls) changes what is built from the same fields.
VERSIONS = {
    "passages": 1,
    "questions": 1,
    "tokenizer": 1,
    "encoder": 1,
    "embeddings": 1,
    "index": 1,
    "topk": 1,
    "reader_warmup": 1,
    "checkpoint": 1,
    "evaluation": 1,
}


@dataclass(frozen=True)
class Setting:
    """What a model is trained with or asked with."""

    size: int | None
    growth: str
    index: Any
    source: str
    k: int


@dataclass(frozen=True)
class RunSteps:
    """The steps of one run.

    Attributes:
        roles: every step by its role in the run ("passages", "index", "train_topk", ...), parents first.
        train, asked: the training and the evaluation setting.
        run_id: digest of the evaluation step's key and the seed.
    """

    roles: Mapping[str, Step]
    train: Setting
    asked: Setting
    run_id: str

    @property
    def evaluation(self) -> Step:
        return self.roles["evaluation"]


def settings(config: RunConfig) -> tuple[Setting, Setting]:
    """The training setting, and the evaluation setting: the same but for what ``evaluation`` names."""
    known = config.corpus.count()

    def size(asked: int | None) -> int | None:
        # All is all, however it is written: a size beyond the corpus must not be another run.
        return None if asked is not None and known is not None and asked >= known else asked

    train = Setting(
        size(config.corpus.size),
        config.corpus.growth,
        config.index,
        config.retrieval.source,
        config.retrieval.k if config.retrieval.source != "none" else 0,
    )
    e = config.evaluation
    source = e.source or train.source
    asked = Setting(
        size(e.corpus_size) if e.corpus_size is not None else train.size,
        e.growth or train.growth,
        e.index if e.index is not None else train.index,
        source,
        0 if source == "none" else (e.k if e.k is not None else train.k),
    )
    return train, asked


def plan_run(config: RunConfig, digests: ContentDigests) -> RunSteps:
    """The steps of a run; nothing is built.

    Raises:
        ConfigError: what is wrong across fields, all of it.
        DataError: a source that cannot be named (an unresolvable hub revision, say).
    """
    train, asked = settings(config)
    problems = _problems(config, train, asked)
    if problems:
        raise ConfigError(problems)
    roles: dict[str, Step] = {}
    passages = _passages(config, digests, train.growth)
    questions = _questions(config, digests, passages)
    roles |= {"passages": passages, "questions": questions}
    if needs_tokenizer(config, train, asked):
        roles["tokenizer"] = _step(
            "tokenizer",
            config.tokenizer.identity(),
            {"passages": passages},
            partial(builders.tokenizer, config),
        )
    tokenizer = {"tokenizer": roles["tokenizer"]} if "tokenizer" in roles else {}

    retrieves = [s for s in (train, asked) if s.source == "index"]
    encoder_fields: dict[str, Any] = {}
    encoder: dict[str, Step] = {}
    if any(s.index.needs == "vectors" for s in retrieves):
        encoder_fields = _with_content(config.encoder, digests)
        if config.encoder.kind == "static" or config.retriever.warmup.steps > 0:
            encoder["encoder"] = _step(
                "encoder",
                {"encoder": encoder_fields, "warmup": config.retriever.warmup.identity(), "seed": config.seed},
                {"passages": passages, "questions": questions, **_own_tokenizer(config.encoder, tokenizer)},
                partial(builders.encoder, config),
            )
            roles |= encoder
    encoder_parents = {**encoder, **(_own_tokenizer(config.encoder, tokenizer) if encoder_fields else {})}

    trained = _training(config, digests, train, roles, passages, questions, tokenizer, encoder_fields, encoder_parents)
    live = config.retriever.train != "frozen" and train.source == "index" and config.training.steps > 0
    if live:  # the query encoder (and with `both` the passage encoder) of the evaluation is the trained one
        encoder_parents = {**encoder_parents, "checkpoint": trained["checkpoint"]}

    passages_asked = passages if asked.growth == train.growth else _passages(config, digests, asked.growth)
    questions_asked = questions if asked.growth == train.growth else _questions(config, digests, passages_asked)
    if passages_asked is not passages:
        roles |= {"evaluation_passages": passages_asked, "evaluation_questions": questions_asked}
    if asked.source == "index":
        passage_side = (
            encoder_parents
            if config.retriever.train == "both"
            else {k: v for k, v in encoder_parents.items() if k != "checkpoint"}
        )
        roles["index"] = _index(config, asked, passages_asked, encoder_fields, passage_side)
    topk: dict[str, Step] = {}
    if asked.source != "none":
        topk["topk"] = _topk(
            config, asked, config.evaluation.split, config.evaluation.questions,
            passages_asked, questions_asked, roles.get("index"), encoder_fields, encoder_parents,
        )  # fmt: skip
        roles |= topk
    evaluation = _step(
        "evaluation",
        {
            "evaluation": {k: v for k, v in config.evaluation.identity().items() if k not in SETTING_KEYS},
            "generator": _with_content(config.generator, digests),
            "prompt": config.prompt.identity_for(config.objective.joint),
            "objective": config.objective.identity(),
            "precision": config.training.resolved_precision(),
            **({"temperature": config.retriever.temperature} if asked.source == "index" else {}),
            **({"size": asked.size} if asked.source != "none" else {}),
        },
        {
            "passages": passages_asked,
            "questions": questions_asked,
            **_own_tokenizer(config.generator, tokenizer),
            **trained,
            **topk,
        },
        partial(builders.evaluation, config, asked),
    )
    roles["evaluation"] = evaluation
    return RunSteps(roles, train, asked, digest({"evaluation": evaluation.key, "seed": config.seed}))


SETTING_KEYS = ("corpus_size", "growth", "index", "source", "k")  # they enter through the top-k


def _training(
    config: RunConfig, digests: ContentDigests, train: Setting, roles: dict[str, Step], passages: Step, questions: Step,
    tokenizer: dict[str, Step], encoder_fields: dict[str, Any], encoder_parents: dict[str, Step],
) -> dict[str, Step]:  # fmt: skip
    """Add the training's steps to ``roles``; returns the one that holds the trained weights (none for a model as it came)."""
    generator = _with_content(config.generator, digests)
    precision = config.training.resolved_precision()
    own_tokenizer = _own_tokenizer(config.generator, tokenizer)
    result: dict[str, Step] = {}
    if config.training.warmup.steps > 0:
        roles["reader_warmup"] = _step(
            "reader_warmup",
            {
                "generator": generator,
                "prompt": config.prompt.identity_for(False),
                "warmup": config.training.warmup.identity(),
                "optim": config.optim.identity(),
                "questions": config.training.questions,
                "precision": precision,
                "reads": train.source != "none",
                "seed": config.seed,
            },
            {"passages": passages, "questions": questions, **own_tokenizer},
            partial(builders.reader_warmup, config, train.source != "none"),
        )
        result = {"checkpoint": roles["reader_warmup"]}
    if config.training.steps == 0:
        return result
    live = config.retriever.train != "frozen" and train.source == "index"
    parents: dict[str, Step] = {"passages": passages, "questions": questions, **own_tokenizer}
    if "reader_warmup" in roles:
        parents["reader_warmup"] = roles["reader_warmup"]
    if train.source == "index":
        roles["train_index"] = _index(config, train, passages, encoder_fields, encoder_parents)
    if live:
        parents |= {"index": roles["train_index"], **encoder_parents}
    elif train.source != "none":
        roles["train_topk"] = _topk(
            config, train, "train", config.training.questions,
            passages, questions, roles.get("train_index"), encoder_fields, encoder_parents,
        )  # fmt: skip
        parents["topk"] = roles["train_topk"]
    training = {k: v for k, v in config.training.identity().items() if k != "warmup"}
    roles["checkpoint"] = _step(
        "checkpoint",
        {
            "generator": generator,
            "prompt": config.prompt.identity_for(config.objective.joint),
            "objective": config.objective.identity(),
            "training": {**training, "precision": precision},
            "optim": config.optim.identity(),
            "source": train.source,
            "k": train.k,
            **({"temperature": config.retriever.temperature} if train.source == "index" else {}),
            **(
                {
                    "encoder": encoder_fields,
                    "retriever": config.retriever.training_identity(),
                    "search": train.index.only(SEARCH),
                    "size": train.size,
                }
                if live
                else {}
            ),
            "seed": config.seed,
        },
        parents,
        partial(builders.checkpoint, config, train),
    )
    return {"checkpoint": roles["checkpoint"]}


def _passages(config: RunConfig, digests: ContentDigests, growth: str) -> Step:
    corpus = config.corpus.model_copy(update={"growth": growth, "size": None})
    fields = {"corpus": _with_content(corpus, digests), "chunking": config.passages.identity()}
    if growth == "distractor":  # the gold documents come first, so the questions decide the order
        fields["gold"] = _with_content(config.questions, digests)
    return _step("passages", fields, {}, partial(builders.passages, config, corpus))


def _questions(config: RunConfig, digests: ContentDigests, passages: Step) -> Step:
    return _step(
        "questions",
        _with_content(config.questions, digests),
        {"passages": passages},
        partial(builders.questions, config),
    )


def embeddings(
    config: RunConfig, passages: Step, fields: dict[str, Any], encoder_parents: dict[str, Step], shard: int
) -> Step:
    """Shard ``shard`` of the passages' embeddings: shared by every corpus size that reaches into it."""
    return _step(
        "embeddings",
        {"encoder": fields, "shard": shard},
        {"passages": passages, **encoder_parents},
        partial(builders.embeddings, config, shard),
    )


def _index(
    config: RunConfig,
    setting: Setting,
    passages: Step,
    encoder_fields: dict[str, Any],
    encoder_parents: dict[str, Step],
) -> Step:
    fields = {"index": setting.index.identity(SEARCH), "size": setting.size}
    parents = {"passages": passages}
    if setting.index.needs == "vectors":
        fields |= {"encoder": encoder_fields, "embeddings": VERSIONS["embeddings"]}
        parents |= encoder_parents
        if setting.index.seeded:
            fields["seed"] = config.seed
    return _step("index", fields, parents, partial(builders.index, config, setting, encoder_fields))


def _topk(
    config: RunConfig, setting: Setting, split: str, limit: int | None, passages: Step, questions: Step,
    index: Step | None, encoder_fields: dict[str, Any], encoder_parents: dict[str, Step],
) -> Step:  # fmt: skip
    fields: dict[str, Any] = {"source": setting.source, "split": split, "questions": limit}
    parents = {"passages": passages, "questions": questions}
    if setting.source == "index":
        assert index is not None
        fields |= {"k": setting.k, "search": setting.index.only(SEARCH)}
        parents["index"] = index
        if setting.index.needs == "vectors":
            fields["encoder"] = encoder_fields
            parents |= encoder_parents
    elif setting.source == "random":
        fields |= {"k": setting.k, "size": setting.size, "seed": config.seed}
    elif setting.source == "oracle":
        fields |= {"k": setting.k}
    return _step("topk", fields, parents, partial(builders.topk, config, setting, split, limit, encoder_fields))


def _step(kind: str, fields: dict[str, Any], parents: Mapping[str, Step], build: Any) -> Step:
    return Step(kind, VERSIONS[kind], fields, dict(parents), build)


def _with_content(options: Options, digests: ContentDigests) -> dict[str, Any]:
    """The options' identity with the content of what they read, where they read anything."""
    fields = options.identity(SEARCH)
    content = getattr(options, "content", None)
    return {**fields, "content": content(digests)} if content is not None else fields


def _own_tokenizer(options: Any, tokenizer: dict[str, Step]) -> dict[str, Step]:
    """The corpus' tokenizer, for components that have none of their own."""
    return tokenizer if options.kind in ("ladder", "static") else {}


def needs_tokenizer(config: RunConfig, *settings: Setting) -> bool:
    """Whether a from-scratch component of the run reads the corpus' own vocabulary."""
    uses_encoder = any(s.source == "index" and s.index.needs == "vectors" for s in settings)
    return config.generator.kind == "ladder" or (uses_encoder and config.encoder.kind == "static")


def _problems(config: RunConfig, train: Setting, asked: Setting) -> list[str]:
    """What is wrong across fields, as far as it can be known before anything is read."""
    found = [*config.corpus.problems(), *config.questions.problems()]
    for component in (config.encoder, config.generator):
        found += component.problems() if hasattr(component, "problems") else []
    known = config.corpus.count() if not found else None
    for where, setting in (("corpus.size", train), ("evaluation.corpus_size", asked)):
        size = setting.size if setting.size is not None else known
        if setting.source in ("index", "random") and setting.k < 1:
            found.append(f"retrieval.k: {setting.k} passages cannot be read from source {setting.source}; give k >= 1.")
        if setting.source != "none" and size is not None and setting.k > size:
            found.append(
                f"retrieval.k: {setting.k} passages cannot be read from a corpus of {size}; lower k or raise {where}."
            )
        if setting.source == "index" and size is not None:
            found += [p for p in setting.index.problems(size) if p not in found]
    if train.source == "none" and asked.source != "none":
        found.append(
            f"evaluation.source: {asked.source}: the model was trained without passages (retrieval.source=none) and cannot be asked with them."
        )
    if config.retriever.train != "frozen" and train.source == "index" and train.index.needs != "vectors":
        found.append(
            f"retriever.train: {config.retriever.train}: index {train.index.kind} has no encoder to train; use retriever.train=frozen."
        )
    if config.retriever.train != "frozen" and train.source not in ("index", "none"):
        found.append(
            f"retriever.train: {config.retriever.train}: source {train.source} does not retrieve; use retriever.train=frozen."
        )
    return list(dict.fromkeys(found))
