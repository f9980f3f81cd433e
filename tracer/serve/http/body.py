"""Reading a request's body within its limits of size and time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from ..errors import ApiError
from ..limits import Limits

DRAIN_BYTES = 64_000_000
"""How much of a body that is too long is read and thrown away, so that its sender gets to see the answer."""


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body. Raises `ApiError` 413 (too long), 408 (too slow), 400 (broken off)."""
    kept = bytearray()
    seen = 0
    try:
        async with asyncio.timeout(limits.body_s):
            async for chunk in request.stream():
                seen += len(chunk)
                if seen <= limits.body_bytes:
                    kept += chunk
                if seen > DRAIN_BYTES:
                    break
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {limits.body_s:g} s") from None
    except ClientDisconnect:
        raise ApiError(400, "the connection closed before the body was complete") from None
    if seen > limits.body_bytes:
        raise ApiError(413, f"the body is longer than {limits.body_bytes} bytes")
    return bytes(kept)
