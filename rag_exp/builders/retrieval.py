"""What retrieval builds: passages, embeddings, indexes, and what each question is given to read."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.builders.parents import (
    SHARD_ROWS,
    VectorSteps,
    encoder_of,
    on_device,
    passage_table,
    question_vectors,
    tokenizer_folder,
    training_questions,
    vector_blocks,
)
from rag_exp.builders.sharding import open_index, quantizer_of, shards_of
from rag_exp.core.errors import DataError
from rag_exp.core.rng import derive
from rag_exp.core.store import Artifact, Build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    from rag_exp.config import RunConfig
    from rag_exp.data.passages import PassageTable
    from rag_exp.retrieval.hop2 import SecondHop
    from rag_exp.retrieval.topk import Reference
    from rag_exp.settings import Setting

EXACT_K = 32  # exact search keeps at least so many a question, and powers of two beyond


def passages(config: RunConfig, corpus: Any, splits: tuple[str, ...], build: Build) -> None:
    """The corpus in its order; with distractor growth the gold documents of the questions of ``splits`` come first.

    Where distractors come by nearness, it is to the same questions.
    """
    from rag_exp.data.passages import write_passages
    from rag_exp.retrieval.nearness import by_bm25

    gold: set[str] | None = None
    nearness: Callable[..., np.ndarray] | None = None
    if corpus.growth == "distractor":
        asked = [q for q in config.questions.questions() if q.split in splits]
        gold = {id for q in asked for id in q.gold_ids}
        if not gold:
            raise DataError(
                "growth=distractor keeps the gold documents, but no question of "
                f"{' or '.join(splits)} names a gold passage."
            )
        if "nearness" in build.step.parents:
            nearness = partial(_known, build.parent("nearness").path / "nearness.npy")
        elif corpus.nearest_first:
            nearness = partial(by_bm25, [q.question for q in asked])
    build.stats |= write_passages(corpus, config.passages, build.folder, gold, nearness)


def nearness(config: RunConfig, split: str, vectors: VectorSteps, build: Build) -> None:
    """How near each document is to the questions of ``split`` by vectors, documents in the order of the passages.

    Passages are embedded wherever embeddings are made, on the cluster too; the search is here.
    """
    import numpy as np

    from rag_exp.core.atomic import write_json
    from rag_exp.retrieval.nearness import by_vectors, fusion_identity

    queries = question_vectors(build, vectors)  # first, because the questions may be wrong
    table = passage_table(build)
    blocks, made = vector_blocks(config, build, vectors.passages, len(table))
    found = by_vectors(queries, blocks, table.doc_ends)
    np.save(build.folder / "nearness.npy", found, allow_pickle=False)
    build.stats |= {
        "encoder": build.step.fields["encoder"],
        **fusion_identity(),
        "split": split,
        "questions": len(queries),
        "passages": len(table),
        "documents": len(found),
        "near_documents": int((found > 0).sum()),
        "embedding_flops": sum(a.stats["flops"] for a in made),
    }
    write_json(build.folder / "manifest.json", build.stats)


def questions(config: RunConfig, build: Build) -> None:
    from rag_exp.data.questions import write_questions

    build.stats |= write_questions(config.questions, passage_table(build), build.folder)


def tokenizer(config: RunConfig, build: Build) -> None:
    from rag_exp.data.tokenizer import train_bpe

    table = passage_table(build)
    read = min(len(table), config.tokenizer.passages)
    texts = (f"{title}\n{text}" for _, batch in table.batches(read) for title, text in batch)
    train_bpe(texts, config.tokenizer.vocab_size, build.folder)
    build.stats["passages"] = read


def encoder(config: RunConfig, hop2: SecondHop | None, build: Build) -> None:
    """The encoder after its contrastive warm-up on the training questions and their gold passages, hop by hop."""
    from rag_exp.retrieval.hop_pairs import hop_pairs
    from rag_exp.retrieval.warmup import warm_up
    from rag_exp.training.progress import Ticker

    seed = derive(config.seed, "encoder")
    made = config.encoder.create(tokenizer_folder(build), config.tokenizer.vocab_size, seed)
    warmup = config.retriever.warmup.resolved(config.encoder)
    asked, table = training_questions(config, build, needed=warmup.steps > 0), passage_table(build)
    queries, gold, answers = asked.questions, asked.gold, asked.answers
    if hop2 is not None:
        pairs = hop_pairs(queries, gold, asked.gold_of, table, hop2)
        queries, gold, answers = pairs.queries, pairs.gold, [answers[q] for q in pairs.asked]
    with (
        on_device(config.trainer, made),
        Ticker("retriever warm-up", warmup.steps, config.trainer.progress) as ticker,
    ):
        build.stats |= warm_up(
            made,
            queries,
            gold,
            table,
            warmup,
            seed,
            answers,
            progress=lambda step, loss: ticker.at(step, f"loss {loss:.3f}"),
        )
    made.save(build.folder)


def released_encoder(config: RunConfig, build: Build) -> None:
    """An encoder that comes trained, as it comes: nothing is learnt or set from a corpus."""
    config.encoder.create(None, None, 0).save(build.folder)


def question_embeddings(config: RunConfig, split: str, limit: int | None, build: Build) -> None:
    import numpy as np

    from rag_exp.data.questions import QuestionTable

    asked = QuestionTable.open(build.parent("questions").path, split, limit)
    if config.encoder.precomputed:
        from rag_exp.retrieval.exact import as_vectors
        from rag_exp.retrieval.precomputed import PrecomputedVectors

        known = PrecomputedVectors(config.encoder.questions, config.encoder.question_ids, "question")
        vectors, build.stats["tokens"] = as_vectors(known.of(asked.ids), what="question"), 0
    else:
        with on_device(config.trainer, encoder_of(config, build, "question")) as made:
            vectors, build.stats["tokens"] = made.encode_counted(asked.questions, "question")
    np.save(build.folder / "vectors.npy", vectors, allow_pickle=False)


def exact(shard: int, k: int, temperature: float, steps: VectorSteps, build: Build) -> None:
    """The history of exact search over one shard of the passages, going on from the shard before."""
    from rag_exp.retrieval.embeddings import load_blocks
    from rag_exp.retrieval.history import History, grow

    assert steps.exact is not None
    before = History.load(build.ensure(steps.exact(shard - 1)).path) if shard else None
    passages = build.ensure(steps.passages(shard))
    (vectors,) = load_blocks([passages.path], passages.stats["passages"])
    grow(question_vectors(build, steps), vectors, k, temperature, before).save(build.folder)


def index(config: RunConfig, setting: Setting, vectors: VectorSteps | None, build: Build) -> None:
    """An index over the setting's corpus, or over the whole one where a smaller one is searched by selection.

    One that reads the embeddings themselves stores no second copy of them.

    One that is cut into shards holds nothing but what is known of all of them, which are artifacts of their own.
    """
    table = passage_table(build)
    size = table.prefix_size(setting.indexed_size)
    build.stats["M"] = size
    if vectors is None:
        content: Any = _texts(table, size)
    else:
        content, made = vector_blocks(config, build, vectors.passages, size)
        # The last shard reaches beyond the corpus: only its share is this index's cost.
        shares = [min(1.0, (size - i * SHARD_ROWS) / a.stats["passages"]) for i, a in enumerate(made)]
        build.stats["embedding_flops"] = sum(s * a.stats["flops"] for s, a in zip(shares, made, strict=True))
        build.stats["embedding_seconds"] = sum(s * a.seconds for s, a in zip(shares, made, strict=True))
        if vectors.passages is None:  # they were made with the index
            build.stats |= {"embedding_flops": None, "embedding_seconds": None}
        build.stats["embeddings"] = [_cost(a) for a in made]
        build.stats["parameters"] = config.encoder.parameter_counts(config.tokenizer.vocab_size)
    if setting.shards > 1 and vectors is not None and setting.index.stores_vectors:
        from rag_exp.retrieval.sharded import sharded_stats

        shards = shards_of(config, vectors, setting.shards, build)
        build.stats |= sharded_stats([a.stats for a in shards])
        build.stats["index_shards"] = [_cost(a) for a in shards]
        learnt = quantizer_of(vectors, build)
        if learnt is not None:
            build.stats["quantizer"] = _cost(learnt)
        (build.folder / "in_shards").touch()
        return
    if setting.index.needs == "both":
        from rag_exp.retrieval.hybrid import Both

        content = Both(content, _texts(table, size))
    if setting.index.made_elsewhere:
        from rag_exp.retrieval.index_file import Named

        content = Named(content, table)
    built = setting.index.create(content, derive(config.seed, "index"))
    build.stats |= built.stats()
    if setting.index.made_elsewhere:
        setting.index.refuse_change(build.step.fields["index"], built.stats()["content"])
    if setting.index.stores_vectors:
        built.save(build.folder)
    else:
        (build.folder / "reads_embeddings").touch()


def _cost(made: Artifact) -> dict[str, Any]:
    return {"key": made.key, "bytes": made.bytes, "seconds": made.seconds}


def tuning(config: RunConfig, setting: Setting, vectors: VectorSteps, build: Build) -> None:
    """The index's dial at its recall target. A target out of reach is said at once, and in the record."""
    from rag_exp.core.atomic import write_json
    from rag_exp.retrieval.tuning import tune

    size = passage_table(build).prefix_size(setting.size)
    blocks, _ = vector_blocks(config, build, vectors.passages, size)
    queries = question_vectors(build, vectors)
    reference = _reference(config, setting.k, size, blocks, queries, vectors, build)
    assert reference is not None
    index = open_index(config, setting, vectors, blocks, build)
    found = tune(index, setting.index, queries, reference.exact, setting.k)
    write_json(build.folder / "tuning.json", found.facts())
    build.stats |= found.facts()
    if not found.reached:
        build.say(found.shortfall())


