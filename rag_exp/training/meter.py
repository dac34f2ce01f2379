"""What a stage has done so far, in plain numbers that are saved with its progress: tokens, seconds, the losses."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from rag_exp.models.flops import ReaderSizes, TokenCounts, forward_flops, training_flops

CURVE_POINTS = 100


@dataclass
class Meter:
    """Counters of a stage of ``steps``.

    Attributes:
        steps: length of the stage.
        window: points of the curve are so many steps apart, or a multiple: batches are sorted by length within a
            window of steps (see ``BatchOrder``), so only a whole window's mean is fair.
        done: steps finished.
        counts: tokens read and trained on, padding left out.
        scored: tokens read without gradients, to teach a retriever.
        passages, truncated: passages read, and those of them that were cut to fit the context.
        seconds: wall time of the steps, over all the processes that worked on the stage.
        curve: (steps done, mean loss since the point before), at most about a hundred points.
    """

    steps: int
    window: int = 1
    done: int = 0
    counts: TokenCounts = field(default_factory=TokenCounts)
    scored: TokenCounts = field(default_factory=TokenCounts)
    passages: int = 0
    truncated: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)
    _sum: float = 0.0
    _terms: int = 0

    def read(
        self,
        counts: TokenCounts,
        passages: int,
        truncated: int,
        scored: TokenCounts = TokenCounts(),  # noqa: B008
    ) -> None:
        """A batch was read."""
        self.counts += counts
        self.scored += scored
        self.passages += passages
        self.truncated += truncated

    def step(self, loss: float) -> None:
        """A step was finished with ``loss``; steps come in order."""
        self.done += 1
        self._sum += loss
        self._terms += 1
        every = self.window * max(1, math.ceil(self.steps / (CURVE_POINTS * self.window)))
        if self.done % every == 0 or self.done == self.steps:
            self.curve.append((self.done, self._sum / self._terms))
            self._sum, self._terms = 0.0, 0

    @property
    def recent(self) -> float | None:
        """The latest smoothed loss; None before the first step."""
        if self._terms:
            return self._sum / self._terms
        return self.curve[-1][1] if self.curve else None

    def facts(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        return asdict(self)

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Meter:
        """The meter that :meth:`facts` came from."""
        curve = [(int(step), float(loss)) for step, loss in facts["curve"]]
        counts = {name: TokenCounts(**facts[name]) for name in ("counts", "scored") if name in facts}
        return cls(**{**facts, **counts, "curve": curve})

    def stats(self, sizes: ReaderSizes | None) -> dict[str, Any]:
        """The stage in a record: see the keys' names; ``truncated`` is a share, null where no passage was read.

        ``flops`` is null without ``sizes``.
        """
        flops = None if sizes is None else training_flops(self.counts, sizes) + forward_flops(self.scored, sizes)
        return {
            "steps": self.done,
            "tokens": self.counts.tokens,
            "target_tokens": self.counts.target_tokens,
            "rows": self.counts.rows,
            "scored_tokens": self.scored.tokens,
            "flops": flops,
            "seconds": self.seconds,
            "passages": self.passages,
            "truncated": self.truncated / self.passages if self.passages else None,
            "loss": [[step, loss] for step, loss in self.curve],
            "final_loss": self.curve[-1][1] if self.curve else None,
        }
