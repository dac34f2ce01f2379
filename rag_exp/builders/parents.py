"""What the builders read of the steps before them: tables, vectors, encoders, paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.core.store import Artifact, Build, Step

if TYPE_CHECKING:
    import numpy as np

    from rag_exp.config import RunConfig
    from rag_exp.data.passages import PassageTable
    from rag_exp.data.questions import QuestionTable
    from rag_exp.models.multihop import ListedPaths
    from rag_exp.models.prior import RetrievalPrior
    from rag_exp.retrieval.encoder import Encoder
    from rag_exp.retrieval.ray_shards import Job, RayOptions
    from rag_exp.settings import Setting
    from rag_exp.training.options import TrainerOptions

SHARD_ROWS = 65_536  # passages in one embeddings artifact


@dataclass(frozen=True)
class VectorSteps:
    """Steps that a search over vectors reads. They follow from its parents, so they need not be among them.

    Attributes:
        passages: the passages' embeddings by shard; None where none are needed.
        questions: the questions' embeddings; None where the retriever makes them as it trains.
        exact: the history of exact search by shard; None where nothing is compared with it.
        index_shards: the parts of an index that is cut, by number and how many there are; None where the index has no
            files of its own.
    """

    passages: Callable[[int], Step] | None
    questions: Step | None = None
    exact: Callable[[int], Step] | None = None
    index_shards: Callable[[int, int], Step] | None = None


def passage_table(build: Build) -> PassageTable:
    from rag_exp.data.passages import PassageTable

    return PassageTable.open(build.parent("passages").path)


def tokenizer_folder(build: Build) -> Path | None:
    return build.parent("tokenizer").path if "tokenizer" in build.step.parents else None


def training_questions(config: RunConfig, build: Build, needed: bool = True) -> QuestionTable:
    """The questions of split train; none of them where the split is not ``needed`` and there is none."""
    from rag_exp.data.questions import QuestionTable

    folder, limit = build.parent("questions").path, config.training.questions
    if not needed and "train" not in build.parent("questions").stats["splits"]:
        return QuestionTable.open(folder, config.evaluation.split, 0)
    return QuestionTable.open(folder, "train", limit)


def question_vectors(build: Build, steps: VectorSteps) -> np.ndarray:
    import numpy as np

    assert steps.questions is not None
    return np.load(build.ensure(steps.questions).path / "vectors.npy", allow_pickle=False)


def run_on(cluster: RayOptions | None, job: Job) -> dict[str, Any]:
    """Do the job in this process, or on the cluster."""
    if cluster is None:
        return job.build()
    from rag_exp.retrieval.ray_shards import run_on_ray

    return run_on_ray(job, cluster)


def built_on(cluster: RayOptions | None, steps: Sequence[Step], build: Build) -> list[Artifact]:
    """The artifacts of steps whose jobs are done in this process, one by one, or on the cluster, all at once."""
    if cluster is None or len(steps) < 2 or all(build.store.has(step) for step in steps):
        return [build.ensure(step) for step in steps]
    from rag_exp.retrieval.ray_shards import connect

    connect(cluster)  # by a thread that lasts
    return build.ensure_all(steps)


def vector_blocks(
    config: RunConfig, build: Build, shard: Callable[[int], Step] | None, size: int
) -> tuple[list[np.ndarray], list[Artifact]]:
    """The first ``size`` vectors as memory maps, and the shards' artifacts; nothing where there are no such steps."""
    from rag_exp.builders.workers import workers_kept
    from rag_exp.retrieval.embeddings import load_blocks

    if shard is None:
        return [], []
    with workers_kept():  # from one shard to the next
        made = built_on(config.retrieval.on_ray, [shard(i) for i in range(-(-size // SHARD_ROWS))], build)
    return load_blocks([a.path for a in made], size), made


def encoder_of(config: RunConfig, build: Build, role: str) -> Encoder:
    """The encoder of ``role``."""
    return config.encoder.load(encoder_folder(build, role), tokenizer_folder(build))


def encoder_folder(build: Build, role: str) -> Path:
    """Where the encoder of ``role`` lies: the checkpoint's where it holds one, else the warmed-up one."""
    if "checkpoint" in build.step.parents:
        folder = build.parent("checkpoint").path / f"{role}_encoder"
        if folder.is_dir():
            return folder
    return build.parent("encoder").path


def learned_prior(config: RunConfig, setting: Setting, build: Build) -> RetrievalPrior:
    """The prior over what was found in the setting: as the checkpoint learned it, where there is one.

    Where nothing was searched there are no scores to weigh, and the prior is even.
    """
    from rag_exp.models.prior import RetrievalPrior

    if not setting.scored:
        return RetrievalPrior()
    prior = RetrievalPrior.of(config.retriever)
    return prior.load(build.parent("checkpoint").path) if "checkpoint" in build.step.parents else prior


def listed_paths(config: RunConfig, setting: Setting, prior: RetrievalPrior, build: Build) -> ListedPaths:
    """The paths that a reader reads, of those that were found."""
    from rag_exp.models.multihop import ListedPaths
    from rag_exp.retrieval.paths import Paths

    assert setting.hop2 is not None
    objective, found = config.objective, Paths.load(build.parent("paths").path)
    temperature = prior.values()["temperature"]
    assert temperature is not None
    return ListedPaths.of(found, setting.hop2.paths, objective.prior, temperature, objective.renormalize)


@contextmanager
def on_device(trainer: TrainerOptions, made: Encoder) -> Iterator[Encoder]:
    """``made`` on the trainer's device, with its threads; back on the CPU afterwards, as every encoder is kept."""
    from rag_exp.training.threads import torch_threads

    made.to(trainer.resolved_device())
    try:
        with torch_threads(trainer.threads):
            yield made
    finally:
        made.to("cpu")
