"""The factorised law: the loss through what a study logs of its retrieval, factor by factor.

A question is answered with the gold it needs among what is read, or without. Hence, exactly and for every run,

    nll = P u1 + (1 - P) u0,        P = ``gold_found``, u1 = ``nll_gold_found``, u0 = ``nll_gold_missed``,

and gold is read if the corpus holds it, exact search ranks it among the best K, and the index finds what exact search
would have found:

    P = c r i
    c = ``gold_in_corpus``                                 coverage: 1 - c = 1 - G M^gamma, or a falling power of M
    r = P / c of exact search                              rank:   1 - r = B M^rho K^-kappa
    i = P / that of exact search at equal M, K             index:  1 - i = lambda (1 - s)
    s = w ``index_recall@1`` + (1 - w) ``index_recall@k``  where gold stands; w = ``gold_recall@1`` / ``gold_recall@k``
    u1, u0                                                 use:      E + A N^-alpha (+ B K^beta)

A question of several hops needs several gold passages, and P is the share that reads all of them: ``path_recall@k``
where they must stand in one path, else ``all_gold@k``; c is the coverage of all. ``nll_gold_found`` is of any of them,
so that u1 and u0 are ``nll_all_gold`` and ``nll_not_all_gold`` (:meth:`rag_exp.laws.Answers.cases`). A second search
has its own rank and recall:

    r = r1 r2,  r1 = ``gold_found@hop1`` / c,  r2 = P / ``gold_found@hop1``     s = (s of the first) ``hop2_recall@j``

What this leaves out: u0 is of questions that read none of their gold and of those that read a part, as if a part were
worth nothing. Where it is, u0 moves with M and K along with the parts' share.

Of another metric (an accuracy), and of nats whose cases are not known, the two are told apart by how the metric goes
with P and N, which is the same identity read the other way: y = E + A N^-alpha - G P + B P N^-alpha.

Each factor is fitted on its own metric and the chain predicts the loss. What was measured takes the place of a factor's
law, so that an index type that no run had, or a K, enters through its measured recall and needs no dummy. How s falls
along M and rises with the passages compared (S) is a law per index type: 1 - s = B M^rho S^-kappa.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rag_exp.core.errors import LawError
from rag_exp.laws.card import Prediction, card_text
from rag_exp.laws.columns import numbers
from rag_exp.laws.compared import Compared
from rag_exp.laws.factor import Factor
from rag_exp.laws.intervals import check_level, percentiles

SCHEMA = 4
SHARES = ("path_recall@k", "all_gold@k", "gold_found")
"""What P is, the first of them that is known: all the gold that a question needs, together where paths are read."""
SEARCHES = ("index_recall@1", "index_recall@k", "hop2_recall@j")
MEASURED = ("gold_in_corpus", *SHARES, *SEARCHES)
ROUNDING = 1e-9  # of shares
ASKED = ("N", "M", "K", "S", "growth", "index", *MEASURED)
"""Columns that a prediction reads."""


class Points:
    """Those columns ``names`` that a DataFrame or mapping has, broadcast together: points that a law is asked at.

    Raises:
        LawError: columns that do not go together.
    """

    def __init__(self, data: Any, names: tuple[str, ...] = ASKED):
        there = {str(name) for name in data.keys()}  # noqa: SIM118 (a DataFrame's keys are its columns)
        self.columns = {name: data[name] for name in names if name in there}
        shapes = [np.shape(np.asarray(v)) for v in self.columns.values()]
        try:
            self.shape = np.broadcast_shapes((1,), *shapes)
        except ValueError as e:
            raise LawError(f"Columns differ in length: {', '.join(self.columns)}.") from e

    def numbers(self, name: str) -> np.ndarray | None:
        """A column of numbers, null as NaN; None where it is absent.

        Raises:
            LawError: it holds a word, or what is no share where one is measured.
        """
        if name not in self.columns:
            return None
        found = numbers(np.atleast_1d(self.columns[name]), name)
        if name in MEASURED and ((found < -ROUNDING) | (found > 1 + ROUNDING)).any():
            wrong = found[(found < -ROUNDING) | (found > 1 + ROUNDING)][0]
            raise LawError(f"{name} is a share, from 0 to 1; it is {wrong:g}.")
        return np.broadcast_to(found, self.shape)

    def labels(self, name: str) -> np.ndarray | None:
        """A column of words, [n]; None where it is absent."""
        if name not in self.columns:
            return None
        return np.broadcast_to(np.asarray(self.columns[name], dtype=object), self.shape[-1:])

    def share(self) -> np.ndarray | None:
        """P, where it was measured (see :data:`SHARES`)."""
        known = [v for v in map(self.numbers, SHARES) if v is not None]
        if not known:
            return None
        found = known[0]
        for other in known[1:]:
            found = np.where(np.isnan(found), other, found)
        return found

    def axes(self, *names: str) -> dict[str, np.ndarray]:
        """Those of the columns that are there and everywhere known."""
        found = {n: self.numbers(n) for n in names}
        return {n: v for n, v in found.items() if v is not None and not np.isnan(v).any()}


@dataclass
class FactorisedFit:
    """A fitted chain.

    Attributes:
        coverage: the share of questions whose gold passage the corpus lacks, per way of growing.
        rank: the share of covered questions whose gold passages exact search does not have among its K best; of two
            hops the first one's alone, where both are known.
        second: of the rest, the share whose second hop does not complete a path that is read; None where there is one
            hop, or what the first one found is not known.
        index: lambda, the share of gold lost per share of neighbours lost.
        recall: the share of the best passages that an index misses, per index type.
        compared: how many passages each of these types compared along M: what S is where a prediction is not told.
        found, missed: the metric (nats per answer) with all needed gold among what is read, and without.
        ranges: of N, M and K among the rows used.
        rows: of every row used its position in the data, ``axes``, ``y``, ``growth`` and ``index``; ``left_out`` with
            reasons; ``exact``, the index types that search exactly.
    """

    coverage: dict[str, Factor]
    rank: Factor
    index: Factor
    recall: dict[str, Factor]
    compared: dict[str, Compared]
    found: Factor
    missed: Factor
    level: float
    ranges: dict[str, tuple[float, float]]
    rows: dict[str, Any]
    resampling: dict[str, Any]
    metric: str = "nll"
    warnings: list[str] = field(default_factory=list)
    second: Factor | None = None

    equation = "P u1 + (1 - P) u0, P = coverage x rank x index"
    summary = "what is lost with the gold passage read and without, by the share of questions that read it"
    variables = ("N", "M", "K")
    asked = ASKED

    @property
    def factors(self) -> dict[str, Factor]:
        """All factors by name, in the chain's order."""
        return {
            **{f"coverage ({k} growth)": f for k, f in self.coverage.items()},
            "rank": self.rank,
            **({"rank of the second hop": self.second} if self.second else {}),
            "index": self.index,
            **{f"recall ({k})": f for k, f in self.recall.items()},
            "with gold": self.found,
            "without gold": self.missed,
        }

    def predict(self, data: Any, interval: float | None = None) -> np.ndarray | Prediction:
        """The metric, nats per answer unless another was fitted.

        Args:
            data: N, and what says how often all gold is read: either P measured (one of :data:`SHARES`), or M and K
                (and ``growth``, where the study has several), ``gold_in_corpus`` in place of M's law where it was
                measured, and for an index that is not exact its measured ``index_recall@k`` (and ``index_recall@1``;
                of two hops ``hop2_recall@j``), or ``index``, a type that the study had (with S, the passages it
                compares; else as many as its searches compared at such an M, which :meth:`assumed` says).
            interval: level of a pointwise interval over the replicates.

        Returns:
            values [n], or a :class:`Prediction`.

        Raises:
            LawError: a factor has neither a law nor a measured value in ``data``.
        """
        value = self.values(data)[0]
        if interval is None:
            return value
        check_level(interval, "interval")
        low, high = percentiles(self.predict_draws(data), interval)
        return Prediction(value, low, high, self.beyond(data), value, value)

    def predict_draws(self, data: Any) -> np.ndarray:
        """Predictions of every replicate at ``data``: [R, n].

        Raises:
            LawError: nothing was resampled.
        """
        if not self.resampling["draws"]:
            raise LawError("An interval needs replicates; this law has none. Fit with bootstrap=500.")
        return self.values(data, draws=True)

    def values(self, data: Any, draws: bool = False) -> np.ndarray:
        """:meth:`predict` as [1, n], or per replicate as [R, n]; axes may be [R, n] themselves."""
        parts = self.parts(data, draws)
        return parts["P"] * parts["with gold"] + (1 - parts["P"]) * parts["without gold"]

    def parts(self, data: Any, draws: bool = False) -> dict[str, np.ndarray]:
        """Every link of the chain at ``data``: c, r, i (where P was not measured), P, and the nats of both cases."""
        given = Points(data)
        out: dict[str, np.ndarray] = {}
        measured = given.share()
        if measured is None:
            out["c"] = self._covered(given, draws)
            out["r"] = 1 - np.clip(self.rank.values(self._ranked(given), draws), 0.0, 1.0)
            if self.second is not None:
                out["r"] = out["r"] * (1 - np.clip(self.second.values(self._ranked(given), draws), 0.0, 1.0))
            out["i"] = 1 - np.clip(self.index.values({}, draws) * self._lost(given, draws), 0.0, 1.0)
            out["P"] = out["c"] * out["r"] * out["i"]
        else:
            out["P"] = np.atleast_2d(measured)
        if np.isnan(out["P"]).any():
            raise LawError("A measured recall or coverage is missing (null or NaN) at some of the points.")
        out["with gold"] = _nats(self.found, given, draws, out["P"] == 0)
        out["without gold"] = _nats(self.missed, given, draws, out["P"] == 1)
        rows = max(v.shape[0] for v in out.values())
        return {k: np.broadcast_to(v, (rows, given.shape[-1])) for k, v in out.items()}

    def _covered(self, given: Points, draws: bool) -> np.ndarray:
        """c: measured, or by the law of the corpus' way of growing."""
        measured = given.numbers("gold_in_corpus")
        if measured is not None:
            return np.atleast_2d(measured)
        growths = given.labels("growth")
        if growths is None:
            if len(self.coverage) != 1:
                raise LawError(f"A prediction needs `growth`, one of {', '.join(self.coverage)}, or `gold_in_corpus`.")
            growths = np.full(given.shape[-1], next(iter(self.coverage)))
        return 1 - np.clip(self._by_kind(self.coverage, growths, given, ("M",), draws, "growth"), 0.0, 1.0)

    def _ranked(self, given: Points) -> dict[str, np.ndarray]:
        """The axes of the rank factor."""
        axes = given.axes("M", "K")
        low, high = self.ranges["K"]
        if low == high and "K" in axes and (axes["K"] != low).any():
            raise LawError(
                f"All runs read K = {low:g} passages, so that no law says how often others find gold. Measure it "
                "(a search without a reader is enough) and give it as `gold_found`."
            )
        return axes

    def _lost(self, given: Points, draws: bool) -> np.ndarray:
        """1 - s: measured, by the law of the index type, or 0 (exact search)."""
        first, at_k, again = (given.numbers(name) for name in SEARCHES)
        if at_k is not None:
            share = self.rows["first_share"] if first is not None else 0.0
            kept = share * (first if first is not None else 0.0) + (1 - share) * at_k
            if self.rows["searched_twice"]:
                if again is None:
                    raise LawError("The runs searched twice: give hop2_recall@j beside index_recall@k.")
                kept = kept * again
            return np.atleast_2d(1 - kept)
        kinds = given.labels("index")
        if kinds is None:
            return np.zeros((1, 1))
        return np.clip(self._by_kind(self.recall, kinds, given, ("M", "S"), draws, "index"), 0.0, 1.0)

    def assumed(self, given: Mapping[str, Any]) -> list[str]:
        """What a prediction at ``given`` takes for granted, in words: how many passages the index compares."""
        kind = given.get("index")
        law = self.recall[kind].law if kind in self.recall else None
        known = {"S", "index_recall@k", *SHARES} & given.keys()
        if law is None or known or "S" not in law.form.variables or kind not in self.compared:
            return []
        c = self.compared[kind]
        runs = f"{c.searches} {kind} searches over {c.low:,.0f} to {c.high:,.0f} passages"
        return [f"S, the passages that {kind} compares, is {c.equation}, within a factor of {c.spread:.2g} of {runs}"]

    def _by_kind(
        self, laws: dict[str, Factor], kinds: np.ndarray, given: Points, names: tuple[str, ...], draws: bool, what: str
    ) -> np.ndarray:
        """Each point by the law of its kind: [1, n] or [R, n]."""
        found: dict[str, np.ndarray] = {}
        for kind in dict.fromkeys(kinds.tolist()):
            if kind in self.rows["exact"] and what == "index":
                found[kind] = np.zeros((1, 1))
                continue
            if kind not in laws:
                known = [*laws, *(self.rows["exact"] if what == "index" else [])]
                instead = "index_recall@k" if what == "index" else "gold_in_corpus"
                raise LawError(f"No run has {what} {kind!r} (known: {', '.join(known)}). Give its measured {instead}.")
            axes = given.axes(*names)
            if what == "index" and "S" not in axes and "M" in axes and kind in self.compared:
                axes["S"] = self.compared[kind].at(axes["M"])
            found[kind] = laws[kind].values(axes, draws)
        rows = max(v.shape[0] for v in found.values())
        n = given.shape[-1]
        out = np.empty((rows, n))
        for kind, value in found.items():
            out = np.where(kinds == kind, np.broadcast_to(value, (rows, n)), out)
        return out

    def beyond(self, data: Any) -> np.ndarray:
        """Decades that each point lies outside the range of the axis where that is most; 0 within: [n]."""
        given, out = Points(data), []
        for axis, (low, high) in self.ranges.items():
            value = given.numbers(axis)
            if value is not None:
                out.append(np.maximum(np.maximum(np.log10(low / value), np.log10(value / high)), 0.0))
        return np.round(np.max(np.broadcast_arrays(*out), axis=0), 12) if out else np.zeros(given.shape[-1])

    def to_dict(self) -> dict[str, Any]:
        """The fit card as plain values."""
        kinds = ("coverage", "recall", "compared")
        plain = {k: v for k, v in self.__dict__.items() if k not in kinds}
        plain |= {k: v.to_dict() for k, v in plain.items() if isinstance(v, Factor)}
        per_kind = {k: {n: f.to_dict() for n, f in getattr(self, k).items()} for k in kinds}
        head = {"schema": SCHEMA, "form": "factorised", "equation": self.equation}
        return {**head, **plain, **per_kind, "ranges": {k: list(v) for k, v in self.ranges.items()}}

    def to_json(self) -> str:
        """The fit card: every factor's own card, rows used and left out, seeds; see :meth:`LawFit.to_json`."""
        return card_text(self.to_dict())

    @classmethod
    def from_dict(cls, card: Mapping[str, Any]) -> FactorisedFit:
        """Read :meth:`to_dict`'s values back.

        Raises:
            LawError: it is no card of a factorised law of this schema.
        """
        if card.get("schema") != SCHEMA or card.get("form") != "factorised":
            raise LawError(f"Not a card of a factorised law of schema {SCHEMA}.")
        rest = {k: v for k, v in card.items() if k not in ("schema", "form", "equation")}
        for name in ("rank", "second", "index", "found", "missed"):
            rest[name] = Factor.from_dict(rest[name]) if rest[name] else None
        for name in ("coverage", "recall"):
            rest[name] = {k: Factor.from_dict(v) for k, v in rest[name].items()}
        rest["compared"] = {k: Compared.from_dict(v) for k, v in rest["compared"].items()}
        rest["ranges"] = {k: (v[0], v[1]) for k, v in rest["ranges"].items()}
        return cls(**rest)

    @classmethod
    def from_json(cls, text: str) -> FactorisedFit:
        """Read a fit card.

        Raises:
            LawError: the text is no such card.
        """
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, KeyError, TypeError) as e:
            raise LawError(f"Not a card of a factorised law: {e}.") from e


def _nats(factor: Factor, given: Points, draws: bool, never: np.ndarray) -> np.ndarray:
    """Nats of one case; a case that was never seen has none, and needs none where it is ``never`` met."""
    if not factor.known and never.all():
        return np.zeros((1, 1))
    return factor.values(given.axes("N", "K"), draws)
