"""Where a pretrained model lies, what identifies it, what its files tell unloaded, and how it is loaded quietly."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rag_exp.core.errors import ConfigError
from rag_exp.core.fingerprint import ContentDigests

_HUB_NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def locate(model: str, path: str) -> Path | str:
    """A model's folder, or its hub name, from ``FOLDER``, ``package:NAME`` or ``OWNER/NAME``.

    Args:
        model: as given in the config.
        path: the config path, for messages.

    Raises:
        ConfigError: the package is not installed or has no ``get_model_path``; a path without a model.
    """
    if model.startswith("package:"):
        name = model.removeprefix("package:")
        pip = name.replace("_", "-")
        try:
            return Path(importlib.import_module(name).get_model_path())
        except ImportError as e:
            raise ConfigError(f"{path}: the package {name} is not installed ({e}): pip install {pip}") from e
        except AttributeError as e:
            raise ConfigError(f"{path}: the package {name} has no get_model_path(); give a folder instead.") from e
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not any((folder / f).is_file() for f in ("modules.json", "config.json")):
            raise ConfigError(f"{path}: {folder} holds no model (neither modules.json nor config.json).")
        return folder
    if folder.exists() or not _HUB_NAME.fullmatch(model) or model.startswith("."):
        raise ConfigError(
            f"{path}: {model!r} is no folder (looked from {Path.cwd()}). "
            "Give a model's folder, package:NAME, or a hub name such as sentence-transformers/all-MiniLM-L6-v2."
        )
    return model


def content_of(location: Path | str, revision: str | None, digests: ContentDigests, group: str) -> dict[str, Any]:
    """What identifies the model: the digest of its folder's files, or a hub name with its commit.

    Raises:
        ConfigError: a hub name whose commit cannot be found out, offline and not downloaded before.
    """
    if isinstance(location, Path):
        return {"files": digests.of(location)}
    if revision is not None and _COMMIT.fullmatch(revision):
        return {"hub": location, "commit": revision}
    return {"hub": location, "commit": _commit(location, revision, group)}


def _commit(name: str, revision: str | None, group: str) -> str:
    from huggingface_hub import HfApi, snapshot_download

    try:
        return str(HfApi().model_info(name, revision=revision).sha)
    except Exception as asked:  # the hub's client raises many kinds; a downloaded copy is as good
        try:
            return Path(snapshot_download(name, revision=revision, local_files_only=True)).name
        except Exception:
            reason = f"{type(asked).__name__}: {asked}".splitlines()[0]
            raise ConfigError(
                f"{group}.model: the hub does not tell which commit {name!r} ({revision or 'main'}) is, and it was "
                f"not downloaded before ({reason}). Check the name, give {group}.revision=COMMIT, or a folder."
            ) from asked


def count_tensors(location: Path | str) -> dict[str, int] | None:
    """Elements of every floating-point tensor in a folder's safetensors files, by name, read from their headers.

    None where there are no such files (a hub name, or weights in another format).
    """
    if isinstance(location, str):
        return None
    found: dict[str, int] = {}
    for file in sorted(location.rglob("*.safetensors")):
        with file.open("rb") as f:
            header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__" and tensor["dtype"].startswith(("F", "BF")):
                elements = 1
                for size in tensor["shape"]:
                    elements *= size
                found[f"{file.relative_to(location).as_posix()}:{name}"] = elements
    return found or None


def sentence_dims(location: Path | str) -> int | None:
    """Width of a sentence-transformers model's vectors, from its JSON files; None where they do not tell."""
    if isinstance(location, str):
        return None
    try:
        width = json.loads((location / "config.json").read_text(encoding="utf-8")).get("hidden_size")
        for module in json.loads((location / "modules.json").read_text(encoding="utf-8")):
            file = location / module["path"] / "config.json"
            if module["path"] and file.is_file():
                facts = json.loads(file.read_text(encoding="utf-8"))
                for key in ("out_features", "embedding_dimension", "word_embedding_dimension"):
                    if key in facts:
                        width = facts[key]
                        break
        return width
    except (OSError, ValueError, KeyError):
        return None


@contextmanager
def quietly() -> Iterator[None]:
    """Inside, transformers draws no bars of the weights that it loads and writes. Downloads still show theirs."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    shown, downloads = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()

    def show_downloads() -> None:  # transformers' switch is the hub's too
        (enable_progress_bars if downloads else disable_progress_bars)()

    logging.disable_progress_bar()
    show_downloads()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
        show_downloads()
