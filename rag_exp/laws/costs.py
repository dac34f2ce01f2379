"""What training, indexing and answering cost in FLOPs: constants that a study's records tell, or papers' rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, ValidationError

from rag_exp.core.errors import DataError, LawError, did_you_mean
from rag_exp.core.options import Options
from rag_exp.laws.compared import Compared

if TYPE_CHECKING:
    import pandas as pd


class Costs(Options):
    """FLOPs of N parameters trained on D tokens, that answer ``queries`` over M passages, reading K for each.

    Total = ``fixed`` + (``train_token`` + ``train`` N) D + (``embed`` (1 + ``refreshes``) + ``build``) M
            + ``queries`` (``search`` M^``search_power`` + (``read_passage`` + ``read`` N) K)

    All constants are in FLOPs, or all in seconds. The defaults are those of no retrieval: 6 N D alone.
    """

    train: float = Field(6.0, gt=0, description="per parameter and training token (Kaplan et al. 2020: 6)")
    train_token: float = Field(0.0, ge=0, description="per training token whatever N is (the vocabulary projection)")
    fixed: float = Field(0.0, ge=0, description="once, whatever the sizes are (a retriever's warm-up)")
    embed: float = Field(0.0, ge=0, description="per passage embedded")
    refreshes: float = Field(0.0, ge=0, description="how many times the corpus is embedded again")
    build: float = Field(0.0, ge=0, description="per passage, of building the index")
    queries: float = Field(0.0, ge=0, description="questions to be answered; 0: training alone counts")
    search: float = Field(0.0, ge=0, description="per question and passage of the corpus (M^search_power of them)")
    search_power: float = Field(1.0, ge=0, le=1, description="of the corpus; below 1 an index compares ever less of it")
    read: float = Field(0.0, ge=0, description="per question, passage read and parameter (2 x tokens read)")
    read_passage: float = Field(0.0, ge=0, description="per question and passage read, whatever N is")
    tokens: float | None = Field(None, gt=0, description="D, where the law has no D")
    tokens_per_parameter: float | None = Field(None, gt=0, description="D / N in place of a fixed D")
    passages: float = Field(0.0, ge=0, description="M, where the law has no M")
    k: float = Field(1.0, gt=0, description="K, where the law has no K")

    def __init__(self, **given: float | None):
        """The constants by name; those not given keep their defaults.

        Raises:
            LawError: an unknown constant, or a value that it cannot have.
        """
        try:
            super().__init__(**given)
        except ValidationError as e:
            known = type(self).model_fields
            wrong = [(str(p["loc"][0]), p["msg"].lower(), p["input"]) for p in e.errors()]
            raise LawError(
                "Costs: "
                + " ".join(
                    f"{name}: {said} (given: {value!r})."
                    if name in known
                    else f"no constant is called {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}."
                    for name, said, value in wrong
                )
            ) from e

    def parts(self, N: Any, D: Any, M: Any, K: Any) -> dict[str, Any]:
        """FLOPs by what they are spent on; they sum to :meth:`total`."""
        return {
            "training": self.fixed + (self.train_token + self.train * N) * D,
            "corpus": (self.embed * (1 + self.refreshes) + self.build) * M,
            "search": self.queries * self.search * M**self.search_power,
            "reading": self.queries * (self.read_passage + self.read * N) * K,
        }

    def total(self, N: Any, D: Any, M: Any, K: Any) -> Any:
        """FLOPs in all."""
        return sum(self.parts(N, D, M, K).values())

    def affordable(self, budget: Any, D: Any, M: Any, K: Any) -> Any:
        """The N that uses up the budget; not positive where the rest alone costs more.

        Args:
            D: training tokens; not used where ``tokens_per_parameter`` ties them to N.
        """
        per_parameter = self.queries * self.read * K
        tied = self.tokens_per_parameter
        left = budget - self.total(0.0, 0.0 if tied else D, M, K)
        if tied is None:
            return left / (self.train * D + per_parameter)
        per_parameter = per_parameter + self.train_token * tied
        square = self.train * tied
        root = np.sqrt(per_parameter**2 + 4 * square * np.maximum(left, 0.0))
        return np.where(left > 0, 2 * left / (per_parameter + root), left)


FLOPS = {
    "training": ("flops.reader_warmup", "flops.marginal"),
    "fixed": ("flops.retriever_warmup",),
    "embed": ("flops.embedding",),
    "build": ("flops.index_build",),
    "search": ("flops.search",),
    "reading": ("flops.reading",),
}
SECONDS = {
    "training": ("seconds.reader_warmup", "seconds.checkpoint"),
    "fixed": ("seconds.encoder",),
    "embed": ("seconds.embeddings/*",),
    "build": ("seconds.index", "seconds.index_shards/*", "seconds.quantizer*"),
    "search": ("seconds.topk",),
    "reading": ("seconds.evaluation",),
}
"""Columns of a study's runs that tell what they spent, by what it was spent on. ``*``: see :func:`spent_on`."""


