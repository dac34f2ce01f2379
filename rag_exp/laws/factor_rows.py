"""What the factors are fitted to: a study's runs, what their metrics say of each factor, and the same resampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rag_exp.core.errors import LawError, did_you_mean
from rag_exp.core.rng import numpy_rng
from rag_exp.laws.factorised import Points

IDENTITY = 1e-6  # relative gap of nll from its two parts, beyond which they are not of the same questions
EXACT = 1 - 1e-9  # recall from which a search counts as exact
NEEDED = ("N", "M", "K", "questions", "gold_in_corpus", "gold_found")
SPLIT = ("nll_gold_found", "nll_gold_missed")  # of the nats alone both cases are logged
OPTIONAL = ("growth", "index", "distances_per_query", "nll_se")
RECALLS = ("index_recall@1", "index_recall@k", "gold_recall@1", "gold_recall@k")
COLUMNS = (*NEEDED, *SPLIT, *RECALLS, *OPTIONAL)


@dataclass(frozen=True)
class Answers:
    """What one run did with each question, in one order of the questions for all runs, each [Q].

    Attributes:
        value: of the metric that is fitted (its nats, or whether it is right).
        found: whether a gold passage was among those read.
        covered: whether the corpus holds a gold passage.
    """

    value: np.ndarray
    found: np.ndarray
    covered: np.ndarray


@dataclass
class FactorRows:
    """The usable rows: their columns, and what is derived from them."""

    columns: dict[str, np.ndarray]
    growth: np.ndarray
    index: np.ndarray
    clusters: list[str] | None
    positions: np.ndarray
    left_out: list[dict[str, Any]]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    @classmethod
    def read(cls, data: Any, metric: str, cluster: Sequence[Any] | None) -> FactorRows:
        needed = (*NEEDED, metric, *(SPLIT if metric == "nll" else ()))
        points = Points(data, (*needed, *COLUMNS))
        for name in needed:
            if name not in points.columns:
                raise LawError(
                    f"The factorised law needs the column {name!r}, which the data do not have."
                    f"{did_you_mean(name, points.columns)}"
                )
        n = points.shape[-1]
        unknown = np.full(n, np.nan)
        every = {c: np.array(v) if (v := points.numbers(c)) is not None else unknown for c in (*needed, *RECALLS)}
        for name, column in (("S", "distances_per_query"), ("nll_se", "nll_se")):
            values = points.numbers(column)
            every[name] = unknown if values is None else np.array(values)
        left_out = []
        for i in range(n):
            reason = _unusable({k: float(v[i]) for k, v in every.items()}, metric)
            if reason:
                left_out.append({"row": i, "reason": reason})
        keep = np.array(sorted(set(range(n)) - {row["row"] for row in left_out}), dtype=int)
        if not len(keep):
            reasons = "; ".join(sorted({row["reason"] for row in left_out}))
            raise LawError(f"No run can carry the factorised law: {reasons or 'there are none'}.")
        columns = {k: v[keep] for k, v in every.items()}
        over = columns["gold_found"] > columns["gold_in_corpus"] + 1e-9
        if over.any():
            raise LawError(
                f"In {over.sum()} of {len(keep)} runs gold is read for more questions than the corpus covers: the "
                "questions need several passages each, of which a part counts. The factorised law is of one passage."
            )
        P, covered = columns["gold_found"], columns["gold_in_corpus"]
        columns["y"] = columns[metric]
        columns["uncovered"] = 1 - covered
        columns["outranked"] = 1 - P / np.where(covered > 0, covered, 1)
        share = columns["gold_recall@1"] / np.where(columns["gold_recall@k"] > 0, columns["gold_recall@k"], np.nan)
        at_k, first = columns["index_recall@k"], columns["index_recall@1"]
        w = np.where(np.isnan(share) | np.isnan(first), 0.0, share)
        columns["neighbours_missed"] = 1 - (w * np.nan_to_num(first) + (1 - w) * at_k)
        labels = []
        for name in ("growth", "index"):
            column = points.labels(name)
            labels.append(np.array(["any"] * n if column is None else [str(v) for v in column])[keep])
        return cls(
            columns,
            *labels,
            None if cluster is None else [str(list(cluster)[i]) for i in keep],
            keep,
            left_out,
        )

    @property
    def exact(self) -> np.ndarray:
        return self["index_recall@k"] >= EXACT

    @property
    def compared(self) -> np.ndarray:
        """Whether a search was held against exact search."""
        return ~np.isnan(self["neighbours_missed"])

    @property
    def first_share(self) -> float:
        """How much of the gold that is read stands first, over all runs by questions: w of the index factor."""
        first, at_k, Q = self["gold_recall@1"], self["gold_recall@k"], self["questions"]
        known = ~np.isnan(first) & (at_k > 0)
        return float((first * Q)[known].sum() / (at_k * Q)[known].sum()) if known.any() else 0.0

    def distinct(self, *names: str, where: np.ndarray) -> np.ndarray:
        """The first row of every combination of values among the rows ``where``: what is no matter of the reader."""
        seen: dict[tuple[float, ...], int] = {}
        for i in np.flatnonzero(where):
            seen.setdefault(tuple(float(self[n][i]) for n in names if not np.isnan(self[n][i])), int(i))
        return np.array(list(seen.values()), dtype=int)

    def partners(self) -> list[tuple[int, int]]:
        """Each run of an inexact index with one of exact search over the same corpus at the same K."""
        out = []
        for i in np.flatnonzero(~self.exact & self.compared):
            same = self.exact & (self.growth == self.growth[i])
            for name in ("M", "K", "gold_in_corpus"):
                same &= self[name] == self[name][i]
            if same.any() and self["gold_found"][same][0] > 0:
                out.append((int(i), int(np.flatnonzero(same)[0])))
        return out


def _unusable(row: dict[str, float], metric: str) -> str | None:
    for name in (*NEEDED, metric):
        if np.isnan(row[name]):
            return f"{name} is missing"
    if metric != "nll":
        return None
    P = row["gold_found"]
    if (P > 0 and np.isnan(row["nll_gold_found"])) or (P < 1 and np.isnan(row["nll_gold_missed"])):
        return "the nats with and without gold are missing"
    found, missed = (0.0 if np.isnan(row[n]) else row[n] for n in SPLIT)
    if abs(row["nll"] - P * found - (1 - P) * missed) > IDENTITY * abs(row["nll"]):
        return "its nats are not those with gold and without together: some questions have no gold passage"
    return None


def resampled(
    runs: FactorRows, draws: int, seed: int, answers: Mapping[int, Answers] | None
) -> dict[str, np.ndarray] | None:
    """Per metric its values under resampled questions: [R, n].

    Raises:
        LawError: a run's answers are absent.
    """
    if not draws:
        return None
    rng = numpy_rng(seed, "laws", "factorised")
    names = ("y", "uncovered", "outranked", "neighbours_missed", "gold_found", *SPLIT)
    out = {name: np.repeat(runs[name][None], draws, axis=0) for name in names if name in runs.columns}
    Q, covered = runs["questions"], runs["gold_in_corpus"]
    if answers is None:
        for name, of in (("uncovered", Q), ("outranked", Q * covered)):
            z_R1 = rng.normal(size=(draws, 1))
            share = runs[name]
            spread = np.sqrt(np.clip(share * (1 - share), 0, None) / np.maximum(of, 1))
            out[name] = np.clip(share + z_R1 * spread, 0.0, 1.0)
        relative = np.nan_to_num(runs["nll_se"] / runs["nll"]) if "nll" in runs.columns else 0.0
        for name, share in zip(SPLIT, (runs["gold_found"], 1 - runs["gold_found"]), strict=True):
            if name in out:
                spread = relative / np.sqrt(np.maximum(share, 1 / Q))
                out[name] = out[name] * np.exp(rng.normal(size=(draws, 1)) * spread)
        return out
    absent = [int(i) for i in runs.positions if int(i) not in answers]
    if absent:
        raise LawError(f"{len(absent)} runs have no answers, row {absent[0]} first.")
    own = [answers[int(i)] for i in runs.positions]
    value_nQ, found_nQ, covered_nQ = (
        np.array([getattr(a, k) for a in own], float) for k in ("value", "found", "covered")
    )
    size = value_nQ.shape[1]
    counts_RQ = rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(float)
    read, there = counts_RQ @ found_nQ.T, counts_RQ @ covered_nQ.T
    known = {"uncovered": (1 - there / size, there >= 0), "outranked": (1 - read / np.maximum(there, 1), there > 0)}
    known["gold_found"] = (read / size, read >= 0)
    known["y"] = (counts_RQ @ value_nQ.T / size, read >= 0)
    known["nll_gold_found"] = (counts_RQ @ (value_nQ * found_nQ).T / np.maximum(read, 1), read > 0)
    known["nll_gold_missed"] = (counts_RQ @ (value_nQ * (1 - found_nQ)).T / np.maximum(size - read, 1), read < size)
    for name in out.keys() & known.keys():
        value, there_is = known[name]
        out[name] = np.where(there_is, value, out[name])
    return out
