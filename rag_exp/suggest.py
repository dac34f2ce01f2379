"""``rag-exp suggest``: the runs to add to a study within a budget, as commands to paste."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pydantic import Field, ValidationError

from rag_exp import config as configs
from rag_exp.analysis.fits import current_fits, law_options
from rag_exp.analysis.tables import finished, load_study
from rag_exp.core.errors import ConfigError, DataError, LawError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.options import Options
from rag_exp.core.record import RunRecord
from rag_exp.laws.suggestion import LEAST, PARTS, Offer
from rag_exp.run import RunFolder
from rag_exp.steps import RunSteps, plan_run
from rag_exp.study import Point, Study

if TYPE_CHECKING:
    import pandas as pd

    from rag_exp.laws.card import LawFit
    from rag_exp.laws.costs import Costs

NOT_A_RUN = ("study", "law")
SEED, DIAL = "seed", "generator.size"


class SuggestOptions(Options):
    """What ``rag-exp suggest`` is asked, beside the study."""

    budget: float = Field(gt=0, description="FLOPs in all")
    parts: int = Field(PARTS, ge=1, description="no run costs more than one of so many parts of it")


KEYS = tuple(SuggestOptions.model_fields)


def suggest_options(words: Sequence[str]) -> SuggestOptions:
    """The options from ``budget=1e15 parts=2``.

    Raises:
        ConfigError: no budget, or a bad value.
    """
    plain = dict(word.split("=", 1) for word in words)
    try:
        return SuggestOptions.model_validate(plain)
    except ValidationError as e:
        found = [(".".join(str(p) for p in x["loc"]), x["msg"]) for x in e.errors()]
        raise ConfigError([f"{where}: {what}. Write budget=FLOPs, say budget=1e15." for where, what in found]) from e


@dataclass(frozen=True)
class Candidate:
    """A run that the study does not have.

    Attributes:
        overrides: what makes it.
        axes: its N, D, M and K, as its record would have them.
        trained: the key of the training it asks.
        offer: what it costs.
    """

    overrides: tuple[str, ...]
    trained: str
    axes: dict[str, float]
    offer: Offer


def suggest_runs(
    plan: Study, records: Sequence[RunRecord], options: SuggestOptions, user: Path | None
) -> Iterator[str]:
    """The runs to add, line by line: a command each, what it costs, and what the law expects of it.

    Candidates are the model sizes of the generator's dial, over the corpus sizes and passages read that the study has,
    and another seed of what there is. A training that some run has already costs nothing.

    Raises:
        DataError: no finished run tells costs.
    """
    from rag_exp.laws.costs import costs_of_records
    from rag_exp.laws.suggestion import largest_affordable

    table = load_study(plan.folder)
    fits = current_fits(plan, records, table, law_options(plan.law, plan.forms))
    joint = fits.joint()
    rows = finished(table, fits.metric)
    rows = rows[rows["run_id"].isin(joint.run_ids)] if joint else rows[(rows["arm"] == fits.arm) & rows["M"].notna()]
    if not len(rows):
        raise DataError(f"No finished run of arm {fits.arm} tells what a run costs. Run the study first.")
    costs = costs_of_records(rows, queries=float(rows["questions"].median()))
    there = {str(key) for record in records for key in record.artifacts.values()}
    found = list(candidates(plan, rows, costs, there, options.budget, user))
    if not found:
        yield f"nothing: no run that the study lacks can be trained for {options.budget:.3g} FLOPs"
        return
    taken = largest_affordable([c.offer for c in found], options.budget, options.parts)
    if not taken:
        least = min(c.offer.price(set()) for c in found)
        yield (
            f"nothing: the cheapest run costs {least:.3g} FLOPs to add, and one smaller than {LEAST:.0%} of the budget "
            "tells too little"
        )
        return
    law = joint.law if joint else None
    cap = "" if options.parts == 1 else f", none above {options.budget / options.parts:.3g}"
    yield f"{len(taken)} runs within {options.budget:.3g} FLOPs{cap}, the largest first:"
    for group in _by_training([(found[i], price) for i, price in taken]):
        yield f"  {_command([c.overrides for c, _ in group])}"
        for candidate, price in group:
            yield f"      {_said(candidate, price, law, fits.metric)}"
    yield f"together {sum(price for _, price in taken):.3g} FLOPs; they enter the study's fit once its grids name them"
    if law is None:
        yield "no law in N and M stands yet, so that nothing is expected of them"


def candidates(
    plan: Study, rows: pd.DataFrame, costs: Costs, there: set[str], budget: float, user: Path | None
) -> Iterator[Candidate]:
    """The valid runs that the study lacks, on the axes of the runs in ``rows``.

    Args:
        there: keys of artifacts that finished runs stand on: they are paid for.
        budget: FLOPs; sizes of the dial whose training alone costs more are passed over.
    """
    M_of = dict(zip(rows["run_id"], rows["M"].astype(float), strict=True))
    points = [p for p in plan.points if p.run_id in M_of]
    sizes = {p.steps.asked.size: M_of[p.run_id] for p in points}
    digests = ContentDigests(plan.points[0].config.paths.store / "digests.json")
    again = max(p.config.seed for p in points) + 1
    seen = {p.run_id for p in plan.points if RunFolder(plan.root, p.run_id).record.is_file()} | set(M_of)
    with configs.composing():
        for overrides in _combinations(points, costs, budget):
            planned = _planned(overrides, digests, user)
            if planned is not None and planned[1].run_id in seen:
                overrides = [o for o in overrides if _key(o) != SEED] + [f"{SEED}={again}"]
                planned = _planned(overrides, digests, user)
            if planned is None or planned[1].run_id in seen:
                continue
            config, steps = planned
            seen.add(steps.run_id)
            N, M = config.generator.non_embedding(), sizes.get(steps.asked.size)
            if N is not None and M is not None:
                axes = {"N": float(N), "D": float(costs.tokens or 0.0), "M": M, "K": float(steps.asked.k)}
                yield Candidate(tuple(overrides), _trained(steps), axes, _offer(costs, axes, steps, there))


def _planned(
    overrides: list[str], digests: ContentDigests, user: Path | None
) -> tuple[configs.RunConfig, RunSteps] | None:
    """What the overrides mean; None where the study's other settings do not allow them."""
    try:
        config = configs.compose(overrides, user).run
        return config, plan_run(config, digests)
    except ConfigError:
        return None


