"""``rag-exp suggest``: the runs to add to a study within a budget, as commands to paste."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from rag_exp import config as configs
from rag_exp.analysis.conditions import LENGTHS
from rag_exp.analysis.fits import current_fits, law_options
from rag_exp.analysis.study_fitting import MIN_LEVELS
from rag_exp.analysis.tables import finished, load_study
from rag_exp.candidates import AXIS_KEYS, SEED, Candidate, Dial, Family, candidates, family, key_of
from rag_exp.core.errors import ConfigError, DataError, LawError
from rag_exp.core.options import Options
from rag_exp.core.record import RunRecord
from rag_exp.laws.suggestion import LAST_TURN, LEAST, PARTS, largest_affordable
from rag_exp.planning import time_in_words
from rag_exp.study import Study

if TYPE_CHECKING:
    import pandas as pd

    from rag_exp.analysis.study_fits import StudyFit, StudyFits
    from rag_exp.laws.options import LawOptions
    from rag_exp.laws.surface import Surface


_SECONDS = {"s": 1.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
_TIME = re.compile(rf"(\d+(?:\.\d+)?)({'|'.join(_SECONDS)})")


class SuggestOptions(Options):
    """What ``rag-exp suggest`` is asked, beside the study."""

    budget: float = Field(gt=0, description="FLOPs in all; as 90min, 2h or 3d the time of one run after another")
    parts: int = Field(PARTS, ge=1, description="no run costs more than one of so many parts of it")
    timed: bool = Field(False, description="whether the budget is in seconds, as the study's own runs took")

    def said(self, amount: float) -> str:
        """An amount of what the budget is of."""
        return time_in_words(amount) if self.timed else f"{amount:.3g} FLOPs"


KEYS = ("budget", "parts")


def suggest_options(words: Sequence[str]) -> SuggestOptions:
    """The options from ``budget=1e15 parts=2``, or ``budget=2h``.

    Raises:
        ConfigError: no budget, or a bad value.
    """
    plain: dict[str, Any] = dict(word.split("=", 1) for word in words)
    if timed := _TIME.fullmatch(plain.get("budget", "")):
        plain |= {"budget": float(timed[1]) * _SECONDS[timed[2]], "timed": True}
    try:
        return SuggestOptions.model_validate(plain)
    except ValidationError as e:
        found = [(".".join(str(p) for p in x["loc"]), x["msg"]) for x in e.errors()]
        how = "Write budget=FLOPs, say budget=1e15, or a time, say budget=2h."
        raise ConfigError(
            [f"{where}: {what}. {how if where == 'budget' else ''}".strip() for where, what in found]
        ) from e


def suggest_runs(
    plan: Study, records: Sequence[RunRecord], options: SuggestOptions, user: Path | None
) -> Iterator[str]:
    """The runs to add, line by line: a command each, what it costs, what the law expects of it; then grids to paste.

    Candidates have new values on the axes that the study's law has (see :mod:`rag_exp.candidates`), or another seed of
    what there is. Levels without which the law cannot be fitted come first, then the largest run. What the store holds
    costs nothing.

    Raises:
        DataError: no finished run tells costs.
    """
    from rag_exp.laws.costs import FLOPS, SECONDS, costs_of_records

    table = load_study(plan.folder)
    wanted = law_options(plan.law, plan.forms)
    fits = current_fits(plan, records, table, wanted)
    rows = finished(table, fits.metric)
    rows = rows[(rows["arm"] == fits.arm) & rows["N"].notna() & rows["M"].notna()]
    if not len(rows):
        raise DataError(f"No finished run of arm {fits.arm} tells what a run costs. Run the study first.")
    laws = _laws(fits, rows)
    fitted = laws[0].run_ids if laws else rows["run_id"].tolist()
    known = family(plan, rows, fitted, _needs(plan, fits, wanted))
    spent = SECONDS if options.timed else FLOPS
    costs = costs_of_records(known.rows, spent=spent, queries=float(known.rows["questions"].median()))
    yield from (_lacking(dial) for dial in known.dials.values() if dial.lacking)
    # Where sizes are lacking, as many trainings must be paid for.
    parts = max(options.parts, min(known.dials["N"].lacking, len(known.dials["N"].new)))
    found = list(candidates(plan, known, costs, options.budget, user))
    if not found:
        yield f"nothing: no run that the study lacks can be trained for {options.said(options.budget)}"
        return
    taken = largest_affordable([c.offer for c in found], options.budget, parts)
    if not taken:
        least = min(c.offer.price(set()) for c in found)
        yield (
            f"nothing: the cheapest run costs {options.said(least)} to add, and one smaller than {LEAST:.0%} of the "
            "budget tells too little"
        )
        return
    cap = "" if parts == 1 else f", none above {options.said(options.budget / parts)}"
    lacks = found[taken[0][0]].offer.turn < LAST_TURN
    first = "what the law lacks first, then the largest" if lacks else "the largest first"
    pace = ", at the pace of the study's own runs" if options.timed else ""
    yield f"{len(taken)} runs within {options.said(options.budget)}{pace}{cap}, {first}:"
    runs = [(found[i], price) for i, price in taken]
    for overrides, members in _sweeps(runs):
        yield f"  {_command(overrides, user)}"
        for candidate, price in members:
            yield f"      {_said(candidate, options.said(price), laws, fits.metric)}"
    yield f"together {options.said(sum(price for _, price in taken))}"
    yield from _grids([c.overrides for c, _ in runs], plan, known)
    if not laws:
        yield "no law in N and M stands yet, so that nothing is expected of them"


class _Law:
    """A law of the study, and the settings that all its runs have.

    Attributes:
        held: numbers of the axes that the law has not, of its runs.
    """

    def __init__(self, surface: Surface, run_ids: list[str], rows: pd.DataFrame):
        self.surface, self.run_ids = surface, run_ids
        own = rows[rows["run_id"].isin(run_ids)]
        given = getattr(surface.law, "form", surface.law).variables
        self.held = {a: set(own[a].astype(float)) for a in ("N", "D", "M", "K") if a not in given}

    def expects(self, axes: dict[str, float], metric: str) -> str | None:
        """What it expects there, and how far that is from its data; None where it holds nothing of the kind."""
        if any(all(abs(axes[a] - v) > 0.05 * v for v in values) for a, values in self.held.items()):
            return None
        law = self.surface.law
        at = {**self.surface.given, **{a: [axes[a]] for a in getattr(law, "form", law).variables}}
        try:
            text = f"the law expects {metric} {law.predict(at)[0]:.4g}"
        except LawError:  # a factorised law of one K knows no other
            return None
        if self.surface.replicated:
            said = law.predict(at, interval=law.level)
            text += f" [{said.low_n[0]:.4g}, {said.high_n[0]:.4g}]"
        far = [f"{abs(d):.2g} decades beyond the data on {a}" for a, d in self.surface.beyond(axes).items()]
        return text + (f", {' and '.join(far)}" if far else "")


def _laws(fits: StudyFits, rows: pd.DataFrame) -> list[_Law]:
    """The study's laws in several axes: in N and M, in D at the same settings, and the factorised one."""
    from rag_exp.laws.surface import Surface

    def setting(fit: StudyFit) -> dict[str, Any]:
        return {name: value for name, value in fit.where.items() if name not in ("N", "M", *LENGTHS)}

    found, joint = [], fits.joint()
    first = joint or fits.widest()
    in_D = [f for f in fits.fits if "D" in f.axes and first is not None and setting(f) == setting(first)]
    for fit in ([joint] if joint is not None else []) + in_D:
        if fit.law is not None:
            found.append(_Law(Surface(fit.law), fit.run_ids, rows))
    if fits.factorised is not None and (law := fits.factorised.law) is not None:
        growth = joint.where.get("growth") if joint is not None else next(iter(law.coverage))
        found.append(_Law(Surface(law, {"growth": growth}), fits.factorised.run_ids, rows))
    return found


