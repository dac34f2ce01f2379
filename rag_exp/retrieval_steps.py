"""The part of a run's graph that leads to what each question is given to read: the top-k, or the paths.

A corpus whose distractors come by their vectors (``corpus.distractors=dense``) is made of the same in hash order:

    passages -> questions, released_encoder -> embeddings, question_embeddings -> nearness -> passages
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from rag_exp import builders
from rag_exp.config import RunConfig
from rag_exp.core.errors import ConfigError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.options import SEARCH, Options
from rag_exp.core.store import Step
from rag_exp.retrieval.hop2 import SecondHop
from rag_exp.retrieval.nearness import fusion_identity, nearness_identity
from rag_exp.retrieval.tuning import TUNING_SPLIT
from rag_exp.settings import Setting
from rag_exp.versions import VERSIONS, step_of


class RetrievalPlanner:
    """Makes the steps of one run that have to do with retrieval, each once.

    Args:
        config: the run's.
        digests: of the files that options point to.
        train, asked: its training and its evaluation setting.
    """

    def __init__(self, config: RunConfig, digests: ContentDigests, train: Setting, asked: Setting):
        self.config, self.digests, self.train, self.asked = config, digests, train, asked
        self._made: dict[str, Any] = {}

    @cached_property
    def learns(self) -> bool:
        """Whether anything is trained on what the training setting reads. Else no question of training has a say."""
        config = self.config
        reader = config.task == "rag" and (config.training.steps > 0 or config.training.warmup.steps > 0)
        vectors = self.train.uses_vectors or self.asked.uses_vectors
        return reader or (vectors and not config.encoder.precomputed and not self.comes_trained)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` returns, made at the first call: identities read file stamps, which is worth doing once."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def passages(self, setting: Setting) -> Step:
        """The corpus in the setting's order."""
        growth = setting.growth
        splits: tuple[str, ...] = ()
        if growth == "distractor":
            # Of each setting its own questions' gold passages come first, whatever else the two settings share.
            splits = ("train",) if setting is self.train and self.learns else (self.config.evaluation.split,)
        return self._passages(growth, splits)

    def _passages(self, growth: str, splits: tuple[str, ...] = ()) -> Step:
        return self.once(f"passages {growth} {splits}", lambda: self._ordered(growth, splits))

    def _ordered(self, growth: str, splits: tuple[str, ...]) -> Step:
        corpus = self.config.corpus.model_copy(update={"growth": growth, "size": None})
        fields = {"corpus": self.identity(corpus), "chunking": self.config.passages.identity()}
        parents = {}
        if growth == "distractor":  # gold documents come first, so the questions decide the order
            fields["gold"] = {"questions": self.identity(self.config.questions), "splits": list(splits)}
        if corpus.nearest_first and corpus.distractors == "bm25":
            fields["nearness"] = nearness_identity()
        elif corpus.nearest_first:
            (split,) = splits
            parents["nearness"] = self.nearness(split)
        return step_of("passages", fields, parents, partial(builders.passages, self.config, corpus, splits))

    def nearness(self, split: str) -> Step:
        """How near each document, in hash order, is to the questions of ``split`` by the vectors of an encoder that has
        learnt nothing from the corpus."""
        config, encoder, by_hash = self.config.ordering, self.ordering_identity, self._passages("coverage")
        questions, released = self._questions(by_hash), self.released_encoder
        asked = {"encoder": encoder, "split": split, "questions": None}
        vectors = builders.VectorSteps(
            self.ordering_embeddings,
            step_of(
                "question_embeddings",
                {**asked, "encoder": _network(encoder)},
                {"questions": questions, **released},
                partial(builders.question_embeddings, config, split, None),
            ),
        )
        versions = {name: VERSIONS[name] for name in ("embeddings", "question_embeddings")}
        return step_of(
            "nearness",
            {**asked, **fusion_identity(), **versions},
            {"passages": by_hash, "questions": questions, **released},
            partial(builders.nearness, config, split, vectors),
        )

    @cached_property
    def ordering_embeddings(self) -> Callable[[int], Step]:
        """The vectors by which distractors are put in order, of the passages in hash order."""
        parents = {"passages": self._passages("coverage"), **self.released_encoder}
        return self._embeddings(self.config.ordering, self.ordering_identity, parents)

    @cached_property
    def released_encoder(self) -> dict[str, Step]:
        """The encoder that orders distractors as it comes, as a parent; nothing where vectors are made elsewhere."""
        config = self.config.ordering
        if config.encoder.precomputed:
            return {}
        fields = {"encoder": _network(self.ordering_identity)}
        return {"encoder": step_of("released_encoder", fields, {}, partial(builders.released_encoder, config))}

    @cached_property
    def embeds_once(self) -> bool:
        """Whether the encoder gives passages the vectors by which distractors are put in order."""
        ordered = any("nearness" in self.passages(setting).parents for setting in (self.train, self.asked))
        return ordered and self.comes_trained and self.identity(self.config.encoder) == self.ordering_identity

    @cached_property
    def ordering_identity(self) -> dict[str, Any]:
        """Of the encoder that orders distractors."""
        try:
            return self.identity(self.config.ordering.encoder)
        except ConfigError as e:
            raise ConfigError([f"distractors_{problem}" for problem in e.problems]) from e

    def order_roles(self, setting: Setting, prefix: str) -> dict[str, Step]:
        """What the order of the setting's corpus is made of, where documents come by their vectors."""
        nearness = self.passages(setting).parents.get("nearness")
        if nearness is None:
            return {}
        made = {"hash_order": nearness.parents["passages"], f"{prefix}nearness": nearness}
        return {"distractors_encoder": nearness.parents["encoder"], **made} if "encoder" in nearness.parents else made

    def questions(self, setting: Setting) -> Step:
        """The questions, their gold passages found in the setting's corpus."""
        return self._questions(self.passages(setting))

    def _questions(self, passages: Step) -> Step:
        def make() -> Step:
            build = partial(builders.questions, self.config)
            return step_of("questions", self.identity(self.config.questions), {"passages": passages}, build)

        return self.once(f"questions {passages.key}", make)

    @cached_property
    def tokenizer(self) -> dict[str, Step]:
        """The vocabulary trained on the corpus, as a parent."""
        passages = {"passages": self.passages(self.train)}
        build = partial(builders.tokenizer, self.config)
        return {"tokenizer": step_of("tokenizer", self.config.tokenizer.identity(), passages, build)}

    @property
    def encoder_tokenizer(self) -> dict[str, Step]:
        """The same, for an encoder that brings no vocabulary of its own; else nothing."""
        return self.tokenizer if self.config.encoder.needs_tokenizer else {}

    @cached_property
    def encoder_step(self) -> Step | None:
        """The encoder after its warm-up (a pretrained one is only calibrated); None where nothing is encoded here."""
        if self.config.encoder.precomputed or not (self.train.uses_vectors or self.asked.uses_vectors):
            return None
        return self._encoder(self.train.hop2)

    def _encoder(self, hop2: SecondHop | None) -> Step:
        config = self.config
        warmup = config.retriever.warmup.resolved(config.encoder)
        return step_of(
            "encoder",
            {
                "encoder": _network(self.identity(config.encoder)),
                "warmup": warmup.identity(),
                "questions": config.training.questions,
                "seed": config.seed,
                **({"hop2": hop2.composing()} if hop2 is not None else {}),
            },
            {**self.data_parents(self.train), **self.encoder_tokenizer},
            partial(builders.encoder, config, hop2),
        )

    @cached_property
    def comes_trained(self) -> bool:
        """Whether there is an encoder that comes trained and stays so. Its warm-up then sets the scale of its questions
        alone, so that it gives passages the same vectors whatever a second hop asks."""
        own = self.config.encoder
        untrained = own.warmup_steps == 0 and self.config.retriever.warmup.resolved(own).steps == 0
        return untrained and not own.precomputed

    def encoder_parents(self) -> dict[str, Step]:
        """What an encoder is loaded from."""
        warmed = {} if self.encoder_step is None else {"encoder": self.encoder_step}
        return {**self.encoder_tokenizer, **warmed}

    def data_parents(self, setting: Setting) -> dict[str, Step]:
        return {"passages": self.passages(setting), "questions": self.questions(setting)}

    def index(self, setting: Setting, trained: dict[str, Step]) -> Step:
        """An index over the setting's corpus; ``trained``: the checkpoint whose passage encoder made the vectors."""
        fields, parents = self.indexed(setting, trained)
        vectors = self.searched(setting, trained)
        return step_of("index", fields, parents, partial(builders.index, self.config, setting, vectors))

    def indexed(self, setting: Setting, trained: dict[str, Step]) -> tuple[dict[str, Any], dict[str, Step]]:
        """Fields and parents that identify an index, whatever it is built of."""
        fields: dict[str, Any] = {**setting.index_identity, "index": self.identity(setting.index)}
        parents = {"passages": self.passages(setting)}
        if setting.uses_vectors:
            parents |= self.encoder_parents() | trained
            fields |= {"encoder": self.identity(self.config.encoder), "embeddings": VERSIONS["embeddings"]}
            if setting.index.seeded:
                fields["seed"] = self.config.seed
        return fields, parents

    def searched(self, setting: Setting, trained: dict[str, Step]) -> builders.VectorSteps | None:
        """What an index over vectors is built of; None where no vectors are searched.

        The shards of an index that splits exactly are filled from one quantizer, learnt from all passages.
        """
        passages = self.embeddings(setting, trained)
        if passages is None:
            return None
        vectors = builders.VectorSteps(passages if setting.index.reads_vectors else None)
        if not setting.index.stores_vectors:
            return vectors
        fields, parents = self.indexed(setting, trained)

        def index_shard(number: int, shards: int) -> Step:
            learnt = {}
            if setting.index.splits_exactly:
                build = partial(builders.quantizer, self.config, setting, vectors)
                learnt["quantizer"] = step_of("quantizer", fields, parents, build)
            return step_of(
                "index_shard",
                {**fields, "number": number, "shards": shards},
                {**parents, **learnt},
                partial(builders.index_shard, self.config, setting, vectors, number, shards),
            )

        return replace(vectors, index_shards=index_shard)

    def embeddings(self, setting: Setting, trained: dict[str, Step]) -> Callable[[int], Step] | None:
        """The steps of the passages' embeddings by shard, each shared by every corpus size that reaches into it.

        They are no parents of what reads them: how many it reads is known once the passages are, and they follow
        from its parents. None where no vectors are searched.
        """
        if not setting.uses_vectors:
            return None
        parents = {"passages": self.passages(setting), **self.encoder_parents(), **trained}
        if self.comes_trained and not trained:
            parents["encoder"] = self._encoder(None)
        known = self.ordering_embeddings if self.embeds_once and not trained else None
        return self._embeddings(self.config, self.identity(self.config.encoder), parents, known)

    @staticmethod
    def _embeddings(
        config: RunConfig,
        encoder: dict[str, Any],
        parents: dict[str, Step],
        known: Callable[[int], Step] | None = None,
    ) -> Callable[[int], Step]:
        """``known``: where the vectors are there in hash order; they are only moved then."""
        return lambda shard: step_of(
            "embeddings",
            {"encoder": encoder, "shard": shard},
            parents,
            partial(builders.embeddings, config, shard, known),
        )

    def found(
        self, setting: Setting, split: str, limit: int | None, index: Step | None, trained: dict[str, Step]
    ) -> dict[str, Step]:
        """The steps "topk" and, with a second hop, "paths": what each question of ``split`` is given.

        An index whose search is tuned has the step "tuning" before them. Pairs that are not searched for have no
        top-k before them.
        """
        hop2, tuning = setting.hop2, {}
        if index is not None and setting.index.tuned:
            tuning = {"tuning": self.tuning(setting, index, trained)}
        if hop2 is None:
            return {**tuning, "topk": self.topk(setting, split, limit, index, trained, tuning)}
        fields: dict[str, Any] = {"source": setting.source, "split": split, "questions": limit}
        parents = self.data_parents(setting)
        if setting.source == "random":
            fields |= {"paths": hop2.paths, "size": setting.size, "seed": self.config.seed}
        if setting.source != "index":
            build = partial(builders.pairs, self.config, setting, split, limit)
            return {"paths": step_of("paths", fields, parents, build)}
        topk = self.topk(setting, split, limit, index, trained, tuning)
        fields |= {"j": hop2.j, **hop2.composing()}
        vectors = self.searched(setting, trained if self.config.retriever.train == "both" else {})
        build = partial(builders.paths, self.config, setting, split, limit, vectors)
        return {**tuning, "topk": topk, "paths": step_of("paths", fields, {**topk.parents, "topk": topk}, build)}

    def tuning(self, setting: Setting, index: Step, trained: dict[str, Step]) -> Step:
        """The search parameter that reaches the setting's recall target at its k, on questions that are not asked."""
        options = setting.index
        fields = {"k": setting.k, **setting.search_identity, **options.tuned_by()}
        vectors = self.vectors(setting, TUNING_SPLIT, options.tuning_questions, trained, compared=True)
        fields |= {"split": TUNING_SPLIT, "encoder": self.identity(self.config.encoder)}
        parents = {**self.data_parents(setting), "index": index, **self.encoder_parents(), **trained}
        return step_of("tuning", fields, parents, partial(builders.tuning, self.config, setting, vectors))

    def topk(
        self,
        setting: Setting,
        split: str,
        limit: int | None,
        index: Step | None,
        trained: dict[str, Step],
        tuning: dict[str, Step],
    ) -> Step:
        """The passages each question of ``split`` is given; ``trained`` holds a checkpoint with a query encoder."""
        fields: dict[str, Any] = {"source": setting.source, "k": setting.k, "split": split, "questions": limit}
        parents = self.data_parents(setting)
        if setting.source == "index":
            assert index is not None
            fields |= setting.search_identity
            parents |= {"index": index, **tuning}
            if setting.uses_vectors:
                fields["encoder"] = self.identity(self.config.encoder)
                parents |= self.encoder_parents() | trained
        elif setting.source == "random":
            fields |= {"size": setting.size, "seed": self.config.seed}
        elif setting.source == "run":
            fields |= {"size": setting.size, "runs": [self.digests.of(f) for f in self.config.retrieval.runs]}
        vectors = self.vectors(setting, split, limit, trained, compared=split != "train" and not setting.index.no_exact)
        if vectors is not None and vectors.exact is not None:
            fields["temperature"] = self.config.retriever.temperature  # of the log-partition beside the scores
        return step_of("topk", fields, parents, partial(builders.topk, self.config, setting, split, limit, vectors))

    def vectors(
        self, setting: Setting, split: str, limit: int | None, trained: dict[str, Step], compared: bool
    ) -> builders.VectorSteps | None:
        """What a top-k over vectors reads beside its parents; None where no vectors are searched.

        Exact search is shared by all corpus sizes, index types and search parameters. What training reads is measured
        by what it leads to: there it is not ``compared`` with exact search.
        """
        # With `query` the passages' vectors are those of the warmed-up encoder, with `both` the trained one's.
        searched = self.searched(setting, trained if self.config.retriever.train == "both" else {})
        if searched is None:
            return None
        passages = searched.passages
        asked = {"encoder": _network(self.identity(self.config.encoder)), "split": split, "questions": limit}
        parents = {"questions": self.questions(setting), **self.encoder_parents(), **trained}
        build = partial(builders.question_embeddings, self.config, split, limit)
        questions = step_of("question_embeddings", asked, parents, build)
        if not compared:
            return replace(searched, questions=questions)
        k = max(builders.EXACT_K, 1 << (setting.k - 1).bit_length())
        temperature = self.config.retriever.temperature

        def exact(shard: int) -> Step:
            fields = {"shard": shard, "k": k, "temperature": temperature, "embeddings": passages(shard).key}
            return step_of(
                "exact",
                fields,
                {"question_embeddings": questions},
                partial(builders.exact, shard, k, temperature, steps),
            )

        steps = replace(searched, questions=questions, exact=exact)
        return steps

    def identity(self, options: Options) -> dict[str, Any]:
        """The options' identity, with the content of what they read where they read anything."""

        def make() -> dict[str, Any]:
            content = getattr(options, "content", None)
            fields = options.identity(SEARCH)
            return fields if content is None else {**fields, **content(self.digests)}

        return self.once(f"{type(options).__name__} {options.model_dump_json()}", make)


def _network(encoder: dict[str, Any]) -> dict[str, Any]:
    """An encoder's identity without how vectors of passages are stored: its weights and its questions know nothing of
    it (negatives are mined by vectors that are not stored)."""
    return {name: value for name, value in encoder.items() if name != "storage"}
