"""The routes: a request is read, checked and handed to the engine; its events are handed back."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ..engine.engine import Engine
from ..engine.jobs import JobBoard
from ..errors import ApiError
from ..requests.given import exactly_one
from . import answers, openapi
from .answers import Json
from .bodies import request_models
from .body import read_body
from .guard import Guard
from .parse import parse


def build_app(engine: Engine, *, token: str, hosts: tuple[str, ...] = ()) -> ASGIApp:
    """The ASGI application of one engine, behind its guard.

    Args:
        token: what the `Authorization: Bearer` header must hold, on every path but /health.
        hosts: names that the `Host` header may carry besides addresses and localhost.
    """
    api = Api(engine)
    app = Starlette(
        routes=[
            Route("/health", api.health),
            Route("/openapi.json", api.openapi),
            Route("/v1/model", api.model),
            Route("/v1/tokenize", api.tokenize, methods=["POST"]),
            Route("/v1/generate", api.generate, methods=["POST"]),
            Route("/v1/score", api.score, methods=["POST"]),
            Route("/v1/rewire", api.rewire, methods=["POST"]),
            *(route for kind in ("trace", "evaluate") for route in api.job_routes(kind)),
        ],
        exception_handlers={ApiError: on_api_error, HTTPException: on_http_error, Exception: on_other_error},
    )
    return Guard(app, token=token, hosts=hosts)


class Api:
    """The handlers of one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.jobs = JobBoard(engine, engine.limits)
        self.bodies = request_models(engine.limits)

    async def health(self, request: Request) -> Response:
        engine = self.engine
        known = {"status": engine.state, "steps": engine.steps_taken, **engine.depth}
        if engine.state == "failed":
            known["reason"] = engine.reason
        return Json(known, 200 if engine.state == "ready" else 503)

    async def openapi(self, request: Request) -> Response:
        return Json(openapi.describe(self.bodies))

    async def model(self, request: Request) -> Response:
        served = self.engine.require_ready()
        return Json(served.describe(self.engine.limits))

    async def tokenize(self, request: Request) -> Response:
        served, data = await self._read(request, "Tokenize")
        field = exactly_one(data, "text", "prompt", "messages")
        ids = await run_in_threadpool(served.encode, data[field], field, self.engine.limits)
        return Json({"ids": ids, "tokens": served.token_texts(ids), "count": len(ids)})

    async def generate(self, request: Request) -> Response:
        served, data = await self._read(request, "Generate")
        make = await run_in_threadpool(_preparer(served, "generate"), served, data, self.engine.limits)
        if data["stream"]:
            return answers.EventStream(*answers.submit(self.engine, request, make))
        *tokens, end = await answers.collect(self.engine, request, make)
        return Json({**end, "tokens": tokens})

    async def score(self, request: Request) -> Response:
        served, data = await self._read(request, "Score")
        make = await run_in_threadpool(_preparer(served, "score"), served, data, self.engine.limits)
        events = await answers.collect(self.engine, request, make)
        return Json(events[-1])

    async def rewire(self, request: Request) -> Response:
        served, data = await self._read(request, "Rewire")
        make = await run_in_threadpool(_preparer(served, "rewire"), served, data, self.engine.limits)
        events = await answers.collect(self.engine, request, make)
        return Json(events[-1])

    def job_routes(self, kind: str) -> list[Route]:
        """Start and list, look at, cancel: the same for every kind of background job."""

        async def start_or_list(request: Request) -> Response:
            if request.method == "GET":
                return Json({"jobs": [job.to_json() for job in self.jobs.list(kind)]})
            served, data = await self._read(request, kind.capitalize())
            make, known = await run_in_threadpool(_preparer(served, kind), served, data, self.engine.limits)
            job = self.jobs.start(kind, make, **known)
            return Json(job.to_json(), 202, {"Location": f"/v1/{kind}/{job.id}"})

        async def look_or_cancel(request: Request) -> Response:
            job_id = request.path_params["job_id"]
            act = self.jobs.cancel if request.method == "DELETE" else self.jobs.get
            return Json(act(kind, job_id).to_json())

        return [
            Route(f"/v1/{kind}", start_or_list, methods=["GET", "POST"]),
            Route(f"/v1/{kind}/{{job_id}}", look_or_cancel, methods=["GET", "DELETE"]),
        ]

    async def _read(self, request: Request, name: str) -> tuple[Any, dict[str, Any]]:
        """What is served, and the checked body."""
        body = await read_body(request, self.engine.limits)
        served = self.engine.require_ready()
        return served, await run_in_threadpool(parse, body, self.bodies[name])


def _preparer(served: Any, kind: str) -> Any:
    """What checks a request of a kind and says how it is run: the model's own, where an engine runs it."""
    if hasattr(served, "prepare"):
        return served.prepare(kind)
    return import_module(f"..requests.{kind}", __package__).prepare


async def on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return answers.error_response(error)


async def on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allow = {"Allow": error.headers["Allow"]} if error.headers and "Allow" in error.headers else None
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return Json(ApiError(error.status_code, message).to_json(), error.status_code, allow)


async def on_other_error(request: Request, error: Exception) -> Response:
    return Json(ApiError(500, "the server failed; its log says why").to_json(), 500)
