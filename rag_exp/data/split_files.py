"""Corpora and questions that are read from files named by split: their options, what is missing, what identifies them.

Sits on ``sources`` (what a corpus must answer). A reader of a file format derives from these and says how its records
become documents or questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.options import NEUTRAL
from rag_exp.data.sources import CorpusOptions, QuestionOptions


def as_list(value: Any) -> Any:
    """A single path as a list of one; anything else as it is (for pydantic to judge)."""
    return [value] if isinstance(value, str) else value


def by_split(value: Any) -> Any:
    """A mapping from splits to a path or paths, with lists of paths; splits set to null are left out."""
    if not isinstance(value, dict):
        return value
    return {split: as_list(paths) for split, paths in value.items() if paths is not None}


def some_file(files: dict[str, list[str]]) -> dict[str, list[str]]:
    """``files`` themselves. ``ValueError`` if there are none."""
    if not files or not all(files.values()):
        raise ValueError("files is empty: give each split its path, such as questions.files.train=train.jsonl")
    return files


def missing(files: Sequence[str], key: str) -> list[str]:
    """A finished sentence for each of ``files`` that is not there."""
    return [f"{key}: no file {f!r} (looked from {Path.cwd()})." for f in files if not Path(f).is_file()]


class SplitFilesCorpus(CorpusOptions):
    """A corpus of the files of every split: the corpus of one experiment is one."""

    files: Annotated[dict[str, list[str]], NEUTRAL] = Field(
        description="{split: path or paths}, the same as questions.files"
    )

    _paths_are_lists = field_validator("files", mode="before")(by_split)
    _not_empty = field_validator("files")(some_file)

    def all_files(self) -> list[str]:
        """The files of every split."""
        return [f for files in self.files.values() for f in files]

    def problems(self) -> list[str]:
        return [p for split, files in self.files.items() for p in missing(files, f"corpus.files.{split}")]

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        return {"files": sorted(digests.of(f) for f in self.all_files())}  # documents are put in hash order anyway


class SplitFilesQuestions(QuestionOptions):
    """Questions of the files of each split."""

    files: Annotated[dict[str, list[str]], NEUTRAL] = Field(
        description="{split: path or paths}, such as {train: train.json, dev: dev.json}; null leaves a split out"
    )

    _paths_are_lists = field_validator("files", mode="before")(by_split)
    _not_empty = field_validator("files")(some_file)

    def problems(self) -> list[str]:
        return [p for split, files in self.files.items() for p in missing(files, f"questions.files.{split}")]

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        return {"files": {split: [digests.of(f) for f in files] for split, files in self.files.items()}}
