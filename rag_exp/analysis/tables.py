"""Records as a table: one row a run, its axes, sizes, metrics, costs and configuration as columns."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.core.errors import DataError, did_you_mean
from rag_exp.core.record import RunRecord, read_record

if TYPE_CHECKING:
    import pandas as pd

FIRST = ("run_id", "arm", "seed", "status", "N", "N_total", "D", "M", "M_train", "K", "K_train", "index", "growth")
N_MEANS = "generator parameters, embeddings left out"
"""What N is in every record; beside other people's rows it tells laws which rows go together."""
AXES = ("N", "M", "K", "index", "growth", "arm", "seed", "M_train", "K_train")
PLAN = "plan.json"
PLACES = ("outputs/studies", "results")
_NEUTRAL = ("config.paths.", "config.logger.", "config.trainer.")
_SEARCHLESS = ("closed_book", "oracle", "random", "run")


class _Shared(dict[str, Any]):
    """A plan in a table's attrs. pandas copies attrs deeply at every step, which here would cost more than the step."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


def records_to_table(records: Sequence[RunRecord], plan: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """One row per run.

    Columns: ``run_id, arm, seed, status``; every size (N, D, M, K, ...); ``index`` and ``growth`` as the evaluation
    has them (null where the arm has none); each metric under its own name; ``flops.*``, ``seconds.*``, ``bytes.*``,
    ``artifacts.*``; the configuration as ``config.<dotted key>``; each of the plan's axes under its own key, null
    where a run stands for several of its values; ``nulls`` (why values are missing, by name), ``error``,
    ``commit``, ``command``, ``created``.

    Args:
        plan: as in a study's ``plan.json``; kept in ``attrs["plan"]``.

    Returns:
        a DataFrame whose ``attrs`` hold ``study``, ``metric`` (the primary one), ``plan`` and ``axes``: the columns
        among ``AXES`` and the configuration that vary.
    """
    import pandas as pd

    plan = dict(plan or {})
    points = _points(plan)
    rows = [_row(record, points.get(record.run_id, [])) for record in records]
    columns = dict.fromkeys([*FIRST, *(k for row in rows for k in row)])
    table = pd.DataFrame({k: _series([row.get(k) for row in rows]) for k in columns})
    table.attrs |= {"study": plan.get("study", "study"), "metric": plan.get("metric", "nll")}
    table.attrs["plan"] = _Shared(plan)
    table.attrs["axes"] = varying(table)
    return table


def load_study(name_or_path: str | Path) -> pd.DataFrame:
    """The table of a study: a folder with ``plan.json`` and ``records/*.json``, or a study's name.

    A name is looked for under ``outputs/studies`` (of ``$RAG_EXP_ROOT``, where that is set) and ``results``
    of the working folder.

    Raises:
        DataError: there is no such study (the message says which there are), or it has no records.
    """
    folder = study_folder(name_or_path)
    plan = read_plan(folder)
    files = sorted((folder / "records").glob("*.json"))
    if not files:
        raise DataError(
            f"{folder}: the study has no records yet. Run it: rag-exp run -m study={plan.get('study', folder.name)}"
        )
    order = {run["run_id"]: i for i, run in enumerate(plan.get("runs", []))}
    records = sorted((read_record(f) for f in files), key=lambda r: (order.get(r.run_id, len(order)), r.run_id))
    return records_to_table(records, plan)


def study_folder(name_or_path: str | Path) -> Path:
    """The folder of a study, by path or name.

    Raises:
        DataError: no such folder.
    """
    asked = Path(name_or_path)
    if (asked / PLAN).is_file() or (asked / "records").is_dir():
        return asked
    root = os.environ.get("RAG_EXP_ROOT")
    places = [Path(p) for p in ([f"{root}/studies"] if root else []) + list(PLACES)]
    for place in places:
        if (place / asked / PLAN).is_file():
            return place / asked
    known = sorted({f.parent.name for place in places for f in place.glob(f"*/{PLAN}")})
    raise DataError(
        f"No study {str(name_or_path)!r}: neither a folder with a {PLAN}, nor a name under "
        f"{' or '.join(str(p) for p in places)} (from {Path.cwd()}).{did_you_mean(str(name_or_path), known)} "
        + (f"Studies there: {', '.join(known)}." if known else "There are no studies there yet.")
    )


