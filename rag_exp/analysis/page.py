"""The report's page: one HTML text that carries its charts, its styles and the code that draws them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

STYLE = """
:root { --ink: #1b1f24; --muted: #5b6470; --rule: #e4e7eb; --soft: #f6f7f9; --accent: #0b5cad; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff;
  font: 16.5px/1.6 Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 54rem; margin: 0 auto; padding: 3.5rem 1.5rem 5rem; }
h1 { font-size: 2.1rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 .6rem; }
h2 { font-size: 1.3rem; letter-spacing: -0.005em; margin: 3.2rem 0 .8rem; }
p, ul { max-width: 43rem; margin: 0 0 1rem; }
.lead { font-size: 1.12rem; color: var(--muted); max-width: 43rem; }
.facts { display: flex; flex-wrap: wrap; gap: .4rem 2.2rem; margin: 1.6rem 0 0; padding: 1rem 0 0;
  border-top: 1px solid var(--rule); color: var(--muted); font-size: .92rem; }
.facts b { color: var(--ink); font-weight: 600; }
figure { margin: 2.2rem 0 2.8rem; }
figure h3 { font-size: 1.02rem; margin: 0 0 .7rem; }
figure .chart { overflow-x: auto; }
figure svg { max-width: 100%; height: auto; display: block; }
figure .vega-embed { width: 100%; }
figcaption { color: var(--muted); font-size: .9rem; line-height: 1.5; max-width: 43rem; margin-top: .6rem; }
.scroll { overflow-x: auto; margin: 1rem 0 1.6rem; }
table { border-collapse: collapse; font-size: .87rem; line-height: 1.4; width: 100%;
  font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--muted); border-bottom: 1.5px solid var(--ink);
  padding: .4rem .7rem .4rem 0; vertical-align: bottom; white-space: nowrap; }
td { border-bottom: 1px solid var(--rule); padding: .42rem .7rem .42rem 0; vertical-align: top; }
th.num, td.num { text-align: right; white-space: nowrap; }
td .range, .range { color: var(--muted); white-space: nowrap; }
td.wide { min-width: 15rem; }
tr.chosen td { font-weight: 600; }
table.sortable th { cursor: pointer; user-select: none; }
table.sortable th:hover { color: var(--accent); }
table.sortable th[data-order=up]::after { content: " \\2191"; }
table.sortable th[data-order=down]::after { content: " \\2193"; }
abbr { text-decoration: none; color: var(--muted); cursor: help; }
.failed { color: #b3261e; }
.note { color: var(--muted); font-size: .9rem; }
code, pre { font: .86em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
td code { white-space: nowrap; }
pre { background: var(--soft); padding: .8rem 1rem; border-radius: 6px; overflow-x: auto; }
.equation, sup, i { font-family: "STIX Two Text", Cambria, Georgia, "Times New Roman", serif; }
.equation { font-size: 1.02rem; white-space: nowrap; }
.law .equation { font-size: 1.45rem; display: block; margin: .8rem 0 1rem; white-space: normal; }
sup { font-size: .72em; line-height: 0; vertical-align: .42em; }
.law { background: var(--soft); border-radius: 8px; padding: 1.2rem 1.4rem .6rem; margin: 1rem 0 1.8rem; }
.law table { width: auto; } .law p { margin-bottom: .6rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: 1rem; margin: 1.8rem 0; }
.tiles div { background: var(--soft); border-radius: 8px; padding: .9rem 1.1rem; }
.tiles span { display: block; color: var(--muted); font-size: .86rem; line-height: 1.4; }
.tiles b { display: block; font-size: 1.55rem; font-weight: 650; letter-spacing: -.01em; line-height: 1.35; }
h3 { font-size: 1.02rem; margin: 1.8rem 0 .5rem; }
@media (max-width: 640px) {
  main { padding: 2rem 1.1rem 3rem; } h1 { font-size: 1.6rem; } figure svg { min-width: 34rem; }
}
@media print { main { max-width: none; padding: 0; } figure { break-inside: avoid; } details { display: none; } }
"""

SCRIPT = """
for (const node of document.querySelectorAll('script[type="application/vnd.vegalite+json"]')) {
  const home = document.getElementById(node.dataset.home);
  const options = { renderer: 'svg', actions: { export: true, source: false, compiled: false, editor: false } };
  const still = home.innerHTML;
  vegaEmbed(home, JSON.parse(node.textContent), options).catch(e => { home.innerHTML = still; console.error(e); });
}
for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener('click', () => {
    const up = head.dataset.order !== 'up';
    heads.forEach(h => delete h.dataset.order);
    head.dataset.order = up ? 'up' : 'down';
    const key = row => { const c = row.cells[column]; return c.dataset.value ?? c.textContent; };
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === '' || y === '') return (x === '') - (y === '');
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return up ? order : -order;
    });
    table.tBodies[0].append(...rows);
  }));
}
"""


GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "kappa": "κ", "rho": "ρ"}


def mathed(text: str) -> str:
    """Escaped HTML in which ``N^-alpha`` is set as mathematics: ``N`` italic, the power raised, Greek as Greek."""

    def power(found: re.Match[str]) -> str:
        base, sign, exponent = found.groups()
        return f"<i>{base}</i><sup>{'−' if sign else ''}{GREEK.get(exponent, exponent)}</sup>"

    html = re.sub(r"\b([A-Z])\^(-?)([a-z]+|[\d.]+(?:e[+-]?\d+)?)", power, escape(text))
    html = re.sub(r"\bln ([A-Z])\b", r"ln <i>\1</i>", html)
    html = re.sub(r"\b([EABGR])(?= (?:\+|-|<i>|ln ))", r"<i>\1</i>", html)
    return re.sub(r"(?<=[\w>]) - (?=[\d<])", " − ", html)


@dataclass
class Cell:
    """A table's cell: its text or HTML, how it sorts, and how it looks."""

    html: str
    value: Any = None
    number: bool = False
    wide: bool = False


