"""Runs that a study could add: on which axes of its laws new values are to be had, and what each run costs.

A study's runs stand on axes: N by the generator's dial, D by the length of training, M by the size of the corpus, K by
how many passages are read. New values are the other sizes of the dial, and on the axes without a dial what goes on with
the study's own levels. A candidate has a new value on one of D, M and K at most: the forms are sums over axes, so that
a cross of new values tells them as much as their product does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rag_exp import config as configs
from rag_exp.builders.parents import SHARD_ROWS
from rag_exp.core.errors import ConfigError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.store import Step, Store
from rag_exp.dry import reading_bound
from rag_exp.laws.suggestion import LAST_TURN, Offer, new_levels
from rag_exp.run import RunFolder
from rag_exp.settings import known_size
from rag_exp.steps import RunSteps, plan_run
from rag_exp.study import Point, Study

if TYPE_CHECKING:
    import pandas as pd

    from rag_exp.laws.costs import Costs

NOT_A_RUN = ("study", "law")
STAGES = {"reader_warmup": "flops.reader_warmup", "checkpoint": "flops.marginal"}
SEED = "seed"
AXIS_KEYS = {
    "N": ("generator.size",),
    "D": ("training.steps", "training.warmup.steps"),
    "M": ("evaluation.corpus_size", "corpus.size"),
    "K": ("evaluation.k", "retrieval.k"),
}
"""What sets an axis: the first of these that the study varies, else the first (of M and K it trains nothing anew)."""


@dataclass(frozen=True)
class Dial:
    """An axis, as a study's configuration sets it.

    Attributes:
        key: what sets it.
        levels: its values so far and their numbers, as finished runs measured them. None: the key is not set.
        new: values to add and their numbers (of D, steps).
        lacking: how many more levels the law needs before it can be fitted; the first of ``new`` are for that.
    """

    axis: str
    key: str
    levels: Mapping[str | None, float]
    new: Mapping[str, float]
    lacking: int

    @property
    def needed(self) -> list[str]:
        return list(self.new)[: self.lacking]


@dataclass(frozen=True)
class Family:
    """Finished runs that differ in seed and in what the law's axes are set by, and in nothing else that matters to it.

    Attributes:
        fixed: the overrides that all have.
        others: the axes of their grid that set no axis of the law, and the values there.
        dials: by axis.
        rows: of the study's table, the family's.
    """

    fixed: tuple[str, ...]
    others: dict[str, list[str]]
    dials: dict[str, Dial]
    points: list[Point]
    rows: pd.DataFrame


@dataclass(frozen=True)
class Candidate:
    """A run that the study does not have.

    Attributes:
        overrides: what makes it.
        trained: the key of the training it asks; empty where nothing is trained.
        axes: its N, D, M and K, as far as they are known before it is run.
        offer: what it costs.
    """

    overrides: tuple[str, ...]
    trained: str
    axes: dict[str, float]
    offer: Offer


def family(plan: Study, rows: pd.DataFrame, fitted: Sequence[str], needs: Mapping[str, int]) -> Family:
    """The runs that a law is of, and new values on its axes.

    Args:
        rows: finished runs of one arm, with N and M.
        fitted: ids of the runs that the law is fitted to.
        needs: levels that the law must have, per axis that it has. An axis that it lacks gets new values where the
            study varies it.
    """
    measured = {run: row for run, row in zip(rows["run_id"], rows.to_dict("records"), strict=True)}
    groups: dict[Any, list[Point]] = {}
    for p in (p for p in plan.points if p.run_id in measured):
        rest = tuple(o for o in p.overrides if key_of(o) not in p.axes and key_of(o).partition(".")[0] not in NOT_A_RUN)
        groups.setdefault((rest, tuple(p.axes)), []).append(p)
    (fixed, keys), points = max(groups.items(), key=lambda g: sum(p.run_id in fitted for p in g[1]))
    set_by = {axis: next((k for k in known if k in keys), known[0]) for axis, known in AXIS_KEYS.items()}
    others: dict[str, list[str]] = {
        key: list(dict.fromkeys(p.axes[key] for p in points if key == SEED or p.run_id in fitted))
        for key in keys
        if key not in set_by.values()
    }
    points = [p for p in points if all(p.axes[key] in values for key, values in others.items())]
    dials = {}
    for axis, key in set_by.items():
        levels: dict[str | None, float] = {}
        for p in points:
            levels.setdefault(p.axes.get(key), float(measured[p.run_id][axis]))
        lacking = max(0, needs.get(axis, 0) - len(set(levels.values())))
        new = _new_values(axis, key, points, levels, lacking, rows) if axis in needs or len(levels) > 1 else {}
        dials[axis] = Dial(axis, key, levels, new, lacking)
    return Family(fixed, others, dials, points, rows[rows["run_id"].isin({p.run_id for p in points})])


def candidates(plan: Study, known: Family, costs: Costs, budget: float, user: Path | None) -> Iterator[Candidate]:
    """The valid runs that the study lacks, over the family's values and the new ones.

    Args:
        budget: new sizes of the generator whose training alone costs more are passed over.
    """
    store = Store(known.points[0].config.paths.store)
    digests = ContentDigests(store.root / "digests.json")
    again = max(p.config.seed for p in known.points) + 1
    seen = {p.run_id for p in plan.points if RunFolder(plan.root, p.run_id).record.is_file()}
    pricing = _Pricing(costs, store, known)
    with configs.composing():
        for overrides, asked, turn in _combinations(known, costs, budget):
            planned = _planned(overrides, digests, user)
            if planned is not None and planned[1].run_id in seen:
                overrides = [o for o in overrides if key_of(o) != SEED] + [f"{SEED}={again}"]
                planned = _planned(overrides, digests, user)
            if planned is None or planned[1].run_id in seen:
                continue
            config, steps = planned
            seen.add(steps.run_id)
            axes = {**asked, "K": float(steps.asked.k), "D": pricing.tokens(config, steps)}
            yield Candidate(tuple(overrides), _trained(steps), axes, pricing.offer(config, steps, axes, turn))


def key_of(override: str) -> str:
    """``generator.size`` of ``generator.size=s0``."""
    return override.lstrip("+").split("=", 1)[0]


def _planned(
    overrides: list[str], digests: ContentDigests, user: Path | None
) -> tuple[configs.RunConfig, RunSteps] | None:
    """What the overrides mean; None where the study's other settings do not allow them."""
    try:
        config = configs.compose(overrides, user).run
        return config, plan_run(config, digests)
    except ConfigError:
        return None


