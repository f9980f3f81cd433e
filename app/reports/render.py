"""A report as one HTML page that needs nothing but itself, and as PDF pages."""

from __future__ import annotations

import html
import json
from typing import Any

import pyarrow as pa

from .. import export
from ..figures.theme import LIGHT
from ..text import words
from ..text.literal import visible
from . import methods
from .item import Item
from .report import Report

MOST_ROWS = 200
"""Rows of a table that stand on the page; its files hold all."""

STYLE = f"""
:root {{ color-scheme: light; }}
body {{ margin: 0 auto; max-width: 1000px; padding: 32px 24px 80px; background: {LIGHT.background}; color: {LIGHT.text};
  font: 16px/1.5 'Source Sans 3', 'Source Sans Pro', 'Liberation Sans', Arial, sans-serif; }}
h1 {{ font-size: 28px; line-height: 1.2; margin: 0 0 4px; }}
h2 {{ font-size: 19px; margin: 0 0 8px; }}
section {{ margin: 40px 0 0; padding: 24px 0 0; border-top: 1px solid {LIGHT.line}; }}
nav ol {{ margin: 16px 0 0; padding-left: 24px; }}
a {{ color: {LIGHT.primary}; }}
p.say {{ margin: 8px 0 0; }}
p.caption {{ margin: 8px 0 0; font-style: italic; }}
.about, details {{ color: {LIGHT.muted}; font-size: 14px; margin: 8px 0 0; }}
pre {{ background: {LIGHT.surface}; padding: 12px; overflow-x: auto; font-size: 13px; white-space: pre-wrap; }}
table {{ border-collapse: collapse; font-size: 13px; }}
th, td {{ text-align: left; padding: 3px 12px 3px 0; border-bottom: 1px solid {LIGHT.line}; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
.scroll {{ overflow: auto; max-height: 420px; }}
.chart {{ width: 100%; overflow-x: auto; }}
@media print {{ .scroll {{ max-height: none }} details {{ display: none }} }}
"""


def to_html(report: Report, *, files: dict[str, str] | None = None) -> bytes:
    """The report with its figures interactive; opens offline.

    Args:
        files: where a bundle keeps the numbers of each entry: id → relative address without ending.
    """
    title = report.title or report.name
    parts = [_section(number, item, files or {}) for number, item in enumerate(report.items, 1)]
    entries = "".join(f'<li><a href="#item-{item.id}">{_text(item.title)}</a></li>' for item in report.items)
    charts = {f"chart-{item.id}": item.spec for item in report.items if item.spec is not None}
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:;
 script-src 'unsafe-inline' 'unsafe-eval'">
<title>{_text(title)}</title>
<style>{STYLE}</style>
{f"<script>{export.vega()}</script>" if charts else ""}
</head>
<body>
<h1>{_text(title)}</h1>
<p class="about">{_text(_made(report))}</p>
<nav aria-label="Contents"><ol>{entries}</ol></nav>
{"".join(parts)}
{_methods(report)}
<script>
const charts = {export.script_json(charts)};
for (const [id, spec] of Object.entries(charts))
  vegaEmbed("#" + id, spec, {export.script_json(export.EMBED)});