def costs_of_records(
    rows: pd.DataFrame, index: str | None = None, spent: Mapping[str, Sequence[str]] = FLOPS, **given: Any
) -> Costs:
    """Costs as a study's runs measured them.

    Training and reading are straight lines in N through what the runs spent per token and per passage read (least
    squares of relative errors); embedding, building and searching are medians per passage, and D, M and K (for a law
    that has not all of them) medians. The FLOPs of an ``index`` that compares ever less of a growing corpus go with a
    power of it (:class:`rag_exp.laws.compared.Compared`). What the runs do not tell keeps its default, and what is
    ``given`` is as given.

    Args:
        rows: finished runs of one arm, as from ``rag_exp.load_study``.
        index: the type whose building and searching counts; None: of all the rows.
        spent: ``FLOPS``, or ``SECONDS`` as they were on the machines that ran them. Of the latter embedding is as the
            largest corpus has it: vectors are made for whole shards, which smaller ones share.

    Raises:
        DataError: the runs have nothing of training.
    """
    found: dict[str, Any] = {}
    N, D, M, K, Q = (_column(rows, name) for name in ("N", "D", "M", "K", "questions"))
    spent_n = {name: spent_on(rows, columns) for name, columns in spent.items()}
    unit = "seconds" if spent is SECONDS else "FLOPs"
    searched = np.array([index is None or kind == index for kind in rows.get("index", [None] * len(rows))])
    line = _line(N, spent_n["training"] / D)
    if line is None and "train" not in given:
        raise DataError(f"No run tells the {unit} of its training; give costs.train.")
    if line is not None:
        found["train_token"], found["train"] = line
        if not found["train"] and "train" not in given:
            raise DataError(f"The {unit} of training do not grow with N in these runs; give costs.train.")
    line = _line(N, spent_n["reading"] / (Q * K))
    if line is not None:
        found["read_passage"], found["read"] = line
    embedded = spent_n["embed"] / M
    for name, values in (
        ("fixed", spent_n["fixed"]),
        ("embed", embedded if spent is FLOPS else embedded[np.nanmax(M) == M]),
        ("build", (spent_n["build"] / M)[searched]),
        ("search", (spent_n["search"] / (Q * M))[searched]),
        ("tokens", D),
        ("passages", M),
        ("k", K),
    ):
        known = values[np.isfinite(values)]
        if len(known):
            found[name] = float(np.median(known))
    if spent is FLOPS and "search" not in given and index is not None:
        own = Compared.of(M[searched], (spent_n["search"] / Q)[searched])
        if own is not None and own.exponent < 1:
            found |= {"search": own.coefficient, "search_power": own.exponent}
    return Costs(**{**found, **given})


def spent_on(rows: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """The sum of columns, float [n]; ``name*`` stands for all that begin so, of which a row may lack some, and beside
    another column all."""
    total = np.zeros(len(rows))
    for column in columns:
        if column.endswith("*"):
            parts = [_column(rows, str(c)) for c in rows if str(c).startswith(column[:-1])]
            total = total + (np.nansum(parts, axis=0) if parts else np.nan if len(columns) == 1 else 0.0)
        else:
            total = total + _column(rows, column)
    return total


def _column(rows: pd.DataFrame, name: str) -> np.ndarray:
    if name not in rows:
        return np.full(len(rows), np.nan)
    return np.array([np.nan if v is None else float(v) for v in rows[name]])


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """Intercept and slope of y over x, neither negative, by least squares of relative errors; None without data."""
    known = np.isfinite(x) & np.isfinite(y) & (y > 0)
    if not known.any():
        return None
    x, y = x[known], y[known]
    if len(np.unique(x)) == 1:
        return 0.0, float(np.median(y / x))
    columns = np.stack([1 / y, x / y], axis=1)
    intercept, slope = np.linalg.lstsq(columns, np.ones(len(y)), rcond=None)[0]
    if intercept < 0:
        return 0.0, float((x / y).sum() / ((x / y) ** 2).sum())
    if slope <= 0:
        return float((1 / y).sum() / (1 / y**2).sum()), 0.0
    return float(intercept), float(slope)
