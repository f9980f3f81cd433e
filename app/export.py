"""What a reader takes away: pictures and numbers as bytes, made without a browser and without a network.

Pictures are made for paper: light, with title, sentence and source. Text from prompts is data, never markup:
a standalone HTML page holds its specification with `<` escaped, so no token can end the script; a CSV cell
that a spreadsheet would run as a formula gets an apostrophe in front.
"""

from __future__ import annotations

import functools
import html
import io
import json
import textwrap
from typing import Any

import altair as alt
import pyarrow as pa
import pyarrow.parquet as pq
import vl_convert

from ..store.tables import csv_bytes, storable
from .render_process import renderer

PAGE_WIDTH = 960
EMBED = {
    "renderer": "svg",
    "actions": {"export": True, "source": False, "compiled": False, "editor": False},
}
"""How a page draws a figure: vega-embed's options."""


def specification(
    chart: alt.TopLevelMixin, *, title: str = "", say: str = "", source: str = ""
) -> dict[str, Any]:
    """Vega-Lite specification of a chart with a fixed width, its title, its sentence and its source."""
    spec = chart.to_dict()
    if spec.get("width") == "container":
        spec["width"] = PAGE_WIDTH
    spec.get("usermeta", {}).pop("embedOptions", None)
    lines = textwrap.wrap(say, 130) + ([source] if source else [])
    if title or lines:
        spec["title"] = {"text": title, "subtitle": lines}
    return spec


def to_png(spec: dict[str, Any]) -> bytes:
    return renderer.draw("png", spec, scale=2)


def to_svg(spec: dict[str, Any]) -> bytes:
    return renderer.draw("svg", spec)


def to_html(spec: dict[str, Any], *, title: str = "") -> bytes:
    """A page that draws the chart with Vega inlined: it needs nothing but itself."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{html.escape(title or "moescope")}</title>
<style>body {{ margin: 24px; font-family: sans-serif }} #chart {{ width: 100% }}</style>
<script>{vega()}</script>
</head>
<body>
<div id="chart"></div>
<script>vegaEmbed("#chart", {script_json(spec)}, {script_json(EMBED)});</script>
</body>
</html>
""".encode()


@functools.cache
def vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script, safe inside a script element."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def to_csv(table: pa.Table) -> bytes:
    """CSV in UTF-8 with a byte order mark (spreadsheets ask for it); lists and maps as JSON."""
    return "\ufeff".encode() + csv_bytes(unique_names(table))


def unique_names(table: pa.Table) -> pa.Table:
    """The table with every column's name its own: a, a_2, ..."""
    seen: dict[str, int] = {}
    result = []
    for name in table.column_names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return table.rename_columns(result)


def to_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(storable(unique_names(table)), buffer, compression="zstd")
    return buffer.getvalue()
