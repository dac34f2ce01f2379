"""Compute-optimal allocation: the least fitted loss that a budget buys, over N, D, M and K together.

    minimise  loss(N, D, M, K)   subject to   costs.total(N, D, M, K) <= budget

The cost is a straight line in N (a parabola where D is tied to N), so that the budget gives N from the others. These
are found on a lattice in logarithms that closes in on the best point, for the parameters and for every replicate at
once: it needs no gradient, K stays a whole number, and laws of any kind are minimised alike. Sums of falling powers are
convex in logarithms and so is the cost, so that their optimum is the only one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_exp.core.errors import LawError
from rag_exp.laws.columns import numbers
from rag_exp.laws.costs import Costs
from rag_exp.laws.effects import alternatives, surface_of
from rag_exp.laws.factoring import SCORES
from rag_exp.laws.surface import Surface

if TYPE_CHECKING:
    import pandas as pd

    from rag_exp.laws.effects import Law

AXES = ("N", "D", "M", "K")
FIRST = (1, 129, 33)  # lattice points per axis at first, by how many axes there are
LATER = (1, 9, 9)
SHRINK = 0.5
CLOSE = 1e-9  # half-width of the last lattice, in logarithms
MOST_K = 16
EDGE = 1e-6  # this close to an end of the search an optimum counts as being there


def frontier(
    law: Law,
    costs: Costs | Mapping[str, float],
    budgets: Sequence[float],
    *,
    reach: float = 1.0,
    caps: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """The optimal allocation of every budget.

    Args:
        law: fitted in N and any of D, M and K, whose other axes are constants of ``costs``; a :class:`Surface` to hold
            what else a prediction needs, or an axis (which then costs what it does at that value). Where it has
            alternatives (other forms that hold as well), bands span theirs.
        costs: what training, the corpus and answering cost; a mapping holds the constants of :class:`Costs` by name.
        budgets: FLOPs in all; one that is named twice counts once.
        reach: decades beyond the data within which an optimum is looked for.
        caps: what there is no more of, per axis (the passages of the whole corpus, say): an optimum may well be there.

    Returns:
        one row per budget: ``budget``; each axis and ``loss`` with ``_low`` and ``_high`` over replicates and
        alternatives; ``flops.training``, ``flops.corpus``, ``flops.search``, ``flops.reading``; ``beyond``, by how many
        decades the optimum leaves the data, per axis; ``capped``, the axes that are at their cap; ``at_end``, the share
        of replicates whose optimum is at the end of the search; and ``reason``, why there is no optimum (it then has
        nulls). ``attrs["exponents"]`` holds, per axis but K, how it grows with the budget over the rows that have an
        optimum and where it is not at its cap: value, low, high.

    Raises:
        LawError: the law has no N, ``costs`` lack a constant that is needed or name one that there is not, a budget is
            not positive, ``reach`` is below 0, or a cap is on no axis of the law or below all that is looked at.
    """
    import pandas as pd

    surface = surface_of(law)
    costs = costs_at(surface, costs if isinstance(costs, Costs) else Costs(**costs))
    budgets_B = np.unique(numbers(np.atleast_1d(budgets), "budgets"))
    _check(surface, costs, budgets_B, reach)
    search = _Search(surface, costs, reach, caps or {})
    best = search.run(budgets_B, draws=False)
    replicated = [s for s in (surface, *alternatives(surface)) if s.replicated]
    bands = [_Search(s, costs, reach, caps or {}).run(budgets_B, draws=True) for s in replicated]
    rows = []
    for b, budget in enumerate(budgets_B):
        point = {a: float(v[0, b]) for a, v in best.axes.items()}
        row: dict[str, Any] = {"budget": float(budget), "reason": search.reason(best, b)}
        known = row["reason"] is None
        for name in (*AXES, "loss"):
            value = point[name] if name in point else float(best.loss_RB[0, b])
            banded = known and (name == "loss" or name in surface.axes)
            ends = [surface.interval(o[name][:, b]) for o in bands] if banded else []
            row[name] = value if known else None
            row[f"{name}_low"] = min((e[0] for e in ends), default=None)
            row[f"{name}_high"] = max((e[1] for e in ends), default=None)
        row |= {f"flops.{k}": v if known else None for k, v in costs.parts(**point).items()}
        row["beyond"] = surface.beyond(point) if known else None
        row["capped"] = search.at_caps(point) if known else None
        row["at_end"] = max((float(o.end_RB[:, b].mean()) for o in bands), default=None)
        rows.append(row)
    table = pd.DataFrame(rows).astype(object).where(lambda t: t.notna(), None)
    growing = {a: [r["reason"] is None and a not in r["capped"] for r in rows] for a in surface.axes if a != "K"}
    table.attrs["exponents"] = _exponents(surface, growing, budgets_B, best, bands)
    table.attrs["costs"] = costs.model_dump()
    return table


@dataclass
class _Optimum:
    """The best points of R replicates (1 by the parameters) and B budgets.

    Attributes:
        axes: N, D, M and K, each [R, B].
        loss_RB: infinite where the budget pays for nothing within the search.
        ends: per axis that is chosen 1 at the upper end of its search, -1 at the lower, else 0: [R, B].
    """

    axes: dict[str, np.ndarray]
    loss_RB: np.ndarray
    ends: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.loss_RB if name == "loss" else self.axes[name]

    @property
    def end_RB(self) -> np.ndarray:
        """Whether any axis is at an end of its search, or nothing is affordable."""
        return np.any([e != 0 for e in self.ends.values()], axis=0) | np.isinf(self.loss_RB)

    def better(self, other: _Optimum | None) -> _Optimum:
        """Point by point the one of less loss."""
        if other is None:
            return self
        mine = self.loss_RB <= other.loss_RB
        return _Optimum(
            {a: np.where(mine, v, other.axes[a]) for a, v in self.axes.items()},
            np.where(mine, self.loss_RB, other.loss_RB),
            {a: np.where(mine, v, other.ends[a]) for a, v in self.ends.items()},
        )


class _Search:
    """A lattice that closes in, within the data and ``reach`` decades beyond them."""

    def __init__(self, surface: Surface, costs: Costs, reach: float, caps: Mapping[str, float]):
        self.surface, self.costs, self.reach = surface, costs, reach
        self.limits = {a: (low / 10**reach, high * 10**reach) for a, (low, high) in surface.ranges.items()}
        self.caps = {}
        for axis, cap in caps.items():
            if axis not in self.limits:
                raise LawError(f"There is a cap on {axis}, which is no axis of the law ({', '.join(self.limits)}).")
            low, high = self.limits[axis]
            if not cap >= low:
                raise LawError(f"{axis} is capped at {cap:g}, below all that is looked at (from {low:.3g}).")
            if cap <= high:
                self.caps[axis] = cap
                self.limits[axis] = (low, cap)
        tied = costs.tokens_per_parameter
        if tied and "D" in self.limits:  # D then follows from N, which goes as far as either does
            least, most = (d / tied for d in self.limits["D"])
            self.limits["N"] = (max(self.limits["N"][0], least), min(self.limits["N"][1], most))
        self.free = [a for a in ("D", "M") if a in self.limits and not (tied and a == "D")]  # N follows from them
        self.low_A, self.high_A = (np.log([self.limits[a][end] for a in self.free]) for end in (0, 1))

    def run(self, budgets_B: np.ndarray, draws: bool) -> _Optimum:
        """The optimum of every budget, one after the other: a lattice for every replicate is large enough."""
        one = [self._over_k(budgets_B[b : b + 1], draws) for b in range(len(budgets_B))]

        def beside(parts: list[np.ndarray]) -> np.ndarray:
            return np.concatenate(parts, axis=1)

        return _Optimum(
            {a: beside([o.axes[a] for o in one]) for a in one[0].axes},
            beside([o.loss_RB for o in one]),
            {a: beside([o.ends[a] for o in one]) for a in one[0].ends},
        )

    def _over_k(self, budgets_B: np.ndarray, draws: bool) -> _Optimum:
        """The optimum over all K: coarsely first, then over the whole numbers next to what was best."""
        ks = self.ks
        best = self._over(ks, budgets_B, draws, None)
        near = {k for i, k in enumerate(ks) if (best["K"] == k).any() for k in ks[max(i - 1, 0) : i + 2]}
        between = [float(k) for k in range(int(min(near)), int(max(near)) + 1) if k not in ks] if len(ks) > 1 else []
        return self._over(between[:: max(1, len(between) // MOST_K)], budgets_B, draws, best)

    def _over(self, ks: list[float], budgets_B: np.ndarray, draws: bool, best: _Optimum | None) -> _Optimum:
        for k in ks:
            best = self._for_k(k, budgets_B, draws).better(best)
        assert best is not None
        return best

    @property
    def ks(self) -> list[float]:
        """Whole numbers of passages read, at most ``MOST_K`` of them, evenly in logarithms."""
        if "K" not in self.limits:
            return [self.costs.k]
        low, high = self.limits["K"]
        return sorted({float(round(k)) for k in np.geomspace(max(1.0, round(low)), max(1.0, int(high)), MOST_K)})

    def at_caps(self, point: Mapping[str, float]) -> list[str]:
        """The axes on which there is no more to be had."""
        return [a for a, cap in self.caps.items() if point[a] >= cap * (1 - EDGE)]

    @property
    def decades(self) -> str:
        """The reach in words."""
        return f"{self.reach:g} decade{'s' * (self.reach != 1)}"

    def reason(self, best: _Optimum, b: int) -> str | None:
        """Why the budget has no optimum."""
        if np.isinf(best.loss_RB[0, b]):
            least = f"N = {self.limits['N'][0]:.3g}"
            return f"it does not pay for {least}, the least within {self.decades} of the data"
        if best.loss_RB[0, b] <= 0:
            return "the law falls below zero there, which no loss can: its form does not hold so far out"
        for axis, end_RB in best.ends.items():
            if end := end_RB[0, b]:
                where = f"{self.limits[axis][0 if end < 0 else 1]:.3g}, {self.decades} beyond the data"
                return f"by the law {axis} should be {'less' if end < 0 else 'more'} than {where}"
        return None

    def _for_k(self, k: float, budgets_B: np.ndarray, draws: bool) -> _Optimum:
        rows = len(self.surface.loss({a: np.array([v[0]]) for a, v in self.limits.items()}, draws))
        n, half_A, count = len(self.free), (self.high_A - self.low_A) / 2, 0
        center_RBA = np.broadcast_to((self.low_A + self.high_A) / 2, (rows, len(budgets_B), n))
        while True:
            count, shrink = (LATER[n], SHRINK) if count else (FIRST[n], 4 / max(FIRST[n] - 1, 4))
            lattice_PA = half_A * np.array(list(itertools.product(np.linspace(-1, 1, count), repeat=n)))
            center_RBA, loss_RB = self._closest(center_RBA, lattice_PA, k, budgets_B, draws)
            if not n or half_A.max() <= CLOSE:
                break
            half_A = half_A * shrink
        axes = self._axes({a: np.exp(center_RBA[..., i]) for i, a in enumerate(self.free)}, budgets_B, k)
        axes = {a: np.broadcast_to(v, loss_RB.shape) for a, v in axes.items()}  # what the budget alone says is one row
        return _Optimum(axes, loss_RB, {a: self._end(axes[a], a) for a in self.limits})

    def _closest(
        self, center_RBA: np.ndarray, lattice_PA: np.ndarray, k: float, budgets_B: np.ndarray, draws: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best point of a lattice around every center, and its loss."""
        R, B, _ = center_RBA.shape
        at_RBPA = np.clip(center_RBA[:, :, None, :] + lattice_PA, self.low_A, self.high_A)
        flat = {a: np.exp(at_RBPA[..., i]).reshape(R, -1) for i, a in enumerate(self.free)}
        axes = self._axes(flat, np.repeat(budgets_B, len(lattice_PA)), k)
        least = self.limits["N"][0]
        asked = {a: axes[a] for a in self.limits} | {"N": np.maximum(axes["N"], least)}
        loss_RBP = np.where(axes["N"] >= least, self.surface.loss(asked, draws), np.inf).reshape(R, B, -1)
        best_RB1 = loss_RBP.argmin(-1)[..., None]
        there = np.take_along_axis(at_RBPA, best_RB1[..., None], axis=2)[:, :, 0]
        return there, np.take_along_axis(loss_RBP, best_RB1, axis=2)[..., 0]

    def _axes(self, free: dict[str, np.ndarray], budgets: np.ndarray, k: float) -> dict[str, np.ndarray]:
        """All axes, where N takes what the others leave of the budget, at most what is within the search."""
        D, M = free.get("D", self.costs.tokens or 0.0), free.get("M", self.costs.passages)
        N = np.minimum(self.costs.affordable(budgets, D, M, k), self.limits["N"][1])
        if self.costs.tokens_per_parameter:
            D = N * self.costs.tokens_per_parameter
        shape = np.broadcast_shapes(*(np.shape(v) for v in (N, D, M)), (1, len(budgets)))
        return {a: np.broadcast_to(v, shape) for a, v in zip(AXES, (N, D, M, k), strict=True)}

    def _end(self, values_RB: np.ndarray, axis: str) -> np.ndarray:
        """1 at the upper end of the search, -1 at the lower; a cap, or reading a single passage, is no end."""
        low, high = self.limits[axis]
        if axis == "K":
            low, high = self.ks[0] if self.ks[0] > 1 else 0.0, self.ks[-1]
        above = (values_RB >= high * (1 - EDGE)) & (axis not in self.caps)
        return np.where(above, 1, np.where(values_RB <= low * (1 + EDGE), -1, 0))


