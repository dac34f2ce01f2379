"""What the factors are fitted to: a study's runs, what their metrics say of each factor, and the same resampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rag_exp.core.errors import LawError, did_you_mean
from rag_exp.core.rng import numpy_rng
from rag_exp.laws.factorised import SEARCHES, SHARES, Points

IDENTITY = 1e-6  # relative gap of nll from its two parts, beyond which they are not of the same questions
EXACT = 1 - 1e-9  # recall from which a search counts as exact
NEEDED = ("N", "M", "K", "questions", "gold_in_corpus", "gold_found")
SPLIT = ("nll_gold_found", "nll_gold_missed")  # of the nats alone both cases are logged
CASES = ("nll_all_gold", "nll_not_all_gold", "gold_found@hop1")  # where questions need several gold passages
RECALLS = (*SEARCHES, "gold_recall@1", "gold_recall@k")
OPTIONAL = ("growth", "index", "distances_per_query", "nll_se")
COLUMNS = tuple(dict.fromkeys((*NEEDED, *SPLIT, *SHARES, *CASES, *RECALLS, *OPTIONAL)))


@dataclass(frozen=True)
class Answers:
    """What one run did with each question, in one order of the questions for all runs, each [Q].

    Attributes:
        value: of the metric that is fitted (its nats, or whether it is right).
        found: whether all gold passages that it needs were read, in one path where paths are read.
        covered: whether the corpus holds them.
        began: whether it does and the first hop found one of them; None where there is one hop.
    """

    value: np.ndarray
    found: np.ndarray
    covered: np.ndarray
    began: np.ndarray | None = None

    def cases(self) -> dict[str, float | None]:
        """The columns :data:`CASES` of a run whose ``value`` is its nats; None: no such question, or one hop."""
        parts = (self.value[self.found], self.value[~self.found], self.began)
        return {n: float(v.mean()) if v is not None and len(v) else None for n, v in zip(CASES, parts, strict=True)}


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
        numbers = (*needed, *CASES, *RECALLS)
        every = {c: np.array(v) if (v := points.numbers(c)) is not None else unknown for c in numbers}
        every["P"] = np.array(points.share())
        if metric == "nll":
            _tell_apart(every)
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
        over = columns["P"] > columns["gold_in_corpus"] + 1e-9
        if over.any():
            raise LawError(
                f"In {over.sum()} of {len(keep)} runs gold is read for more questions than the corpus covers: the "
                "questions need several passages each, and the data do not say how often all are read. Give "
                "all_gold@k, or path_recall@k where paths are read."
            )
        P, covered, began = columns["P"], columns["gold_in_corpus"], columns["gold_found@hop1"]
        ranked = P if np.isnan(began).any() else began
        columns["y"] = columns[metric]
        columns["uncovered"] = 1 - covered
        columns["outranked"] = 1 - ranked / np.where(covered > 0, covered, 1)
        columns["incomplete"] = 1 - P / np.where(ranked > 0, ranked, 1)
        share = columns["gold_recall@1"] / np.where(columns["gold_recall@k"] > 0, columns["gold_recall@k"], np.nan)
        at_k, first = columns["index_recall@k"], columns["index_recall@1"]
        w = np.where(np.isnan(share) | np.isnan(first), 0.0, share)
        again = np.where(np.isnan(columns["hop2_recall@j"]), 1.0, columns["hop2_recall@j"])
        columns["neighbours_missed"] = 1 - (w * np.nan_to_num(first) + (1 - w) * at_k) * again
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
    def told_apart(self) -> bool:
        """Whether the nats of both cases are known of every run."""
        return all(
            not np.isnan(self[name][self["P"] != never]).any() for name, never in zip(SPLIT, (0, 1), strict=True)
        )

    @property
    def hops_apart(self) -> bool:
        """Whether it is known of every run what its first hop found."""
        return not np.isnan(self["gold_found@hop1"]).any()

    @property
    def exact(self) -> np.ndarray:
        """Whether a run's search was exact, in both hops where there are two."""
        return (self["index_recall@k"] >= EXACT) & ~(self["hop2_recall@j"] < EXACT)

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
            if same.any() and self["P"][same][0] > 0:
                out.append((int(i), int(np.flatnonzero(same)[0])))
        return out


def _unusable(row: dict[str, float], metric: str) -> str | None:
    for name in (*NEEDED, metric):
        if np.isnan(row[name]):
            return f"{name} is missing"
    if metric != "nll":
        return None
    P = row["P"]
    if (P > 0 and np.isnan(row["nll_gold_found"])) or (P < 1 and np.isnan(row["nll_gold_missed"])):
        return "the nats with and without gold are missing" if row["gold_found"] == P else None
    found, missed = (0.0 if np.isnan(row[n]) else row[n] for n in SPLIT)
    if abs(row["nll"] - P * found - (1 - P) * missed) > IDENTITY * abs(row["nll"]):
        return "its nats are not those with gold and without together: some questions have no gold passage"
    return None


def _tell_apart(every: dict[str, np.ndarray]) -> None:
    """Make :data:`SPLIT` of all the gold that a question needs; NaN where a run does not say so.

    Those who read all are among those who read any, so that equal shares are the same questions. Where all or none
    read it, the one case that there is is the whole.
    """
    partly = every["P"] < every["gold_found"] - 1e-9
    for name, whole, alone in zip(SPLIT, CASES, (1.0, 0.0), strict=False):
        of_all = np.where(np.isnan(every[whole]) & (every["P"] == alone), every["nll"], every[whole])
        every[name] = np.where(partly | ~np.isnan(every[whole]), of_all, every[name])


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
    names = ("y", "uncovered", "outranked", "incomplete", "neighbours_missed", "P", *SPLIT)
    out = {name: np.repeat(runs[name][None], draws, axis=0) for name in names if name in runs.columns}
    Q, covered, apart = runs["questions"], runs["gold_in_corpus"], runs.hops_apart
    if answers is None:
        shares = {"uncovered": Q, "outranked": Q * covered}
        if apart:
            shares["incomplete"] = Q * runs["gold_found@hop1"]
        for name, of in shares.items():
            z_R1 = rng.normal(size=(draws, 1))
            share = runs[name]
            spread = np.sqrt(np.clip(share * (1 - share), 0, None) / np.maximum(of, 1))
            out[name] = np.clip(share + z_R1 * spread, 0.0, 1.0)
        relative = np.nan_to_num(runs["nll_se"] / runs["nll"]) if "nll" in runs.columns else 0.0
        for name, share in zip(SPLIT, (runs["P"], 1 - runs["P"]), strict=True):
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
    began_nQ = np.array([a.began for a in own], float) if apart else found_nQ
    size = value_nQ.shape[1]
    counts_RQ = rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(float)
    read, began, there = (counts_RQ @ of_nQ.T for of_nQ in (found_nQ, began_nQ, covered_nQ))
    known = {"uncovered": (1 - there / size, there >= 0), "outranked": (1 - began / np.maximum(there, 1), there > 0)}
    known["incomplete"] = (1 - read / np.maximum(began, 1), began > 0)
    known["P"] = (read / size, read >= 0)
    known["y"] = (counts_RQ @ value_nQ.T / size, read >= 0)
    known["nll_gold_found"] = (counts_RQ @ (value_nQ * found_nQ).T / np.maximum(read, 1), read > 0)
    known["nll_gold_missed"] = (counts_RQ @ (value_nQ * (1 - found_nQ)).T / np.maximum(size - read, 1), read < size)
    for name in out.keys() & known.keys():
        value, there_is = known[name]
        out[name] = np.where(there_is, value, out[name])
    return out