def _needs(plan: Study, fits: StudyFits, options: LawOptions) -> dict[str, int]:
    """How many levels the study's laws need of every axis: to choose among forms, the largest is held out."""

    def needed(law: StudyFit | None, forms: Sequence[str]) -> int:
        return MIN_LEVELS + (law is None and len(forms) > 1)

    found = dict.fromkeys(("N", "M"), needed(fits.joint(), options.joint))
    if any(key in p.axes for p in plan.points for key in AXIS_KEYS["D"]):
        in_D = next((f for f in fits.fits if "D" in f.axes and f.law is not None), None)
        found["D"] = needed(in_D, options.trained)
    return found | ({"K": MIN_LEVELS} if fits.factorised is not None else {})


def _lacking(dial: Dial) -> str:
    """Why new levels of an axis come first."""
    numbers = sorted(set(dial.levels.values()))
    has = f"{len(numbers)} level{'s' * (len(numbers) != 1)} of {dial.axis} ({', '.join(f'{v:,.0f}' for v in numbers)})"
    text = f"the study has {has}, and a law in {dial.axis} needs {len(numbers) + dial.lacking}"
    if len(dial.new) < dial.lacking:
        return f"{text}; {dial.key} gives {len(dial.new) or 'no'} more here"
    return f"{text}: new ones come first"


