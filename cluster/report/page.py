"""The page of the report: layout, style and a short script.

Text is escaped for HTML. Data is JSON that cannot end the script element.
"""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gristmill.cluster.report.sections import Section, Table, Tile

STYLE = """
:root{--ink:#2b3440;--soft:#67707d;--line:#e3e7ec;--paper:#fff;--ground:#f6f7f9;--kept:#2c6e8f;--out:#d9923b;--gone:#8b929d;
--font:system-ui,-apple-system,"Segoe UI","Noto Sans","Noto Sans CJK SC","PingFang SC","Microsoft YaHei",sans-serif}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 var(--font)}
main{max-width:1240px;margin:0 auto;padding:28px 24px 64px}
h1{font-size:26px;line-height:1.2;margin:0;display:flex;gap:12px;align-items:center;flex-wrap:wrap}
h2{font-size:18px;margin:36px 0 4px}h3{font-size:14px;margin:0 0 6px;font-weight:600}
.soft,.note{color:var(--soft)}.note{font-size:13px;margin:4px 0 12px;max-width:90ch}
.facts{color:var(--soft);font-size:13px;margin:6px 0 0}.facts span+span::before{content:"·";margin:0 8px}
.badge{font-size:12px;font-weight:600;padding:3px 10px;border-radius:99px;background:#e4eef3;color:var(--kept)}
.badge.failed{background:#fbe9e4;color:#a6401c}.badge.running,.badge.stopped{background:#fdf3e2;color:#8a5a10}
.error{background:#fbe9e4;color:#7c2f14;padding:10px 14px;border-radius:8px;margin-top:14px;white-space:pre-wrap;
overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(180px,1fr));gap:12px;margin-top:22px}
.card{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:16px;min-width:0}
.tile b{display:block;font-size:24px;line-height:1.25;font-weight:600;margin:2px 0;font-variant-numeric:tabular-nums}
.tile span{font-size:13px;color:var(--soft)}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:12px;margin-top:10px}
.panels.many{grid-template-columns:repeat(auto-fit,minmax(min(100%,265px),1fr))}
.wide{grid-column:1/-1}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th{font-weight:600;color:var(--soft);text-align:left;white-space:nowrap}
th,td{padding:7px 10px;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child>td{border-bottom:0}
.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.mono{font:12px/1.6 ui-monospace,"SF Mono",Menlo,Consolas,monospace;white-space:nowrap}
.controls{display:flex;gap:10px;flex-wrap:wrap;align-items:center;margin:10px 0 12px}
input,select{font:inherit;font-size:14px;padding:6px 10px;border:1px solid #cfd5dd;border-radius:7px;background:#fff;
color:inherit;max-width:100%}
input{flex:1 1 220px;min-width:0}select{flex:0 1 auto}
.rows{table-layout:fixed;min-width:820px}
.rows tr.row{cursor:pointer}.rows tr.row:hover td,.rows tr.row:focus td{background:#f3f6f8}
.rows tr.row:focus{outline:none}
.clip{display:-webkit-box;-webkit-line-clamp:3;-webkit-box-orient:vertical;overflow:hidden;overflow-wrap:anywhere}
.clip.long{-webkit-line-clamp:8;white-space:pre-wrap}.lines{white-space:pre-line;overflow-wrap:anywhere;min-width:180px}
.panels+.scroll,.scroll+.scroll{margin-top:12px}.tall{max-height:560px;overflow:auto}.fixed{table-layout:fixed;min-width:760px}.narrow{width:auto}
.fate{display:inline-block;font-size:12px;font-weight:600;white-space:nowrap;color:var(--gone)}
.fate::before{content:"";display:inline-block;width:8px;height:8px;border-radius:50%;background:currentColor;margin-right:6px}
.fate.kept{color:var(--kept)}.fate.selection{color:#b06f1d}
.why{font-size:12.5px;color:var(--soft);overflow-wrap:anywhere}
.detail td{background:#fafbfc}
.detail .grid{display:grid;grid-template-columns:minmax(0,3fr) minmax(0,2fr);gap:20px}
.turn{white-space:pre-wrap;overflow-wrap:anywhere;margin:0 0 12px}
.turn i{display:block;font-style:normal;font-size:12px;
color:var(--soft);font-weight:600}
dl{margin:0;display:grid;grid-template-columns:max-content minmax(0,1fr);gap:4px 12px;font-size:13px}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
@media(max-width:760px){main{padding:18px 12px 48px}.detail .grid{grid-template-columns:1fr}h1{font-size:22px}
.rows{min-width:0}.rows .opt{display:none}.rows col.opt{display:none}}
"""

SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
for (const [id, figure] of Object.entries(data.figures)) {
  const settings = {displayModeBar: false, responsive: true, scrollZoom: id === data.map};
  Plotly.newPlot(id, figure.data, figure.layout, settings);
}
const make = (tag, name, text) => {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
};
const fateClass = fate => fate === "kept" ? "fate kept" : fate === "dropped in selection" ? "fate selection" : "fate";
const facts = (list, entries) => {
  for (const [name, value] of entries) {
    if (value === "" || value === null || value === undefined) continue;
    list.append(make("dt", "", name), make("dd", "", String(value)));
  }
};
const reference = ref => ref.text ? ref.text + "  (" + ref.id.slice(0, 8) + ")" : ref.id;
function detail(sample) {
  const row = make("tr", "detail"), cell = make("td"), grid = make("div", "grid");
  const talk = make("div"), list = make("dl");
  cell.colSpan = 5;
  for (const [role, content] of sample.turns) {
    const turn = make("p", "turn", content);
    turn.prepend(make("i", "", role));
    talk.append(turn);
  }
  const winner = sample.lost_to && reference(sample.lost_to);
  facts(list, [["id", sample.id], ["dropped", sample.reason], ["lost to", winner]]);
  facts(list, sample.parents.map((parent, n) => [n ? "" : "parents", reference(parent)]));
  facts(list, Object.entries(sample.scores));
  facts(list, Object.entries(sample.tags));
  facts(list, [["round", sample.round]].concat(Object.entries(sample.origin)));
  grid.append(talk, list);
  cell.append(grid);
  row.append(cell);
  return row;
}
function line(sample) {
  const row = make("tr", "row");
  row.tabIndex = 0;
  const texts = [sample.instruction, sample.answer].map(text => {
    const cell = make("td");
    cell.append(make("div", "clip", text));
    return cell;
  });
  const scores = make("td", "opt why");
  for (const [name, value] of Object.entries(sample.scores)) {
    scores.append(make("div", "", name.replace(/_/g, " ") + " " + value.toFixed(2)));
  }
  const fate = make("td");
  fate.append(make("span", fateClass(sample.fate), sample.fate === "kept" ? "kept" : "dropped"));
  if (sample.reason) fate.append(make("div", "why", sample.reason.replace(/\\b([0-9a-f]{8})[0-9a-f]{24}\\b/g, "$1")));
  const method = make("td", "opt", sample.method.replace(/_/g, " "));
  row.append(...texts, method, scores, fate);
  const toggle = () => {
    if (row.nextSibling && row.nextSibling.className === "detail") row.nextSibling.remove();
    else row.after(detail(sample));
  };
  row.addEventListener("click", toggle);
  row.addEventListener("keydown", event => { if (event.key === "Enter") toggle(); });
  return row;
}
const body = document.getElementById("rows");
if (body) {
  const [words, fate, kind, count] = ["words", "fate", "kind", "count"].map(id => document.getElementById(id));
  const kindOf = sample => sample.reason.split(":")[0];
  for (const name of [...new Set(data.samples.map(kindOf))].filter(Boolean).sort()) {
    const option = make("option", "", name);
    option.value = name;
    kind.append(option);
  }
  const haystack = data.samples.map(s => JSON.stringify([s.id, s.turns, s.reason, s.method, s.tags]).toLowerCase());
  const show = () => {
    const wanted = words.value.trim().toLowerCase();
    const found = data.samples.filter((sample, n) => (!wanted || haystack[n].includes(wanted)) &&
      (!fate.value || sample.fate === fate.value) && (!kind.value || kindOf(sample) === kind.value));
    body.replaceChildren(...found.map(line));
    count.textContent = found.length + " of " + data.samples.length;
  };
  for (const control of [words, fate, kind]) control.addEventListener("input", show);
  show();
}
"""


@dataclass(frozen=True, slots=True)
class Page:
    """The contents of the report."""

    title: str
    badge: str
    facts: Sequence[str]
    error: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    samples: Sequence[Mapping[str, Any]]
    """Rows of the table of samples, for the script."""
    num_samples: int
    """Number of all samples, including those that the page does not show."""

    def html(self) -> str:
        """Return the page as one self-contained HTML text. If it has charts, it includes Plotly's script (4.8 MB)."""
        from plotly.offline import get_plotlyjs

        figures: dict[str, Any] = {}
        sections = "".join(_section(section, figures) for section in self.sections)
        zoomed = next((key for key, panel in figures.items() if panel.zooms), "")
        data = {"figures": {k: p.figure for k, p in figures.items()}, "map": zoomed, "samples": list(self.samples)}
        needs_plotly = f"<script>{get_plotlyjs()}</script>" if figures else ""
        facts = "".join(f"<span>{_e(fact)}</span>" for fact in self.facts)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{_e(self.title)} · report</title><style>{STYLE}</style></head>\n<body><main>"
            f'<header><h1>{_e(self.title)} <span class="badge {_e(self.badge)}">{_e(self.badge)}</span></h1>'
            f'<p class="facts">{facts}</p>'
            + (f'<div class="error">{_e(self.error)}</div>' if self.error else "")
            + f"</header>{_tiles(self.tiles)}{sections}{self._samples()}</main>\n"
            f'<script id="data" type="application/json">{script_safe(data)}</script>\n'
            f"{needs_plotly}\n<script>{SCRIPT}</script></body></html>\n"
        )

    def _samples(self) -> str:
        if not self.samples:
            return ""
        shown, total = len(self.samples), self.num_samples
        some = f"{shown:,} of {total:,} samples, about half of them kept" if shown < total else f"All {total:,} samples"
        return (
            f'<h2>Samples</h2><p class="note">{some}. A click on a row opens the whole conversation, its parents and '
            'where it comes from.</p><div class="card"><div class="controls">'
            '<input id="words" type="search" placeholder="Search text, id, reason" aria-label="Search">'
            '<select id="fate" aria-label="Kept or dropped"><option value="">kept and dropped</option>'
            '<option value="kept">kept</option><option value="dropped in selection">dropped in selection</option>'
            '<option value="dropped before selection">dropped before selection</option></select>'
            '<select id="kind" aria-label="Dropped by"><option value="">any reason</option></select>'
            '<span id="count" class="soft"></span></div><div class="scroll"><table class="rows">'
            '<colgroup><col style="width:29%"><col style="width:31%"><col class="opt" style="width:9%">'
            '<col class="opt" style="width:15%"><col style="width:16%"></colgroup>'
            '<thead><tr><th>instruction</th><th>answer</th><th class="opt">method</th><th class="opt">scores</th>'
            '<th>fate</th></tr></thead><tbody id="rows"></tbody></table></div></div>'
        )


