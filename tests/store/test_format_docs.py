"""docs/trace-format.md documents the columns that the files have, in their order and with their types."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

from moescope.store.layout import PROMPTS_FILE, ROLLUPS_FILE, TOKENS_FILE, events_schema
from moescope.store.manifest import Manifest
from moescope.store.schema import CAPTURES, RouterSpec

PAGE = (Path(__file__).parent.parent.parent / "docs" / "trace-format.md").read_text(encoding="utf-8")
ROUTER = RouterSpec(layer=0, num_experts=64, top_k=8, router="gate")


def documented(section: str) -> dict[str, str]:
    """First and second column of the table under a heading."""
    body = PAGE.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (\S+) \| ([^|]+) \|", body, re.MULTILINE)
    return {name: kind.strip() for name, kind in rows if name not in ("column", "key")}


def spelled(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_list(kind):
        return f"list<{spelled(kind.value_type)}>"
    if pa.types.is_map(kind):
        return f"map<{spelled(kind.key_type)}, {spelled(kind.item_type)}>"
    return {"float": "float", "halffloat": "float", "double": "double"}.get(str(kind), str(kind))


@pytest.mark.parametrize(
    ("section", "schema"),
    [
        ("prompts", PROMPTS_FILE),
        ("tokens", TOKENS_FILE),
        ("events", events_schema([ROUTER], CAPTURES)),
        ("rollups", ROLLUPS_FILE),
    ],
)
def test_columns_are_documented_as_they_are(section, schema):
    expected = {field.name: spelled(field.type) for field in schema}
    found = documented(section)
    if section == "events":
        assert found.pop("experts") == "list<uint8, uint16 or uint32>"
        expected.pop("experts")
    assert list(found.items()) == list(expected.items())


def test_manifest_keys_are_documented():
    body = PAGE.split("\n## trace.json\n", 1)[1].split("\n## ", 1)[0]
    named = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (.+?) \|", body, re.MULTILINE))))
    assert set(Manifest().to_json()) - named == set()
