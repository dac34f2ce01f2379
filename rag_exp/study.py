"""A study: a named set of runs. Expanding it, running it, its status, its folder.

A study is a preset (``configs/study/NAME.yaml``)::

    name: scaling
    description: one sentence
    metric: nll                    # the primary metric
    base: [experiment=nq_gold]     # overrides that every run gets
    grids:                         # the plan is the union of these
      - generator.size: [s0, s1, s2]
        evaluation.corpus_size: [1000, 10000, null]
      - retrieval: closed_book
        generator.size: [s0, s1, s2]
    plan: {memory: 64e9}           # what rag-exp plan reckons with, unless told otherwise

Overrides on the command line apply to every run; one that names an axis takes that axis' place.
Running, ``status``, ``fit`` and ``report`` expand a study in the same way. Two points with one run id
are one run.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_exp import config as configs
from rag_exp.analysis.fits import law_options
from rag_exp.core.atomic import write_json
from rag_exp.core.errors import ConfigError, DataError, RagExpError, did_you_mean
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.record import RunRecord, read_record
from rag_exp.evaluation.metrics import METRICS
from rag_exp.evaluation.ranking import RANKING
from rag_exp.measuring import BESIDE, SEARCHED
from rag_exp.run import PLAN, RunFolder
from rag_exp.steps import RunSteps, plan_run

KEYS = {"name", "description", "metric", "base", "grids", "forms", "plan"}


@dataclass(frozen=True)
class Point:
    """One run of a study: its overrides, where it stands on the axes, and what it resolves to."""

    overrides: tuple[str, ...]
    axes: dict[str, str]
    composed: configs.Composed
    steps: RunSteps

    @property
    def config(self) -> configs.RunConfig:
        return self.composed.run

    @property
    def run_id(self) -> str:
        return self.steps.run_id


@dataclass(frozen=True)
class Grid:
    """One product of axes, as it is handed to Hydra."""

    fixed: tuple[str, ...]
    axes: dict[str, list[str]]
    run_ids: tuple[str, ...]

    def overrides(self) -> list[str]:
        return [*self.fixed, *(f"{key}={','.join(values)}" for key, values in self.axes.items())]


@dataclass(frozen=True)
class Study:
    """An expanded and validated study (or an unnamed sweep).

    Attributes:
        costs: what ``rag-exp plan`` reckons with.
        base: overrides that the study gives every run.
        overrides: those of the command line, the study's name among them.
    """

    name: str
    description: str
    metric: str
    forms: dict[str, Any]
    law: dict[str, Any]
    costs: dict[str, Any]
    grids: tuple[Grid, ...]
    points: tuple[Point, ...]
    launcher: tuple[str, ...] = ()
    base: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    root: Path = field(default=Path("outputs"))

    @property
    def folder(self) -> Path:
        """Where the study's table, fits and report are written."""
        return self.root / "studies" / self.name


def expand(overrides: Sequence[str], user: Path | None = None) -> Study:
    """Expand and validate every point of the study that ``overrides`` name (or of the sweep they are).

    Raises:
        ConfigError: with the problems of all points together, each said once.
    """
    launcher = tuple(o for o in overrides if o.lstrip("+").startswith("hydra"))
    overrides = [o for o in overrides if o not in launcher]
    plain, axes = configs.sweep_axes(overrides)
    with configs.composing():
        chosen = [o for o in plain if o.lstrip("+").startswith(("study=", "study."))]
        others = [o for o in plain if o not in chosen]
        if chosen:
            spec = _spec(chosen, user)
        else:
            spec = {"name": "sweep", "grids": [{}]}
        grids, points = _points(spec, others, axes, user)
    _refuse_inert_axes(grids, points)
    laws = [o for o in [*(spec.get("base") or []), *others] if o.lstrip("+").startswith(("law=", "law."))]
    law = configs.compose(laws, user).law or {}
    law_options(law, spec.get("forms") or {})  # what is wrong with it is said before the runs
    unique = {p.run_id: p for grid in points for p in grid}
    return Study(
        name=spec["name"],
        description=spec.get("description") or "",
        metric=spec.get("metric") or "nll",
        forms=spec.get("forms") or {},
        law=law,
        costs=spec.get("plan") or {},
        grids=tuple(grids),
        points=tuple(unique.values()),
        launcher=launcher,
        base=tuple(spec.get("base") or []),
        overrides=tuple(overrides),
        root=next(iter(unique.values())).config.paths.root,
    )


