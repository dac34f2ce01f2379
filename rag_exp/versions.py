"""The kinds of steps, and the version of what builds each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rag_exp.core.store import Build, Step

# Raise a version when the code of its builder (or of what that calls) changes what is built from the same fields.
VERSIONS = {
    "passages": 1,
    "manifest": 1,
    "token_counts": 1,
    "nearness": 1,
    "questions": 1,
    "tokenizer": 1,
    "encoder": 1,
    "released_encoder": 1,
    "embeddings": 1,
    "question_embeddings": 1,
    "exact": 1,
    "quantizer": 1,
    "index_shard": 1,
    "index": 1,
    "tuning": 1,
    "topk": 1,
    "paths": 1,
    "reader_warmup": 2,
    "checkpoint": 2,
    "evaluation": 3,
    "ranking": 1,
}


def step_of(kind: str, fields: dict[str, Any], parents: Mapping[str, Step], build: Callable[[Build], None]) -> Step:
    """A step of ``kind`` at its version; the rest is as in :class:`~rag_exp.core.store.Step`."""
    return Step(kind, VERSIONS[kind], fields, dict(parents), build)