@dataclass
class Chart:
    """A chart: its Vega-Lite specification, and a still SVG for readers without scripts."""

    name: str
    title: str
    caption: str
    spec: dict[str, Any]
    svg: str


@dataclass
class Page:
    """A page under construction; :meth:`html` finishes it."""

    title: str
    body: list[str] = field(default_factory=list)
    specs: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def add(self, html: str) -> None:
        self.body.append(html)

    def heading(self, text: str) -> None:
        self.add(f"<h2>{escape(text)}</h2>")

    def paragraph(self, text: str, kind: str = "") -> None:
        self.add(f"<p{_class(kind)}>{mathed(text)}</p>")

    def tiles(self, tiles: Sequence[tuple[str, str, str]]) -> None:
        """A row of large numbers: what, the number, what stands under it."""
        items = "".join(
            f"<div><span>{escape(what)}</span><b>{escape(number)}</b><span>{escape(under)}</span></div>"
            for what, number, under in tiles
        )
        self.add(f'<div class="tiles">{items}</div>')

    def chart(self, chart: Chart) -> None:
        self.specs.append((chart.name, chart.spec))
        self.add(
            f'<figure id="{escape(chart.name)}"><h3>{escape(chart.title)}</h3>'
            f'<div class="chart"><div id="chart-{escape(chart.name)}">{chart.svg}</div></div>'
            f"<figcaption>{mathed(chart.caption)}</figcaption></figure>"
        )

    def table(
        self, heads: Sequence[str], rows: Sequence[Sequence[Cell]], chosen: Sequence[int] = (), sortable: bool = False
    ) -> None:
        """A table; columns whose first row is a number are set right. ``chosen`` rows stand out."""
        numeric = [bool(rows) and all(r[i].number or not r[i].html for r in rows) for i in range(len(heads))]
        head = "".join(f"<th{_class('num' if n else '')}>{escape(h)}</th>" for h, n in zip(heads, numeric, strict=True))
        lines = []
        for i, row in enumerate(rows):
            cells = "".join(_cell(c, n) for c, n in zip(row, numeric, strict=True))
            lines.append(f"<tr{_class('chosen' if i in chosen else '')}>{cells}</tr>")
        self.add(
            f'<div class="scroll"><table{_class("sortable" if sortable else "")}><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(lines)}</tbody></table></div>"
        )

    def html(self, libraries: str, basis: str = "") -> str:
        """The finished page.

        Args:
            libraries: JavaScript that defines ``vegaEmbed``; it stands in the page once, however many charts there are.
        """
        kind = "application/vnd.vegalite+json"
        specs = "".join(
            f'<script type="{kind}" data-home="chart-{escape(name)}">{_inline_json(spec)}</script>'
            for name, spec in self.specs
        )
        code = f"<script>{_inline_code(libraries)}</script>" if self.specs else ""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="basis" content="{escape(basis)}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{STYLE}</style></head>\n"
            f"<body><main>\n{chr(10).join(self.body)}\n</main>\n{specs}{code}<script>{SCRIPT}</script></body></html>\n"
        )


def _cell(cell: Cell, numeric: bool) -> str:
    kind = "num" if numeric else "wide" if cell.wide else ""
    value = "" if cell.value is None else f' data-value="{escape(str(cell.value))}"'
    if cell.value is None and numeric:
        value = ' data-value=""'
    return f"<td{_class(kind)}{value}>{cell.html}</td>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _inline_json(value: Any) -> str:
    """JSON that cannot end the script element that holds it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _inline_code(code: str) -> str:
    """JavaScript that cannot end the script element that holds it (a string may hold ``</script``)."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")