def _spec(chosen: Sequence[str], user: Path | None) -> dict[str, Any]:
    spec = configs.compose(chosen, user).study
    if spec is None:
        raise ConfigError(
            f"{chosen[-1]}: no study is chosen. Known: {', '.join(configs.group_options('study', user))}."
        )
    problems = [f"study.{key}: unknown key. Known: {', '.join(sorted(KEYS))}." for key in sorted(set(spec) - KEYS)]
    if not spec.get("name"):
        problems.append("study.name: missing; a study's results are kept under its name.")
    grids = spec.get("grids")
    if not isinstance(grids, list) or not grids or not all(isinstance(g, dict) for g in grids):
        problems.append("study.grids: must be a list of mappings from a config key to its values.")
    if not isinstance(spec.get("plan") or {}, dict):
        problems.append("study.plan: must be a mapping, such as {memory: 64e9}.")
    metric, known = spec.get("metric") or "nll", METRICS | RANKING | SEARCHED | BESIDE
    if metric not in known:
        problems.append(f"study.metric: {metric!r} is no metric.{did_you_mean(metric, known)}")
    if problems:
        raise ConfigError(problems)
    return spec


def _points(
    spec: dict[str, Any], plain: list[str], axes: dict[str, list[str]], user: Path | None
) -> tuple[list[Grid], list[list[Point]]]:
    """Every grid with its points. User overrides come last, or take the place of the axis they name."""
    problems: dict[str, str] = {}
    named = {o.lstrip("+").split("=", 1)[0] for o in plain}
    grids, points = [], []
    digests: ContentDigests | None = None
    for spec_grid in spec["grids"]:
        fixed = list(spec.get("base") or [])
        own: dict[str, list[str]] = {}
        for key, value in spec_grid.items():
            if isinstance(value, list):
                own[key] = [configs.quoted(v) for v in value]
            else:
                fixed.append(f"{key}={configs.quoted(value)}")
        own = {key: values for key, values in own.items() if key not in named} | axes
        fixed += plain
        grid_points = []
        for values in itertools.product(*own.values()):
            where = dict(zip(own, values, strict=True))
            full = [*fixed, *(f"{key}={value}" for key, value in where.items())]
            try:
                composed = configs.compose(full, user)
                if digests is None:
                    digests = ContentDigests(composed.run.paths.store / "digests.json")
                steps = plan_run(composed.run, digests)
            except ConfigError as e:
                for problem in e.problems:
                    problems.setdefault(problem, " ".join(full))
                continue
            except RagExpError as e:
                problems.setdefault(str(e), " ".join(full))
                continue
            grid_points.append(Point(tuple(full), where, composed, steps))
        grids.append(Grid(tuple(fixed), own, tuple(p.run_id for p in grid_points)))
        points.append(grid_points)
    if problems:
        single = len(grids) == 1 and not grids[0].axes
        raise ConfigError([p if single else f"{p} (in: {where})" for p, where in problems.items()])
    return grids, points


def _refuse_inert_axes(grids: Sequence[Grid], points: Sequence[Sequence[Point]]) -> None:
    """An axis whose values give the same runs everywhere in the study is a mistake in the study."""
    alive: dict[str, bool] = {}
    for grid, members in zip(grids, points, strict=True):
        for axis, values in grid.axes.items():
            if len(set(values)) < 2:
                continue
            others: dict[tuple[str, ...], set[str]] = {}
            for point in members:
                others.setdefault(tuple(v for k, v in point.axes.items() if k != axis), set()).add(point.run_id)
            alive[axis] = alive.get(axis, False) or any(len(ids) > 1 for ids in others.values())
    inert = [axis for axis, moves in alive.items() if not moves]
    if inert:
        raise ConfigError([f"{axis}: changes no run of this study; take it out of the grid." for axis in inert])