def _combinations(known: Family, costs: Costs, budget: float) -> Iterator[tuple[list[str], dict[str, float], int]]:
    """Overrides, the N and M that they set, and in which turn they are offered."""
    dials = list(known.dials.values())
    for values in itertools.product(*([*d.levels, *d.new] for d in dials)):
        new = {d.axis: v for d, v in zip(dials, values, strict=True) if v in d.new}
        number = {d.axis: {**d.levels, **d.new}[v] for d, v in zip(dials, values, strict=True)}
        if len(new.keys() - {"N"}) > 1:
            continue
        if "N" in new and costs.parts(number["N"], costs.tokens or 0.0, 0.0, 0.0)["training"] > budget:
            continue
        turn = LAST_TURN
        if known.dials["N"].lacking and "N" in new:
            turn = 1
        elif "N" not in new and any(v in known.dials[axis].needed for axis, v in new.items()):
            turn = 0  # of models that there are
        own = {d.key: v for d, v in zip(dials, values, strict=True) if v is not None}
        fixed = [o for o in known.fixed if key_of(o) not in own]
        for rest in itertools.product(*known.others.values()):
            setting = {**dict(zip(known.others, rest, strict=True)), **own}
            yield [*fixed, *(f"{k}={v}" for k, v in setting.items())], {a: number[a] for a in ("N", "M")}, turn


def _new_values(
    axis: str, key: str, points: Sequence[Point], levels: Mapping[str | None, float], lacking: int, rows: pd.DataFrame
) -> dict[str, float]:
    """Values to add to an axis and their numbers; those that it lacks first."""
    first = points[0]
    if axis == "N":
        return _sizes(first.config.generator, key, levels)
    if axis == "M":
        if first.steps.asked.source not in ("index", "random"):
            return {}
        whole = _whole(first, rows)
        everything = "null" if key == "corpus.size" or first.steps.train.size is None else str(whole)
        found = new_levels(list(levels.values()), lacking, most=whole or max(levels.values()))
        return {everything if m == whole else str(m): float(m) for m in found}
    if axis == "K":
        if first.steps.asked.hop2 is not None:
            return {}
        return {str(k): float(k) for k in new_levels(list(levels.values()), lacking, most=_most_read(first))}
    asked = [int(v) for v in levels if v is not None] or [_steps(first, key)]
    return {str(n): float(n) for n in new_levels([v for v in asked if v > 0], lacking)} if any(asked) else {}


def _sizes(generator: Any, key: str, levels: Mapping[str | None, float]) -> dict[str, float]:
    """The sizes of the generator's dial that are not among its levels."""
    name = key.rpartition(".")[2]
    dial = type(generator).model_fields.get(name)
    sizes = [] if dial is None else [str(s) for s in get_args(dial.annotation)]
    numbers = {s: float(generator.model_copy(update={name: s}).non_embedding() or 0) for s in sizes}
    return {s: n for s, n in numbers.items() if s not in levels and n not in levels.values() and n}


