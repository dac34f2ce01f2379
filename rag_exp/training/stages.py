"""The two stages of the recipe: the reader's warm-up on gold passages, and marginal training end to end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_exp.data.passages import PassageTable
from rag_exp.data.questions import QuestionTable
from rag_exp.models.flops import ReaderSizes
from rag_exp.models.multihop import ListedPaths
from rag_exp.models.objectives import Objective
from rag_exp.models.packing import Packer
from rag_exp.models.prior import RetrievalPrior
from rag_exp.models.reader import Generator
from rag_exp.retrieval.hop2 import SecondHop
from rag_exp.retrieval.live import LiveRetriever
from rag_exp.retrieval.results import SearchResult
from rag_exp.training.loggers import Mirror
from rag_exp.training.loop import Stage, fit_stage
from rag_exp.training.options import OptimOptions, Precision, TrainerOptions, TrainingOptions, WarmupOptions
from rag_exp.training.reading import StageData


@dataclass(frozen=True)
class Trainee:
    """What is trained and how, in every stage.

    Attributes:
        generator: the reader, trained in place.
        packer: makes its prompts.
        sizes: its sizes, for FLOPs; None where nobody knows them.
        options: steps, batch sizes and learning rates of the stages.
        optim: optimiser and schedule.
        seed: the run's seed.
        trainer: the machine.
        precision: resolved: "32" or "bf16".
        partial: folder for progress that outlives a kill; None keeps none.
        mirror: where curves are logged; None logs none.
    """

    generator: Generator
    packer: Packer
    sizes: ReaderSizes | None
    options: TrainingOptions
    optim: OptimOptions
    seed: int
    trainer: TrainerOptions
    precision: Precision = "32"
    partial: Path | None = None
    mirror: Mirror | None = None


def warm_up_reader(
    trainee: Trainee, questions: QuestionTable, passages: PassageTable | None, hops: int = 1
) -> dict[str, Any]:
    """Teach the reader to read: each question with its gold passage alone, or its gold path (no marginal).

    Args:
        trainee: reader and recipe (``options.warmup``).
        questions: training questions; those without gold passages are left out, and counted.
        passages: the corpus; None for a closed-book run, whose reader warms up on questions alone.
        hops: 2: both gold passages of a question in one prompt.

    Returns:
        the stage's stats, see :func:`fit_stage`.

    Raises:
        DataError: no question has a gold passage.
        ConfigError: prompts do not fit the reader.
        TrainingError: the loss is not finite.
    """
    if passages is None:
        data = StageData.closed_book(trainee.packer, questions)
    else:
        data = StageData.gold(trainee.packer, questions, passages, hops)
    # One reading per question: every objective is the plain likelihood of the answer.
    return _fit(trainee, "reader_warmup", trainee.options.warmup, data.objective, data)


def train_marginal(
    trainee: Trainee,
    objective: Objective,
    questions: QuestionTable,
    passages: PassageTable | None,
    topk: SearchResult | None = None,
    prior: RetrievalPrior | None = None,
    live: LiveRetriever | None = None,
    k: int = 0,
    refresh_every: int | None = None,
    retriever_lr: float | None = None,
    paths: ListedPaths | None = None,
    hop2: SecondHop | None = None,
) -> dict[str, Any]:
    """Train on the objective over retrieved passages, starting from whatever the reader has learned.

    Args:
        trainee: reader and recipe (``options.steps`` and beside).
        objective: what the passages are read by, and what is minimised.
        questions: training questions.
        passages: the corpus; None for closed book.
        topk: what was retrieved for each question, cached; None where ``live`` searches or nothing is read.
        prior: over what was retrieved, trained in place where it learns; None: a plain softmax.
        live: a retriever that trains along; searched at every step, trained in place.
        k: passages a question that ``live`` is asked for.
        refresh_every: steps between new embeddings of the passages (``live`` with a passage encoder in training).
        retriever_lr: peak learning rate of ``live``; None takes the reader's.
        paths: what two hops found for each question, cached, in the place of ``topk``.
        hop2: the second hop that ``live`` is asked for; None for one hop.

    Returns:
        the stage's stats, see :func:`fit_stage`.

    Raises:
        DataError: nothing was retrieved, or for other questions.
        ConfigError: prompts do not fit the reader.
        TrainingError: the loss is not finite.
    """
    packer, null = trainee.packer, prior is not None and prior.has_null
    if passages is None or (topk is None and live is None and paths is None):
        data = StageData.closed_book(packer, questions)
    elif live is not None:
        data = StageData.live(packer, questions, passages, k, objective, hop2, null)
    elif paths is not None:
        data = StageData.listed(packer, questions, passages, paths, objective)
    else:
        assert topk is not None
        data = StageData.retrieved(packer, questions, passages, topk, objective, null)
    return _fit(trainee, "marginal", trainee.options, objective, data, prior, live, refresh_every, retriever_lr)


def _fit(
    trainee: Trainee, name: str, recipe: WarmupOptions | TrainingOptions, objective: Objective, data: StageData,
    prior: RetrievalPrior | None = None, live: LiveRetriever | None = None, refresh_every: int | None = None,
    retriever_lr: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    peak = recipe.lr if recipe.lr is not None else trainee.optim.lr
    stage = Stage(
        name=name,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        peak_lr=peak,
        seed=trainee.seed,
        bucket=trainee.options.bucket,
        precision=trainee.precision,
        refresh_every=refresh_every,
        retriever_lr=retriever_lr if retriever_lr is not None else peak,
    )
    t = trainee
    return fit_stage(stage, t.generator, objective, data, t.optim, t.sizes, t.trainer, t.partial, live, t.mirror, prior)
