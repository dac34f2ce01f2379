"""Passages and questions from the Hugging Face Hub, from a data set saved to disk, or from parquet files.

A data set of the Hub is identified by the commit its revision resolves to, local data by their content. Repositories
that hold only a loading script, which ``datasets`` 4 and later refuse, are read by ``data_files``: a pattern of the
data files in the repository.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from rag_exp.core.errors import DataError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.options import NEUTRAL, Options
from rag_exp.data.records import PassageFields, Placed, QuestionFields, documents_of, questions_of
from rag_exp.data.sources import CORPORA, QUESTIONS, CorpusOptions, Document, Question, QuestionOptions

_COMMIT = re.compile(r"[0-9a-f]{40}")
_BATCH = 1_000
_FILES = "hf://datasets/{name}@{commit}/{pattern}"  # how fsspec names files of a Hub data set at a commit
_FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}


@lru_cache(maxsize=64)
def resolve_revision(name: str, revision: str | None, key: str) -> str:
    """The commit that ``revision`` (None: the default branch) of data set ``name`` stands for now.

    A full commit hash is taken as it is, without asking the Hub.

    Raises:
        DataError: no such data set or revision, or the Hub cannot be reached.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        sha = HfApi().dataset_info(name, revision=revision, timeout=20).sha
    except RepositoryNotFoundError as e:
        raise DataError(
            f"{key}.name: the Hub has no data set {name!r} (or it is private and you are not logged in)."
        ) from e
    except RevisionNotFoundError as e:
        raise DataError(f"{key}.revision: the data set {name!r} has no revision {revision!r}.") from e
    except Exception as e:  # each HTTP library has its own errors; all of them mean that the Hub did not answer
        raise DataError(
            f"{key}.name: the Hub could not be asked which commit of {name!r} is meant ({type(e).__name__}: {e}). "
            f"Offline, give {key}.revision=<the full commit hash> of a copy that datasets has in its cache, "
            f"or {key}.path=<a folder saved by save_to_disk, or parquet files>."
        ) from e
    if not sha:
        raise DataError(f"{key}.revision: the Hub names no commit for {name!r}. Give {key}.revision=<commit hash>.")
    return sha


class _HubData(Options):
    """Where the data set is: ``name`` on the Hub, or ``path`` on this machine."""

    name: str | None = Field(None, description="data set on the Hub, such as google-research-datasets/nq_open")
    config: str | None = Field(None, description="its configuration, where it has several")
    # NEUTRAL, as is path: what they lead to, the commit or the content, is in content().
    revision: Annotated[str | None, NEUTRAL] = Field(
        None, description="branch, tag or commit; null is the default branch, as it is now"
    )
    data_files: str | None = Field(
        None, description="pattern of the data files in the repository; null: its own layout"
    )
    path: Annotated[str | None, NEUTRAL] = Field(
        None, description="instead of name: a folder saved by save_to_disk, a parquet file, or a folder of them"
    )
    streaming: Annotated[bool, NEUTRAL] = Field(False, description="read from the Hub without downloading all of it")

    @model_validator(mode="after")
    def _one_place(self) -> Any:
        if (self.name is None) == (self.path is None):
            raise ValueError("give either name (a data set on the Hub) or path (on this machine), not both")
        if self.path is not None and (self.config or self.revision or self.data_files):
            raise ValueError("config, revision and data_files belong to a data set on the Hub (name), not to path")
        return self

    def problems(self) -> list[str]:
        if self.path is not None and not Path(self.path).exists():
            return [f"{_key(self)}.path: no file or folder {self.path!r} (looked from {Path.cwd()})."]
        if self.data_files is not None and Path(self.data_files).suffix not in _FORMATS:
            return [f"{_key(self)}.data_files: {self.data_files!r} must end in one of {', '.join(_FORMATS)}."]
        return []

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        if self.path is not None:
            # Only the data: the JSON files beside them hold random fingerprints and the paths of where they were made.
            return {"data": digests.of(self.path, ("**/*.arrow", "**/*.parquet"))}
        assert self.name is not None
        return {"commit": resolve_revision(self.name, self.revision, _key(self))}


def _key(options: Options) -> str:
    return "corpus" if isinstance(options, CorpusOptions) else "questions"


def read_rows(data: _HubData, split: str | None, columns: Sequence[str]) -> Iterator[Placed]:
    """Rows of one split, top-level ``columns`` only (those that exist), with their places.

    Raises:
        DataError: the data set, file or split is not there, or cannot be read.
    """
    key = _key(data)
    if data.path is None:
        yield from _hub_rows(data, split or "train", columns, key)
    elif (Path(data.path) / "dataset_dict.json").is_file() or (Path(data.path) / "state.json").is_file():
        yield from _saved_rows(data.path, split, columns, key)
    else:
        yield from _parquet_rows(data.path, split, columns, key)


