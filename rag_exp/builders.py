"""What each step builds, by the rooms below. ``steps`` says from what; here is how.

Every function takes its options and a :class:`~rag_exp.core.store.Build`, asks it for the parents it
needs, writes plain files and notes its facts in ``build.stats``. torch and faiss are imported by the
rooms when a build runs, never to name a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.core.errors import DataError
from rag_exp.core.rng import derive
from rag_exp.core.store import Build, Step

if TYPE_CHECKING:
    import numpy as np

    from rag_exp.config import RunConfig
    from rag_exp.data.passages import PassageTable
    from rag_exp.data.questions import QuestionTable
    from rag_exp.models.multihop import ListedPaths
    from rag_exp.models.packing import Packer
    from rag_exp.models.reader import Generator
    from rag_exp.retrieval.encoder import Encoder
    from rag_exp.retrieval.hop2 import SecondHop
    from rag_exp.retrieval.index import BuiltIndex
    from rag_exp.retrieval.live import LiveRetriever
    from rag_exp.retrieval.topk import Reference
    from rag_exp.settings import Setting
    from rag_exp.training.stages import Trainee

SHARD_ROWS = 65_536  # passages in one embeddings artifact
EXACT_K = 32  # exact search keeps at least so many a question, and powers of two beyond


@dataclass(frozen=True)
class VectorSteps:
    """Steps that a search over vectors reads. They follow from its parents, so they need not be among them.

    Attributes:
        passages: the passages' embeddings by shard.
        questions: the questions' embeddings; None where the retriever makes them as it trains.
        exact: the history of exact search by shard; None where nothing is compared with it.
    """

    passages: Callable[[int], Step]
    questions: Step | None = None
    exact: Callable[[int], Step] | None = None


def passages(config: RunConfig, corpus: Any, splits: tuple[str, ...], build: Build) -> None:
    """The corpus in its order; with distractor growth the gold documents of the questions of ``splits`` come first."""
    from rag_exp.data.passages import write_passages

    gold = None
    if corpus.growth == "distractor":
        gold = {id for q in config.questions.questions() if q.split in splits for id in q.gold_ids}
        if not gold:
            raise DataError(
                "growth=distractor keeps the gold documents, but no question of "
                f"{' or '.join(splits)} names a gold passage."
            )
    build.stats |= write_passages(corpus, config.passages, build.folder, gold)


def questions(config: RunConfig, build: Build) -> None:
    from rag_exp.data.questions import write_questions

    build.stats |= write_questions(config.questions, _table(build), build.folder)


def tokenizer(config: RunConfig, build: Build) -> None:
    from rag_exp.data.tokenizer import train_bpe

    table = _table(build)
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
    made = config.encoder.create(_tokenizer_folder(build), config.tokenizer.vocab_size, seed)
    asked, table = _training_questions(config, build), _table(build)
    queries, gold, answers = asked.questions, asked.gold, asked.answers
    if hop2 is not None:
        pairs = hop_pairs(queries, gold, asked.gold_of, table, hop2)
        queries, gold, answers = pairs.queries, pairs.gold, [answers[q] for q in pairs.asked]
    warmup = config.retriever.warmup.resolved(config.encoder)
    with (
        _on_device(config, made),
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


def embeddings(config: RunConfig, shard: int, build: Build) -> None:
    import numpy as np

    from rag_exp.retrieval.embeddings import embed_passages

    table = _table(build)
    start = shard * SHARD_ROWS
    stop = min(start + SHARD_ROWS, len(table))
    texts = (pair for at in range(start, stop, 8192) for pair in table.texts(np.arange(at, min(at + 8192, stop))))
    with _on_device(config, _encoder(config, build, "passage")) as made:
        build.stats |= embed_passages(made, texts, stop - start, build.folder)


def question_embeddings(config: RunConfig, split: str, limit: int | None, build: Build) -> None:
    import numpy as np

    from rag_exp.data.questions import QuestionTable

    asked = QuestionTable.open(build.parent("questions").path, split, limit)
    with _on_device(config, _encoder(config, build, "question")) as made:
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
    grow(_question_vectors(build, steps), vectors, k, temperature, before).save(build.folder)


def index(config: RunConfig, setting: Setting, shard: Callable[[int], Step] | None, build: Build) -> None:
    """An index over the setting's corpus. One that reads the embeddings themselves stores no second copy of them."""
    table = _table(build)
    size = table.prefix_size(setting.size)
    build.stats["M"] = size
    if shard is None:
        content: Any = (text for _, batch in table.batches(size) for text in _joined(batch))
    else:
        content, made = _blocks(build, shard, size)
        # The last shard reaches beyond the corpus: only its share is this index's cost.
        shares = [min(1.0, (size - i * SHARD_ROWS) / a.stats["passages"]) for i, a in enumerate(made)]
        build.stats["embedding_flops"] = sum(s * a.stats["flops"] for s, a in zip(shares, made, strict=True))
        build.stats["embedding_seconds"] = sum(s * a.seconds for s, a in zip(shares, made, strict=True))
        build.stats["embeddings"] = [{"key": a.key, "bytes": a.bytes, "seconds": a.seconds} for a in made]
        build.stats["parameters"] = config.encoder.parameter_counts(config.tokenizer.vocab_size)
    built = setting.index.create(content, derive(config.seed, "index"))
    build.stats |= built.stats()
    if setting.index.stores_vectors:
        built.save(build.folder)
    else:
        (build.folder / "reads_embeddings").touch()


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

    table = _table(build)
    size = table.prefix_size(setting.size)
    build.stats["M"] = size
    asked = QuestionTable.open(build.parent("questions").path, split, limit)
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
        reason = "bm25 ranks by words: there is no exact search of its own that it approximates"
        build.stats |= search_topk(found, asked.questions, setting.k, build.folder, None, reason)
        return
    blocks, _ = _blocks(build, vectors.passages, size)
    found = _open_index(build, setting, blocks)
    queries = _question_vectors(build, vectors)
    reference = _reference(config, setting.k, size, blocks, queries, vectors, build)
    reason = "training questions are not compared"
    build.stats |= search_topk(found, queries, setting.k, build.folder, reference, reason)
    build.stats["dims"] = queries.shape[1]


