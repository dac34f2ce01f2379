"""One run as a graph of steps: what is built from what, and the key of each, before anything is built.

    passages -> questions -> tokenizer -> encoder -> embeddings -> index (-> tuning) -> topk (-> paths) (-> ranking)
                                      \\-> reader_warmup ----------------> checkpoint -> evaluation

The *training setting* (corpus size and growth, index, source, k) leads to the checkpoint; the
*evaluation setting* to the top-k it is asked with. They share every step whose fields agree, so a
sweep over evaluation settings alone trains once. What cannot affect a run is in none of its steps: a
closed-book run has no index, an oracle run no encoder.

With ``task=retrieval`` nothing reads: the run ends with the ranking of what was found, in the evaluation's place.

The warm-ups read the gold passages that the training questions name, wherever those stand in the
corpus: supervision is part of the questions, not of the corpus size under study.

What leads to the top-k is in ``retrieval_steps``; what a reader is trained and asked with is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from rag_exp import builders
from rag_exp.config import RunConfig
from rag_exp.core.errors import ConfigError
from rag_exp.core.fingerprint import ContentDigests, digest
from rag_exp.core.store import Step
from rag_exp.problems import problems_of
from rag_exp.retrieval_steps import RetrievalPlanner
from rag_exp.settings import Setting, settings
from rag_exp.training.options import TrainingOptions, stage_optim
from rag_exp.versions import step_of

TRAINED = ("reader_warmup", "checkpoint")  # roles whose step is a stage of training

# Of `evaluation`; they enter through what is found.
SETTING_KEYS = ("corpus_size", "growth", "index", "source", "k", "j", "paths")


@dataclass(frozen=True)
class RunSteps:
    """The steps of one run.

    Attributes:
        roles: every step by its role in the run ("passages", "index", "train_topk", ...), parents first.
        train, asked: the training and the evaluation setting.
        run_id: digest of the last step's key and the seed.
        manifests: what exactly the corpora are that the model is asked and trained with ("asked", "train"); they lead
            to nothing.
        embeddings: the vectors of the passages that the model is asked with, by shard; None where none are searched.
        embeds_once: whether vectors of passages are those by which distractors were put in order, if no reader's
            training moved the encoder.
    """

    roles: Mapping[str, Step]
    train: Setting
    asked: Setting
    run_id: str
    manifests: Mapping[str, Step] = field(default_factory=dict)
    embeddings: Callable[[int], Step] | None = None
    embeds_once: bool = False

    @property
    def last(self) -> Step:
        """What the run ends with: the evaluation, or the ranking where nothing reads."""
        return self.roles["evaluation"] if "evaluation" in self.roles else self.roles["ranking"]


def plan_run(config: RunConfig, digests: ContentDigests) -> RunSteps:
    """The steps of a run; nothing is built.

    Raises:
        ConfigError: what is wrong across fields, all of it.
        DataError: a source that cannot be named (an unresolvable hub revision, say).
    """
    train, asked = settings(config)
    problems = problems_of(config, train, asked)
    if problems:
        raise ConfigError(problems)
    return _Planner(config, digests, train, asked).plan()


class _Planner(RetrievalPlanner):
    """Makes the steps of one run, each once."""

    def __init__(self, config: RunConfig, digests: ContentDigests, train: Setting, asked: Setting):
        super().__init__(config, digests, train, asked)
        self.roles: dict[str, Step] = {}

    def plan(self) -> RunSteps:
        train, asked = self.train, self.asked
        reads = self.config.task == "rag"
        self.roles |= self.order_roles(train, "")
        self.roles |= {"passages": self.passages(train), "questions": self.questions(train)}
        self.roles |= self.reader_tokenizer if reads else {}
        if train.uses_vectors or asked.uses_vectors:
            self.roles |= self.encoder_tokenizer
        if self.encoder_step is not None:
            self.roles["encoder"] = self.encoder_step
        weights, embeddings = self.training() if reads else {}, None
        if self.passages(asked).key != self.passages(train).key:
            self.roles |= self.order_roles(asked, "evaluation_")
            self.roles["evaluation_passages"] = self.passages(asked)
            self.roles["evaluation_questions"] = self.questions(asked)
        if asked.source != "none":
            trained = weights if self.live else {}
            if asked.source == "index":
                # With `both` the passage encoder is trained too, so the index is built from the checkpoint's.
                own = trained if self.config.retriever.train == "both" else {}
                self.roles["index"] = self.index(asked, own)
                embeddings = self.embeddings(asked, own)
            self.roles |= self.found(
                asked, self.config.evaluation.split, self.config.evaluation.questions, self.roles.get("index"), trained
            )
        name, last = ("evaluation", self.evaluation(weights)) if reads else ("ranking", self.ranking())
        self.roles[name] = last
        run_id = digest({name: last.key, "seed": self.config.seed})
        return RunSteps(self.roles, train, asked, run_id, self.manifests(), embeddings, self.embeds_once)

    @cached_property
    def live(self) -> bool:
        """Whether the retriever trains with the reader."""
        config = self.config
        return (
            config.task == "rag"
            and config.retriever.train != "frozen"
            and self.train.source == "index"
            and config.training.steps > 0
        )

    @cached_property
    def generator(self) -> dict[str, Any]:
        return self.identity(self.config.generator)

    @cached_property
    def recipe(self) -> TrainingOptions:
        """The training options with numbers in place of "auto"."""
        return self.config.training.resolved(self.config.generator.peak_lr())

    @cached_property
    def precision(self) -> str:
        return self.config.training.resolved_precision(self.config.trainer.accelerator)

    def manifests(self) -> dict[str, Step]:
        """Of the corpora that passages are read from: the one that is asked, and the one that training read."""
        settings = {"asked": self.asked, **({"train": self.train} if "checkpoint" in self.roles else {})}
        tokenizer = {"tokenizer": self.roles["tokenizer"]} if "tokenizer" in self.roles else {}
        return {
            name: self._manifest(setting.size, {"passages": self.passages(setting), **tokenizer})
            for name, setting in settings.items()
            if setting.source != "none"
        }

    @staticmethod
    def _manifest(size: int | None, parents: dict[str, Step]) -> Step:
        def token_counts(shard: int) -> Step:
            return step_of("token_counts", {"shard": shard}, parents, partial(builders.token_counts, shard))

        counted = token_counts if "tokenizer" in parents else None
        return step_of("manifest", {"size": size}, parents, partial(builders.manifest, size, counted))

    @property
    def reader_tokenizer(self) -> dict[str, Step]:
        """The same, for a generator that brings no vocabulary of its own; else nothing."""
        return {} if self.config.generator.own_vocabulary else self.tokenizer

    def training(self) -> dict[str, Step]:
        """Add the training's steps to ``roles``.

        Returns:
            the step that holds the trained weights, as the parent "checkpoint"; nothing for a model as it came.
        """
        config, train = self.config, self.train
        parents = {**self.data_parents(train), **self.reader_tokenizer}
        reads = train.source != "none"
        common = {"generator": self.generator, "precision": self.precision, "seed": config.seed}
        if config.training.warmup.steps > 0:
            warmup = self.recipe.warmup
            fields = {
                **common,
                "prompt": config.prompt.identity_for(joint=False),
                "warmup": {k: v for k, v in warmup.identity().items() if k != "lr"},
                "optim": stage_optim(config.optim, warmup.lr),
                "questions": config.training.questions,
                "bucket": config.training.bucket,
                "reads": reads,
                **({"hops": 2} if train.hop2 is not None else {}),
            }
            build = partial(builders.reader_warmup, config, reads, 1 if train.hop2 is None else 2)
            self.roles["reader_warmup"] = step_of("reader_warmup", fields, parents, build)
            parents = {**parents, "reader_warmup": self.roles["reader_warmup"]}
        if config.training.steps == 0:
            return {"checkpoint": self.roles["reader_warmup"]} if "reader_warmup" in self.roles else {}
        shard: Callable[[int], Step] | None = None
        if train.source == "index":
            self.roles["train_index"] = self.index(train, {})
        elsewhere = ("warmup", "precision", "lr", "retriever_lr")
        training = {k: v for k, v in config.training.identity().items() if k not in elsewhere}
        fields = {
            **common,
            "prompt": config.prompt.identity_for(config.objective.reading == "concat"),
            "objective": config.objective.identity(),
            "training": training,
            "optim": stage_optim(config.optim, self.recipe.lr),
            "source": train.source,
            "k": train.k,
        }
        if train.scored:
            fields |= config.retriever.prior_identity()
        if train.may_fall_short:
            fields["absent"] = "nothing"  # what an absent passage adds to a prompt; it once left its separators there
        if self.live:
            fields |= {
                "encoder": self.identity(config.encoder),
                "train": config.retriever.train,
                "retriever_lr": config.training.retriever_lr,
                "refresh_every": config.retriever.refresh_every if config.retriever.train == "both" else None,
                **train.search_identity,
                "size": train.size,
                **({"hop2": train.hop2.identity()} if train.hop2 is not None else {}),
            }
            parents |= {"index": self.roles["train_index"], **self.encoder_parents()}
            shard = self.embeddings(train, {})
        elif reads:
            found = self.found(train, "train", config.training.questions, self.roles.get("train_index"), {})
            self.roles |= {f"train_{name}": step for name, step in found.items()}
            parents |= _read(found)
            fields |= _paths_read(train)
        self.roles["checkpoint"] = step_of(
            "checkpoint", fields, parents, partial(builders.checkpoint, config, train, shard)
        )
        return {"checkpoint": self.roles["checkpoint"]}

    def evaluation(self, weights: dict[str, Step]) -> Step:
        config, asked = self.config, self.asked
        options = {k: v for k, v in config.evaluation.identity().items() if k not in SETTING_KEYS}
        fields: dict[str, Any] = {
            "evaluation": options,
            "generator": self.generator,
            "prompt": config.prompt.identity_for(config.objective.reading == "concat"),
            "objective": config.objective.identity(),
            "precision": self.precision,
        }
        if asked.scored:
            fields |= config.retriever.prior_identity()
        if asked.source != "none":
            fields["size"] = asked.size
        parents = {**self.data_parents(asked), **self.reader_tokenizer, **weights}
        fields |= _paths_read(asked)
        parents |= _read(self.roles)
        return step_of("evaluation", fields, parents, partial(builders.evaluation, config, asked))

    def ranking(self) -> Step:
        """What the search found, judged without a reader."""
        asked = self.asked
        parents = {**self.data_parents(asked), "topk": self.roles["topk"]}
        return step_of("ranking", {"size": asked.size}, parents, partial(builders.ranking, self.config, asked))


def _read(found: Mapping[str, Step]) -> dict[str, Step]:
    """What a reader reads, as a parent: the paths where there are any, else the top-k; nothing closed book."""
    return next(({name: found[name]} for name in ("paths", "topk") if name in found), {})


def _paths_read(setting: Setting) -> dict[str, Any]:
    """How many of the paths found are read: known to what reads them, not to what finds them."""
    return {"paths": setting.hop2.paths} if setting.hop2 is not None and setting.source == "index" else {}
