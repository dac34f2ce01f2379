"""What a generator's options must answer: sizes before anything is built, then a built reader.

To add one: a class of options derived from :class:`GeneratorOptions`, registered with
``@GENERATORS.register``, its module named in ``generators.py``, one file in ``configs/generator``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.options import Options, Registry
from rag_exp.models.flops import ReaderSizes

if TYPE_CHECKING:
    from rag_exp.models.reader import Generator

GENERATORS = Registry("generator")

# Groups of parameters that Kaplan et al. 2020 (section 2.1) leave out of N: vocabulary and position embeddings, and
# the output projection (which is the vocabulary embedding again where the two are tied).
EMBEDDING_GROUPS = ("embedding", "position", "head")


class GeneratorOptions(Options):
    """Base of every generator's options. Sizes are formulas or file headers: no torch, no weights.

    Attributes:
        own_vocabulary: True where the generator brings its own; False where it takes the one trained on the corpus.
        hosted: True where it runs elsewhere and is asked by text: it has no weights here, so it does not train.
    """

    own_vocabulary: ClassVar[bool] = False
    hosted: ClassVar[bool] = False

    def peak_lr(self) -> float:
        """What ``training.warmup.lr=auto`` means for this generator: a peak learning rate of AdamW."""
        return 5e-5

    def is_seq2seq(self) -> bool:
        """Whether the answer is written by a decoder that attends to an encoded prompt."""
        raise NotImplementedError

    def context_length(self) -> int:
        """Tokens a prompt and its answer may have together (the encoder's prompt alone, for seq2seq)."""
        raise NotImplementedError

    def parameter_counts(self) -> dict[str, int]:
        """Parameters by group; the groups sum to the total, and tied parameters count once.

        Groups: embedding, position, attention, cross_attention, mlp, norm, head (and other, where a name says nothing).
        Empty where nobody knows them (a hosted generator).
        """
        raise NotImplementedError

    def non_embedding(self) -> int | None:
        """N: parameters outside the embedding, position and head groups; None where nobody knows them."""
        return sum(n for group, n in self.parameter_counts().items() if group not in EMBEDDING_GROUPS)

    def sizes(self) -> ReaderSizes | None:
        """What the FLOP formula needs; None where nobody knows it."""
        raise NotImplementedError

    def problems(self, path: str = "generator") -> list[str]:
        """What keeps this generator from being built: sentences that start with the config path."""
        return []

    def unready(self, path: str = "generator") -> list[str]:
        """What keeps this generator from answering now, asked before the first run starts: sentences as above."""
        return []

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        """What to put into the identity beside the options' own: content digests of files, resolved revisions.

        Keys that are also fields take their place (a path is nobody's identity).
        """
        return {}

    def create(self, tokenizer_folder: Path | None, seed: int) -> Generator:
        """A new generator: from-scratch weights from ``seed``, or the pretrained ones.

        Args:
            tokenizer_folder: where the vocabulary trained on the corpus is; None where ``own_vocabulary``.
            seed: of the weights.
        """
        raise NotImplementedError

    def load(self, folder: Path, tokenizer_folder: Path | None) -> Generator:
        """The generator whose weights ``Generator.save`` wrote to ``folder``.

        Raises:
            DataError: no weights there, or those of another architecture.
        """
        raise NotImplementedError