</script>
</body>
</html>
""".encode()


def _made(report: Report) -> str:
    made = f"moescope report, {words.amount(len(report.items), 'entry', 'entries')}"
    return f"{made}, {report.updated[:10]}" if report.updated else made


def _section(number: int, item: Item, files: dict[str, str]) -> str:
    parts = [f'<section id="item-{item.id}"><h2>{number}. {_text(item.title)}</h2>']
    if item.spec is not None:
        parts.append(
            f'<div class="chart" id="chart-{item.id}" role="img" aria-label="{_text(item.title)}"></div>'
        )
    table = item.table()
    if item.kind == "table" and table is not None:
        parts.append(_table(table))
    if item.say:
        parts.append(f'<p class="say">{_text(item.say)}</p>')
    if item.caption:
        parts.append(f'<p class="caption">{_text(item.caption)}</p>')
    if item.about:
        parts.append(f'<p class="about">{_text(about_line(item.about))}</p>')
    if address := files.get(item.id):
        parts.append(f'<p class="about">Numbers: <a href="{_text(address)}.csv">CSV</a>, '
                     f'<a href="{_text(address)}.parquet">Parquet</a></p>')  # fmt: skip
    if item.kind == "figure" and table is not None and item.id not in files:
        parts.append(f"<details><summary>Numbers</summary>{_table(table)}</details>")
    for name, content in item.files.items():
        data = _text(json.dumps(content, indent=1, ensure_ascii=False))
        parts.append(f"<details><summary>{_text(name)}</summary><pre>{data}</pre></details>")
    if item.python:
        parts.append(f"<details><summary>Python</summary><pre>{_text(item.python)}</pre></details>")
    return "".join([*parts, "</section>"])


def about_line(about: dict[str, Any]) -> str:
    """Model, prompts, choice and version in one line, as every caption carries them; empty for a note."""
    if not about:
        return ""
    chosen = about.get("chosen") or "all prompts"
    version = about.get("versions", {}).get("moescope", "")
    prompts = words.amount(about.get("prompts", 0), "prompt")
    source = " of ".join(filter(None, [prompts, str(about.get("prompt set") or "")]))
    kind = f" ({about['architecture']})" if about.get("architecture") else ""
    model = f"{about.get('model', '')}{kind}"
    weights = f"weights {about['weights']}" if about.get("weights") else ""
    imported = f"imported from {about['imported']}" if about.get("imported") else ""
    seed = f"random controls with seed {about['seed']}" if about.get("seed") is not None else ""
    parts = [model, imported, weights, source, str(chosen), seed, f"moescope {version}".strip()]
    line = " · ".join(filter(None, parts))
    if second := about.get("second"):
        return f"A: {about['trace']}, {line}; B: {second['trace']}, {about_line(second)}"
    return line


def _methods(report: Report) -> str:
    paragraphs = methods_of(report)
    if not paragraphs:
        return ""
    cited = methods.citations(item.about.get("view", "") for item in report.items)
    found = "".join(f"<p>{_text(text)}</p>" for text in paragraphs)
    listed = "".join(f"<li>{_text(text)}</li>" for text in cited)
    sources = f"<h3>To cite</h3><ul>{listed}</ul>" if listed else ""
    return f"<section><h2>Methods</h2>{found}{sources}</section>"


def methods_of(report: Report) -> list[str]:
    """A methods paragraph for each recording: what was recorded, every measure once, the software."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for item in report.items:
        if item.about:
            key = methods.recording(item.about), methods.software(item.about)
            found.setdefault(key, []).append(item.about)
    return [_paragraph(said, abouts, software) for (said, software), abouts in found.items()]


def _paragraph(said: str, abouts: list[dict[str, Any]], software: str) -> str:
    """What is shown of one recording, each choice and each measure once."""
    choices = [one for one in dict.fromkeys(map(methods.shown, abouts)) if one]
    chosen = f"Shown: {'; '.join(choices)}." if choices else ""
    measures = dict.fromkeys(methods.measured(about.get("view", "")) for about in abouts)
    return " ".join(filter(None, [said, chosen, *measures, software]))


def _table(table: pa.Table) -> str:
    shown = table.slice(0, MOST_ROWS)
    head = "".join(f"<th>{_text(name)}</th>" for name in shown.column_names)
    rows = []
    for row in shown.to_pylist():
        cells = [
            f'<td class="number">{_number(value)}</td>'
            if isinstance(value, (int, float)) and not isinstance(value, bool)
            else f"<td>{_text(_plain(value))}</td>"
            for value in row.values()
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    more = table.num_rows - shown.num_rows
    rest = f'<p class="about">{words.count(more)} more rows are not shown.</p>' if more else ""
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll" tabindex="0"><table>{body}</table></div>{rest}'


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _plain(value: Any) -> str:
    return (
        ""
        if value is None
        else json.dumps(value, ensure_ascii=False)
        if isinstance(value, (list, dict))
        else str(value)
    )


def _text(text: str) -> str:
    return html.escape(visible(text))