def paths(
    config: RunConfig,
    setting: Setting,
    split: str,
    limit: int | None,
    shard: Callable[[int], Step] | None,
    build: Build,
) -> None:
    """What a second hop finds after each passage of the top-k."""
    from rag_exp.data.questions import QuestionTable
    from rag_exp.retrieval.paths import second_hop
    from rag_exp.retrieval.results import SearchResult

    assert setting.hop2 is not None
    table = _table(build)
    asked = QuestionTable.open(build.parent("questions").path, split, limit)
    hop1 = SearchResult.load(build.parent("topk").path)
    size = table.prefix_size(setting.size)
    if shard is None:
        found = setting.index.load(build.parent("index").path)
        made, facts = second_hop(found, hop1, asked.questions, table, setting.hop2)
    else:
        blocks, _ = _blocks(build, shard, size)
        found = _open_index(build, setting, blocks)
        is_exact = not setting.index.stores_vectors
        compared = None if is_exact or split == "train" else blocks
        with _on_device(config, _encoder(config, build, "question")) as question_encoder:
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
    size = _table(build).prefix_size(setting.size)
    if setting.source == "oracle":
        pairs_QM2 = oracle_pairs(asked.gold, asked.gold_of)
    else:
        pairs_QM2 = random_pairs(asked.ids, setting.hop2.paths, size, config.seed)
    Paths.of_pairs(pairs_QM2).save(build.folder)
    build.stats["M"] = size


def reader_warmup(config: RunConfig, reads: bool, hops: int, build: Build) -> None:
    """A new reader after its warm-up: on gold passages (with two hops on both together), or on questions alone."""
    from rag_exp.training.stages import warm_up_reader

    reader = config.generator.create(_tokenizer_folder(build), derive(config.seed, "generator"))
    with _trainee(config, build, reader) as trainee:
        table = _table(build) if reads else None
        build.stats |= warm_up_reader(trainee, _training_questions(config, build), table, hops)
    reader.save(build.folder)


