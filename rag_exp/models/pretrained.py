"""Pretrained generators: any causal or sequence-to-sequence checkpoint of transformers.

A checkpoint is a local folder or a name on the hub, with ``config.json``, safetensors weights and a
fast tokenizer. Sizes come from the config and from the safetensors header, which lists every tensor's
name and shape in the file's first bytes, so that nothing heavy is loaded to know them. A hub name
stands for the revision it resolves to: the one in the local cache where there is one (so an offline
machine works, and a study does not change under way), otherwise the hub's.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from rag_exp.core.errors import ConfigError, DataError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.models.flops import ReaderSizes
from rag_exp.models.generator import GENERATORS, GeneratorOptions

if TYPE_CHECKING:
    from rag_exp.models.reader import Generator

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
T5_TRAINED_LENGTH = 512  # T5 has no table of positions; this is what its checkpoints were trained with

# Groups by tensor name, first match wins: norms inside attention blocks, and biases named after attention, come first.
_GROUPS = [
    ("norm", r"norm|\bln_|\.ln\d?\b"),
    ("position", r"\bwpe\b|embed_positions|position_embeddings"),
    ("cross_attention", r"EncDecAttention|encoder_attn|crossattention|cross_attn"),
    ("attention", r"attn|attention"),
    ("mlp", r"mlp|\bfc\d|DenseReluDense|feed_forward|\bwi\b|\bwo\b|\bffn\b"),
    ("head", r"lm_head|embed_out"),
    ("embedding", r"embed_tokens|\bshared\b|\bwte\b|word_embeddings|embed_in|tok_embeddings"),
]
# Buffers that old checkpoints carry along: causal masks, rotary tables, BART's constant bias.
_BUFFERS = r"rotary_emb|inv_freq|final_logits_bias|(^|\.)(attn|attention)\.(masked_)?bias$"
_KEY_OR_VALUE = r"\.(k|v|k_proj|v_proj|key|value)\.(weight|bias)$"

Shapes = dict[str, list[int]]


@GENERATORS.register
class Pretrained(GeneratorOptions):
    """A checkpoint of transformers, causal or sequence-to-sequence, with its own vocabulary."""

    kind: Literal["pretrained"] = "pretrained"
    own_vocabulary: ClassVar[bool] = True

    name: str = Field(min_length=1, description="a local folder, or a name on the hub")
    revision: str | None = Field(None, description="hub only: branch, tag or commit; null: main")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="precision of the weights")
    context: int | None = Field(None, ge=16, description="use fewer tokens of context than the checkpoint allows")

    def is_seq2seq(self) -> bool:
        return bool(self._config().get("is_encoder_decoder", False))

    def context_length(self) -> int:
        allowed = self._allowed_context()
        found = allowed if self.context is None else self.context if allowed is None else min(self.context, allowed)
        if found is None:
            raise ConfigError(f"generator.context: {self.name} does not say how long its context is; give a number.")
        return found

    def parameter_counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for name, shape in self._shapes().items():
            counts[_group(name)] = counts.get(_group(name), 0) + math.prod(shape)
        return counts

    def sizes(self) -> ReaderSizes:
        config, shapes = self._config(), self._shapes()
        width = self._number("hidden_size", "d_model", "n_embd")
        heads = self._number("decoder_attention_heads", "num_attention_heads", "num_heads", "n_head")
        head = config.get("head_dim") or config.get("d_kv") or width // heads
        embeddings = [shape for name, shape in shapes.items() if _group(name) == "embedding"]
        shape = {"attention_width": heads * head, "width": width}
        shape["vocab"] = max((s[0] for s in embeddings), default=self._number("vocab_size"))
        if not self.is_seq2seq():
            layers = self._number("num_hidden_layers", "n_layer", "num_layers")
            return ReaderSizes(body=self.non_embedding(), layers=layers, **shape)
        encoder = sum(
            math.prod(s)
            for name, s in shapes.items()
            if (re.search(r"\bencoder\.", name) and _group(name) not in ("embedding", "position"))
            or (_group(name) == "cross_attention" and re.search(_KEY_OR_VALUE, name))
        )
        return ReaderSizes(
            body=self.non_embedding() - encoder,
            encoder_body=encoder,
            layers=self._number("decoder_layers", "num_decoder_layers", "num_layers"),
            encoder_layers=self._number("encoder_layers", "num_layers"),
            **shape,
        )

    def problems(self, path: str = "generator") -> list[str]:
        try:
            folder, files = self._described(), self._shapes()
        except (ConfigError, DataError) as e:
            return [f"{path}.name: {line}" for line in (e.problems if isinstance(e, ConfigError) else [str(e)])]
        found = []
        if not files:
            found.append(f"{path}.name: {self.name} holds no tensors.")
        if not (folder / "tokenizer.json").is_file():
            found.append(f"{path}.name: {self.name} has no tokenizer.json; save it with a fast tokenizer.")
        allowed = self._allowed_context()
        if allowed is None and self.context is None:
            found.append(f"{path}.context: {self.name} does not say how long its context is; give a number.")
        if allowed is not None and self.context is not None and self.context > allowed:
            found.append(f"{path}.context: {self.context} is more than the {allowed} tokens that {self.name} allows.")
        return found

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        """The digest of a local folder's files in place of its path; the resolved commit of a hub name."""
        if self._local() is not None:
            return {"name": digests.of(self._described(), IDENTITY_FILES), "revision": None}
        return {"name": self.name, "revision": self._described().name}

    def create(self, tokenizer_folder: Path | None, seed: int) -> Generator:
        """The pretrained weights; ``seed`` draws nothing, since a checkpoint that lacks weights is refused."""
        return self._load(self._complete())

    def load(self, folder: Path, tokenizer_folder: Path | None) -> Generator:
        if not (folder / "model.safetensors").is_file():
            raise DataError(f"{folder}: no generator weights there.")
        return self._load(folder)

    def _load(self, weights: Path) -> Generator:
        import torch
        import transformers as hf

        from rag_exp.data.tokenizer import TextTokenizer
        from rag_exp.models.reader import Generator

        auto = hf.AutoModelForSeq2SeqLM if self.is_seq2seq() else hf.AutoModelForCausalLM
        bar = hf.logging.is_progress_bar_enabled()
        hf.logging.disable_progress_bar()
        try:
            model, report = auto.from_pretrained(
                weights, dtype=getattr(torch, self.dtype), use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as e:
            raise DataError(f"{self.name}: transformers cannot load it: {e}") from e
        finally:
            if bar:
                hf.logging.enable_progress_bar()
        lacking = sorted(report["missing_keys"]) + sorted(str(k) for k in report["mismatched_keys"])
        if lacking:
            raise DataError(f"{self.name}: its weights lack {len(lacking)} tensors, such as {lacking[0]}.")
        tokenizer = hf.AutoTokenizer.from_pretrained(self._described())
        rows = model.get_input_embeddings().weight.shape[0]
        wrapped = TextTokenizer.from_transformers(tokenizer, rows)
        return Generator(model, wrapped, context=self.context_length(), seq2seq=self.is_seq2seq())

    # What is known of the checkpoint without loading it.

    def _local(self) -> Path | None:
        path = Path(self.name).expanduser()
        if path.is_dir():
            return path
        if path.is_absolute() or self.name.startswith((".", "~")) or self.name.count("/") > 1:
            raise ConfigError(f"{self.name}: no such folder (it is relative to {Path.cwd()}).")
        return None

    def _described(self) -> Path:
        """A folder with at least the config; for a hub name the snapshot of the resolved revision."""
        local = self._local()
        folder = local if local is not None else _snapshot(self.name, self.revision, DESCRIPTION_FILES, "config.json")
        if not (folder / "config.json").is_file():
            gguf = " GGUF files are not read; convert them to safetensors." if list(folder.glob("*.gguf")) else ""
            raise ConfigError(f"{self.name}: no config.json there; give a folder that save_pretrained wrote.{gguf}")
        return folder

    def _complete(self) -> Path:
        """A folder with config, vocabulary and weights, fetched now where need be."""
        folder = self._described()
        if self._local() is None and not list(folder.glob("*.safetensors")):
            folder = _snapshot(self.name, folder.name, DESCRIPTION_FILES + WEIGHT_FILES, None)
        return folder

    def _config(self) -> dict[str, Any]:
        file = self._described() / "config.json"
        try:
            found = json.loads(file.read_text())
        except ValueError as e:
            raise DataError(f"{file}: not JSON ({e}).") from e
        return {**found, **found.get("text_config", {})}

    def _number(self, *names: str) -> int:
        config = self._config()
        for name in names:
            if isinstance(config.get(name), int):
                return int(config[name])
        raise ConfigError(f"{self.name}: its config.json has none of {', '.join(names)}; unknown architecture.")

    def _allowed_context(self) -> int | None:
        config = self._config()
        known = [config[k] for k in ("max_position_embeddings", "n_positions", "n_ctx", "seq_length") if k in config]
        if known:
            return int(min(known))
        return T5_TRAINED_LENGTH if config.get("model_type") in ("t5", "mt5", "umt5") else None

    def _shapes(self) -> Shapes:
        """Shapes of all parameters by name: buffers left out, tied copies once."""
        folder = self._described()
        files = sorted(folder.glob("*.safetensors"))
        if files:
            shapes = {name: shape for file in files for name, shape in _header(file).items()}
        elif self._local() is None:
            shapes = _hub_header(self.name, folder.name)
        else:
            raise ConfigError(f"{self.name}: no *.safetensors there; save it with save_pretrained (no pickle is read).")
        found: Shapes = {}
        seen: set[tuple[int, ...]] = set()
        tied = self._config().get("tie_word_embeddings") is True
        for name in sorted(shapes, key=lambda n: (_group(n) != "embedding", n)):
            group = _group(name)
            copy = tuple(shapes[name]) in seen and (group == "embedding" or (group == "head" and tied))
            if re.search(_BUFFERS, name) or copy:
                continue
            if group == "embedding":
                seen.add(tuple(shapes[name]))
            found[name] = shapes[name]
        return found


def _group(name: str) -> str:
    return next((group for group, pattern in _GROUPS if re.search(pattern, name, re.IGNORECASE)), "other")


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


def _hub_header(name: str, revision: str) -> Shapes:
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