def read_plan(folder: Path) -> dict[str, Any]:
    """A study's ``plan.json``.

    Raises:
        DataError: it is missing or not a plan.
    """
    path = folder / PLAN
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror}). A study's folder has {PLAN} beside records/.") from e
    except ValueError as e:
        raise DataError(f"{path}: not JSON ({e}).") from e
    if not isinstance(plan, dict) or not isinstance(plan.get("runs", []), list):
        raise DataError(f"{path}: not a study's plan.")
    return plan


def varying(table: pd.DataFrame) -> list[str]:
    """The axes and configuration columns with more than one value; neutral configuration is passed over."""
    # What does not vary in a study does not vary in a part of it, and there are hundreds of configuration columns.
    candidates = [c for c in table.attrs.get("axes") or dict.fromkeys([*AXES, *table.columns]) if c in table]
    candidates = [c for c in candidates if c in AXES or (c.startswith("config.") and not c.startswith(_NEUTRAL))]
    return [c for c in candidates if len(set(table[c].map(str))) > 1]


def missing_runs(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The planned runs that have no record in the table."""
    there = set(table["run_id"])
    return [run for run in table.attrs.get("plan", {}).get("runs", []) if run["run_id"] not in there]


def finished(table: pd.DataFrame, metric: str | None = None) -> pd.DataFrame:
    """The finished runs that have the metric (the study's primary one unless told otherwise)."""
    metric = metric or table.attrs["metric"]
    if metric not in table:
        known = [c for c in table.columns if "." not in c]
        raise DataError(f"No run has the metric {metric!r}.{did_you_mean(metric, known)} Columns: {', '.join(known)}.")
    return table[(table["status"] == "finished") & table[metric].notna()]


def _points(plan: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for run in plan.get("runs", []):
        found.setdefault(run["run_id"], []).append(run.get("point", {}))
    return found


def _row(record: RunRecord, points: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"run_id": record.run_id, "arm": record.arm, "seed": record.seed, "status": record.status}
    row |= record.sizes
    row["N_definition"] = N_MEANS
    row |= setting(record)
    row |= {k: v for k, v in record.metrics.items() if k not in row}
    for group in ("flops", "seconds", "bytes", "artifacts"):
        row |= {f"{group}.{k}": v for k, v in getattr(record, group).items()}
    row |= {f"config.{k}": v for k, v in _flat(record.config)}
    for axis in dict.fromkeys(a for point in points for a in point):
        values = {str(point.get(axis)) for point in points}
        if axis not in row:
            row[axis] = points[0].get(axis) if len(values) == 1 else None
    row |= {k: getattr(record, k) for k in ("nulls", "notes", "error", "commit", "command", "created")}
    return row


def setting(record: RunRecord) -> dict[str, Any]:
    """What the trained model was asked with: ``index`` (its kind), ``growth`` and ``whole_corpus``.

    The evaluation's own value counts, else the training's. An arm that searches nothing has no index; one that
    reads nothing has no growth. The whole corpus is the same under either growth.
    """
    config, asked = record.config, record.config.get("evaluation") or {}
    index = (asked.get("index") or config.get("index") or {}).get("kind")
    corpus = config.get("corpus") or {}
    size = asked.get("corpus_size") if asked.get("corpus_size") is not None else corpus.get("size")
    return {
        "index": None if record.arm in _SEARCHLESS else index,
        "growth": None if record.arm == "closed_book" else asked.get("growth") or corpus.get("growth"),
        "whole_corpus": record.arm != "closed_book" and size is None,
    }


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [pair for k, v in value.items() for pair in _flat(v, f"{prefix}.{k}" if prefix else str(k))]
    if isinstance(value, (list, tuple, dict)):
        return [(prefix, json.dumps(value))]
    return [(prefix, value)]


def _series(values: list[Any]) -> pd.Series:
    import pandas as pd

    known = [v for v in values if v is not None]
    if known and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in known):
        whole = len(known) == len(values) and all(isinstance(v, int) for v in known)
        return pd.Series(values, dtype="int64" if whole else "float64")
    return pd.Series(values, dtype=object)