def _hub_rows(data: _HubData, split: str, columns: Sequence[str], key: str) -> Iterator[Placed]:
    from datasets import load_dataset_builder

    assert data.name is not None
    commit = resolve_revision(data.name, data.revision, key)
    try:
        if data.data_files is None:
            builder = load_dataset_builder(data.name, data.config, revision=commit)
        else:
            reader = _FORMATS[Path(data.data_files).suffix]
            # Columns are chosen in the reader, so that embeddings lying beside the text are never downloaded.
            only = {"columns": list(columns)} if reader == "parquet" else {}
            files = {split: _FILES.format(name=data.name, commit=commit, pattern=data.data_files)}
            builder = load_dataset_builder(reader, data_files=files, **only)
        # Offline, datasets takes the last copy in its cache, whatever its commit: that would be another corpus.
        if type(builder).__module__.endswith("packaged_modules.cache.cache") and builder.hash != commit:
            raise DataError(
                f"{key}.revision: commit {commit} of {data.name!r} is not in the cache of datasets, which has "
                f"{builder.hash}. Go online once, or ask for that one."
            )
        if data.streaming:
            rows = builder.as_streaming_dataset(split=split)
        else:
            builder.download_and_prepare()
            rows = builder.as_dataset(split=split)
    except DataError:
        raise
    except Exception as e:  # the errors of datasets, of the hub client and of their HTTP library have no common base
        raise DataError(
            f"{key}.name: {data.name!r}, split {split!r} cannot be loaded ({type(e).__name__}: {e})."
        ) from e
    yield from _placed(rows, columns, f"{data.name} ({split})")


def _saved_rows(path: str, split: str | None, columns: Sequence[str], key: str) -> Iterator[Placed]:
    from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(path)
    except Exception as e:
        raise DataError(f"{key}.path: {path!r} cannot be loaded as a saved data set ({type(e).__name__}: {e}).") from e
    if isinstance(found, DatasetDict):
        if split is None and len(found) == 1:
            split = next(iter(found))
        if split not in found:
            raise DataError(f"{key}: the data set in {path!r} has no split {split!r}; it has {', '.join(found)}.")
        found = found[split]
    yield from _placed(found, columns, path if split is None else f"{path} ({split})")


def _placed(rows: Any, columns: Sequence[str], name: str) -> Iterator[Placed]:
    if rows.column_names is not None:  # a stream may not know its columns
        rows = rows.select_columns([c for c in rows.column_names if c in columns])
    for number, row in enumerate(rows, start=1):
        yield f"{name}, row {number}", row


def _parquet_rows(path: str, split: str | None, columns: Sequence[str], key: str) -> Iterator[Placed]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in parquet_files(path, split, key):
        try:
            opened = pq.ParquetFile(file)
            present = [c for c in opened.schema_arrow.names if c in columns]
            number = 0
            for batch in opened.iter_batches(_BATCH, columns=present):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}, row {number}", row
        except (pa.ArrowException, OSError) as e:
            raise DataError(f"{file}: cannot be read as parquet ({e}).") from e


def parquet_files(path: str, split: str | None, key: str) -> list[Path]:
    """The parquet files of ``split`` under ``path``, sorted: ``<split>*.parquet`` or any in a folder ``<split>``.

    A file is itself, whatever the split; a split of None is all files.

    Raises:
        DataError: there are none (naming those of other splits).
    """
    root = Path(path)
    if root.is_file():
        return [root]
    found = sorted(root.rglob("*.parquet"))
    if not found:
        raise DataError(f"{key}.path: {path!r} holds neither a data set saved by save_to_disk nor parquet files.")
    if split is None:
        return found
    chosen = [f for f in found if re.match(rf"{re.escape(split)}(?![a-zA-Z])", f.name) or split in _folders(f, root)]
    if not chosen:
        names = ", ".join(f.relative_to(root).as_posix() for f in found[:5])
        raise DataError(
            f"{key}: no parquet file under {path!r} belongs to split {split!r} (its name begins with it, or a folder "
            f"has it for its name); there are {len(found)}: {names}."
        )
    return chosen


def _folders(file: Path, root: Path) -> tuple[str, ...]:
    return file.relative_to(root).parts[:-1]


@CORPORA.register
class HubCorpus(_HubData, CorpusOptions):
    """A corpus of a Hub data set, a saved data set or parquet files, one passage a row."""

    kind: Literal["hub"] = "hub"
    split: str | None = Field("train", description="the split to read; null: the only one, or all parquet files")
    fields: PassageFields = PassageFields()

    def documents(self) -> Iterator[Document]:
        return documents_of(read_rows(self, self.split, self.fields.roots()), self.fields)

    def count(self) -> int | None:
        if self.path is None or (Path(self.path) / "dataset_dict.json").is_file():
            return None
        try:
            import pyarrow.parquet as pq

            files = parquet_files(self.path, self.split, "corpus")
            return sum(pq.read_metadata(f).num_rows for f in files) if len(files) <= 50 else None
        except (DataError, OSError, ValueError):
            return None  # a saved data set, or something that is said when it is read


@QUESTIONS.register
class HubQuestions(_HubData, QuestionOptions):
    """Questions of a Hub data set, a saved data set or parquet files, one a row."""

    kind: Literal["hub"] = "hub"
    splits: dict[str, str] = Field(
        default={"train": "train", "dev": "validation"},
        min_length=1,
        description="our name of each split to read -> its name in the data set (null leaves the split out)",
    )
    fields: QuestionFields = QuestionFields()

    @field_validator("splits", mode="before")
    @classmethod
    def _null_leaves_out(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _no_split_twice(self) -> HubQuestions:
        if len(set(self.splits.values())) < len(self.splits):
            raise ValueError(f"splits names one split of the data set twice: {self.splits}")
        if self.path is not None and len(self.splits) > 1 and Path(self.path).is_file():
            raise ValueError(f"path is one file, so splits must name one split, not {len(self.splits)}")
        return self

    def offers_choices(self) -> bool:
        return self.fields.choices is not None

    def questions(self) -> Iterator[Question]:
        for split, theirs in self.splits.items():
            rows = read_rows(self, theirs, self.fields.roots())
            yield from questions_of(rows, self.fields, split)
