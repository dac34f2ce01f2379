"""The wild bootstrap: the fit plus errors like those that its residuals show (Wu 1986), equal in sign within a cluster.

A residual is not an error: the fit bent to it, most where a row or a cluster leads the fit, and few residuals do not
tell the errors' size well. Both are made up for, exactly for least squares of a linear law with normal errors:

* the residuals' covariance is (I - H) V (I - H), H the projection on the Jacobian and V the errors' covariance. What it
  lacks within a cluster (of a single row h times the variance) is added as normal noise, with V of a variance between
  and one within clusters, estimated from all residuals;
* a replicate's errors are those of one size that they may have had, sqrt(v / chi2_v) times the residuals', so that
  percentiles of replicates are Student's intervals. v is what parameters leave, counted apart for what is common to a
  cluster and for the rest: a parameter that only clusters tell (the exponent of N, where each size is one checkpoint)
  rests on as many degrees of freedom as there are clusters less such parameters, however many rows there are (compare
  Bell & McCaffrey 2002). For the rest they are at most the clusters less one (Cameron & Miller 2015, section VI.D).

Fits of absolute residuals, and Huber's with a small threshold, go through as many rows as they have parameters, whose
residuals are 0 and say nothing. For these the residuals are those of a smoother fit to the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rag_exp.core.errors import LawError
from rag_exp.core.rng import numpy_rng
from rag_exp.laws.problem import Problem

OUTLYING = 2.5  # times the errors' size: residuals beyond it are outliers, which say nothing of the size
LEAST = 0.5  # degrees of freedom under which there are none (they are traces, seldom whole numbers)
FEW = 2.5  # degrees of freedom under which an interval is wide for want of them
_WEBB = np.sqrt([0.5, 1.0, 1.5])  # Webb's six points, with signs
_LARGEST = 100.0  # of the factors that errors may have had: beyond the 99% interval of one degree of freedom
_NORMAL = 0.6745  # the median of the absolute value of a standard normal


@dataclass(frozen=True)
class Part:
    """What is common to clusters, or the rest: how many parameters it tells, and the degrees of freedom it leaves."""

    parameters: float
    spare: float

    def mean_square(self, squares: float) -> float:
        return squares / self.spare if self.spare >= LEAST else 0.0

    def factors(self, rng: np.random.Generator, draws: int, most: float) -> np.ndarray:
        """Sizes that the errors may have had, over the estimated one: [draws, 1]."""
        if self.spare < LEAST:
            return np.zeros((draws, 1))
        freedom = min(self.spare, most)
        return np.minimum(np.sqrt(freedom / rng.chisquare(freedom, size=(draws, 1))), _LARGEST)


@dataclass(frozen=True)
class Errors:
    """Errors of a fit, as its residuals show them: of the rows with a weight, and times its root.

    Attributes:
        rows, root_n: the positions of those rows, and the roots of their weights.
        residual_n, bounded_n: residuals, and the same with outliers drawn in.
        basis: orthonormal columns that span the Jacobian, [n, rank].
        units_n: the cluster of each row, counted from 0; a number of its own where there are no clusters.
    """

    rows: np.ndarray
    root_n: np.ndarray
    residual_n: np.ndarray
    bounded_n: np.ndarray
    basis: np.ndarray
    units_n: np.ndarray
    clustered: bool

    @classmethod
    def of(cls, problem: Problem, theta_p: np.ndarray) -> Errors:
        """Those of the optimum ``theta_p``.

        Raises:
            LawError: the smoother fit did not converge.
        """
        rows = np.flatnonzero(problem.rows.w_n > 0)
        labels = problem.rows.clusters_n
        if labels is not None and len(np.unique(labels[rows])) == 1:  # what is common to all rows is the law's
            labels = None
        root = np.sqrt(problem.rows.w_n[rows])
        smooth_p, threshold = smoother(problem, theta_p)
        residual = -problem.objective.residuals(smooth_p[None])[0][rows]
        free = problem.low_p < problem.high_p
        columns = (problem.objective.derivatives(theta_p[None]).jacobian_Rpn[0][free][:, rows] * root).T
        norm = np.linalg.norm(columns, axis=0)
        basis, singular, _ = np.linalg.svd(columns[:, norm > 0] / norm[norm > 0], full_matrices=False)
        return cls(
            rows,
            root,
            residual * root,
            np.clip(residual, -threshold, threshold) * root,
            basis[:, singular > 1e-10 * singular[:1].sum()],
            np.arange(len(rows)) if labels is None else np.unique(labels[rows], return_inverse=True)[1],
            labels is not None,
        )

    @property
    def units(self) -> int:
        return int(self.units_n.max()) + 1

    def common(self, values: np.ndarray) -> np.ndarray:
        """What of ``values`` [..., n] is equal within clusters, but for the weights: their projection."""
        if self.units == len(self.units_n):
            return values
        order = np.argsort(self.units_n, kind="stable")
        starts = np.searchsorted(self.units_n[order], np.arange(self.units))
        sums = np.add.reduceat((values * self.root_n)[..., order], starts, axis=-1)
        weights = np.bincount(self.units_n, self.root_n**2)
        return (sums / weights)[..., self.units_n] * self.root_n

    def parts(self) -> tuple[Part, Part]:
        """What is common to clusters (all there is, where rows have none), and what differs within them."""
        n, rank = self.basis.shape
        between = float((self.common(self.basis.T) ** 2).sum())
        return Part(between, self.units - between), Part(rank - between, n - self.units - (rank - between))

    def spare(self) -> dict[str, dict[str, float]]:
        """The parts as a card holds them, by what they are counted in."""
        between, within = self.parts()
        named = {"clusters": between, "rows within clusters": within} if self.clustered else {"rows": between}
        return {name: {"parameters": round(p.parameters, 3), "spare": round(p.spare, 3)} for name, p in named.items()}

    def draw(self, draws: int, seed: int, count: int) -> np.ndarray:
        """Errors as they may have been, in the objective's unit: [draws, count], 0 for rows without a weight."""
        rng = numpy_rng(seed, "laws", "wild")
        between, within = self.parts()
        size = (draws, self.units)
        factors = rng.choice(_WEBB, size=size) * rng.choice([-1.0, 1.0], size=size)
        errors = factors[:, self.units_n] * self.residual_n + self._taken(rng, draws)
        common = self.common(errors)
        rest = (errors - common) * within.factors(rng, draws, self.units - 1)
        out = np.zeros((draws, count))
        out[:, self.rows] = (common * between.factors(rng, draws, np.inf) + rest) / self.root_n
        return out

    def _taken(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        """Normal noise with the covariance, within each cluster, that the residuals lack of the errors': [draws, n]."""
        between, within = self.parts()
        common = self.common(self.bounded_n)
        rest = self.bounded_n - common
        outer, inner = between.mean_square(common @ common), within.mean_square(rest @ rest)
        # HV + VH - HVH from V's product with the basis, of which only the clusters' own blocks are made.
        spread = (outer - inner) * self.common(self.basis.T).T + inner * self.basis
        half = spread - self.basis @ (self.basis.T @ spread) / 2
        out = rng.normal(size=(draws, len(self.rows)))
        if self.units == len(self.rows):
            return out * np.sqrt(np.maximum(2 * (self.basis * half).sum(1), 0.0))
        for unit in range(self.units):
            mine = np.flatnonzero(self.units_n == unit)
            block = self.basis[mine] @ half[mine].T
            size, vectors = np.linalg.eigh(block + block.T)
            out[:, mine] = (out[:, mine] * np.sqrt(np.maximum(size, 0.0))) @ vectors.T
        return out


def blind(spare: Mapping[str, Mapping[str, float]]) -> str | None:
    """What tells parameters and nothing of their errors, in words; None where there is no such part."""
    for name, part in spare.items():
        if part["spare"] < LEAST <= part["parameters"]:
            return f"{name} are as many as the parameters that they alone tell ({part['parameters']:.0f})"
    return None


def few(spare: Mapping[str, Mapping[str, float]]) -> str | None:
    """A warning where the errors' size is hardly known; None where it is."""
    for name, part in spare.items():
        if LEAST <= part["spare"] < FEW and part["parameters"] >= LEAST:
            return (
                f"the size of the errors is known from {part['spare']:.1f} {name} beside the "
                f"{part['parameters']:.0f} parameters that they tell: intervals are as wide as that makes them "
                f"(more {name}, a simpler form, or a parameter that is known and held with fixed narrow them)"
            )
    return None


def smoother(problem: Problem, theta_p: np.ndarray) -> tuple[np.ndarray, float]:
    """An optimum whose residuals tell the errors' size, and the threshold beyond which they are outliers.

    The size is the normalised median of the absolute residuals that a fit through as many rows as parameters would
    not make 0 (Maronna, Martin & Yohai 2006, section 4.4.2).

    Raises:
        LawError: the fit with that threshold did not converge.
    """
    objective = problem.objective
    if np.isinf(objective.delta):
        return theta_p, np.inf
    size_n = np.sort(np.abs(objective.residuals(theta_p[None])[0][problem.rows.w_n > 0]))[problem.free :]
    threshold = OUTLYING * float(np.median(size_n)) / _NORMAL if len(size_n) else 0.0
    if threshold <= objective.delta:
        return theta_p, objective.delta
    for staged in (False, True):
        found = problem.solve(objective.at(threshold), theta_p[None], staged)
        if found.converged_R[0]:
            return found.theta_Rp[0], threshold
    raise LawError(
        f"The residuals for bootstrap_kind='wild' come from a fit of {problem.form.label} with delta={threshold:.2g}, "
        "which did not converge. Use bootstrap_kind='case', or loss='ls_log'."
    )
