"""The shards of an index: what they are filled from, each by itself, and all of them opened as one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.builders.parents import VectorSteps, built_on, passage_table, run_on, vector_blocks
from rag_exp.core.rng import derive
from rag_exp.core.store import Artifact, Build

if TYPE_CHECKING:
    import numpy as np

    from rag_exp.config import RunConfig
    from rag_exp.retrieval.index import BuiltIndex
    from rag_exp.retrieval.sharded import ShardedIndex
    from rag_exp.settings import Setting


def quantizer(config: RunConfig, setting: Setting, vectors: VectorSteps, build: Build) -> None:
    """What an index learns from all its passages before it holds any: its lists and codes."""
    size = passage_table(build).prefix_size(setting.indexed_size)
    content, _ = vector_blocks(config, build, vectors.passages, size)
    trained = setting.index.train(content, derive(config.seed, "index"))
    trained.save(build.folder)
    build.stats |= trained.stats()


def index_shard(
    config: RunConfig, setting: Setting, vectors: VectorSteps, number: int, shards: int, build: Build
) -> None:
    """Shard ``number`` of ``shards`` of the setting's index."""
    from rag_exp.retrieval.sharded import ShardJob, Share

    share = Share(number, shards, passage_table(build).prefix_size(setting.indexed_size))
    trained = build.parent("quantizer").path.resolve() if "quantizer" in build.step.parents else None
    _, embeddings = vector_blocks(config, build, vectors.passages, share.end)
    job = ShardJob(
        share, setting.index, trained, _folders(embeddings), build.folder.resolve(), derive(config.seed, "index")
    )
    build.stats |= run_on(config.retrieval.on_ray, job)


def shards_of(config: RunConfig, vectors: VectorSteps, shards: int, build: Build) -> list[Artifact]:
    """The shards of an index that has files of its own, built where they are missing."""
    assert vectors.index_shards is not None
    return built_on(config.retrieval.on_ray, [vectors.index_shards(number, shards) for number in range(shards)], build)


def open_index(
    config: RunConfig, setting: Setting, vectors: VectorSteps, blocks: list[np.ndarray], build: Build
) -> BuiltIndex:
    """The setting's index over ``blocks``, behind rescoring where that is asked for, its dial set where that was tuned.

    It is cut into as many shards as the setting says, or as it was built in.
    """
    from rag_exp.retrieval.rescore import rescored

    made = build.parent("index")  # also where there is nothing to load: it holds what is known of the index
    shards = setting.shards if setting.shards > 1 else made.stats.get("shards", 1)
    if shards > 1 or config.retrieval.on_ray is not None:
        found: BuiltIndex = _open_shards(config, setting, vectors, sum(len(b) for b in blocks), shards, build)
    elif setting.index.needs == "both":
        return setting.index.load(made.path, blocks)
    elif setting.index.stores_vectors:
        found = setting.index.load(made.path)
        if setting.selected:
            found.select(passage_table(build).prefix_size(setting.size))
    else:
        found = setting.index.create(blocks, 0)
    found = rescored(found, setting.index, blocks)
    if "tuning" in build.step.parents:
        found.turn(build.parent("tuning").stats["value"])
    return found


def _open_shards(
    config: RunConfig, setting: Setting, vectors: VectorSteps, size: int, shards: int, build: Build
) -> ShardedIndex:
    """All shards of an index that hold any of the first ``size`` passages, ready to be searched as one."""
    from rag_exp.retrieval.ray_shards import RayShards
    from rag_exp.retrieval.sharded import LocalShards, ShardPlace, Share

    indexed, selected = passage_table(build).prefix_size(setting.indexed_size), size if setting.selected else None
    shares = [Share(number, shards, indexed) for number in range(shards)]
    if setting.index.stores_vectors:
        made, trained = [build.parent("index")], None
        if shards > 1:
            made = shards_of(config, vectors, shards, build)
            learnt = quantizer_of(vectors, build)
            trained = None if learnt is None else learnt.path.resolve()
        folders = _folders(made)
        places = [
            ShardPlace(share, setting.index, folder, trained=trained, selected=selected)
            for share, folder in zip(shares, folders, strict=True)
            if selected is None or share.first < selected
        ]
    else:
        _, embeddings = vector_blocks(config, build, vectors.passages, size)
        places = [ShardPlace(share, setting.index, embeddings=_folders(embeddings)) for share in shares]
    on_ray = config.retrieval.on_ray
    return LocalShards(places) if on_ray is None else RayShards(places, on_ray)


def quantizer_of(vectors: VectorSteps, build: Build) -> Artifact | None:
    """What all shards were filled from; None where each learnt for itself."""
    assert vectors.index_shards is not None
    step = vectors.index_shards(0, 1).parents.get("quantizer")
    return None if step is None else build.ensure(step)


def _folders(made: list[Any]) -> tuple[Path, ...]:
    """Where artifacts lie, as every process that sees the store finds them."""
    return tuple(artifact.path.resolve() for artifact in made)
