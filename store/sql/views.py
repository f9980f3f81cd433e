"""The views that SQL sees: read-only, over the listed parts only, with prompt ids as the user gave them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..files.folder import open_folder
from ..files.remote import parquet_format

Columns = Mapping[str, Sequence[str]]
"""Table → names of its columns on disk."""


def _quoted(text: str, quote: str = "'") -> str:
    return quote + text.replace(quote, quote * 2) + quote


def files_source(paths: Sequence[str]) -> str:
    return f"read_parquet([{', '.join(map(_quoted, paths))}])"


def tables_behind(views: Iterable[str]) -> list[str]:
    """Tables on disk that some of the views read: prompts, which hold the ids, where there is any."""
    tables = {"events" if view == "selections" else view for view in views}
    return sorted(tables | {"prompts"}) if tables else []


def create_views(connection: Any, sources: Mapping[str, str], columns: Columns) -> None:
    """Create the views of some tables.

    Args:
        sources: table → what stands behind FROM for it; prompts among them.
    """
    for table in sources:
        names = [name for name in columns[table] if name not in ("prompt", "prompt_id")]
        listed = ", ".join(_shown(name, "row") for name in names)
        if table == "prompts":
            body = f"SELECT prompt_id, {listed} FROM {sources['prompts']} AS row"
        else:
            body = (
                f"SELECT key.prompt_id, {listed} FROM {sources[table]} AS row "
                f"JOIN {sources['prompts']} AS key ON row.prompt = key.prompt"
            )
        connection.execute(f"CREATE VIEW {table} AS {body}")
    if "events" not in sources:
        return
    weight = "unnest(weights)" if "weights" in columns["events"] else "NULL::FLOAT"
    connection.execute(
        "CREATE VIEW selections AS SELECT prompt_id, position, layer, stream, "
        "unnest(range(len(experts)))::INTEGER AS slot, unnest(experts)::INTEGER AS expert, "
        f"{weight} AS weight FROM events"
    )


def _shown(name: str, row: str) -> str:
    return f"{row}.{_quoted(name, chr(34))}"


def remote_source(
    connection: Any, url: str, table: str, files: Sequence[tuple[str, int]], schema: pa.Schema
) -> str:
    """Register the files (path and bytes) of a table that lies behind a URL, and give what stands behind FROM for
    it."""
    import pyarrow.dataset as ds

    filesystem, root = open_folder(url).arrow_filesystem()
    kind = parquet_format()
    fragments = [
        kind.make_fragment(f"{root.rstrip('/')}/{path}", filesystem, file_size=size) for path, size in files
    ]
    dataset = ds.FileSystemDataset(fragments, schema, kind, filesystem)
    connection.register(f"_{table}", dataset)
    return f"_{table}"
