"""GGUF: one file with a decoder-only model's weights (mostly quantized), sizes and vocabulary.

The header tells sizes and tensor shapes, so that a run is named and sized without touching the weights.
They are dequantized by transformers, once, into a plain folder that is kept under the digest of the
file's bytes: reading that takes a second, converting 135M parameters about ten. A model that was
quantized stays as coarse as it was; what is trained are its dequantized weights.

Layout (little-endian): ``GGUF``, version (u32), number of tensors and of facts (u64 each); every fact as
name, type (u32) and value; every tensor as name, number of dimensions (u32), dimensions (u64, innermost
first), type (u32) and offset (u64); the data.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rag_exp.core.atomic import disk_errors
from rag_exp.core.errors import DataError
from rag_exp.core.fingerprint import ContentDigests, digest, file_digest
from rag_exp.models.checkpoint import Checkpoint, Shapes

CONVERSION = 1  # raise it when the folder that a file is converted to changes
NEEDS = ("gguf", "accelerate")  # packages without which transformers reads no GGUF
ENCODER_DECODERS = ("t5", "umt5")

# transformers' names of the facts that tell a model's shape; GGUF puts the architecture before its own.
_FACTS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
}
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9


class GGUF(Checkpoint):
    """A GGUF file of a decoder-only model."""

    def __init__(self, name: str, file: Path):
        self.name, self.file = name, file

    def config(self) -> dict[str, Any]:
        header = self._header()
        family = header.facts.get("general.architecture")
        facts = {ours: header.facts.get(f"{family}.{theirs}") for ours, theirs in _FACTS.items()}
        return {
            "model_type": family,
            "is_encoder_decoder": family in ENCODER_DECODERS,
            "tie_word_embeddings": "output.weight" not in header.shapes,
            **{name: value for name, value in facts.items() if value is not None},
        }

    def tensors(self) -> Shapes:
        return self._header().shapes

    def problems(self) -> list[str]:
        found = []
        if self.config()["is_encoder_decoder"]:
            found.append(f"{self.name}: GGUF files of encoder-decoders are not read; give a folder with safetensors.")
        if missing := [package for package in NEEDS if find_spec(package) is None]:
            found.append(
                f"reading the GGUF file {self.file.name} needs {' and '.join(missing)}: pip install 'rag-exp[gguf]'"
            )
        return found

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        return {"name": digests.of(self.file), "revision": None}

    def vocabulary(self) -> Path:
        return self.complete()

    def complete(self) -> Path:
        """The folder with the file's dequantized weights, made now where it is not there yet."""
        from filelock import FileLock

        made = conversions() / digest({"file": file_digest(self.file), "conversion": CONVERSION})
        if made.is_dir():
            return made
        with disk_errors(made.parent):
            made.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(made.with_suffix(".lock")):
                if not made.is_dir():
                    partial = made.with_suffix(".partial")
                    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
                    partial.mkdir()
                    _convert(self.file, partial)
                    partial.rename(made)
        return made

    def _header(self) -> Header:
        try:
            stat = self.file.stat()
            return _read_header(self.file, stat.st_size, stat.st_mtime_ns)
        except (OSError, ValueError, struct.error, UnicodeDecodeError) as e:
            raise DataError(f"{self.file}: not a readable GGUF file ({e}).") from e


def in_package(package: str) -> Checkpoint | None:
    """The model that an installed package carries as a GGUF file; None where it carries none, or several.

    The package is found, not imported: its own code may need a runtime that is not installed.
    """
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # of a name within a package that is not there, or of no name at all
        return None
    folders = [] if spec is None else [Path(p) for p in spec.submodule_search_locations or []]
    files = [file for folder in folders for file in folder.glob("*.gguf")]
    return GGUF(f"package:{package}", files[0]) if len(files) == 1 else None


def conversions() -> Path:
    """Where converted files are kept: below the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rag_exp" / "gguf"


@dataclass(frozen=True)
class Header:
    """What stands before the weights.

    Attributes:
        facts: numbers and texts by name; lists (the vocabulary) are left out.
        shapes: of every tensor, outermost dimension first, as torch has them.
    """

    facts: dict[str, Any]
    shapes: Shapes


@lru_cache(maxsize=4)
def _read_header(file: Path, size: int, changed: int) -> Header:
    """The header of ``file``; its size and time of change are there to tell files apart in the cache.

    Raises:
        ValueError, struct.error: it is no GGUF file, or it is cut short.
    """
    with open(file, "rb") as f:
        if size == 0:
            raise ValueError("it is empty")
        with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            cursor = _Cursor(data)
            if cursor.bytes(4) != b"GGUF":
                raise ValueError("it does not begin with GGUF")
            if (version := cursor.number("I")) not in (2, 3):
                raise ValueError(f"version {version} is not known; versions 2 and 3 are")
            tensors, facts = cursor.number("Q"), cursor.number("Q")
            known = {}
            for _ in range(facts):
                name = cursor.text()
                value = cursor.value(cursor.number("I"))
                if value is not None:
                    known[name] = value
            shapes, last = {}, 0
            for _ in range(tensors):
                name = cursor.text()
                shapes[name] = [cursor.number("Q") for _ in range(cursor.number("I"))][::-1]
                cursor.number("I")
                last = max(last, cursor.number("Q"))
            if cursor.at + last >= size and shapes:
                raise ValueError("it is cut short")
    return Header(known, shapes)


class _Cursor:
    """Reads values one after the other."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    def bytes(self, length: int) -> bytes:
        found = self.data[self.at : self.at + length]
        if len(found) < length:
            raise ValueError("it is cut short")
        self.at += length
        return found

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.bytes(struct.calcsize("<" + code)))[0]

    def text(self) -> str:
        return self.bytes(self.number("Q")).decode()

    def value(self, kind: int) -> Any:
        """A number or a text; of a list nothing, it is only passed over."""
        if kind == _TEXT:
            return self.text()
        if kind != _LIST:
            if kind not in _NUMBERS:
                raise ValueError(f"it holds a value of unknown type {kind}")
            return self.number(_NUMBERS[kind])
        inner, length = self.number("I"), self.number("Q")
        if inner in _NUMBERS:
            self.bytes(length * struct.calcsize("<" + _NUMBERS[inner]))
        else:
            for _ in range(length):
                self.value(inner)
        return None


def _convert(file: Path, folder: Path) -> None:
    """Write the model and the vocabulary of ``file`` to ``folder``, in float32, as save_pretrained would.

    Raises:
        DataError: transformers cannot read it (an architecture it does not know, data cut short).
    """
    import torch
    import transformers as hf

    from rag_exp.retrieval.pretrained import quietly

    try:
        with quietly():
            read = hf.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = hf.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (OSError, ValueError, RuntimeError, KeyError, NotImplementedError) as e:
        raise DataError(f"{file}: transformers cannot read it: {e}") from e
    # What was read counts as quantized and refuses to be saved; a model of the same shape takes its weights over.
    config = read.config
    del config.quantization_config
    with torch.device("meta"):
        plain = type(read)(config)
    plain.load_state_dict(read.state_dict(), assign=True)
    with quietly():
        plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
