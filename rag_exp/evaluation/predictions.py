"""The predictions file: one row a question, everything that a metric or a look at one question needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rag_exp.core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

FILE = "predictions.parquet"
NULLS = b"rag_exp.nulls"  # key of the file's metadata

# name -> (Arrow type, what it holds). Lists over passages are in the order of retrieval, best first.
COLUMNS: dict[str, tuple[str, str]] = {
    "id": ("string", "question id"),
    "question": ("string", "its wording"),
    "template": ("string", "which kind of question it is; '' where the source does not say"),
    "hops": ("int32", "passages that must be read together"),
    "answers": ("list<string>", "accepted answers"),
    "target": ("string", "the answer that is scored: the first of `answers`"),
    "target_tokens": ("int32", "its tokens, end token included"),
    "answer_bytes": ("int32", "its UTF-8 bytes"),
    "nll": ("double", "-log p(target) in nats, the sum over its tokens, end token included"),
    "nll_without_end": ("double", "the same without the end token; null for an answer that has no other token"),
    "nll_any": ("double", "-log of the summed probability of the distinct answers (at most evaluation.max_answers)"),
    "nll_unnormalized": (
        "double",
        "the same with p(z|x) over the whole corpus, not over the passages read: an upper bound of the nats with all "
        "of them read; null where the sum over the corpus is unknown or passages are not read one by one",
    ),
    "prediction": ("string", "the answer that was written; null where nothing is decoded"),
    "fast_prediction": ("string", "what fast decoding would have answered; null but for evaluation.decode=thorough"),
    "candidates": ("list<string>", "answers that were ranked, best first; null where nothing is decoded"),
    "candidate_logp": (
        "list<double>",
        "log-probability of each, as evaluation.decode says; with evaluation.length_penalty they are ranked by it over "
        "length ** that",
    ),
    "choices": ("list<string>", "what evaluation.decode=choices chose among, in its own order; null for other ways"),
    "choice_logp": ("list<double>", "log p of each choice, end token included; null for other ways"),
    "em": ("double", "SQuAD exact match of `prediction`, maximum over answers"),
    "f1": ("double", "SQuAD F1 of `prediction`, maximum over answers"),
    "rows": ("list<int64>", "rows of the passages read, each once, path by path; empty where there are none"),
    "scores": ("list<double>", "their retrieval scores; null where paths are read"),
    "prior": ("list<double>", "p(z|x), softmax of scores over temperature; sums to 1 - null_prior; null for paths"),
    # Where `nll` is null and `nll_without_end` is not, these two are of the answer without its end token.
    "posterior": ("list<double>", "p(z|x,target) with one passage explaining it all; null for joint reading and paths"),
    "passage_nll": ("list<double>", "-log p(target) given each passage alone; null for joint reading and paths"),
    "null_prior": ("double", "p(z|x) of reading none of them; null without a null document, or without passages"),
    "null_posterior": ("double", "p(z|x,target) of it, as `posterior`"),
    "null_nll": ("double", "-log p(target) given the question alone, as `passage_nll`"),
    "paths": ("list<list<int64>>", "where paths are read, the rows of each in hop order, best prior first; else null"),
    "path_prior": ("list<double>", "p(d1,d2|q) of each; sums to `kept_prior` unless objective.renormalize"),
    "path_posterior": ("list<double>", "p(d1,d2|q,target) with one path explaining it all"),
    "path_nll": ("list<double>", "-log p(target) given each path alone"),
    "kept_prior": ("double", "prior mass of the paths read, of all that were found; null without paths"),
    "hop1": ("list<int64>", "rows that the first hop found; null where there is one hop"),
    "truncated": ("int32", "how many of the passages were cut to fit the reader's context"),
    "gold": ("list<int64>", "rows of the gold passages; empty where unknown"),
    "gold_of": ("list<int32>", "for each gold row, which gold id it belongs to (a split passage has several rows)"),
    "gold_rank": ("int32", "1-based rank of the first gold passage among `rows`; null where none is there"),
    "gold_in_corpus": ("bool", "whether the corpus asked holds the needed gold passages; null without gold or corpus"),
    "gold_found": ("bool", "whether any gold passage is among `rows`; null without gold or passages"),
    "answer_found": ("bool", "whether an answer string occurs in a passage read; null where none is read"),
    "entropy": ("double", "H(answer | question) of the generating process, nats; null where unknown"),
    "entropy_given_gold": ("double", "H(answer | question, gold passages), nats; null where unknown"),
}

# Columns of what there was none of in earlier files.
LATER = ("null_prior", "null_posterior", "null_nll", "choices", "choice_logp")


def schema_of(columns: Mapping[str, tuple[str, str]]) -> pa.Schema:
    """The Arrow schema of columns that are described as :data:`COLUMNS` are."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "double": pa.float64(),
        "int32": pa.int32(),
        "bool": pa.bool_(),
        "list<string>": pa.list_(pa.string()),
        "list<double>": pa.list_(pa.float64()),
        "list<int64>": pa.list_(pa.int64()),
        "list<int32>": pa.list_(pa.int32()),
        "list<list<int64>>": pa.list_(pa.list_(pa.int64())),
    }
    return pa.schema([(name, types[kind]) for name, (kind, _) in columns.items()])


def schema() -> pa.Schema:
    """The Arrow schema of :data:`COLUMNS`."""
    return schema_of(COLUMNS)


def write_predictions(rows: list[dict[str, object]], folder: Path, nulls: Mapping[str, str] | None = None) -> Path:
    """Write one row a question (keys as :data:`COLUMNS`) to ``folder/predictions.parquet``.

    Args:
        nulls: why the reader left columns null, by column; kept in the file (:func:`column_nulls`).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / FILE
    table = pa.Table.from_pylist(rows, schema=schema())
    if nulls:
        table = table.replace_schema_metadata({NULLS: json.dumps(dict(nulls))})
    pq.write_table(table, path, compression="zstd")
    return path


def column_nulls(table: pa.Table) -> dict[str, str]:
    """Why columns of a predictions table are null for some or all questions, as :func:`write_predictions` was told."""
    kept = (table.schema.metadata or {}).get(NULLS)
    return {} if kept is None else json.loads(kept)


def read_predictions(path: Path) -> pa.Table:
    """Read a predictions file, or that of a folder. What no evaluation had when it was written is null there.

    Raises:
        DataError: it is missing, unreadable or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = path / FILE if path.is_dir() else path
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as e:
        raise DataError(f"{path}: no readable predictions there ({e}).") from e
    for name in LATER:
        if name not in table.column_names:
            table = table.append_column(schema().field(name), pa.nulls(len(table), schema().field(name).type))
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: not a predictions file of this version; it lacks {', '.join(missing)}.")
    return table
