"""``rag-exp frontier``: what a budget buys best, by a study's law and at the costs that its runs measured, or by any
fit card at stated costs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from rag_exp.analysis.fits import Plan, current_fits, law_options
from rag_exp.analysis.frontier import Frontier
from rag_exp.analysis.frontier_words import allocation_line, cost_line, exponent_lines, frontier_section, rate_line
from rag_exp.analysis.page import Page
from rag_exp.analysis.study_fits import StudyFits
from rag_exp.analysis.tables import finished, load_study
from rag_exp.core.atomic import write_text
from rag_exp.core.errors import ConfigError, DataError, LawError, did_you_mean
from rag_exp.core.options import Options
from rag_exp.core.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd

    from rag_exp.analysis.figures import Figure
    from rag_exp.laws.costs import Costs
    from rag_exp.laws.effects import Rate
    from rag_exp.laws.surface import Surface

FOLDER = "frontier"
PAGE = "frontier.html"


class FrontierOptions(Options):
    """What ``rag-exp frontier`` is asked, beside the study."""

    card: str | None = Field(
        None, description="a fit card in place of a study; its costs are then stated, not measured"
    )
    budgets: tuple[float, ...] = Field((), description="FLOPs in all; none: 0.1 to 10 times the largest run's")
    queries: float | None = Field(
        None, ge=0, description="questions to be answered; null: as many as the runs'; none for a card"
    )
    surface: Literal["joint", "factorised"] | None = Field(
        None, description="which law; null: the factorised one where it was fitted (law=factorised), else the joint one"
    )
    given: dict[str, str | float] = Field({}, description="what a factorised law needs besides: growth, index, ...")
    costs: dict[str, float] = Field({}, description="constants that the runs do not tell, or not as you want them")
    caps: dict[str, float] = Field({}, description="what there is no more of; M: the whole corpus, where it was run")
    reach: float = Field(1.0, ge=0, description="decades beyond the data within which an optimum is looked for")
    out: str | None = Field(
        None, description="folder for a card's tables and figures; none: frontier/<name of the law>"
    )


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

    problems = [
        f"costs.{c}: unknown constant.{did_you_mean(c, Costs.model_fields)}"
        for c in options.costs
        if c not in Costs.model_fields
    ]
    if options.card is None and options.out is not None:
        problems.append("out: a study's frontier is written to the study's own folder; out goes with card=FILE.")
    if options.card is not None and options.surface is not None:
        problems.append("surface: a card is of one law, so there is nothing to choose.")
    if problems:
        raise ConfigError(problems)
    return options


def frontier_study(plan: Plan, records: Sequence[RunRecord], options: FrontierOptions) -> Iterator[str]:
    """Write the frontier, the exchange rates and the contours of a study's law, and say them line by line.

    Files, in ``frontier`` of the study's folder: ``allocation.csv`` (a row per budget), ``rates.csv``,
    ``contours.csv``, ``frontier.json`` (the law's name, costs, caps and options), ``frontier.html`` and its figures.

    Raises:
        DataError: the study has no law to follow, or its runs tell no costs.
        LawError: the law has no frontier.
    """
    from rag_exp.laws.surface import Surface

    table = load_study(plan.folder)
    fits = current_fits(plan, records, table, law_options(plan.law, plan.forms))
    name, law, run_ids = _law(fits, options.surface)
    surface = Surface(law, _given(law, options))
    rows = finished(table, fits.metric)
    rows = rows[rows["run_id"].isin(run_ids)]
    caps = dict(options.caps)
    if "M" in surface.axes and "M" not in caps and rows["whole_corpus"].astype(bool).any():
        caps["M"] = float(rows[rows["whole_corpus"].astype(bool)]["M"].max())
    asked = Frontier(name, surface, _costs(rows, surface, options), options.budgets, caps, options.reach, fits.basis)
    for line in _written(asked, plan.folder / FOLDER):
        yield line
        if line.startswith("costs") and "M" in caps and "M" not in options.caps:
            yield f"M is at most {caps['M']:,.0f}: the corpus has no more passages (caps.M=NUMBER for another)"


def frontier_card(options: FrontierOptions) -> Iterator[str]:
    """The same by a fit card alone, at the costs that ``options`` state; into ``out``.

    Raises:
        DataError: the file is no fit card.
        ConfigError: something that the law has an axis of costs nothing, so that the best of it would have no end.
        LawError: the law has no frontier.
    """
    from rag_exp.laws.allocation import costs_at
    from rag_exp.laws.costs import Costs
    from rag_exp.laws.surface import Surface

    assert options.card is not None
    name, law = read_card(Path(options.card))
    surface = Surface(law, _given(law, options))
    costs = costs_at(surface, Costs(**{"queries": options.queries or 0.0, **options.costs}))
    problems = []
    a_passage = costs.embed * (1 + costs.refreshes) + costs.build + costs.queries * costs.search
    if "M" in surface.axes and not a_passage and "M" not in options.caps:
        problems.append(
            "costs.embed: the law is of the corpus size M, but a passage costs nothing, so that the best corpus has no "
            "end. Give costs.embed=FLOPS (or costs.search=FLOPS with queries=NUMBER), or caps.M=NUMBER."
        )
    if "K" in surface.axes and not costs.queries * (costs.read + costs.read_passage):
        problems.append(
            "costs.read: the law is of K, the passages read, but reading costs nothing. Give costs.read=FLOPS per "
            "passage and parameter (2 x its tokens) with queries=NUMBER."
        )
    if "D" not in surface.axes and costs.tokens is None and costs.tokens_per_parameter is None:
        problems.append("costs.tokens: the law has no D. Say what is trained on (or costs.tokens_per_parameter).")
    if problems:
        raise ConfigError(problems)
    asked = Frontier(name, surface, costs, options.budgets, options.caps, options.reach)
    yield from _written(asked, Path(options.out or Path(FOLDER) / name))


def read_card(path: Path) -> tuple[str, Any]:
    """The name and the law of a fit card: one that a study or a table was given, or a law's own ``to_json()``.

    Raises:
        DataError: there is no such file, it is no fit card, or it is one that says why there is no law.
    """
    from rag_exp.laws.card import LawFit
    from rag_exp.laws.factorised import FactorisedFit

    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value.get("reason"):
            raise DataError(f"card: {path} holds no law: {value['reason']}")
        name, card = value.get("name") or path.stem, value.get("card") or value.get("law") or value
        return name, (FactorisedFit if card.get("form") == "factorised" else LawFit).from_dict(card)
    except OSError as e:
        raise DataError(f"card: {path} cannot be read: {e.strerror} (looked from {Path.cwd()}).") from e
    except (ValueError, KeyError, TypeError, AttributeError, LawError) as e:
        raise DataError(f"card: {path} is no fit card ({e}). rag-exp fit writes them into fits/.") from e


def saved_frontier(folder: Path, fits: StudyFits) -> dict[str, Any] | None:
    """``frontier.json``, where it stands on these very laws."""
    try:
        facts: dict[str, Any] = json.loads((folder / FOLDER / "frontier.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if facts.get("basis") == fits.basis and "rows" in facts else None


def saved_figures(saved: dict[str, Any], fits: StudyFits) -> list[Figure]:
    """The figures of a :func:`saved_frontier`, from the study's cards alone."""
    from rag_exp.analysis.frontier_figures import figures_of_frontier

    law = fits.law_named(saved["law"])
    return [] if law is None else figures_of_frontier(Frontier.of_facts(saved, law))


def _written(asked: Frontier, folder: Path) -> Iterator[str]:
    """Write tables, page and figures; the lines that say them."""
    from rag_exp.analysis.figures import save_figures, vega_libraries
    from rag_exp.analysis.frontier_figures import figures_of_frontier
    from rag_exp.laws.effects import contours, rate

    surface = asked.surface
    yield f"{asked.name}: {asked.equation}"
    yield cost_line(asked.costs, surface)
    yield from (f"{line} (given.S=NUMBER for another)" for line in surface.assumed)
    found = asked.table
    yield from (allocation_line(row, surface.axes) for row in found.to_dict("records"))
    yield from exponent_lines(found.attrs["exponents"])
    rates = [rate(surface, a, b) for a in surface.axes for b in surface.axes if a < b and {a, b} <= {"N", "D", "M"}]
    yield from (rate_line(r) for r in rates)
    files = {"allocation.csv": _plain(found)}
    if rates:
        files["rates.csv"] = _rates_table(rates)
    if {"N", "M"} <= set(surface.axes):
        files["contours.csv"] = contours(surface, reach=asked.reach)
    for file, content in files.items():
        write_text(folder / file, content.to_csv(index=False))
    facts = asked.facts() | {"costs_line": cost_line(asked.costs, surface), "rates": [rate_line(r) for r in rates]}
    write_text(folder / "frontier.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    figures = figures_of_frontier(asked)
    save_figures(figures, folder)
    page = Page(f"{asked.name}: what a budget buys")
    frontier_section(page, facts)
    for figure in figures:
        page.chart(figure.drawn())
    write_text(folder / PAGE, page.html(vega_libraries(), asked.basis))
    yield f"{len(files) + 1} files, {len(figures)} figures and {PAGE}: {folder}"


def _law(fits: StudyFits, wanted: str | None) -> tuple[str, Any, list[str]]:
    """The name, the law and its runs."""
    joint, factors = fits.widest(), fits.factorised
    if factors is not None and factors.law is not None and wanted != "joint":
        return "factorised", factors.law, factors.run_ids
    if joint is not None and wanted != "factorised":
        return joint.name, joint.law, joint.run_ids
    reasons = []
    if wanted != "factorised":
        reasons.append("no setting carries a law in N and M, or in N and D")
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
    from rag_exp.laws.allocation import costs_at
    from rag_exp.laws.costs import costs_of_records

    index = surface.given.get("index") or (surface.law.rows.get("exact") or [None])[0]
    if index not in set(rows["index"]):
        index = None
    queries = float(rows["questions"].median()) if options.queries is None else options.queries
    return costs_at(surface, costs_of_records(rows, index, **{"queries": queries, **options.costs}))


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
