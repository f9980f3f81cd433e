"""What differs between the runs behind two traces: what may explain a flip."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from ..trace import Trace

_LOOKED_AT = ("model", "prompt_set", "settings", "capture", "weight_type", "steering", "versions")
_SCHEMA = pa.schema([("what", pa.string()), ("a", pa.string()), ("b", pa.string())])


def manifest_differences(a: Trace, b: Trace) -> pa.Table:
    """Fields of the two manifests that differ: dtype, batch layout, versions, steering, quantisation and so on.

    Returns:
        what (e.g. `model.dtype`), a, b as text; null where a side has no such field. No rows where all is alike.
    """
    left, right = (dict(_fields({name: side.manifest[name] for name in _LOOKED_AT})) for side in (a, b))
    names = [*left, *(name for name in right if name not in left)]
    rows = [
        {"what": name, "a": left.get(name), "b": right.get(name)}
        for name in names
        if left.get(name) != right.get(name)
    ]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _fields(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Every field by its path, as text. A steering is told as a whole."""
    for name, value in values.items():
        path = f"{before}{name}"
        if isinstance(value, Mapping) and path != "steering":
            yield from _fields(value, f"{path}.")
        elif value not in (None, [], ""):
            yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
