"""What a manifest can hold."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..errors import StoreError
from ..schema import CAPTURES


def ordered_capture(capture: Iterable[str]) -> list[str]:
    wanted = {"ids", *capture}
    unknown = sorted(wanted - set(CAPTURES))
    if unknown:
        raise StoreError(f"capture: {', '.join(unknown)} is not one of {', '.join(CAPTURES)}")
    return [name for name in CAPTURES if name in wanted]


def plain(value: Any) -> Any:
    """The value as JSON can hold it: tuples become lists, other objects text, NaN null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return plain(value.item()) if hasattr(value, "item") else str(value)
