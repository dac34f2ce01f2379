"""The run record: everything a run found out, in one JSON file that is written last.

The schema is :class:`RunRecord`; each key is documented there. A value that does not apply is null,
with its reason under ``nulls``; it is never 0.0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rag_exp.core.atomic import write_text
from rag_exp.core.errors import DataError

SCHEMA = 1


class RunRecord(BaseModel):
    """One run. Sizes are counts, ``bytes`` are bytes, ``seconds`` wall seconds, ``flops`` floating-point operations."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = Field(SCHEMA, description="version of this schema")
    run_id: str = Field(description="Merkle key of the last artifact and the seed")
    status: Literal["finished", "failed"]
    arm: str = Field(description="dense, bm25, hybrid, oracle, random, run (of a file of results) or closed_book")
    seed: int
    config: dict[str, Any] = Field(description="the resolved configuration, neutral fields included")
    artifacts: dict[str, str] = Field(description="key of every artifact the run stands on, by kind and role")
    sizes: dict[str, int | None] = Field(
        default_factory=dict,
        description="N non-embedding generator parameters; N_total; retriever_parameters; D tokens the generator "
        "processed in training; D_target target tokens among them; M passages indexed at evaluation; M_train; "
        "K passages read per question (with two hops: found by the first); J found by the second after each; paths "
        "read per question; K_train; questions evaluated",
    )
    corpora: dict[str, dict[str, int | str | None]] = Field(
        default_factory=dict,
        description="the corpora that were `asked` and, where passages were read in training, `train`ed with: "
        "documents, passages, words, tokens (of titles and texts, by the vocabulary trained on the corpus) and digest: "
        "BLAKE2b-128 of the passages' ids in their order, a newline after each; order: which documents come first",
    )
    parameters: dict[str, dict[str, int]] = Field(
        default_factory=dict,
        description="counts by component and group; a component's groups sum to its total",
    )
    flops: dict[str, float | None] = Field(
        default_factory=dict,
        description="training (its stages: reader_warmup, retriever_warmup, marginal), embedding, index_build, search, "
        "reading",
    )
    bytes: dict[str, int] = Field(
        default_factory=dict, description="size of each artifact, by the names of `artifacts`"
    )
    seconds: dict[str, float | None] = Field(
        default_factory=dict,
        description="wall time of building each artifact (whenever it was built; null of an index that was made "
        "elsewhere), and `run`: this run's own",
    )
    search: dict[str, Any] = Field(
        default_factory=dict,
        description="the index's search parameters as they were used; where one was tuned to a recall, the target, the "
        "recall on the tuning questions, how many those were, and whether it was reached",
    )
    metrics: dict[str, float | None] = Field(default_factory=dict, description="see rag_exp.evaluation.metrics")
    nulls: dict[str, str] = Field(default_factory=dict, description="why a value is null, by its name")
    notes: list[str] = Field(
        default_factory=list, description="what happened that a reader should know (a rebuilt artifact)"
    )
    versions: dict[str, str | None] = Field(default_factory=dict, description="of Python and the packages that matter")
    commit: str | None = Field(
        None, description="git commit of rag_exp's source, with '+changes' where it is not clean"
    )
    command: str | None = Field(None, description="the command that made this record")
    created: str = Field(description="UTC, ISO 8601")
    error: str | None = Field(None, description="why the run failed; its last line is what `status` shows")


def write_record(record: RunRecord, path: Path) -> None:
    """Write ``record`` to ``path`` atomically, numbers unrounded."""
    write_text(path, json.dumps(record.model_dump(), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_record(path: Path) -> RunRecord:
    """Read a record.

    Raises:
        DataError: the file is missing, is not JSON, or does not follow the schema.
    """
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror}).") from e
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "the file"
        raise DataError(
            f"{path}: not a run record of schema {SCHEMA}: {where}: {first['msg']}. Delete it and issue the run again."
        ) from e
