"""The prior over what a search found: a softmax of scores, whose sharpness may be learned.

    p(z|x) = softmax over z of   score(x, z) / temperature

A learned temperature is trained as its logarithm, which keeps it positive, by whatever gradient the objective gives
the prior; it needs no retriever that trains.

Shapes: B questions, K passages a question.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rag_exp.core.errors import DataError
from rag_exp.models.mixture import doc_logprior
from rag_exp.retrieval.options import RetrieverOptions

FILE = "prior.safetensors"


class RetrievalPrior(nn.Module):
    """log p(z|x) of the passages that were found with a question.

    What is fixed is no parameter, so that a prior that learns nothing has none.

    Args:
        temperature: scores are divided by it; where learning begins, if it learns.
        learn_temperature: whether it does.
        lr: peak learning rate of what learns.
    """

    def __init__(self, temperature: float = 1.0, learn_temperature: bool = False, lr: float = 0.01):
        super().__init__()
        self.lr, self._temperature = lr, temperature
        start = nn.Parameter(torch.tensor(math.log(temperature))) if learn_temperature else None
        self.register_parameter("log_temperature", start)

    @classmethod
    def of(cls, options: RetrieverOptions) -> RetrievalPrior:
        """The prior that the options name, nothing learned yet."""
        return cls(options.temperature, options.learn_temperature, options.prior_lr)

    @property
    def temperature(self) -> float | Tensor:
        """What scores are divided by; differentiable where it learns."""
        return self._temperature if self.log_temperature is None else self.log_temperature.exp()

    @property
    def learns_temperature(self) -> bool:
        return self.log_temperature is not None

    def forward(self, scores_BK: Tensor, mask_BK: Tensor | None = None) -> Tensor:
        """log p(z|x), as :func:`rag_exp.models.mixture.doc_logprior` gives it."""
        return doc_logprior(scores_BK, mask_BK, self.temperature)

    def over_corpus(self, scores_BK: Tensor, log_partition_B: Tensor) -> Tensor:
        """log p(z|x) of the same passages where the softmax is over the whole corpus, [B, K].

        Args:
            log_partition_B: log sum exp(score / temperature) over all passages.
        """
        return scores_BK / self.temperature - log_partition_B[:, None]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What learns, as an optimiser takes it; nothing where nothing does."""
        learned = list(self.parameters())
        return [{"params": learned, "lr": self.lr}] if learned else []

    def values(self) -> dict[str, float]:
        """Its numbers, as a record holds them."""
        with torch.no_grad():
            return {"temperature": float(self.temperature)}

    def save(self, folder: Path) -> None:
        """Write what was learned into ``folder``; no file where nothing was."""
        from safetensors.torch import save_file

        if learned := {name: value.detach().cpu() for name, value in self.state_dict().items()}:
            save_file(learned, folder / FILE)

    def load(self, folder: Path) -> RetrievalPrior:
        """This prior with what :meth:`save` wrote to ``folder``.

        Raises:
            DataError: nothing readable there, or what was learned by other options.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not self.state_dict():
            return self
        try:
            self.load_state_dict(load_file(folder / FILE))
        except (OSError, RuntimeError, SafetensorError) as e:
            raise DataError(f"{folder / FILE}: not what this prior learned ({str(e).splitlines()[0]}).") from e
        return self