def topk(
    config: RunConfig,
    setting: Setting,
    split: str,
    limit: int | None,
    vectors: VectorSteps | None,
    build: Build,
) -> None:
    """What each question is given to read, and how that compares with exact search."""
    from rag_exp.data.questions import QuestionTable
    from rag_exp.evaluation.arms import oracle_result, random_result
    from rag_exp.retrieval.topk import search_topk

    table = passage_table(build)
    size = table.prefix_size(setting.size)
    build.stats["M"] = size
    asked = QuestionTable.open(build.parent("questions").path, split, limit)
    if setting.source == "run":
        from rag_exp.retrieval.run_files import read_run, result_of_run

        run = read_run(config.retrieval.runs)
        result_of_run(run, asked.ids, table, size, setting.k).save(build.folder)
        return
    if setting.source in ("oracle", "random"):
        made = (
            oracle_result(asked.gold, setting.k, asked.gold_of)
            if setting.source == "oracle"
            else random_result(asked.ids, setting.k, size, config.seed)
        )
        made.save(build.folder)
        return
    if vectors is None:
        found = setting.index.load(build.parent("index").path)
        build.stats |= search_topk(found, asked.questions, setting.k, build.folder, None, setting.index.no_exact)
        return
    blocks, _ = vector_blocks(config, build, vectors.passages, size)
    found = open_index(config, setting, vectors, blocks, build)
    queries = question_vectors(build, vectors)
    build.stats["dims"] = queries.shape[1]
    if setting.index.needs == "both":
        from rag_exp.retrieval.hybrid import Both

        both = Both(queries, asked.questions)
        build.stats |= search_topk(found, both, setting.k, build.folder, None, setting.index.no_exact)
        return
    reference = _reference(config, setting.k, size, blocks, queries, vectors, build)
    reason = setting.index.no_exact or "training questions are not compared"
    build.stats |= search_topk(found, queries, setting.k, build.folder, reference, reason)


