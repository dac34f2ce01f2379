"""What the factorised law says of runs that it was not fitted to, beside what a joint law in N and M says of them.

Both are judged on the same runs. The joint law has those of one curve (an index, a growth, a K), since it has no place
for another; the factorised law has all the others, which is what it is for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from rag_exp.core.errors import LawError
from rag_exp.laws.card import LawFit
from rag_exp.laws.choice import choose, compare
from rag_exp.laws.factor_rows import COLUMNS, EXACT
from rag_exp.laws.factoring import SCORES, fit_factorised
from rag_exp.laws.factorised import SEARCHES, FactorisedFit, Points
from rag_exp.laws.fitting import fit
from rag_exp.laws.rows import MIN_LEVELS

OF_BOTH = ("loss", "delta")  # options that the joint law is fitted with too


def leave_index_out(data: Any, joint: Sequence[str] = (), **options: Any) -> list[dict[str, Any]]:
    """How the law predicts an index type that it was not fitted on, from that type's measured recall.

    A law with a dummy per index type has nothing to say of a new one; the best that it can do is to give it what exact
    search has. That stands beside, and so does a joint law of the runs with exact search.

    Args:
        joint: forms in N and M, of which one is chosen; none: no joint law is fitted.
        data, options: as for :func:`rag_exp.laws.fit_factorised`.

    Returns:
        per index type that is not exact: ``index``, ``rows``, ``rmse`` of log(prediction / loss), or of the differences
        for a score, ``rmse_measured`` where not its recall but how often it finds gold is measured (a search without a
        reader), ``rmse_as_exact``, and of the joint law ``rmse_joint`` and its ``form``; or a ``reason``.
    """
    points = _points(data, options)
    kinds, recall = points.labels("index"), points.numbers("index_recall@k")
    if kinds is None or recall is None:
        return []
    exact = recall >= EXACT
    out = []
    for kind in sorted({str(k) for k, r in zip(kinds, recall, strict=True) if r < EXACT}):
        held = np.array([str(k) == kind for k in kinds]) & ~np.isnan(recall)
        row: dict[str, Any] = {"index": kind, "rows": int(held.sum())}
        row |= dict.fromkeys(("rmse", "rmse_measured", "rmse_as_exact"))
        try:
            law, asked = _fitted_without(points, held, options), _asked(points, held, options)
            as_exact = {k: v for k, v in asked.items() if k not in SEARCHES}
            row["rmse_measured"] = _error(law, {**asked, "gold_found": _share(points)[held]}, options)
            row |= {"rmse": _error(law, asked, options), "rmse_as_exact": _error(law, as_exact, options)}
        except LawError as e:
            row["reason"] = str(e)
        out.append(row | _joint(points, _curve(points, exact), held, joint, options))
    return out


def leave_largest_out(
    data: Any, axis: str, levels: int = 1, joint: Sequence[str] = (), **options: Any
) -> dict[str, Any]:
    """How the law predicts the largest levels of N, M or K, fitted without them, along the curve with most runs.

    Args:
        levels: how many of the axis's are held out.
        joint: forms in N and M, of which one is chosen by the largest levels that are left; none: no joint law.
        data, options: as for :func:`rag_exp.laws.fit_factorised`.

    Returns:
        ``axis``, ``levels``, ``rows`` held out, and errors as in :func:`leave_index_out`: ``rmse`` (index recall is as
        measured), ``rmse_measured``, and ``rmse_joint`` with its ``form``; or a ``reason``.

    Raises:
        LawError: the axis is not in the data.
    """
    points = _points(data, options)
    values = points.numbers(axis)
    if values is None:
        raise LawError(f"The data have no column {axis!r}.")
    curve = _curve(points, ~np.isnan(values), *({"index", "growth", "K"} - {axis}))
    held = values >= np.unique(values[curve])[-levels:][0]
    asked_of = held & curve
    row: dict[str, Any] = {"axis": axis, "levels": levels, "rows": int(asked_of.sum())}
    row |= {"rmse": None, "rmse_measured": None}
    try:
        law, asked = _fitted_without(points, held, options), _asked(points, asked_of, options)
        row["rmse_measured"] = _error(law, {**asked, "gold_found": _share(points)[asked_of]}, options)
        row["rmse"] = _error(law, asked, options)
    except LawError as e:
        row["reason"] = str(e)
    return row | _joint(points, curve & ~held, asked_of, joint, options)


def _points(data: Any, options: dict[str, Any]) -> Points:
    return Points(data, (*COLUMNS, _metric(options)))


def _metric(options: dict[str, Any]) -> str:
    return str(options.get("metric", "nll"))


def _share(points: Points) -> np.ndarray:
    share = points.share()
    assert share is not None  # a law was fitted to it
    return share


def _curve(points: Points, among: np.ndarray, *columns: str) -> np.ndarray:
    """Those of the rows ``among`` that are alike in ``columns`` (index, growth and K), where most are: [n]."""
    names = [c for c in columns or ("index", "growth", "K") if c in points.columns]
    labels = [tuple(row) for row in zip(*(points.labels(c) for c in names), strict=True)] or [()] * points.shape[-1]
    most = Counter(label for label, one in zip(labels, among, strict=True) if one).most_common(1)
    return np.array([bool(most) and label == most[0][0] for label in labels]) & among


def _fitted_without(points: Points, held: np.ndarray, options: dict[str, Any]) -> FactorisedFit:
    part = {name: [v for v, h in zip(column, held, strict=True) if not h] for name, column in points.columns.items()}
    cluster = options.get("cluster")
    kept = None if cluster is None else [c for c, h in zip(cluster, held, strict=True) if not h]
    return fit_factorised(part, **{**options, "cluster": kept})


def _asked(points: Points, rows: np.ndarray, options: dict[str, Any]) -> dict[str, Any]:
    """What the law is to be asked of the ``rows``, and the metric with it."""
    names = [n for n in ("N", "M", "K", _metric(options), *SEARCHES) if n in points.columns]
    asked: dict[str, Any] = {n: points.numbers(n)[rows] for n in names}  # type: ignore[index]
    growth = points.labels("growth")
    return asked if growth is None else {**asked, "growth": growth[rows]}


def _joint(
    points: Points, kept: np.ndarray, held: np.ndarray, forms: Sequence[str], options: dict[str, Any]
) -> dict[str, Any]:
    """The error at ``held`` of the best of the joint ``forms``, chosen and fitted on the rows ``kept``."""
    if not forms:
        return {}
    metric, given = _metric(options), {k: options[k] for k in OF_BOTH if k in options}
    data, asked = _asked(points, kept, options), _asked(points, held, options)
    own = {k: data[k] for k in ("N", "M", metric)}
    try:
        spare = [f"largest_{a}" for a in ("N", "M") if len(np.unique(own[a])) > MIN_LEVELS]
        form = choose(compare(forms, own, spare or "largest_N", y=metric, **given))
        law = fit(form, own, y=metric, **given)
        return {"rmse_joint": _error(law, asked, options), "form": form}
    except LawError as e:
        return {"rmse_joint": None, "form": None, "reason_joint": str(e)}


def _error(law: FactorisedFit | LawFit, asked: dict[str, Any], options: dict[str, Any]) -> float:
    said, is_ = law.predict(asked), asked[_metric(options)]
    off = said - is_ if _metric(options) in SCORES else np.log(said / is_)
    return float(np.sqrt((off**2).mean()))
