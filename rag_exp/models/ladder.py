"""A ladder of from-scratch generators: one dial, ``size``; every other size derived from it.

===  =====  ======  =====  ====  =======================================
     width  layers  heads   ffn  N (non-embedding), Llama family, tied
===  =====  ======  =====  ====  =======================================
xxs    16       2      1    48       6,736
xs     32       2      1    80      23,712
s0     48       2      2   128      55,536
s1     64       2      2   176     100,672
s2     96       2      3   256     221,664
s3    128       3      4   336     584,576
s4    192       4      6   512   1,771,200
s5    256       6      8   688   4,746,496
s6    384       9     12  1024  15,932,544
===  =====  ======  =====  ====  =======================================

The rule: from s0 on, widths alternate between steps of 4/3 and 3/2 (a doubling every two sizes), all
multiples of 16, with two smaller ones below for studies that must take minutes; one layer per 44
units of width and at least two, since copying by a causal reader needs two (an attention to the
previous token, then one to where that token was followed; Olsson et al. 2022, "In-context Learning
and Induction Heads"); heads of 32 units or nearly so; a gated feed-forward of 8/3 the width, rounded
to a multiple of 16.

Families, all of transformers, built from a config with weights drawn from the seed:

* ``llama``: decoder-only, pre-norm, rotary positions, no biases;
* ``t5``: encoder-decoder, pre-norm, relative position biases, gated feed-forward;
* ``bart``: encoder-decoder, post-norm, learned positions, biases, plain feed-forward of 4 widths.

An encoder-decoder has half the layers (rounded up) in each half: N is then within a factor of two of
the decoder-only model's of the same dial.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from rag_exp.core.errors import ConfigError, DataError
from rag_exp.core.rng import derive
from rag_exp.models.flops import ReaderSizes
from rag_exp.models.generator import GENERATORS, GeneratorOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rag_exp.models.reader import Generator

WIDTHS = {"xxs": 16, "xs": 32, "s0": 48, "s1": 64, "s2": 96, "s3": 128, "s4": 192, "s5": 256, "s6": 384}
WIDTH_PER_LAYER = 44
HEAD = 32
PEAK_LR = 5e-3  # at s0
T5_BUCKETS = 32
# Standard deviation of initial weights: 1 / sqrt(width), and at most this. transformers' 0.02 suits wide models; at
# these widths attention then starts out uniform, and learning to read the passage takes several times the steps.
MOST_INIT_STD = 0.1
BART_POSITION_OFFSET = 2  # transformers' BART keeps two rows of its position table unused


class Dimensions(NamedTuple):
    """Sizes derived from the dial."""

    width: int
    layers: int
    heads: int
    feed_forward: int


@GENERATORS.register
class Ladder(GeneratorOptions):
    """A generator from scratch, sized by one dial, over the vocabulary trained on the corpus."""

    kind: Literal["ladder"] = "ladder"
    own_vocabulary: ClassVar[bool] = False

    family: Literal["llama", "t5", "bart"] = Field("llama", description="architecture")
    size: Literal["xxs", "xs", "s0", "s1", "s2", "s3", "s4", "s5", "s6"] = Field("s0", description="the dial")
    vocab_size: int = Field(4096, ge=260, description="rows of the vocabulary embedding")
    context: int = Field(192, ge=16, description="tokens of a prompt with its answer (of the encoder, for t5 and bart)")
    dropout: float = Field(
        0.0, ge=0.0, lt=1.0, description="of residual branches and attention (t5, bart); of attention alone (llama)"
    )
    tie_embeddings: bool = Field(True, description="one matrix for the vocabulary embedding and the output projection")

    @model_validator(mode="after")
    def _ties(self) -> Ladder:
        if not self.tie_embeddings and self.family != "llama":
            raise ValueError(f"tie_embeddings=false is for the llama family; {self.family} always ties")
        return self

    def dimensions(self) -> Dimensions:
        """Width, layers (of each half, for an encoder-decoder), heads and feed-forward width."""
        width = WIDTHS[self.size]
        layers = max(2, round(width / WIDTH_PER_LAYER))
        if self.is_seq2seq():
            layers = math.ceil(layers / 2)
        gated = 16 * round(width * 8 / 3 / 16)
        return Dimensions(width, layers, max(1, round(width / HEAD)), 4 * width if self.family == "bart" else gated)

    def peak_lr(self) -> float:
        # Rates tried on the Factbook were best near 8e-3 at width 16, 5e-3 at 48 and 3e-3 at 128: width^-1/2.
        return PEAK_LR * math.sqrt(WIDTHS["s0"] / self.dimensions().width)

    def is_seq2seq(self) -> bool:
        return self.family != "llama"

    def context_length(self) -> int:
        return self.context

    def parameter_counts(self) -> dict[str, int]:
        d, layers, heads, ff = self.dimensions()
        counts = {"embedding": self.vocab_size * d, "head": 0 if self.tie_embeddings else self.vocab_size * d}
        if self.family == "llama":
            counts |= {"attention": layers * 4 * d * d, "mlp": layers * 3 * d * ff, "norm": (2 * layers + 1) * d}
        elif self.family == "t5":
            counts |= {
                "attention": 2 * (layers * 4 * d * d + T5_BUCKETS * heads),
                "cross_attention": layers * 4 * d * d,
                "mlp": 2 * layers * 3 * d * ff,
                "norm": (2 * layers + 1) * d + (3 * layers + 1) * d,
            }
        else:
            projections = 4 * (d * d + d)
            counts |= {
                "position": 2 * (self.context + BART_POSITION_OFFSET) * d,
                "attention": 2 * layers * projections,
                "cross_attention": layers * projections,
                "mlp": 2 * layers * (2 * d * ff + ff + d),
                "norm": (2 * layers + 1) * 2 * d + (3 * layers + 1) * 2 * d,
            }
        return counts

    def sizes(self) -> ReaderSizes:
        d, layers, _, _ = self.dimensions()
        counts = self.parameter_counts()
        shape = {"layers": layers, "attention_width": d, "width": d, "vocab": self.vocab_size}
        if not self.is_seq2seq():
            return ReaderSizes(body=self.non_embedding(), **shape)
        norm = 1 if self.family == "t5" else 2  # numbers a unit of width in one norm: scale, or scale and shift
        encoder = (counts["attention"] + counts["mlp"]) // 2 + (2 * layers + 1) * norm * d
        keys_values = counts["cross_attention"] // 2
        return ReaderSizes(
            body=self.non_embedding() - encoder - keys_values,
            encoder_body=encoder + keys_values,
            encoder_layers=layers,
            **shape,
        )

    def create(self, tokenizer_folder: Path | None, seed: int) -> Generator:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "generator", "weights"))
            model = self._model(tokenizer_folder)
        return self._generator(model, tokenizer_folder)

    def load(self, folder: Path, tokenizer_folder: Path | None) -> Generator:
        import torch

        from rag_exp.models.reader import load_weights

        with torch.random.fork_rng(devices=[]):
            model = self._model(tokenizer_folder)
        load_weights(model, folder)
        return self._generator(model, tokenizer_folder)

    def _generator(self, model: PreTrainedModel, tokenizer_folder: Path | None) -> Generator:
        from rag_exp.data.tokenizer import TextTokenizer
        from rag_exp.models.reader import Generator

        assert tokenizer_folder is not None
        tokenizer = TextTokenizer.load(tokenizer_folder)
        return Generator(model, tokenizer, context=self.context, seq2seq=self.is_seq2seq())

    def _model(self, tokenizer_folder: Path | None) -> PreTrainedModel:
        """The architecture with fresh weights from torch's current seed."""
        import transformers as hf

        from rag_exp.data.tokenizer import TextTokenizer

        if tokenizer_folder is None:
            raise ConfigError("generator: the ladder needs the vocabulary trained on the corpus; give its folder.")
        tokenizer = TextTokenizer.load(tokenizer_folder)
        if tokenizer.size > self.vocab_size:
            raise DataError(
                f"{tokenizer_folder}: has {tokenizer.size} pieces, generator.vocab_size is {self.vocab_size}; "
                "train a smaller vocabulary or raise generator.vocab_size."
            )
        d, layers, heads, ff = self.dimensions()
        init_std = min(MOST_INIT_STD, d**-0.5)
        shared: dict[str, Any] = {
            "vocab_size": self.vocab_size,
            "pad_token_id": tokenizer.pad,
            "bos_token_id": tokenizer.bos,
            "eos_token_id": tokenizer.eos,
            "attn_implementation": "sdpa",
        }
        if self.family == "llama":
            return hf.LlamaForCausalLM(
                hf.LlamaConfig(
                    hidden_size=d,
                    intermediate_size=ff,
                    num_hidden_layers=layers,
                    num_attention_heads=heads,
                    num_key_value_heads=heads,
                    max_position_embeddings=self.context,
                    attention_dropout=self.dropout,
                    tie_word_embeddings=self.tie_embeddings,
                    initializer_range=init_std,
                    **shared,
                )
            )
        if self.family == "t5":
            return hf.T5ForConditionalGeneration(
                hf.T5Config(
                    d_model=d,
                    d_kv=d // heads,
                    d_ff=ff,
                    num_layers=layers,
                    num_decoder_layers=layers,
                    num_heads=heads,
                    relative_attention_num_buckets=T5_BUCKETS,
                    dropout_rate=self.dropout,
                    feed_forward_proj="gated-silu",
                    decoder_start_token_id=tokenizer.pad,
                    **shared,
                )
            )
        return hf.BartForConditionalGeneration(
            hf.BartConfig(
                d_model=d,
                max_position_embeddings=self.context,
                encoder_layers=layers,
                decoder_layers=layers,
                encoder_attention_heads=heads,
                decoder_attention_heads=heads,
                encoder_ffn_dim=ff,
                decoder_ffn_dim=ff,
                dropout=self.dropout,
                attention_dropout=self.dropout,
                init_std=init_std,
                decoder_start_token_id=tokenizer.eos,
                forced_eos_token_id=None,
                **shared,
            )
        )