def costs_at(surface: Surface, costs: Costs) -> Costs:
    """The costs of what the surface holds: an axis of the law that stays at a value is paid for at that value."""
    constants = {"D": "tokens", "M": "passages", "K": "k"}
    held: dict[str, float | None] = {constants[a]: float(v) for a, v in surface.given.items() if a in constants}
    return costs.model_copy(update=held | ({"tokens_per_parameter": None} if "tokens" in held else {}))


def _check(surface: Surface, costs: Costs, budgets: np.ndarray, reach: float) -> None:
    if getattr(surface.law, "metric", None) in SCORES:
        raise LawError(f"A frontier minimises a loss; this law is of {surface.law.metric}, which is better larger.")
    others = [a for a in surface.axes if a not in AXES]
    if "N" not in surface.axes or others:
        raise LawError(
            f"A frontier is over N and any of D, M and K; this law has {', '.join(surface.axes)}."
            + (f" Hold {', '.join(others)} at a value (Surface(law, given))." if others else "")
        )
    if not reach >= 0:
        raise LawError(f"reach={reach:g}: it is how many decades beyond the data are looked at, 0 or more.")
    if "D" not in surface.axes and costs.tokens is None and costs.tokens_per_parameter is None:
        raise LawError("The law has no D: say what is trained on, by costs.tokens or costs.tokens_per_parameter.")
    if not len(budgets) or not all(np.isfinite(b) and b > 0 for b in budgets):
        raise LawError(f"Budgets must be positive FLOPs; they are {', '.join(f'{b:g}' for b in budgets) or 'none'}.")


def _exponents(
    surface: Surface, growing: dict[str, list[bool]], budgets_B: np.ndarray, best: _Optimum, bands: list[_Optimum]
) -> dict[str, tuple[float, float | None, float | None]]:
    """d ln axis / d ln budget over the budgets at which it is free to grow: value, low, high."""
    out: dict[str, tuple[float, float | None, float | None]] = {}
    for axis, free_B in growing.items():
        if sum(free_B) < 2:
            continue
        logs = np.log(budgets_B[free_B])
        value = float(np.polyfit(logs, np.log(best[axis][0, free_B]), 1)[0])
        ends = []
        for optimum in bands:
            y_RB = np.where(np.isfinite(optimum.loss_RB), np.log(np.maximum(optimum[axis], 1e-300)), np.nan)[:, free_B]
            y_RB = y_RB[~np.isnan(y_RB).any(1)]
            if len(y_RB):
                ends.append(surface.interval(np.polyfit(logs, y_RB.T, 1)[0]))
        out[axis] = (value, min(e[0] for e in ends), max(e[1] for e in ends)) if ends else (value, None, None)
    return out
