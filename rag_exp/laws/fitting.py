"""``fit``: a form, data, and a certificate that the optimum is one.

A fit that does not meet its gradient is a :class:`LawError`, never the initial guess.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np

import rag_exp
from rag_exp.core.errors import LawError, did_you_mean
from rag_exp.laws.card import LawFit
from rag_exp.laws.columns import under_axes
from rag_exp.laws.coverage import interval_coverage
from rag_exp.laws.forms import AXES, Form, form_by_name
from rag_exp.laws.intervals import check_draws, check_level, percentiles
from rag_exp.laws.problem import Problem
from rag_exp.laws.replication import KINDS, UNCONVERGED, Resampling, replicate
from rag_exp.laws.rows import check_rows, read_rows
from rag_exp.laws.uncertainty import FEW_CLUSTERS
from rag_exp.laws.wild import blind, few

Loss = Literal["huber_log", "lad_log", "ls_log", "ls_raw"]
LOSSES = ("huber_log", "lad_log", "ls_log", "ls_raw")


def fit(
    form: str | Form,
    data: Any,
    *,
    y: str = "loss",
    loss: Loss = "huber_log",
    delta: float = 1e-3,
    fixed: Mapping[str, float] | None = None,
    weights: str | Sequence[float] | None = None,
    cluster: str | Sequence[Any] | None = None,
    bootstrap: int = 0,
    bootstrap_kind: Literal["case", "cluster", "wild", "hierarchical"] = "case",
    seeds: str | Sequence[Any] | None = None,
    questions: Any | None = None,
    seed: int = 0,
    replicates: Any | None = None,
    resamples: Any | None = None,
    level: float = 0.95,
    coverage: int = 0,
    missing: Literal["error", "leave_out"] = "error",
    unconverged: Literal["error", "leave_out"] = "error",
    columns: Mapping[str, str] | None = None,
) -> LawFit:
    """Fit a law and certify its optimum::

        law = fit("chinchilla", runs, y="final", columns={"N": "params", "D": "tokens"}, bootstrap=500)
        law.params["alpha"], law.intervals["alpha"], law.certificate["gradient"]

    Args:
        form: a name (``"joint"``, ``"saturating(M)"``) or a :class:`rag_exp.laws.Form`.
        data: a DataFrame or a mapping of arrays with the form's axes (N parameters, D training tokens, M passages in
            the corpus, K passages read) and ``y``.
        y: the column that is fitted, in nats.
        loss: of the residuals: ``"huber_log"``, ``"lad_log"`` (absolute) and ``"ls_log"`` (squared) are of log
            residuals, ``"ls_raw"`` is of plain ones.
        delta: Huber's threshold, in log units.
        fixed: parameters held at known values (a floor that is known exactly, say).
        weights: a column or values; a row of weight 2 counts as two equal rows.
        cluster: a column or labels; rows of one cluster (one checkpoint) are resampled together.
        bootstrap: how many replicates, at least 40; 0: no intervals.
        bootstrap_kind: what a replicate resamples: ``"case"`` rows, ``"cluster"`` all rows of a cluster together,
            ``"wild"`` errors like the fit's residuals, so that the design stays as it is, ``"hierarchical"`` questions,
            seeds and runs (see :mod:`rag_exp.laws.uncertainty`).
        seeds: a column or labels for ``"hierarchical"``: runs of one cluster that differ in it are repetitions.
        questions: for ``"hierarchical"``: losses [questions, rows of ``data``] on the same questions in the same
            order, whose means are ``y`` (of a study: the column of its metric in every run's predictions.parquet).
        replicates: losses [draws, rows of ``data``] of a resampling done elsewhere, such as
            :func:`rag_exp.laws.question_bootstrap`; with ``bootstrap_kind="wild"`` the runs' own residuals are
            added to them. ``bootstrap`` is then not used.
        resamples: counts [draws, rows of ``data``]: how often each replicate holds each row, of a resampling done
            elsewhere. ``bootstrap`` is then not used.
        level: of the intervals (percentiles of the replicates).
        coverage: how many studies to simulate on this design, to see how often such intervals hold the truth.
        missing: whether a null or NaN is an error, or leaves its row out with a reason on the card.
        unconverged: whether a replicate that does not meet its gradient is an error, or is left out and counted on
            the card. Those that fail are seldom like the others, so that intervals without them are narrow.
        columns: the data's own names of axes: ``{"N": "params", "D": "tokens"}``.

    Returns:
        the law: ``params`` under the papers' names, ``intervals``, ``draws`` (one row per replicate), ``certificate``,
        ``warnings``, ``predict`` and the fit card (``to_json``).

    Raises:
        LawError: the data cannot carry the form, or an optimisation did not meet its gradient.
    """
    check_level(level)
    check_draws(bootstrap, level=level)
    if coverage < 0:
        raise LawError(f"coverage={coverage}: it is a number of studies to simulate, or 0.")
    _known("bootstrap_kind", bootstrap_kind, KINDS)
    _known("unconverged", unconverged, UNCONVERGED)
    if bootstrap_kind != "hierarchical" and not (seeds is None and questions is None):
        raise LawError("seeds and questions belong to bootstrap_kind='hierarchical'.")
    options = {"y": y, "loss": loss, "delta": delta, "fixed": fixed, "weights": weights}
    data = under_axes(data, columns)
    problem = prepare(form, data, **options, cluster=cluster, seeds=seeds, missing=missing)  # type: ignore[arg-type]
    form, rows, held = problem.form, problem.rows, dict(problem.held)
    best, basins, certificate = problem.optimum()
    params = dict(zip(form.parameters, problem.design.to_papers(best.theta_Rp)[0].tolist(), strict=True))
    params.update(held)
    unidentified = problem.unidentified(best.theta_Rp[0])
    warnings = [*rows.warnings, *problem.warnings(best.theta_Rp[0], certificate, params, unidentified)]
    if rows.left_out:
        warnings.insert(0, f"{len(rows.left_out)} of {len(rows) + len(rows.left_out)} rows are left out (see the card)")
    how = Resampling(bootstrap_kind, bootstrap, seed, replicates, resamples, questions, unconverged)
    draws, resampling = replicate(problem, best.theta_Rp[0], basins, how)
    intervals: dict[str, tuple[float, float] | None] = dict.fromkeys(form.parameters)
    if draws is not None:
        low, high = percentiles(draws, level)
        for i, name in enumerate(form.parameters):
            if name not in unidentified and name not in held:
                intervals[name] = (float(low[i]), float(high[i]))
        warnings += problem.bound_warnings(draws, unidentified)
        if cluster is not None and resampling["kind"] == "case":
            warnings.append(
                "cluster is given, but bootstrap_kind='case' draws single rows: the intervals take the "
                "rows of a cluster for independent"
            )
        if resampling["kind"] == "cluster" and (clusters := len(np.unique(rows.clusters_n))) < FEW_CLUSTERS:
            warnings.append(
                f"intervals by drawing {clusters} clusters are too narrow; bootstrap_kind='wild' makes them wide enough"
            )
        warnings += _of_spare(resampling)
        again = resampling["drawn_again"] / (len(draws) + resampling["drawn_again"])
        if again > 0.1:
            warnings.append(
                f"{again:.0%} of the resamples had too few levels and were drawn again: intervals are narrow"
            )
        left_out = resampling["unconverged"]["left_out"]
        if left_out:
            warnings.append(f"{left_out} of {len(draws) + left_out} replicates did not converge and are left out")
    return LawFit(
        form=form,
        y=y,
        loss=loss,
        delta=delta if loss == "huber_log" else None,
        params=params,
        objective=problem.true_objective(best.theta_Rp),
        fixed=held,
        level=level,
        intervals=intervals,
        draws_Rp=draws,
        certificate=certificate,
        rows={
            "axes": {k: v.tolist() for k, v in rows.axes.items()},
            "y": rows.y_n.tolist(),
            "weights": rows.w_n.tolist(),
            "positions": rows.positions_n.tolist(),
            "left_out": rows.left_out,
            **({} if rows.clusters_n is None else {"clusters": rows.clusters_n.tolist()}),
            **({} if rows.seeds_n is None else {"seeds": rows.seeds_n.tolist()}),
        },
        resampling=resampling,
        coverage=interval_coverage(problem, best.theta_Rp[0], how, coverage, level, seed) if coverage else {},
        warnings=warnings,
        unidentified=unidentified,
        definitions={v: rows.definitions.get(v, AXES.get(v, v)) for v in form.variables},
        versions={"python": platform.python_version(), "numpy": np.__version__, "rag_exp": rag_exp.__version__},
    )


def prepare(
    form: str | Form,
    data: Any,
    *,
    y: str = "loss",
    loss: Loss = "huber_log",
    delta: float = 1e-3,
    fixed: Mapping[str, float] | None = None,
    weights: str | Sequence[float] | None = None,
    cluster: str | Sequence[Any] | None = None,
    seeds: str | Sequence[Any] | None = None,
    missing: Literal["error", "leave_out"] = "error",
) -> Problem:
    """The form on the checked rows of the data (arguments as of :func:`fit`).

    Raises:
        LawError: an option means nothing, or the data cannot carry the form.
    """
    form = form_by_name(form)
    held = _held(form, fixed)
    _known("loss", loss, LOSSES)
    if loss == "huber_log" and not delta > 0:
        raise LawError(f"delta must be positive; it is {delta}.")
    log = loss != "ls_raw"
    rows = read_rows(form, data, y, weights=weights, cluster=cluster, seeds=seeds, missing=missing, log=log)
    check_rows(form, rows, len(form.parameters) - len(held), held)
    return Problem.build(form, rows, held, loss, delta)


def _held(form: Form, fixed: Mapping[str, float] | None) -> dict[str, float]:
    held: dict[str, float] = {}
    for name, value in (fixed or {}).items():
        if name not in form.parameters:
            raise LawError(
                f"{form.label} has no parameter {name!r} to fix.{did_you_mean(name, form.parameters)} "
                f"Parameters: {', '.join(form.parameters)}."
            )
        if not (isinstance(value, Real) and math.isfinite(value) and value >= 0):
            raise LawError(
                f"fixed {name} must be a number, finite and not negative (the form holds the signs); it is {value}."
            )
        held[name] = float(value)
    for term in form.terms:
        if term.curve is None or term.curve.fixable is None:
            continue
        for name in sorted(held.keys() & {term.coefficient, *term.scales} - set(term.curve.fixable)):
            raise LawError(
                f"{form.label}: {name} cannot be fixed: in the fit it is tied to other parameters of its term. "
                f"Of that term these can: {', '.join(term.curve.fixable)}."
            )
    if len(held) == len(form.parameters):
        raise LawError(f"All parameters of {form.label} are fixed: nothing is left to fit.")
    return held


def _of_spare(resampling: Mapping[str, Any]) -> list[str]:
    """What few rows or clusters beside the parameters mean for the intervals."""
    spare = resampling.get("spare", {})
    because = blind(spare)
    if because:
        noise = "questions and seeds" if resampling["kind"] == "hierarchical" else "the given replicates"
        return [f"{because}: only the noise of {noise} is in the intervals of those parameters"]
    words = few(spare)
    return [words] if words else []


def _known(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise LawError(f"{what}={value!r} is not known.{did_you_mean(value, known)} Known: {', '.join(known)}.")