Taken = tuple[Candidate, float]
Values = dict[str, list[str]]


def _sweeps(taken: Sequence[Taken]) -> Iterator[tuple[Values, list[Taken]]]:
    """The runs as sweeps, each of one model to be trained, or of models that are trained, with the runs of each."""
    groups: dict[Any, list[Taken]] = {}
    for run in taken:
        candidate, keys = run[0], tuple(key_of(o) for o in run[0].overrides)
        trains = candidate.trained if candidate.trained in candidate.offer.shared else ""
        groups.setdefault((trains, keys), []).append(run)
    for members in groups.values():
        points = [dict(o.split("=", 1) for o in c.overrides) for c, _ in members]
        for values, at in _products(points):
            yield values, [members[i] for i in at]


def _products(points: Sequence[dict[str, str]]) -> list[tuple[Values, list[int]]]:
    """Different points of equal keys cut into few products, each with the positions of its points."""
    values = {key: list(dict.fromkeys(p[key] for p in points)) for key in points[0]}
    if len(points) == _size(values):
        return [(values, list(range(len(points))))]
    cuts = []
    for key in (k for k, v in values.items() if len(v) > 1):
        # Values that go with the same points along the other keys stay together.
        beside: dict[str, set[tuple[str, ...]]] = {v: set() for v in values[key]}
        for p in points:
            beside[p[key]].add(tuple(v for k, v in p.items() if k != key))
        alike: dict[frozenset[tuple[str, ...]], list[str]] = {}
        for value, rest in beside.items():
            alike.setdefault(frozenset(rest), []).append(value)
        parts = [[i for i, p in enumerate(points) if p[key] in part] for part in alike.values()]
        if len(parts) > 1:
            inner = [(at, _products([points[i] for i in at])) for at in parts]
            cuts.append([(product, [at[i] for i in own]) for at, found in inner for product, own in found])
    return min(cuts, key=len)


def _size(values: Values) -> int:
    return math.prod(len(v) for v in values.values())


def _command(values: Values, user: Path | None) -> str:
    """The command of a sweep, for the folder in which this one was given."""
    sweep = ["-m"] if _size(values) > 1 else []
    own = [] if user in (None, configs.user_configs(None)) else ["--config-dir", str(user)]
    return shlex.join(["rag-exp", "run", *sweep, *own, *(f"{key}={','.join(v)}" for key, v in values.items())])


def _grids(runs: Sequence[tuple[str, ...]], plan: Study, known: Family) -> Iterator[str]:
    """How the runs become part of the study: items of its grids, in YAML, without what it gives every run."""
    import yaml

    own = {SEED, *known.others, *(d.key for d in known.dials.values())}
    given = {o for o in (*plan.base, *plan.overrides) if key_of(o) not in own}
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for overrides in runs:
        point = dict(o.split("=", 1) for o in overrides if o not in given)
        groups.setdefault(tuple(point), []).append(point)
    yield "to have them in the study's fit, add to its grids:"
    for points in groups.values():
        for values, _ in _products(points):
            grid = {k: [configs.unquoted(v) for v in texts] for k, texts in values.items()}
            plain = {k: v if len(v) > 1 else v[0] for k, v in grid.items()}
            yield "  - " + yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=math.inf).strip()
    in_place = [o for o in plan.overrides if key_of(o) in {key for keys in groups for key in keys}]
    if in_place:
        yield f"where {shlex.join(in_place)} of the command line would take their place: have it in the grids, too"


def _said(candidate: Candidate, price: str, laws: Sequence[_Law], metric: str) -> str:
    """Its sizes, what it adds to the bill, and what the law expects of it."""
    axes = candidate.axes
    text = f"N {axes['N']:,.0f}, D {axes['D']:.3g}, M {axes['M']:,.0f}, K {axes['K']:g}: {price}"
    expected = next((said for law in laws if (said := law.expects(axes, metric)) is not None), None)
    return text + (f"; {expected}" if expected else "")
