"""Where a pretrained generator lies, what identifies it, and what its files tell without loading them.

A checkpoint is a local folder or a name on the hub (here), or a GGUF file (:mod:`rag_exp.models.gguf`).
A hub name stands for the revision it resolves to: the one in the local cache where there is one (so an
offline machine works, and a study does not change under way), otherwise the hub's.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from rag_exp.core.errors import ConfigError, DataError
from rag_exp.core.fingerprint import ContentDigests

DESCRIPTION_FILES = ("*.json", "*.model", "*.txt")
WEIGHT_FILES = ("*.safetensors",)
# What a checkpoint's behaviour depends on, and so its content digest: weights, configs, vocabulary.
IDENTITY_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "tokenizer*.json",
    "special_tokens_map.json",
)

Shapes = dict[str, list[int]]


class Checkpoint(ABC):
    """One pretrained model. Every method may raise ConfigError or DataError for files that are not what they should be.

    Attributes:
        name: as given in the config, for messages.
    """

    name: str

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What it says of its architecture, in the keys of transformers' ``config.json``."""

    @abstractmethod
    def tensors(self) -> Shapes:
        """The shape of every stored tensor by name, from headers alone."""

    @abstractmethod
    def problems(self) -> list[str]:
        """What else keeps it from being loaded: sentences, none when all is well."""

    @abstractmethod
    def content(self, digests: ContentDigests) -> dict[str, Any]:
        """What identifies it: a content digest as ``name``, or a hub name with its resolved ``revision``."""

    @abstractmethod
    def vocabulary(self) -> Path:
        """A folder whose tokenizer transformers can load."""

    @abstractmethod
    def complete(self) -> Path:
        """A folder with config, vocabulary and safetensors weights, fetched or converted now where need be."""


class Folder(Checkpoint):
    """A local folder with ``config.json``, safetensors weights and a fast tokenizer."""

    def __init__(self, name: str, path: Path):
        self.name, self.path = name, path

    def config(self) -> dict[str, Any]:
        return _config(self.name, self.path)

    def tensors(self) -> Shapes:
        found = _headers(self.path)
        if found is None:
            raise ConfigError(f"{self.name}: no *.safetensors there; save it with save_pretrained (no pickle is read).")
        return found

    def problems(self) -> list[str]:
        return _vocabulary_problems(self.name, self.path)

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        return {"name": digests.of(self.path, IDENTITY_FILES), "revision": None}

    def vocabulary(self) -> Path:
        return self.path

    def complete(self) -> Path:
        return self.path


class OnHub(Checkpoint):
    """A name on the hub, described by its JSON files; the weights are fetched when they are needed."""

    def __init__(self, name: str, revision: str | None):
        self.name, self.revision = name, revision

    def config(self) -> dict[str, Any]:
        return _config(self.name, self.vocabulary())

    def tensors(self) -> Shapes:
        folder = self.vocabulary()
        found = _headers(folder)
        return found if found is not None else _hub_headers(self.name, folder.name)

    def problems(self) -> list[str]:
        return _vocabulary_problems(self.name, self.vocabulary())

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        return {"name": self.name, "revision": self.vocabulary().name}

    def vocabulary(self) -> Path:
        return _snapshot(self.name, self.revision, DESCRIPTION_FILES, "config.json")

    def complete(self) -> Path:
        folder = self.vocabulary()
        if list(folder.glob("*.safetensors")):
            return folder
        return _snapshot(self.name, folder.name, DESCRIPTION_FILES + WEIGHT_FILES, None)


def _config(name: str, folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        gguf = next(folder.glob("*.gguf"), None)
        hint = "" if gguf is None else f" To read the GGUF file, give the file itself: {gguf}"
        raise ConfigError(f"{name}: no config.json there; give a folder that save_pretrained wrote.{hint}")
    try:
        return json.loads(file.read_text())
    except ValueError as e:
        raise DataError(f"{file}: not JSON ({e}).") from e


def _vocabulary_problems(name: str, folder: Path) -> list[str]:
    if (folder / "tokenizer.json").is_file():
        return []
    return [f"{name} has no tokenizer.json; save it with a fast tokenizer."]


def _headers(folder: Path) -> Shapes | None:
    """Shapes of all tensors of a folder's safetensors files; None where there are no such files."""
    files = sorted(folder.glob("*.safetensors"))
    return {name: shape for file in files for name, shape in _header(file).items()} if files else None


def _header(file: Path) -> Shapes:
    """Shapes of the tensors of a safetensors file, from its header: 8 bytes of length, then JSON.

    Raises:
        DataError: not a safetensors file.
    """
    try:
        with open(file, "rb") as f:
            length = int.from_bytes(f.read(8), "little")
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(f.read(length))
        return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise DataError(f"{file}: not a readable safetensors file ({e}).") from e


def _snapshot(name: str, revision: str | None, patterns: tuple[str, ...], needs: str | None) -> Path:
    """The hub's snapshot folder of a checkpoint, from the cache where it has ``needs``, otherwise fetched.

    Raises:
        ConfigError: not in the cache, and the hub does not give it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if needs is not None:
        try:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[needs], local_files_only=True))
            if (folder / needs).is_file():
                return folder
        except HFValidationError as e:
            raise ConfigError(f"{name}: neither a folder nor a possible name on the hub ({e}).") from e
        except LocalEntryNotFoundError:
            pass  # not cached: ask the hub
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except Exception as e:  # of requests, httpx or huggingface_hub, by version; all say why
        at = f" at revision {revision}" if revision else ""
        raise ConfigError(
            f"{name}{at}: not a folder, not in the local hub cache, and the hub cannot be asked "
            f"({type(e).__name__}: {str(e).strip().splitlines()[0]}). Give a local folder, or fetch it while online."
        ) from e


def _hub_headers(name: str, revision: str) -> Shapes:
    """Shapes of a hub checkpoint's tensors, read from the first bytes of its remote files."""
    from huggingface_hub import get_safetensors_metadata

    try:
        remote = get_safetensors_metadata(name, revision=revision)
    except Exception as e:  # as in _snapshot
        raise ConfigError(
            f"{name}: its weights are not in the local hub cache, and the hub does not describe them "
            f"({type(e).__name__}: {str(e).strip().splitlines()[0]})."
        ) from e
    return {t: list(info.shape) for file in remote.files_metadata.values() for t, info in file.tensors.items()}
