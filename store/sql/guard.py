"""What an SQL statement may contain: one SELECT over the views of a trace.

This is the first of three locks. The second is DuckDB itself, which may open the listed files and nothing
else and whose configuration is locked; the third is the process around it, which has limits on time and
memory and may not write to any file (see `worker.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..errors import QueryRefused

VIEWS = ("prompts", "tokens", "events", "selections", "rollups")
TABLE_FUNCTIONS = frozenset({"unnest", "range", "generate_series", "generate_subscripts"})
REFUSED_FUNCTIONS = frozenset(
    {
        "add_parquet_key",
        "create_sort_key",
        "current_setting",
        "getenv",
        "getvariable",
        "in_search_path",
        "nextval",
        "currval",
        "query",
        "query_table",
        "read_blob",
        "read_text",
        "sleep",
        "sleep_ms",
        "write_log",
    }
)
"""They tell about the process, change it, or only waste its time."""
LONGEST_QUERY = 100_000


def check_query(connection: Any, query: str) -> set[str]:
    """Refuse everything but one SELECT over the views.

    Args:
        connection: one without any tables of its own yet.
    Returns:
        Those of VIEWS that the query names.
    Raises:
        QueryRefused: with what is not allowed, or what DuckDB's parser says.
    """
    if len(query) > LONGEST_QUERY:
        raise QueryRefused(f"the query is longer than {LONGEST_QUERY:,} characters")
    if "\0" in query:
        raise QueryRefused("the query contains a NUL character")
    statements = connection.extract_statements(query)
    if len(statements) != 1:
        raise QueryRefused(f"one statement at a time: this has {len(statements)}")
    kind = str(statements[0].type).rsplit(".", 1)[-1]
    if kind != "SELECT":
        raise QueryRefused(f"only SELECT is allowed here, not {kind.replace('_', ' ')}")
    text = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchall()[0][0]
    tree = json.loads(text)
    if tree["error"]:
        raise QueryRefused(f"this statement can't be checked: {tree.get('error_message')}")
    return _check_tree(tree, _catalog(connection))


def _catalog(connection: Any) -> set[str]:
    """Tables and views that DuckDB brings along and finds by their bare name."""
    found = connection.execute(
        "SELECT view_name FROM duckdb_views() UNION SELECT table_name FROM duckdb_tables()"
    ).fetchall()
    return {name.lower() for (name,) in found}


def _check_tree(tree: Any, catalog: set[str]) -> set[str]:
    nodes = list(_nodes(tree))
    own = {entry["key"] for node in nodes if "cte_map" in node for entry in node["cte_map"]["map"]}
    for name in own:
        _check_own(name, catalog)
    own = {name.lower() for name in own}
    used = set()
    for node in nodes:
        if node.get("type") == "BASE_TABLE":
            used.add(_check_table(node, own))
        elif node.get("type") == "SHOW_REF" and node.get("table_name"):
            raise QueryRefused("SHOW is not allowed here; use DESCRIBE events")
        elif node.get("type") == "TABLE_FUNCTION":
            name = str(node["function"].get("function_name", "")).lower()
            if name not in TABLE_FUNCTIONS:
                raise QueryRefused(f"the table function {name} is not allowed here")
        elif node.get("class") == "FUNCTION" and str(node.get("function_name")).lower() in REFUSED_FUNCTIONS:
            raise QueryRefused(f"the function {node['function_name']} is not allowed here")
    return used & set(VIEWS)


def _check_own(name: str, catalog: set[str]) -> None:
    """A WITH name is allowed wherever it is written, also where it is out of scope: so it must not be the name of
    anything else."""
    if not name.isidentifier() or name.startswith("_"):
        raise QueryRefused(f"WITH {name}: name it with letters, digits and _, a letter first")
    if name.lower() in catalog:
        raise QueryRefused(f"WITH {name}: DuckDB has a table of that name; choose another")


def _check_table(node: dict[str, Any], own: set[str]) -> str:
    """The name of the table, in small letters."""
    name = str(node["table_name"])
    qualifiers = [str(node[key]) for key in ("catalog_name", "schema_name") if node.get(key)]
    if qualifiers or (name.lower() not in VIEWS and name.lower() not in own):
        full = ".".join([*qualifiers, name])
        raise QueryRefused(f"there is no table {full}; there are: {', '.join(VIEWS)}")
    return name.lower()


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