def ranking(config: RunConfig, setting: Setting, build: Build) -> None:
    """rankings.parquet: what was found for every question of the split, and how good that is without a reader."""
    from rag_exp.data.questions import QuestionTable
    from rag_exp.evaluation.ranking import rank_questions, ranking_metrics, write_rankings
    from rag_exp.retrieval.results import SearchResult

    table = passage_table(build)
    size = table.prefix_size(setting.size)
    asked = QuestionTable.open(build.parent("questions").path, config.evaluation.split, config.evaluation.questions)
    judged = write_rankings(
        rank_questions(asked, SearchResult.load(build.parent("topk").path), table, size), build.folder
    )
    metrics, nulls = ranking_metrics(judged, setting.k)
    build.stats |= {"metrics": metrics, "nulls": nulls, "questions": len(asked), "M": size}
    build.stats["documents"] = table.documents_in(size)


def paths(
    config: RunConfig,
    setting: Setting,
    split: str,
    limit: int | None,
    vectors: VectorSteps | None,
    build: Build,
) -> None:
    """What a second hop finds after each passage of the top-k."""
    from rag_exp.data.questions import QuestionTable
    from rag_exp.retrieval.paths import second_hop
    from rag_exp.retrieval.results import SearchResult

    assert setting.hop2 is not None
    table = passage_table(build)
    asked = QuestionTable.open(build.parent("questions").path, split, limit)
    hop1 = SearchResult.load(build.parent("topk").path)
    size = table.prefix_size(setting.size)
    if vectors is None:
        found = setting.index.load(build.parent("index").path)
        made, facts = second_hop(found, hop1, asked.questions, table, setting.hop2)
    else:
        blocks, _ = vector_blocks(config, build, vectors.passages, size)
        found = open_index(config, setting, vectors, blocks, build)
        is_exact = not setting.index.stores_vectors
        compared = None if is_exact or split == "train" or setting.index.no_exact else blocks
        with on_device(config.trainer, encoder_of(config, build, "question")) as question_encoder:
            made, facts = second_hop(found, hop1, asked.questions, table, setting.hop2, question_encoder, compared)
        facts |= {"dims": question_encoder.dims, **({"recall": 1.0} if is_exact else {})}
    made.save(build.folder)
    build.stats |= {"M": size, "k": hop1.k, "j": setting.hop2.j, **facts}


