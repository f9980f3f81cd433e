"""Which of several fields a request gives."""

from __future__ import annotations

from typing import Any

from ..errors import ApiError


def exactly_one(request: dict[str, Any], *names: str) -> str:
    """Which of these fields is given. Raises `ApiError` 400 unless it is exactly one."""
    given = [name for name in names if request.get(name) is not None]
    if len(given) != 1:
        wanted = " or ".join(f"`{name}`" for name in names)
        raise ApiError(400, f"give exactly one of {wanted}", field=given[-1] if given else names[0])
    return given[0]
