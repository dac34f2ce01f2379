"""What a design can tell: studies simulated from a known law, and how the fit finds it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_exp.core.errors import LawError
from rag_exp.core.rng import numpy_rng
from rag_exp.laws.columns import column_of, numbers
from rag_exp.laws.coverage import covered, solved
from rag_exp.laws.evaluation import evaluate
from rag_exp.laws.fitting import prepare
from rag_exp.laws.form import Form
from rag_exp.laws.forms import form_by_name
from rag_exp.laws.intervals import check_draws, check_level
from rag_exp.laws.replication import Resampling

if TYPE_CHECKING:
    import pandas as pd


def simulate(
    form: str | Form,
    design: Mapping[str, Any],
    params: Mapping[str, float],
    *,
    noise: float,
    studies: int = 200,
    coverage: int = 0,
    bootstrap: int = 200,
    level: float = 0.95,
    seed: int = 0,
    **fitted: Any,
) -> pd.DataFrame:
    """Recovery of the parameters on a design, and how often intervals hold the truth.

    Args:
        form: a name or a form.
        design: the axes of the study, one value per run.
        params: the truth, under the papers' names.
        noise: standard deviation of the log of a loss.
        studies: simulated studies that recovery is measured on.
        coverage: of them, how many are also bootstrapped to measure coverage (0: not measured).
        bootstrap: replicates per study.
        level: of the intervals whose coverage is measured.
        fitted: what :func:`rag_exp.laws.fit` takes besides (``loss``, ``delta``, ``fixed``, ``bootstrap_kind``,
            ``cluster``, ``seeds``).

    Returns:
        per free parameter: ``truth``, ``median``, ``bias`` (of the median), ``sd``, and where asked for ``coverage``.

    Raises:
        LawError: an axis or a parameter is missing, the noise is negative, there are no studies, a true loss is not
            positive, or a study could not be fitted.
    """
    import pandas as pd

    check_level(level)
    check_draws(bootstrap, level=level)
    form = form_by_name(form)
    absent = [p for p in form.parameters if params.get(p) is None]
    if absent:
        raise LawError(f"simulate needs a true value of {', '.join(absent)}.")
    if not (noise >= 0 and studies > 0):
        raise LawError(f"simulate needs noise >= 0 and studies > 0; they are {noise:g} and {studies}.")
    if coverage and not bootstrap:
        raise LawError("coverage needs intervals to measure: give bootstrap=200 or more.")
    axes = {v: numbers(column_of(design, v, "design"), v) for v in form.variables}
    truth = np.array([params[p] for p in form.parameters])
    exact = evaluate(form, axes, truth[None])[0]
    if not (exact > 0).all():
        raise LawError("The true law is not positive everywhere on the design.")
    kind = fitted.pop("bootstrap_kind", "case")
    problem = prepare(form, {**design, "loss": exact}, **fitted)
    losses = exact * np.exp(numpy_rng(seed, "laws", "simulate").normal(0.0, noise, (studies, len(exact))))
    _, basins, _ = problem.optimum()
    ends = solved(problem, losses, basins)
    free = [p for p in form.parameters if p not in problem.held]
    draws = pd.DataFrame(problem.design.to_papers(ends.theta_Rp), columns=list(form.parameters))[free]
    table = pd.DataFrame({"truth": [params[p] for p in free]}, index=pd.Index(free, name="parameter"))
    table["median"] = draws.median()
    table["bias"] = table["median"] - table["truth"]
    table["sd"] = draws.std()
    if coverage:
        some = ends.pick(np.arange(min(coverage, studies)))
        shares = covered(problem, some, losses, Resampling(kind, bootstrap, seed), level, truth)
        table["coverage"] = [float(shares[form.parameters.index(p)]) for p in free]
    return table