def checkpoint(config: RunConfig, setting: Setting, shard: Callable[[int], Step] | None, build: Build) -> None:
    """The reader after end-to-end training, with the encoders that trained beside it."""
    from rag_exp.retrieval.results import SearchResult
    from rag_exp.training.stages import train_marginal

    reader = _reader(config, build, "reader_warmup")
    table = _table(build) if setting.source != "none" else None
    topk = live = listed = None
    if "paths" in build.step.parents:
        build.stats["M"] = build.parent("paths").stats["M"]
        listed = _listed(config, setting, build)
    elif "topk" in build.step.parents:
        found = build.parent("topk")
        build.stats["M"] = found.stats["M"]
        topk = SearchResult.load(found.path)
    elif table is not None:
        live = _live(config, setting, shard, table, build)
    with _trainee(config, build, reader) as trainee:
        build.stats |= train_marginal(
            trainee,
            config.objective,
            _training_questions(config, build),
            table,
            topk,
            temperature=config.retriever.temperature,
            live=live,
            k=setting.k,
            refresh_every=config.retriever.refresh_every if live and config.retriever.train == "both" else None,
            retriever_lr=config.training.retriever_lr or config.encoder.warmup_lr,
            paths=listed,
            hop2=setting.hop2,
        )
    reader.save(build.folder)
    if live is not None:
        live.save(build.folder)


def evaluation(config: RunConfig, setting: Setting, build: Build) -> None:
    """predictions.parquet: every question of the split, asked in the evaluation setting."""
    from rag_exp.data.questions import QuestionTable
    from rag_exp.evaluation.evaluate import Asked, Reader, evaluate
    from rag_exp.evaluation.hosted import HostedReader
    from rag_exp.retrieval.results import SearchResult

    reader = _reader(config, build, "checkpoint")
    options = config.evaluation
    questions = QuestionTable.open(build.parent("questions").path, options.split, options.questions)
    table = topk = size = listed = None
    if setting.source != "none":
        table = _table(build)
        size = table.prefix_size(setting.size)
        if setting.hop2 is not None:
            listed = _listed(config, setting, build)
        else:
            topk = SearchResult.load(build.parent("topk").path)
    asked = Asked(questions, table, topk, size, config.retriever.temperature, listed)
    build.stats |= evaluate(
        reader, config.objective, _packer(config, reader), asked, options, config.generator.sizes(), build.folder,
        config.trainer, config.training.resolved_precision(config.trainer.accelerator),
        HostedReader if config.generator.hosted else Reader,
    )  # fmt: skip
    build.stats["M"] = size
    build.stats["documents"] = None if table is None or size is None else table.documents_in(size)
    build.stats["parameters"] = {"generator": config.generator.parameter_counts()}
    build.stats["non_embedding"] = config.generator.non_embedding()


def _listed(config: RunConfig, setting: Setting, build: Build) -> ListedPaths:
    """The paths that a reader reads, of those that were found."""
    from rag_exp.models.multihop import ListedPaths
    from rag_exp.retrieval.paths import Paths

    assert setting.hop2 is not None
    objective, found = config.objective, Paths.load(build.parent("paths").path)
    temperature = config.retriever.temperature
    return ListedPaths.of(found, setting.hop2.paths, objective.prior, temperature, objective.renormalize)


@contextmanager
def _trainee(config: RunConfig, build: Build, reader: Generator) -> Iterator[Trainee]:
    from rag_exp.training.loggers import Mirror
    from rag_exp.training.stages import Trainee

    mirror = Mirror.build(config.logger, config.paths.root / "logs", f"{build.step.kind}-{build.step.key[:12]}")
    try:
        yield Trainee(
            generator=reader,
            packer=_packer(config, reader),
            # What a hosted reader read is counted where it is, and in evaluation alone.
            sizes=None if config.generator.hosted else config.generator.sizes(),
            options=config.training.resolved(config.generator.peak_lr()),
            optim=config.optim,
            seed=config.seed,
            trainer=config.trainer,
            precision=config.training.resolved_precision(config.trainer.accelerator),
            partial=build.partial,
            mirror=mirror,
        )
    finally:
        mirror.close()


