"""One factor of a factorised law: a law of one logged metric, a constant, or nothing but what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rag_exp.core.errors import LawError
from rag_exp.core.rng import derive
from rag_exp.laws.card import LawFit, thinned
from rag_exp.laws.fitting import fit
from rag_exp.laws.forms import form_by_name
from rag_exp.laws.rows import MIN_LEVELS

Axes = Mapping[str, np.ndarray]


@dataclass
class Factor:
    """A factor, fitted on its own metric.

    Attributes:
        metric: what is fitted, in words.
        law: of the metric along the axes; None where a constant, or nothing, says it.
        constant: the metric's value where it is the same everywhere, or has only one parameter.
        draws_R: replicates of ``constant``.
        reason: why there is neither law nor constant; a prediction then needs the measured value.
        warnings: what a reader must know.
        held: axes of the law that stand at a value here.
        flipped: whether the law is of 1 minus the metric (of errors, for an accuracy).
    """

    metric: str
    law: LawFit | None = None
    constant: float | None = None
    draws_R: np.ndarray | None = None
    reason: str | None = None
    warnings: list[str] = field(default_factory=list)
    held: dict[str, float] = field(default_factory=dict)
    flipped: bool = False

    @property
    def known(self) -> bool:
        return self.law is not None or self.constant is not None

    def values(self, axes: Axes, draws: bool) -> np.ndarray:
        """The metric at ``axes`` (arrays [n] or [R, n]): [1, n], or [R, n] for every replicate.

        Raises:
            LawError: an axis is absent, or the factor has no law, so that only a measured value can stand in its place.
        """
        if self.law is not None:
            axes = {**axes, **self.held}
            absent = [v for v in self.law.form.variables if v not in axes]
            if absent:
                raise LawError(
                    f"A prediction of {self.metric} needs {', '.join(absent)}, everywhere known; give it (to rag-exp "
                    f"frontier as {' '.join(f'given.{a}=NUMBER' for a in absent)})."
                )
            own = {v: axes[v] for v in self.law.form.variables}
            params_Rp = self.law.draws_Rp if draws else None
            if params_Rp is None:
                params_Rp = np.array([[self.law.params[p] for p in self.law.form.parameters]])
            found = self.law.values(own, params_Rp)
            return 1 - found if self.flipped else found
        if self.constant is None:
            raise LawError(f"There is no law of {self.metric}: {self.reason} Give its measured values.")
        if draws and self.draws_R is not None:
            return self.draws_R[:, None]
        return np.array([[self.constant]])

    def to_dict(self) -> dict[str, Any]:
        draws = thinned(self.draws_R)
        return {
            "metric": self.metric,
            "constant": self.constant,
            "draws": None if draws is None else draws.tolist(),
            "reason": self.reason,
            "warnings": self.warnings,
            "held": self.held,
            "flipped": self.flipped,
            "card": self.law.to_dict() if self.law else None,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Factor:
        return cls(
            value["metric"],
            LawFit.from_dict(value["card"]) if value["card"] else None,
            value["constant"],
            None if value["draws"] is None else np.array(value["draws"]),
            value["reason"],
            list(value["warnings"]),
            dict(value["held"]),
            value["flipped"],
        )


@dataclass(frozen=True)
class Candidate:
    """A form that a factor may have, with what is known of its parameters beforehand."""

    form: str
    fixed: Mapping[str, float] = field(default_factory=dict)


def fit_factor(
    metric: str,
    candidates: tuple[Candidate, ...],
    axes: Axes,
    y_n: np.ndarray,
    weights_n: np.ndarray,
    replicates_Rn: np.ndarray | None,
    *,
    score: bool,
    options: Mapping[str, Any],
    clusters: list[str] | None = None,
) -> Factor:
    """Fit a factor: the candidate that errs least on the largest level it was not shown, a constant, or neither.

    Args:
        candidates: forms of the metric whose axes are among ``axes``; the first is taken where nothing can be held out.
        replicates_Rn: the metric under resampled questions; the fit's residuals are added to them.
        score: whether the metric is a share, whose residuals are taken as they are, and not a loss.
        options: ``loss``, ``delta``, ``level`` and ``seed`` of :func:`rag_exp.laws.fit`.
    """
    if not len(y_n):
        return Factor(metric, reason="no run has it.")
    if np.ptp(y_n) <= 1e-12:
        draws = None if replicates_Rn is None else (replicates_Rn * weights_n).sum(1) / weights_n.sum()
        return Factor(metric, constant=float(y_n[0]), draws_R=draws)
    usable = [c for c in candidates if _carried(c, axes)]
    if not usable:
        levels = ", ".join(f"{len(np.unique(v))} of {a}" for a, v in axes.items())
        return Factor(metric, reason=f"a law needs {MIN_LEVELS} levels of an axis; there are {levels}.")
    chosen = _chosen(usable, axes, y_n, weights_n, score)
    own = {v: axes[v] for v in form_by_name(chosen.form).variables}
    given: dict[str, Any] = {**options, "fixed": chosen.fixed, "weights": weights_n.tolist(), "y": "y"}
    if score:
        # What one factor's law leaves unexplained says nothing of another's, so that each has its own random stream.
        # The nats with gold and without share one: a checkpoint that reads well does so in both.
        given |= {"loss": "ls_raw", "seed": derive(options["seed"], metric)}
    if clusters is not None and len(set(clusters)) > MIN_LEVELS:
        given["cluster"] = clusters
    warnings = []
    try:
        law = fit(chosen.form, {**own, "y": y_n}, **given)
    except LawError as e:
        return Factor(metric, reason=str(e))
    if replicates_Rn is not None:
        try:
            law = fit(chosen.form, {**own, "y": y_n}, replicates=replicates_Rn, bootstrap_kind="wild", **given)
        except LawError as e:
            warnings.append(f"no intervals of {metric}: {e}")
    law.y = metric
    # A share is cut at 0 and 1 where it is used, so that what the form does far outside does not matter.
    own_warnings = [w for w in law.warnings if w not in law.form.cautions and w.split()[0] not in chosen.fixed]
    return Factor(metric, law, warnings=warnings + [f"{metric}: {w}" for w in own_warnings])


def _carried(candidate: Candidate, axes: Axes) -> bool:
    """Whether the data have levels enough of every axis, known for every row."""
    return all(
        v in axes and not np.isnan(axes[v]).any() and len(np.unique(axes[v])) >= MIN_LEVELS
        for v in form_by_name(candidate.form).variables
    )


def _chosen(candidates: list[Candidate], axes: Axes, y_n: np.ndarray, weights_n: np.ndarray, score: bool) -> Candidate:
    """The candidate with the smallest error on the largest level of the axes' first, having been fitted without it."""
    if len(candidates) == 1:
        return candidates[0]
    first = next(iter(axes.values()))
    held = first == first.max()
    errors = []
    for candidate in candidates:
        variables = form_by_name(candidate.form).variables
        data = {v: axes[v][~held] for v in variables} | {"y": y_n[~held]}
        try:
            law = fit(
                candidate.form,
                data,
                y="y",
                loss="ls_raw" if score else "ls_log",
                fixed=candidate.fixed,
                weights=weights_n[~held].tolist(),
            )
        except LawError:
            continue
        said = law.predict({v: axes[v][held] for v in variables})
        said = np.clip(said, 0.0, 1.0) if score else said
        errors.append((float((weights_n[held] * (said - y_n[held]) ** 2).sum()), len(errors), candidate))
    return min(errors)[2] if errors else candidates[0]