def script_safe(value: object) -> str:
    """Return JSON that is safe inside a script element: without `<` and without U+2028 and U+2029.

    JavaScript reads these two characters as ends of lines.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _e(text: str) -> str:
    return html.escape(text)


def _section(section: Section, figures: dict[str, Any]) -> str:
    panels = []
    for panel in section.panels:
        key = f"chart-{len(figures)}"
        figures[key] = panel
        title = f"<h3>{_e(panel.title.replace('_', ' '))}</h3>" if panel.title else ""
        note = f'<p class="note">{_e(panel.note)}</p>' if panel.note else ""
        height = int(panel.figure["layout"]["height"])
        wide = " wide" if panel.wide else ""
        panels.append(f'<div class="card{wide}">{title}{note}<div id="{key}" style="height:{height}px"></div></div>')
    lead = f'<p class="note">{_e(section.lead)}</p>' if section.lead else ""
    many = " many" if len(panels) > 2 else ""
    charts = f'<div class="panels{many}">{"".join(panels)}</div>' if panels else ""
    tables = "".join(map(_table, section.tables))
    return f"<section><h2>{_e(section.title)}</h2>{lead}{charts}{tables}</section>"


def _table(table: Table) -> str:
    head = "".join(f"<th{' class=num' if kind == 'num' else ''}>{_e(name)}</th>" for name, kind in table.columns)
    rows = "".join(
        "<tr>" + "".join(_cell(text, kind) for text, (_, kind) in zip(row, table.columns, strict=True)) + "</tr>"
        for row in table.rows
    )
    widths = "".join(f'<col style="width:{width}%">' for width in table.fixed)
    columns = f"<colgroup>{widths}</colgroup>" if widths else ""
    look = " ".join(name for name in ("fixed" * bool(table.fixed), "narrow" * table.narrow) if name)
    note = f'<p class="note">{_e(table.note)}</p>' if table.note else ""
    return (
        f'<div class="card scroll{" tall" * table.tall}">{note}<table class="{look}">{columns}'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(text: str, kind: str) -> str:
    if kind == "clip":
        return f'<td><div class="clip long">{_e(text)}</div></td>'
    return f'<td class="{kind}">{_e(text)}</td>' if kind else f"<td>{_e(text)}</td>"


def _tiles(tiles: Sequence[Tile]) -> str:
    cards = "".join(
        f'<div class="card tile"><span>{_e(t.name)}</span><b>{_e(t.value)}</b><span>{_e(t.note)}</span></div>'
        for t in tiles
    )
    return f'<div class="tiles">{cards}</div>' if cards else ""