def _live(
    config: RunConfig, setting: Setting, shard: Callable[[int], Step] | None, table: PassageTable, build: Build
) -> LiveRetriever:
    from rag_exp.retrieval.live import LiveRetriever

    assert shard is not None
    size = table.prefix_size(setting.size)
    build.stats["M"] = size
    blocks, _ = _blocks(build, shard, size)
    passage_encoder = _encoder(config, build, "passage") if config.retriever.train == "both" else None
    return LiveRetriever(
        _encoder(config, build, "question"),
        passage_encoder,
        table,
        blocks,
        setting.index,
        derive(config.seed, "index"),
        folder=build.partial,
    )


def _reader(config: RunConfig, build: Build, parent: str) -> Generator:
    """The generator that ``parent`` holds; where there is no such step, the generator as it comes."""
    folder = _tokenizer_folder(build)
    if parent in build.step.parents:
        return config.generator.load(build.parent(parent).path, folder)
    return config.generator.create(folder, derive(config.seed, "generator"))


def _packer(config: RunConfig, reader: Generator) -> Packer:
    from rag_exp.models.packing import Packer

    return Packer(reader.tokenizer, config.prompt, reader.context, reader.seq2seq)


def _training_questions(config: RunConfig, build: Build) -> QuestionTable:
    from rag_exp.data.questions import QuestionTable

    return QuestionTable.open(build.parent("questions").path, "train", config.training.questions)


def _open_index(build: Build, setting: Setting, blocks: list[np.ndarray]) -> BuiltIndex:
    made = build.parent("index")  # also where there is nothing to load: it holds what is known of the index
    if setting.index.stores_vectors:
        return setting.index.load(made.path)
    return setting.index.create(blocks, 0)


def _question_vectors(build: Build, steps: VectorSteps) -> np.ndarray:
    import numpy as np

    assert steps.questions is not None
    return np.load(build.ensure(steps.questions).path / "vectors.npy", allow_pickle=False)


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


def _blocks(build: Build, shard: Callable[[int], Step], size: int) -> tuple[list[np.ndarray], list[Any]]:
    """The first ``size`` vectors as memory maps, and the shards' artifacts."""
    from rag_exp.retrieval.embeddings import load_blocks

    made = [build.ensure(shard(i)) for i in range(-(-size // SHARD_ROWS))]
    return load_blocks([a.path for a in made], size), made


def _encoder(config: RunConfig, build: Build, role: str) -> Encoder:
    """The encoder of ``role``: the checkpoint's where it holds one, else the warmed-up one."""
    if "checkpoint" in build.step.parents:
        folder = build.parent("checkpoint").path / f"{role}_encoder"
        if folder.is_dir():
            return config.encoder.load(folder, _tokenizer_folder(build))
    return config.encoder.load(build.parent("encoder").path, _tokenizer_folder(build))


@contextmanager
def _on_device(config: RunConfig, made: Encoder) -> Iterator[Encoder]:
    """``made`` on the trainer's device, with its threads; back on the CPU afterwards, as every encoder is kept."""
    from rag_exp.training.threads import torch_threads

    made.to(config.trainer.resolved_device())
    try:
        with torch_threads(config.trainer.threads):
            yield made
    finally:
        made.to("cpu")


def _tokenizer_folder(build: Build) -> Path | None:
    return build.parent("tokenizer").path if "tokenizer" in build.step.parents else None


def _table(build: Build) -> PassageTable:
    from rag_exp.data.passages import PassageTable

    return PassageTable.open(build.parent("passages").path)


def _joined(batch: list[tuple[str, str]]) -> list[str]:
    from rag_exp.retrieval.encoders import passage_text

    return [passage_text(title, text) for title, text in batch]
