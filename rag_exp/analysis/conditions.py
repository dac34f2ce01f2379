"""Which rows of a study are one curve: those that differ in nothing but model size, corpus size and seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SETTINGS = ("index", "growth", "K", "K_train")
# Configuration that the columns N, M, K, index, growth and arm already stand for.
_STOOD_FOR = ("config.seed", "config.evaluation.corpus_size", "config.evaluation.growth", "config.evaluation.source")
LENGTHS = ("config.training.steps", "config.training.warmup.steps")  # what D is set by


def conditions_of(rows: pd.DataFrame) -> list[str]:
    """The columns that make another curve: the evaluation's setting, and configuration that varies on its own."""
    from rag_exp.analysis.tables import varying

    base = [c for c in SETTINGS if c in rows]
    if "M_train" in rows and not (rows["M_train"] == rows["M"]).all():
        base.append("M_train")
    axes = [rows[c].map(str) for c in (*base, "N", "M")]
    extra = []
    for column in varying(rows):
        if not column.startswith("config.") or column.startswith(_STOOD_FOR):
            continue
        if len(rows) and rows[column].map(str).groupby(axes).nunique().max() > 1:
            extra.append(column)
    return base + extra


def groups(rows: pd.DataFrame, conditions: list[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The rows of every condition, largest first. The whole corpus is the same under either growth: it is in both."""
    import pandas as pd

    found = []
    for _, group in rows.groupby([rows[c].map(str) for c in conditions], sort=False):
        where = {c: _plain(group[c].iloc[0]) for c in conditions}
        if "growth" in where and "whole_corpus" in rows:
            rest = [c for c in conditions if c != "growth"]
            same = (rows[rest].map(str) == group[rest].map(str).iloc[0]).all(axis=1) if rest else rows["run_id"].notna()
            whole = rows[same & rows["whole_corpus"].astype(bool) & ~rows["run_id"].isin(group["run_id"])]
            size = group[~group["whole_corpus"].astype(bool)]
            whole = whole[whole["N"].isin(size["N"])]
            if len(size):
                group = pd.concat([group, whole])
        found.append((where, group))
    return iter(sorted(found, key=lambda pair: -len(pair[1])))


def _plain(value: Any) -> Any:
    if value is None or value != value:
        return None
    return (
        value.item()
        if hasattr(value, "item")
        else int(value)
        if isinstance(value, float) and value.is_integer()
        else value
    )
