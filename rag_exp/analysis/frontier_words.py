"""A frontier in words: lines for the terminal and a section of a page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from rag_exp.analysis.page import Cell, Page
from rag_exp.analysis.theme import scientific, si

if TYPE_CHECKING:
    from rag_exp.laws.costs import Costs
    from rag_exp.laws.effects import Rate
    from rag_exp.laws.surface import Surface

PARTS = ("training", "corpus", "search", "reading")
_LEAST_SHARE = 0.005  # of a budget, to be named
_MOST = 6.0  # decades of an exchange rate that are told


def cost_line(costs: Costs, surface: Surface) -> str:
    """``costs in FLOPs: training 6 N D, corpus 3e+08 M, ...``: every part that costs something, and what is held."""
    parts = [f"training {_line(costs.train, costs.train_token)} D"]
    if a_passage := costs.embed * (1 + costs.refreshes) + costs.build:
        parts.append(f"corpus {a_passage:.3g} M")
    each = [f"{_search(costs)} of search"] if costs.search else []
    each += [f"{_line(costs.read, costs.read_passage)} K of reading"] if costs.read + costs.read_passage else []
    if costs.queries and each:
        parts.append(f"for each of {costs.queries:,.0f} questions {' and '.join(each)}")
    text = f"costs in FLOPs: {', '.join(parts[:-1])}{', and ' * (len(parts) > 1)}{parts[-1]}"
    if "D" not in surface.axes:
        tied = costs.tokens_per_parameter
        text += f"; D is {costs.tokens:,.0f}" if tied is None else f"; D is {tied:g} N"
    return text + (f"; K is {costs.k:g}" if "K" not in surface.axes and costs.queries else "")


def allocation_line(row: dict[str, Any], axes: Sequence[str]) -> str:
    """``budget 1e13: N 210k [..], ...: loss 9.6 [..]; training 62%, ...``, or why there is no optimum."""
    budget = f"budget {scientific(row['budget'])}"
    if row["reason"] is not None:
        return f"{budget}: no optimum: {row['reason']}"
    chosen = [f"{a} {si(row[a])}{_sizes(row, a)}" for a in ("N", "D", "M", "K") if a in axes]
    text = f"{budget}: {', '.join(chosen)}: loss {row['loss']:.4g}"
    text += f"{_interval(row['loss_low'], row['loss_high'], '.4g')}; {_spent(row)}"
    text += "".join(f"; {remark}" for remark in _remarks(row))
    if row["at_end"]:
        text += f"; {row['at_end']:.0%} of the replicates want what lies beyond the search"
    return text


def exponent_lines(exponents: dict[str, Sequence[float | None]]) -> list[str]:
    """``the best N grows as budget^0.514 [0.471, 0.553]``, per axis."""
    lines = []
    for axis, (value, low, high) in exponents.items():
        same = low is not None and f"{low:.3f}" == f"{high:.3f}"
        lines.append(f"the best {axis} grows as budget^{value:.3f}{'' if same else _interval(low, high, '.3f')}")
    return lines


def rate_line(found: Rate) -> str:
    """``at N = 3.9e4, M = 5.2e3: ten times the M is worth 1.9 times the N [..]``."""
    where = ", ".join(f"{a} = {si(v)}" for a, v in found.at.items())
    if found.rate is None:
        return f"at {where}: more {found.other} does not lower the loss, so that {found.of} has no rate in it"
    text = f"at {where}: ten times the {found.of} is worth {_tenfold(found.rate)} times the {found.other}"
    if found.low is not None and found.high is not None:
        text += f" [{_tenfold(found.low)}, {_tenfold(found.high)}]"
    return text + " as long as the slope holds"


def frontier_section(page: Page, saved: dict[str, Any]) -> None:
    """The page's section: the best allocation of every budget.

    Args:
        saved: as from :func:`rag_exp.analysis.allocations.saved_frontier`.
    """
    axes = saved["axes"]
    page.heading("What a budget buys")
    page.paragraph(
        f"The least loss that a budget pays for by the law {saved['equation']}. In brackets: {saved['level']:.0%} "
        "intervals over replicates and acceptable forms, where they are more than a point. What is farther from the "
        "data than "
        f"{saved['reach']:g} decade{'s' * (saved['reach'] != 1)} is not reported."
    )
    for line in (saved["costs_line"], *saved["assumed"]):
        page.paragraph(f"{line[0].upper()}{line[1:]}.", "note")
    rows = []
    for row in saved["rows"]:
        cells = [Cell(scientific(row["budget"]), row["budget"], True)]
        if row["reason"] is not None:
            rows.append([*cells, Cell(f'<span class="note">{escape(row["reason"])}</span>', wide=True)])
            rows[-1] += [Cell("")] * (len(axes) + 1)
            continue
        for name in axes:
            cells.append(Cell(f'{si(row[name])} <span class="range">{_sizes(row, name)}</span>', row[name]))
        band = _interval(row["loss_low"], row["loss_high"], ".4g")
        cells.append(Cell(f'{row["loss"]:.4g} <span class="range">{band}</span>', row["loss"]))
        rows.append([*cells, Cell("; ".join([_spent(row), *_remarks(row)]))])
    page.table(["FLOPs", *axes, "loss", "spent on"], rows)
    for line in (*exponent_lines(saved["exponents"]), *(f"marginal rate {r}" for r in saved["rates"])):
        page.paragraph(f"{line[0].upper()}{line[1:]}.", "note")


def _remarks(row: dict[str, Any]) -> list[str]:
    """Where an optimum is at a cap, and how far it is from the data."""
    remarks = [f"all the {' and '.join(row['capped'])} there is"] if row["capped"] else []
    far = [f"{abs(v):.2g} decades {'above' if v > 0 else 'below'} the data on {a}" for a, v in row["beyond"].items()]
    return [*remarks, f"an extrapolation, {' and '.join(far)}"] if far else remarks


def _line(slope: float, start: float) -> str:
    """``(7.65 N + 4.2e4)``, or ``6 N``."""
    return f"({slope:.3g} N + {start:.3g})" if start else f"{slope:.3g} N"


def _search(costs: Costs) -> str:
    """``384 M``; ``3.9e+04 M^0.21``."""
    return f"{costs.search:.3g} M" + (f"^{costs.search_power:.2f}" if costs.search_power != 1 else "")


def _spent(row: dict[str, Any]) -> str:
    """``training 98%, reading 2%``."""
    spent = {k: row[f"flops.{k}"] for k in PARTS}
    total = sum(spent.values())
    return ", ".join(f"{k} {v / total:.0%}" for k, v in spent.items() if v > _LEAST_SHARE * total)


def _sizes(row: dict[str, Any], axis: str) -> str:
    """The interval of an axis; nothing where it is a point (an axis that follows from the budget and the caps)."""
    low, high = row[f"{axis}_low"], row[f"{axis}_high"]
    if low is None or high is None or si(low) == si(high) == si(row[axis]):
        return ""
    return f" [{si(low)}, {si(high)}]"


def _tenfold(rate: float) -> str:
    """10^rate: an axis that hardly lowers the loss any more is worth next to nothing, and no number says it better."""
    if rate > _MOST:
        return "more than a million"
    return f"{10**rate:.3g}" if rate < 3 else f"{10**rate:,.0f}"


def _interval(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else f" [{low:{form}}, {high:{form}}]"