def run_study(study: Study, task: Callable[[Any], Any], user: Path | None, command: str) -> list[RunRecord | None]:
    """Run what is missing, grid by grid, each grid as one Hydra multirun; write the study's folder.

    Returns:
        the record of every point, in the plan's order; None where a run left none.
    """
    if study.name != "sweep":
        write_plan(study, command)
        os.environ[PLAN] = str((study.folder / "plan.json").resolve())
    for grid in study.grids:
        if any(_record(study.root, run_id) is None or _failed(study.root, run_id) for run_id in grid.run_ids):
            configs.job(task, [*grid.overrides(), *study.launcher], user, multirun=bool(grid.axes))
    if study.name != "sweep":
        write_plan(study, command)
    return [_record(study.root, p.run_id) for p in study.points]


def _record(root: Path, run_id: str) -> RunRecord | None:
    file = RunFolder(root, run_id).record
    return read_record(file) if file.is_file() else None


def _failed(root: Path, run_id: str) -> bool:
    record = _record(root, run_id)
    return record is not None and record.status == "failed"


def records_of(study: Study) -> list[RunRecord]:
    """The records of the study's finished runs.

    Raises:
        DataError: none is finished.
    """
    found = [r for p in study.points if (r := _record(study.root, p.run_id)) is not None and r.status == "finished"]
    if not found:
        raise DataError(f"No run of study {study.name} is finished. Run it first: rag-exp run -m study={study.name}")
    return found


def last_overrides(overrides: Sequence[str], user: Path | None) -> list[str]:
    """The overrides that the named study was last run with, where only its name is given; else ``overrides``.

    A study that was run with ``seed=0,1`` is fitted and reported with both seeds, without saying so again.
    """
    if len(overrides) != 1:
        return list(overrides)
    composed = configs.compose(overrides, user)
    name = (composed.study or {}).get("name")
    file = composed.run.paths.root / "studies" / str(name) / "plan.json"
    if not file.is_file():
        return list(overrides)
    known: list[str] = json.loads(file.read_text(encoding="utf-8")).get("overrides") or []
    return known if overrides[0] in known else list(overrides)


def write_plan(study: Study, command: str) -> None:
    """Write ``plan.json`` and a copy of every finished record into the study's folder, which then stands for itself."""
    folder = study.folder
    records = folder / "records"
    commit = None
    for point in study.points:
        source = RunFolder(study.root, point.run_id).record
        if source.is_file():
            records.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, records / f"{point.run_id}.json")
            commit = read_record(source).commit or commit
    planned = {p.run_id for p in study.points}
    for stale in records.glob("*.json"):
        if stale.stem not in planned:
            stale.unlink()
    known: dict[str, Any] = {}
    if (folder / "plan.json").is_file():
        known = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    write_json(
        folder / "plan.json",
        {
            "study": study.name,
            "metric": study.metric,
            "description": study.description,
            "command": command or known.get("command"),
            "commit": commit,
            "overrides": list(study.overrides),
            "runs": [{"run_id": p.run_id, "overrides": list(p.overrides), "point": p.axes} for p in study.points],
        },
    )


def status(study: Study) -> list[tuple[Point, str, str]]:
    """For every point: ``done``, ``running``, ``failed`` (with the error's last line) or ``missing``."""
    rows = []
    for point in study.points:
        folder = RunFolder(study.root, point.run_id)
        record = _record(study.root, point.run_id)
        if folder.is_running():
            rows.append((point, "running", ""))
        elif record is None:
            rows.append((point, "missing", ""))
        elif record.status == "failed":
            rows.append((point, "failed", (record.error or "").strip().splitlines()[-1] if record.error else ""))
        else:
            rows.append((point, "done", ""))
    return rows
