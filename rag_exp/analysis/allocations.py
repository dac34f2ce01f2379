"""``rag-exp frontier``: what a budget buys best, by a study's law and at the costs that its runs measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from rag_exp.analysis.fits import Plan, current_fits, law_options
from rag_exp.analysis.page import Cell, Page
from rag_exp.analysis.study_fits import StudyFits
from rag_exp.analysis.tables import finished, load_study
from rag_exp.analysis.theme import si
from rag_exp.core.atomic import write_text
from rag_exp.core.errors import ConfigError, DataError, did_you_mean
from rag_exp.core.options import Options
from rag_exp.core.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd

    from rag_exp.laws.costs import Costs
    from rag_exp.laws.effects import Rate
    from rag_exp.laws.surface import Surface

FOLDER = "frontier"
PARTS = ("training", "corpus", "search", "reading")
TIMES = (0.1, 0.3, 1.0, 3.0, 10.0)  # the cost of the largest run: the budgets where none are given


class FrontierOptions(Options):
    """What ``rag-exp frontier`` is asked, beside the study."""

    budgets: tuple[float, ...] = Field((), description="FLOPs in all; none: 0.1 to 10 times the largest run's")
    queries: float | None = Field(None, ge=0, description="questions to be answered; null: as many as the runs'")
    surface: Literal["joint", "factorised"] | None = Field(
        None, description="which law; null: the factorised one where it was fitted (law=factorised), else the joint one"
    )
    given: dict[str, str | float] = Field({}, description="what a factorised law needs besides: growth, index, ...")
    costs: dict[str, float] = Field({}, description="constants that the runs do not tell, or not as you want them")
    caps: dict[str, float] = Field({}, description="what there is no more of; M: the whole corpus, where it was run")
    reach: float = Field(1.0, ge=0, description="decades beyond the data within which an optimum is looked for")


KEYS = tuple(FrontierOptions.model_fields)


def frontier_options(words: Sequence[str]) -> FrontierOptions:
    """The options from ``budgets=1e15,1e16 queries=1e6 costs.embed=3e9 ...``.

    Raises:
        ConfigError: with every unknown key and bad value.
    """
    plain: dict[str, Any] = {}
    for word in words:
        key, _, value = word.partition("=")
        head, _, field = key.partition(".")
        if field:
            plain.setdefault(head, {})[field] = value
        else:
            plain[key] = value.split(",") if key == "budgets" else value
    try:
        options = FrontierOptions.model_validate(plain)
    except ValidationError as e:
        found = [(".".join(str(p) for p in x["loc"]), x["msg"], x["input"]) for x in e.errors()]
        raise ConfigError([f"{where}: {what} (given: {value!r})." for where, what, value in found]) from e
    from rag_exp.laws.costs import Costs

    unknown = [c for c in options.costs if c not in Costs.model_fields]
    if unknown:
        raise ConfigError([f"costs.{c}: unknown constant.{did_you_mean(c, Costs.model_fields)}" for c in unknown])
    return options


def frontier_study(plan: Plan, records: Sequence[RunRecord], options: FrontierOptions) -> Iterator[str]:
    """Write the frontier, the exchange rates and the contours of a study's law, and say them line by line.

    Files, in ``frontier`` of the study's folder: ``allocation.csv`` (a row per budget), ``rates.csv``, ``contours.csv``
    and ``frontier.json`` (the law's name, costs, caps and options).

    Raises:
        DataError: the study has no law to follow, or its runs tell no costs.
        LawError: the law has no frontier.
    """
    from rag_exp.laws.allocation import frontier
    from rag_exp.laws.effects import contours, rate
    from rag_exp.laws.surface import Surface

    table = load_study(plan.folder)
    fits = current_fits(plan, records, table, law_options(plan.law, plan.forms))
    name, law, run_ids = _law(fits, options.surface)
    surface = Surface(law, _given(law, options))
    rows = finished(table, fits.metric)
    rows = rows[rows["run_id"].isin(run_ids)]
    costs = _costs(rows, surface, options)
    caps = dict(options.caps)
    if "M" in surface.axes and "M" not in caps and rows["whole_corpus"].astype(bool).any():
        caps["M"] = float(rows[rows["whole_corpus"].astype(bool)]["M"].max())
    budgets = options.budgets or _budgets(rows, costs)
    yield f"{name}: {getattr(law, 'form', law).equation}"
    yield _cost_line(costs, surface)
    if "M" in caps and "M" not in options.caps:
        yield f"M is at most {caps['M']:,.0f}: the corpus has no more passages (caps.M=NUMBER for another)"
    found = frontier(surface, costs, budgets, reach=options.reach, caps=caps)
    yield from (allocation_line(row, surface.axes) for row in found.to_dict("records"))
    for axis, (value, low, high) in found.attrs["exponents"].items():
        yield f"the best {axis} grows as budget^{value:.3f}{_interval(low, high, '.3f')}"
    rates = [rate(surface, a, b) for a in surface.axes for b in surface.axes if a < b and {a, b} <= {"N", "D", "M"}]
    yield from (rate_line(r) for r in rates)
    folder = plan.folder / FOLDER
    files = {"allocation.csv": _plain(found)}
    if rates:
        files["rates.csv"] = _rates_table(rates)
    if {"N", "M"} <= set(surface.axes):
        files["contours.csv"] = contours(surface, reach=options.reach)
    for file, content in files.items():
        write_text(folder / file, content.to_csv(index=False))
    facts = {
        "basis": fits.basis,
        "law": name,
        "axes": surface.axes,
        "given": surface.given,
        "costs": costs.model_dump(),
        "caps": caps,
        "reach": options.reach,
        "level": surface.level,
        "exponents": found.attrs["exponents"],
        "rates": [rate_line(r) for r in rates],
    }
    write_text(folder / "frontier.json", json.dumps(facts, indent=2) + "\n")
    yield f"{len(files) + 1} files: {folder}"


def saved_frontier(folder: Path, fits: StudyFits) -> dict[str, Any] | None:
    """``frontier.json`` with the rows of ``allocation.csv`` as ``rows``, where they stand on these very laws."""
    import pandas as pd

    try:
        facts: dict[str, Any] = json.loads((folder / FOLDER / "frontier.json").read_text(encoding="utf-8"))
        table = pd.read_csv(folder / FOLDER / "allocation.csv")
    except (OSError, ValueError):
        return None
    facts["rows"] = table.astype(object).where(table.notna(), None).to_dict("records")
    return facts if facts.get("basis") == fits.basis else None


def frontier_section(page: Page, saved: dict[str, Any]) -> None:
    """The report's section: the best allocation of every budget."""
    costs, axes = saved["costs"], saved["axes"]
    page.heading("What a budget buys")
    page.paragraph(
        f"The least loss that a budget pays for by the law {saved['law']}, at the costs that the runs measured, with "
        f"{costs['queries']:,.0f} questions to answer. Brackets are {saved['level']:.0%} intervals over replicates "
        "and acceptable forms. What is farther from the data than "
        f"{saved['reach']:g} decade{'s' * (saved['reach'] != 1)} is not reported."
    )
    rows = []
    for row in saved["rows"]:
        cells = [Cell(f"{row['budget']:.2e}", row["budget"], True)]
        if row["reason"] is not None:
            rows.append([*cells, Cell(f'<span class="note">{escape(row["reason"])}</span>', wide=True)])
            rows[-1] += [Cell("")] * (len(axes) + 1)
            continue
        for name in (*axes, "loss"):
            form = ".4g" if name == "loss" else ".3g"
            band = _interval(row[f"{name}_low"], row[f"{name}_high"], form)
            shown = f"{row[name]:.4g}" if name == "loss" else _count(row[name])
            cells.append(Cell(f'{shown} <span class="range">{band}</span>', row[name]))
        spent = {k: row[f"flops.{k}"] for k in PARTS}
        shares = ", ".join(f"{k} {v / row['budget']:.0%}" for k, v in spent.items() if v > 0.005 * row["budget"])
        rows.append([*cells, Cell(shares)])
    page.table(["FLOPs", *axes, "loss", "spent on"], rows)
    for line in saved["rates"]:
        page.paragraph(f"Marginal rate {line}.", "note")


def allocation_line(row: dict[str, Any], axes: Sequence[str]) -> str:
    """``budget 1e+13: N 2.1e5 [..], ...: nll 9.6 [..]; training 62%, ...``, or why there is no optimum."""
    if row["reason"] is not None:
        return f"budget {row['budget']:.3g}: no optimum: {row['reason']}"
    chosen = []
    for a in (a for a in ("N", "D", "M", "K") if a in axes):
        chosen.append(f"{a} {_count(row[a])}{_interval(row[f'{a}_low'], row[f'{a}_high'], '.3g')}")
    spent = {k: row[f"flops.{k}"] for k in PARTS}
    total = sum(spent.values())
    shares = ", ".join(f"{k} {v / total:.0%}" for k, v in spent.items() if v > 0.005 * total)
    text = f"budget {row['budget']:.3g}: {', '.join(chosen)}: loss {row['loss']:.4g}"
    text += f"{_interval(row['loss_low'], row['loss_high'], '.4g')}; {shares}"
    if row["capped"]:
        text += f"; all the {' and '.join(row['capped'])} there is"
    far = [f"{abs(v):.2g} decades {'above' if v > 0 else 'below'} the data on {a}" for a, v in row["beyond"].items()]
    if far:
        text += f"; an extrapolation, {' and '.join(far)}"
    if row["at_end"]:
        text += f"; {row['at_end']:.0%} of the replicates want what lies beyond the search"
    return text


def rate_line(found: Rate) -> str:
    """``at N = 3.9e4, M = 5.2e3: ten times the M is worth 1.9 times the N [..]``."""
    where = ", ".join(f"{a} = {si(v)}" for a, v in found.at.items())
    if found.rate is None or found.tenfold is None:
        return f"at {where}: more {found.other} does not lower the loss, so that {found.of} has no rate in it"
    text = f"at {where}: ten times the {found.of} is worth {found.tenfold:.3g} times the {found.other}"
    if found.low is not None and found.high is not None:
        text += f" [{10**found.low:.3g}, {10**found.high:.3g}]"
    return text + " as long as the slope holds"


def _law(fits: StudyFits, wanted: str | None) -> tuple[str, Any, list[str]]:
    """The name, the law and its runs."""
    joint, factors = fits.joint(), fits.factorised
    if factors is not None and factors.law is not None and wanted != "joint":
        return "factorised", factors.law, factors.run_ids
    if joint is not None and wanted != "factorised":
        return joint.name, joint.law, joint.run_ids
    reasons = []
    if wanted != "factorised":
        reasons.append("no setting carries a law in N and M")
    if wanted != "joint":
        reasons.append("no factorised law was fitted (law=factorised)" if factors is None else str(factors.reason))
    raise DataError(f"The study has no law to follow: {'; '.join(r.rstrip('.') for r in reasons)}.")


def _given(law: Any, options: FrontierOptions) -> dict[str, Any]:
    given: dict[str, Any] = dict(options.given)
    growths = list(getattr(law, "coverage", {}))
    if growths and "growth" not in given and "gold_in_corpus" not in given:
        given["growth"] = growths[0]
    return given


def _costs(rows: pd.DataFrame, surface: Surface, options: FrontierOptions) -> Costs:
    from rag_exp.laws.costs import costs_of_records

    index = surface.given.get("index") or (surface.law.rows.get("exact") or [None])[0]
    if index not in set(rows["index"]):
        index = None
    queries = options.queries if options.queries is not None else float(rows["questions"].median())
    return costs_of_records(rows, index, **{**options.costs, "queries": queries})


def _budgets(rows: pd.DataFrame, costs: Costs) -> list[float]:
    largest = float(max(costs.total(r.N, r.D, r.M, r.K) for r in rows.itertuples()))
    return [times * largest for times in TIMES]


def _cost_line(costs: Costs, surface: Surface) -> str:
    text = (
        f"costs in FLOPs: training ({costs.train:.3g} N + {costs.train_token:.3g}) D, corpus "
        f"{costs.embed * (1 + costs.refreshes) + costs.build:.3g} M, and for each of {costs.queries:,.0f} questions "
        f"{costs.search:.3g} M of search and ({costs.read:.3g} N + {costs.read_passage:.3g}) K of reading"
    )
    if "D" not in surface.axes:
        tied = costs.tokens_per_parameter
        text += f"; D is {costs.tokens:,.0f}" if tied is None else f"; D is {tied:g} N"
    return text + ("" if "K" in surface.axes else f"; K is {costs.k:g}")


def _plain(found: pd.DataFrame) -> pd.DataFrame:
    """The frontier with a number or a word in every cell."""
    beyond = [row or {} for row in found["beyond"]]
    axes = [a for a in ("N", "D", "M", "K") if any(a in row for row in beyond)]
    out = found.drop(columns=["beyond", "capped"])
    out["capped"] = [" ".join(row or []) for row in found["capped"]]
    return out.assign(**{f"beyond.{a}": [row.get(a, 0.0) for row in beyond] for a in axes})


def _rates_table(rates: Sequence[Rate]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for r in rates:
        at = {f"at.{axis}": value for axis, value in r.at.items()}
        rows.append({"of": r.of, "other": r.other, **at, "rate": r.rate, "low": r.low, "high": r.high})
    return pd.DataFrame(rows)


def _count(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else f"{value:.3g}"


def _interval(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else f" [{low:{form}}, {high:{form}}]"
