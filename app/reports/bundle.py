"""A report as a static folder that opens offline: a page, figures as SVG and PDF, tables as CSV and Parquet.

index.html     the report, interactive
figures/       01-title.svg, .pdf (double column)
data/          01-title.csv, .parquet
files/         steering profiles and other JSON files
about.json     what each entry was made from: models, prompt sets, fingerprints, versions, parameters
METHODS.md     the methods paragraphs and what to cite
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path

from .. import export
from ..printing import specification as printing
from . import render
from .item import Item
from .methods import citations
from .report import Report, ReportError


def write_bundle(report: Report, out: Path) -> Path:
    """Write the folder, whole or not at all.

    Raises:
        ReportError: `out` exists and is not empty, or the report has no entry.
        OSError: it can't be written.
    """
    if not report.items:
        raise ReportError(f"the report {report.name!r} is empty: pin a figure, or name a view")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ReportError(f"{out} is there already and is not an empty folder: choose another")
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        _fill(made, report)
        if out.exists():
            out.rmdir()
        made.chmod(0o755)
        os.replace(made, out)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return out


def _fill(folder: Path, report: Report) -> None:
    addresses = {}
    for number, item in enumerate(report.items, 1):
        stem = f"{number:02d}-{_stem(item.title)}"
        if (table := item.table()) is not None:
            _put(folder / "data" / f"{stem}.csv", export.to_csv(table))
            _put(folder / "data" / f"{stem}.parquet", export.to_parquet(table))
            addresses[item.id] = f"data/{stem}"
        if item.spec is not None:
            spec = printing.print_specification(item.spec, column="double")
            _put(folder / "figures" / f"{stem}.svg", printing.to_svg(spec))
            _put(folder / "figures" / f"{stem}.pdf", printing.to_pdf(spec))
        for name, content in item.files.items():
            data = json.dumps(content, indent=1, ensure_ascii=False).encode()
            _put(folder / "files" / f"{stem}-{_stem(name.removesuffix('.json'))}.json", data)
    _put(folder / "index.html", render.to_html(report, files=addresses))
    _put(
        folder / "about.json",
        json.dumps([_about(item) for item in report.items], indent=1, default=str).encode(),
    )
    _put(folder / "METHODS.md", _methods(report).encode())


def _about(item: Item) -> dict[str, object]:
    return {"title": item.title, "kind": item.kind, "says": item.say, "caption": item.caption, **item.about}


def _methods(report: Report) -> str:
    cited = citations(item.about.get("view", "") for item in report.items)
    sources = ["## To cite", *(f"- {text}" for text in cited)] if cited else []
    return "\n\n".join(["# Methods", *render.methods_of(report), *sources]) + "\n"


def _stem(title: str) -> str:
    """A file name out of a title: lower case letters, digits and dashes."""
    return re.sub(r"[^\w]+", "-", title.lower()).strip("-")[:60] or "entry"


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
