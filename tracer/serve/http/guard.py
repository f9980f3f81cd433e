"""Who may ask: an ASGI layer that checks the Host header, the Origin and the bearer token before any route.

A page in the user's browser can send requests to a loopback server, and with DNS rebinding under a name of
its own choice. Such a request carries that name in `Host`; an address or `localhost` cannot be rebound. So
only those, and the name that the server was started with, are answered. No CORS headers are ever sent.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import ApiError

OPEN_PATHS = frozenset({"/health"})
HOST = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
"""A name or an address and at most one port: nothing before an `@`, no second port, no zone."""


class Guard:
    """ASGI middleware; `hosts` are names to answer to besides addresses and localhost."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: Iterable[str] = ()) -> None:
        self.app = app
        self.token = token.encode()
        self.hosts = {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self.refusal(scope["path"], headers)
        if refusal is None:
            await self.app(scope, receive, send)
            return
        challenge = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
        await JSONResponse(refusal.to_json(), refusal.status, challenge)(scope, receive, send)

    def refusal(self, path: str, headers: Headers) -> ApiError | None:
        """Why this request is not answered, or None."""
        host = headers.get("host", "")
        if not self._known(host):
            return ApiError(421, f"this server does not answer to the host name {host[:100]!r}")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return ApiError(403, "requests from other web pages are refused")
        if path in OPEN_PATHS:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.token):
            return None
        return ApiError(401, "a valid `Authorization: Bearer TOKEN` header is needed (see the token file)")

    def _known(self, netloc: str) -> bool:
        form = HOST.fullmatch(netloc)
        if form is None:
            return False
        name = (form["name"] or form["v6"]).lower()
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