def _combinations(points: Sequence[Point], costs: Costs, budget: float) -> Iterator[list[str]]:
    """Overrides of every combination of the points' axes, and of what of the generator's dial the budget can train."""
    alike: dict[tuple[str, ...], list[Point]] = {}
    for p in points:
        rest = tuple(o for o in p.overrides if _key(o) not in p.axes and _key(o).partition(".")[0] not in NOT_A_RUN)
        alike.setdefault(rest, []).append(p)
    fixed, members = max(alike.items(), key=lambda group: len(group[1]))
    values = {key: list(dict.fromkeys(p.axes[key] for p in members)) for key in members[0].axes}
    generator = members[0].config.generator
    dial = type(generator).model_fields.get("size")
    if dial is not None and DIAL in values:
        for size in map(str, get_args(dial.annotation)):
            N = generator.model_copy(update={"size": size}).non_embedding() or 0
            if size not in values[DIAL] and costs.parts(N, costs.tokens or 0.0, 0.0, 0.0)["training"] <= budget:
                values[DIAL].append(size)
    for combination in itertools.product(*values.values()):
        yield [*fixed, *(f"{key}={value}" for key, value in zip(values, combination, strict=True))]


def _by_training(taken: Sequence[tuple[Candidate, float]]) -> list[list[tuple[Candidate, float]]]:
    """The runs that ask one trained model, together."""
    groups: dict[str, list[tuple[Candidate, float]]] = {}
    for candidate, price in taken:
        groups.setdefault(candidate.trained, []).append((candidate, price))
    return list(groups.values())


def _command(runs: Sequence[tuple[str, ...]]) -> str:
    """One command for runs whose overrides have the same keys: a sweep over those that differ."""
    values: dict[str, list[str]] = {}
    for override in itertools.chain(*runs):
        key, _, value = override.partition("=")
        if value not in values.setdefault(key, []):
            values[key].append(value)
    sweep = ["-m"] if any(len(v) > 1 for v in values.values()) else []
    return shlex.join(["rag-exp", "run", *sweep, *(f"{key}={','.join(v)}" for key, v in values.items())])


def _key(override: str) -> str:
    return override.lstrip("+").split("=", 1)[0]


def _offer(costs: Costs, axes: dict[str, float], steps: RunSteps, there: set[str]) -> Offer:
    """What the run costs: its training, its encoder and its index may be another's too, or be there already."""
    parts = costs.parts(**axes)
    of = {_trained(steps): parts["training"] - costs.fixed}
    of |= {steps.roles[r].key: v for r, v in (("encoder", costs.fixed), ("index", parts["corpus"])) if r in steps.roles}
    shared = {key: flops for key, flops in of.items() if key not in there}
    return Offer(sum(parts.values()), parts["search"] + parts["reading"], shared)


def _trained(steps: RunSteps) -> str:
    """The key of the run's training; empty where nothing is trained."""
    return next((steps.roles[r].key for r in ("checkpoint", "reader_warmup") if r in steps.roles), "")


def _said(candidate: Candidate, price: float, law: LawFit | None, metric: str) -> str:
    """Its sizes, what it adds to the bill, and what the law expects of it."""
    axes = candidate.axes
    text = f"N {axes['N']:,.0f}, M {axes['M']:,.0f}, K {axes['K']:g}: {price:.3g} FLOPs"
    if law is None:
        return text
    at = {a: [axes[a]] for a in law.form.variables}
    try:
        said = law.predict(at, interval=law.level)
        text += f"; the law expects {metric} {said.value_n[0]:.4g} [{said.low_n[0]:.4g}, {said.high_n[0]:.4g}]"
    except LawError:
        text += f"; the law expects {metric} {law.predict(at)[0]:.4g}"
    far = [f"{abs(d[0]):.2g} decades beyond the data on {a}" for a, d in law.distance(at).items() if d[0]]
    return text + (f", {' and '.join(far)}" if far else "")