def pairs(config: RunConfig, setting: Setting, split: str, limit: int | None, build: Build) -> None:
    """The paths of an arm that does not search: the gold passages of both hops, or random pairs."""
    from rag_exp.data.questions import QuestionTable
    from rag_exp.evaluation.arms import oracle_pairs, random_pairs
    from rag_exp.retrieval.paths import Paths

    assert setting.hop2 is not None
    asked = QuestionTable.open(build.parent("questions").path, split, limit)
    size = passage_table(build).prefix_size(setting.size)
    if setting.source == "oracle":
        pairs_QM2 = oracle_pairs(asked.gold, asked.gold_of)
    else:
        pairs_QM2 = random_pairs(asked.ids, setting.hop2.paths, size, config.seed)
    Paths.of_pairs(pairs_QM2).save(build.folder)
    build.stats["M"] = size


def _reference(
    config: RunConfig,
    k: int,
    size: int,
    blocks: list[np.ndarray],
    queries: np.ndarray,
    steps: VectorSteps,
    build: Build,
) -> Reference | None:
    """Exact search over the first ``size`` passages, read from the history that all sizes and indexes share."""
    from rag_exp.retrieval.history import History, exact_prefix
    from rag_exp.retrieval.topk import Reference

    if steps.exact is None:
        return None
    temperature = config.retriever.temperature
    parts = [History.load(build.ensure(steps.exact(i)).path) for i in range(-(-size // SHARD_ROWS))]
    return Reference(exact_prefix(parts, queries, blocks, size, k, temperature), blocks, temperature)


def _known(file: Path, texts: object, doc_ends: object) -> np.ndarray:
    """The nearness of the same documents in the same order, as it was found before."""
    import numpy as np

    return np.load(file, allow_pickle=False)


def _texts(table: PassageTable, size: int) -> Iterator[str]:
    """The first ``size`` passages as an index of texts reads them."""
    from rag_exp.retrieval.encoders import passage_text

    return (passage_text(title, text) for _, batch in table.batches(size) for title, text in batch)
