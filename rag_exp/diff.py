"""``rag-exp diff``: two runs side by side: configurations, metrics, and a paired bootstrap over the questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rag_exp.core.errors import DataError
from rag_exp.core.record import RunRecord
from rag_exp.show import artifact_folder, find_run


def diff_runs(root: Path, a: str, b: str, draws: int) -> str:
    """The text that ``rag-exp diff`` prints.

    Raises:
        DataError: a run is not found, or the two were asked different questions.
    """
    return "\n".join(_diff(root, find_run(root, a), find_run(root, b), draws))


def _diff(root: Path, a: RunRecord, b: RunRecord, draws: int) -> Iterator[str]:
    yield f"a  {a.run_id[:12]}  {a.arm}, seed {a.seed}"
    yield f"b  {b.run_id[:12]}  {b.arm}, seed {b.seed}"
    left, right = flat(a.config), flat(b.config)
    changed = [k for k in sorted(left.keys() | right.keys()) if left.get(k) != right.get(k)]
    yield "configuration: the same" if not changed else f"configuration {'a':>24} {'b':>20}"
    for key in changed:
        yield f"  {key:28} {left.get(key)!s:>20} {right.get(key)!s:>20}"
    yield f"metric {'a':>32} {'b':>20} {'b - a':>12}"
    for key in (k for k in a.metrics if k in b.metrics):
        x, y = a.metrics[key], b.metrics[key]
        if x is None and y is None:
            continue
        change = f"{y - x:+.4g}" if x is not None and y is not None else "-"
        yield f"  {key:24} {_shown(x):>20} {_shown(y):>20} {change:>12}"
    if "evaluation" not in a.artifacts or "evaluation" not in b.artifacts:
        yield "paired bootstrap over the same questions: none; a run whose search alone was judged has no answers"
        return
    from rag_exp.evaluation.compare import compare
    from rag_exp.evaluation.predictions import read_predictions

    tables = [read_predictions(artifact_folder(root, r, "evaluation") / "predictions.parquet") for r in (a, b)]
    yield f"paired bootstrap over the same questions ({draws} draws)"
    try:
        differences = compare(*tables, draws=draws)
    except DataError as e:
        yield f"  none: {e}"
        return
    for d in differences:
        yield (
            f"  {d.metric:6} b - a = {d.difference:+.4f}  [{d.low:+.4f}, {d.high:+.4f}]  p = {d.p:.3g}  "
            f"({d.questions} questions)"
        )


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"
