"""The prior over what a search found: a softmax of scores, whose sharpness may be learned, and reading nothing.

    p(z|x) = softmax over z of   score(x, z) / temperature

Among the passages there may be an empty one, the *null document* (Guu et al. 2020, "REALM", section 3.4): the reader
then reads the question alone, as in a closed-book prompt. It takes the credit where no passage is needed, or none that
was found helps. Its score is one number on the scale of the others, so that its gradient is its prior minus its
posterior, as any passage's.

A learned temperature is trained as its logarithm, which keeps it positive. Both numbers are trained by whatever
gradient the objective gives the prior, and need no retriever that trains.

Shapes: B questions, K passages a question, R = K + 1 readings with a null document (the last one), else R = K.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rag_exp.core.errors import DataError
from rag_exp.models.mixture import doc_logprior
from rag_exp.retrieval.options import RetrieverOptions
from rag_exp.retrieval.results import SearchResult

FILE = "prior.safetensors"


class RetrievalPrior(nn.Module):
    """log p(z|x) of what is read with a question: the passages that were found and, where asked for, none.

    What is fixed is no parameter, so that a prior that learns nothing has none.

    Args:
        temperature: scores are divided by it; where learning begins, if it learns.
        learn_temperature: whether it does.
        null_score: score of the null document; where learning begins, if it learns. None: there is none.
        learn_null: whether it does.
        lr: peak learning rate of what learns.
    """

    null_score: float | Tensor | None

    def __init__(
        self,
        temperature: float = 1.0,
        learn_temperature: bool = False,
        null_score: float | None = None,
        learn_null: bool = False,
        lr: float = 0.01,
    ):
        super().__init__()
        self.lr, self._temperature = lr, temperature
        start = nn.Parameter(torch.tensor(math.log(temperature))) if learn_temperature else None
        self.register_parameter("log_temperature", start)
        learns_null = learn_null and null_score is not None
        self.null_score = nn.Parameter(torch.tensor(float(null_score))) if learns_null else null_score

    @classmethod
    def of(cls, options: RetrieverOptions) -> RetrievalPrior:
        """The prior that the options name, nothing learned yet."""
        known = 0.0 if options.null_score == "auto" else options.null_score  # see begin_null
        null_score = known if options.null_document != "none" else None
        learn_null = options.null_document == "learned"
        return cls(options.temperature, options.learn_temperature, null_score, learn_null, options.prior_lr)

    @property
    def temperature(self) -> float | Tensor:
        """What scores are divided by; differentiable where it learns."""
        return self._temperature if self.log_temperature is None else self.log_temperature.exp()

    @property
    def learns_temperature(self) -> bool:
        return self.log_temperature is not None

    @property
    def has_null(self) -> bool:
        """Whether the null document is one of the readings."""
        return self.null_score is not None

    def forward(self, scores_BK: Tensor, mask_BK: Tensor | None = None) -> Tensor:
        """log p(z|x), [B, R], as :func:`rag_exp.models.mixture.doc_logprior` gives it."""
        if self.has_null and mask_BK is not None:
            mask_BK = nn.functional.pad(mask_BK.bool(), (0, 1), value=True)
        return doc_logprior(self._scores(scores_BK), mask_BK, self.temperature)

    def over_corpus(self, scores_BK: Tensor, log_partition_B: Tensor) -> Tensor:
        """log p(z|x) of the same readings where the softmax is over the whole corpus, [B, R].

        Args:
            log_partition_B: log sum exp(score / temperature) over all passages; the null document is added here.
        """
        scaled_BR = self._scores(scores_BK) / self.temperature
        if self.has_null:
            log_partition_B = torch.logaddexp(log_partition_B, scaled_BR[:, -1])
        return scaled_BR - log_partition_B[:, None]

    def _scores(self, scores_BK: Tensor) -> Tensor:
        """The scores of all readings, [B, R]."""
        if self.null_score is None:
            return scores_BK
        return torch.cat([scores_BK, scores_BK.new_ones(len(scores_BK), 1) * self.null_score], dim=1)

    @torch.no_grad()
    def begin_null(self, found: SearchResult) -> None:
        """Let the null document's score begin at the median, over questions, of their last passage's.

        Scores have no scale of their own: a null document far below all of them would have no weight to learn by.
        Where nothing was found it stays as it is.
        """
        assert isinstance(self.null_score, nn.Parameter), "only a score that learns begins anywhere"
        count_Q = found.mask_QK.sum(1)
        some_Q = count_Q.nonzero()[0]
        if len(some_Q):
            self.null_score.fill_(float(np.median(found.scores_QK[some_Q, count_Q[some_Q] - 1])))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What learns, as an optimiser takes it; nothing where nothing does."""
        learned = list(self.parameters())
        return [{"params": learned, "lr": self.lr}] if learned else []

    @torch.no_grad()
    def values(self) -> dict[str, float | None]:
        """Its numbers, as a record holds them; None where there is no null document."""
        null_score = None if self.null_score is None else float(self.null_score)
        return {"temperature": float(self.temperature), "null_score": null_score}

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
