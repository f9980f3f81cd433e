"""docs/trace-format.md, docs/sql.md and docs/import.md name exactly the columns that there are."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pytest

from moescope.store import RouterSpec, Trace
from moescope.store.expert_sheet import EXPERT_SHEET
from moescope.store.files.layout import PROMPTS_FILE, ROLLUPS_FILE, TOKENS_FILE, events_schema
from moescope.store.files.manifest import FileEntry, Manifest, PartEntry
from moescope.store.importers import neutral
from moescope.store.importers.formats import FORMATS
from moescope.store.schema import CAPTURES
from moescope.store.sql.query import view_columns

DOCS = Path(__file__).parents[2] / "docs"
SCHEMAS = {
    "prompts": PROMPTS_FILE,
    "tokens": TOKENS_FILE,
    "events": events_schema([RouterSpec(layer=0, num_experts=8, top_k=1, router="")], CAPTURES),
    "rollups": ROLLUPS_FILE,
    "experts": EXPERT_SHEET,
}


def section(document: str, title: str) -> str:
    text = (DOCS / document).read_text()
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def first_cells(text: str) -> list[str]:
    """Names in the first cells of the rows of a table."""
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")][2:]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def shown(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return shown(kind.value_type)
    if pa.types.is_list(kind):
        return f"list<{shown(kind.value_type)}>"
    return str(kind)


@pytest.mark.parametrize("table", SCHEMAS)
def test_every_column_of_the_format_is_documented_with_its_type(table: str) -> None:
    text = section("trace-format.md", table)
    rows = [line.replace(r"\|", "/").split("|") for line in text.splitlines() if line.startswith("| `")]
    found = {row[1].strip(" `"): row[2].strip().replace("\\", "") for row in rows}
    expected = {column.name: shown(column.type) for column in SCHEMAS[table]}
    expected |= {"experts": "list<uint8 / uint16 / uint32>"} if table == "events" else {}
    assert found == expected


def test_every_entry_of_the_manifest_is_documented() -> None:
    text = section("trace-format.md", "trace.json")
    assert first_cells(text) == [f.name for f in fields(Manifest)]
    for kind in (RouterSpec, PartEntry, FileEntry):
        for entry in fields(kind):
            assert f"`{entry.name}`" in text, entry.name
    assert all(f"`{name}`" in text for name in CAPTURES)


def test_every_sql_column_is_documented(shared_trace: Trace) -> None:
    text = (DOCS / "sql.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    found = {row[1].strip(" `"): re.findall(r'`"?(\w+)"?`', row[3]) for row in rows if len(row) == 5}
    for view, columns in view_columns(shared_trace).items():
        assert found[view] == [name for name, _ in columns]


def test_every_column_of_the_neutral_format_is_documented() -> None:
    names = first_cells(section("import.md", "The neutral format"))
    known = {*neutral.REQUIRED, *neutral.SEQUENCE_COLUMNS, *neutral.TOKEN_COLUMNS, *neutral.EVENT_COLUMNS}
    assert set(names) == known


def test_the_queries_in_the_documentation_run(shared_trace: Trace) -> None:
    text = (DOCS / "sql.md").read_text()
    queries = re.search(r"```sql\n(.*?)```", text, re.DOTALL)
    assert queries is not None
    for query in queries.group(1).split(";\n"):
        if query.strip():
            shared_trace.sql(query.strip().rstrip(";"))


def test_every_import_format_is_documented_with_what_it_reads() -> None:
    text = (DOCS / "import.md").read_text()
    for name, row in FORMATS.items():
        suffixes = ", ".join(f"`{suffix}`" for suffix in row.suffixes)
        assert f"| `{name}` | {row.summary} | {suffixes} |" in text, name
        assert f"moescope import {name}" in text, name
