"""A report as PDF: an entry a page, its figure as vectors, its words beneath. Made without a browser.

Each page is an SVG of A4 (in points) that holds the figure's own SVG; vl-convert turns it into PDF, and pypdf puts the
pages together.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator

from pypdf import PdfReader, PdfWriter

from ..printing import specification as printing
from ..printing.parts import text_width
from ..render_process import renderer
from ..text.literal import visible
from .item import Item
from .methods import citations
from .render import about_line, methods_of
from .report import Report

WIDTH, HEIGHT, MARGIN = 595, 842, 51
COLUMN = WIDTH - 2 * MARGIN
FONT = "Liberation Sans, DejaVu Sans, Arial, sans-serif"
Line = tuple[str, float, str]
"""Text, size in points, style: `bold`, `plain`, `italic` or `muted`."""


def to_pdf(report: Report) -> bytes:
    """All entries, then the methods and what to cite."""
    pages = [_front(report), *(_page(item, number) for number, item in enumerate(report.items, 1))]
    pages += _closing(report)
    writer = PdfWriter()
    for page in pages:
        writer.append(PdfReader(io.BytesIO(renderer.draw("svg_pdf", page))))
    writer.add_metadata({"/Title": report.title or report.name, "/Creator": "moescope"})
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def _front(report: Report) -> str:
    lines: list[Line] = [
        (report.title or report.name, 22, "bold"),
        (f"moescope report, {report.updated[:10]}", 10, "muted"),
    ]
    lines += [("", 10, "plain")]
    lines += [(f"{number}. {item.title}", 11, "plain") for number, item in enumerate(report.items, 1)]
    return _svg(list(_wrapped(lines)))


def _page(item: Item, number: int) -> str:
    top: list[Line] = [(f"{number}. {item.title}", 14, "bold")]
    below: list[Line] = [
        (item.say, 10, "plain"),
        (item.caption, 10, "italic"),
        (about_line(item.about), 8, "muted"),
    ]
    below = [line for line in below if line[0]]
    table = item.table()
    if (grid := _grid(item)) and table is not None and table.num_rows > len(grid) - 1:
        below.insert(0, (f"{table.num_rows - len(grid) + 1:,} more rows are not shown.", 8, "muted"))
    picture = ""
    if item.spec is not None:
        spec = printing.print_specification(item.spec, column="double")
        picture = printing.to_svg(spec).decode()
    return _svg(list(_wrapped(top)), picture, list(_wrapped(below)), grid)


def _grid(item: Item, most: int = 40, across: int = 8) -> list[list[str]]:
    """Head and first rows of a table, as texts."""
    table = item.table()
    if item.kind != "table" or table is None:
        return []
    names = table.column_names[:across]
    rows = [
        [
            f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
            for value in row.values()
        ]
        for row in table.select(names).slice(0, most).to_pylist()
    ]
    return [names, *rows]


def _closing(report: Report) -> list[str]:
    paragraphs = methods_of(report)
    if not paragraphs:
        return []
    lines: list[Line] = [("Methods", 14, "bold")]
    for text in paragraphs:
        lines += [(text, 10, "plain"), ("", 6, "plain")]
    cited = citations(item.about.get("view", "") for item in report.items)
    if cited:
        lines += [("To cite", 12, "bold"), *((text, 10, "plain") for text in cited)]
    wrapped, pages, used = list(_wrapped(lines)), [[]], 0.0
    for line in wrapped:
        if used + line[1] * 1.4 > HEIGHT - 2 * MARGIN:
            pages.append([])
            used = 0.0
        pages[-1].append(line)
        used += line[1] * 1.4
    return [_svg(page) for page in pages]


def _wrapped(lines: list[Line]) -> Iterator[Line]:
    """Lines broken where the column ends, by the width of a common sans serif."""
    for text, size, style in lines:
        current = ""
        for word in visible(text).replace("⏎", " ").split(" "):
            longer = f"{current} {word}".strip()
            if current and text_width(longer, size) > COLUMN:
                yield current, size, style
                current = word
            else:
                current = longer
        yield current, size, style


def _svg(
    top: list[Line], picture: str = "", below: list[Line] | None = None, grid: list[list[str]] | None = None
) -> str:
    y, parts = float(MARGIN), []
    for line in top:
        y += line[1] * 1.4
        parts.append(_text(line, y))
    if picture:
        size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', picture)
        width, height = (float(size[1]), float(size[2])) if size else (COLUMN, COLUMN)
        room = HEIGHT - y - MARGIN - 24 - sum(line[1] * 1.4 for line in below or [])
        scale = min(COLUMN / width, max(room, 100) / height, 1.0)
        inner = picture[picture.index("<svg") :]
        parts.append(f'<g transform="translate({MARGIN} {y + 12:.1f}) scale({scale:.4f})">{inner}</g>')
        y += height * scale + 16
    for number, row in enumerate(grid or []):
        y += 13
        step = COLUMN / len(row)
        style = "plain" if number else "bold"
        parts += [_text((cell[:24], 8, style), y, MARGIN + at * step) for at, cell in enumerate(row)]
    y += 8 if grid else 0
    for line in below or []:
        y += line[1] * 1.4
        if y < HEIGHT - MARGIN / 2:
            parts.append(_text(line, y))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{WIDTH}" '
        f'height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"><rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
        + "".join(parts)
        + "</svg>"
    )


def _text(line: Line, y: float, x: float = MARGIN) -> str:
    text, size, style = line
    look = {"bold": 'font-weight="600"', "italic": 'font-style="italic"'}.get(style, "")
    colour = "#5f6b75" if style == "muted" else "#18222b"
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-family="{FONT}" font-size="{size}" fill="{colour}" {look} '
        f'xml:space="preserve">{html.escape(visible(text))}</text>'
    )