def _steps(point: Point, key: str) -> int:
    return point.config.training.steps if key == "training.steps" else point.config.training.warmup.steps


def _whole(point: Point, rows: pd.DataFrame) -> int | None:
    """Passages of the whole corpus; None where neither a run, nor the store, nor the source tells."""
    everything = rows[rows["whole_corpus"].astype(bool)] if "whole_corpus" in rows else rows[:0]
    if point.steps.train.size is None and len(everything):
        return int(everything["M"].max())
    made = Store(point.config.paths.store).info(point.steps.roles["passages"])
    return int(made.stats["passages"]) if made is not None else known_size(point.config)


def _most_read(point: Point) -> float | None:
    """Passages that fit into one prompt; None where each has its own, or their length is not known."""
    config, manifests = point.config, point.steps.manifests
    if config.objective.in_one_prompt(2) < 2 or "asked" not in manifests:
        return None
    made = Store(config.paths.store).info(manifests["asked"])
    if made is None:
        return None
    each = (made.stats["tokens"] or made.stats["words"]) / made.stats["passages"]  # a word has a token or more
    return config.generator.context_length() / each


class _Pricing:
    """What a run costs beside what is in the store, by constants that the family's runs measured."""

    def __init__(self, costs: Costs, store: Store, known: Family):
        self.costs, self.store = costs, store
        self.whole = _whole(known.points[0], known.rows)
        rows = known.rows.set_index("run_id")
        shares: dict[str, list[float]] = {}
        for p in known.points:
            bounds = _bounds(p.config, p.steps)
            spent = {role: float(rows[STAGES[role]][p.run_id]) for role in bounds}
            for role, bound in bounds.items():  # tokens go by operations: a token costs much the same in either stage
                tokens = float(rows["D"][p.run_id]) * spent[role] / sum(spent.values())
                shares.setdefault(role, []).append(tokens / bound)
        self.filled = {role: sorted(found)[len(found) // 2] for role, found in shares.items()}

    def tokens(self, config: configs.RunConfig, steps: RunSteps) -> float:
        """Tokens that training reads: as many of the most that it could as in the runs that there are."""
        return sum(self._tokens(config, steps).values())

    def _tokens(self, config: configs.RunConfig, steps: RunSteps) -> dict[str, float]:
        return {role: self.filled.get(role, 1.0) * bound for role, bound in _bounds(config, steps).items()}

    def offer(self, config: configs.RunConfig, steps: RunSteps, axes: Mapping[str, float], turn: int) -> Offer:
        """Its trainings, encoder, vectors, index and search may be another's too, or be there already."""
        costs, M = self.costs, axes["M"]
        parts = costs.parts(**axes)
        trained = steps.roles.get("checkpoint")
        trains = trained is not None and not self.store.has(trained)
        made = [
            (steps.roles[role], (costs.train_token + costs.train * axes["N"]) * tokens)
            for role, tokens in self._tokens(config, steps).items()
            if trains or trained in (None, steps.roles[role])
        ]
        if "topk" in steps.roles:
            made.append((steps.roles["topk"], parts["search"]))
        if trains or not ("topk" in steps.roles and self.store.has(steps.roles["topk"])):
            stages = (("encoder", costs.fixed), ("index", costs.build * M))
            made += [(steps.roles[role], flops) for role, flops in stages if role in steps.roles]
            made += self._vectors(steps, M, trains)
        shared = {step.key: flops for step, flops in made if flops and not self.store.has(step)}
        own = parts["reading"] + (0.0 if "topk" in steps.roles else parts["search"])
        return Offer(sum(parts.values()), own, shared, turn)

    def _vectors(self, steps: RunSteps, M: float, trains: bool) -> list[tuple[Step, float]]:
        """What embedding costs, by shard: a whole one is embedded, whatever is read of it."""
        if steps.embeddings is None:
            return []
        whole = self.whole or M
        most = max(M, steps.train.size or whole) if trains and "train_index" in steps.roles else M
        sizes = [min(SHARD_ROWS, whole - first) for first in range(0, int(most), SHARD_ROWS)]
        return [(steps.embeddings(i), self.costs.embed * size) for i, size in enumerate(sizes)]


def _bounds(config: configs.RunConfig, steps: RunSteps) -> dict[str, int]:
    """The most tokens that each stage of training can read, by its role."""
    training = config.training
    stages = {
        "reader_warmup": (training.warmup.steps * training.warmup.batch_size, min(steps.train.prompts, 1)),
        "checkpoint": (training.steps * training.batch_size, steps.train.prompts),
    }
    return {r: reading_bound(config, *stages[r]).tokens for r in STAGES if r in steps.roles}


def _trained(steps: RunSteps) -> str:
    return next((steps.roles[r].key for r in reversed(STAGES) if r in steps.roles), "")
