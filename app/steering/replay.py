"""The routing of a trace as rules for the model of another: what Compare offers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...store.library import trace_named
from ...store.schema import RouterKey, RouterSpec


def name_in_library(url: str) -> str | None:
    """What a server calls the trace at an address, as it takes names of the library only; None for one elsewhere."""
    path = Path(url.removeprefix("file://"))
    for name in (path.name, "sample"):
        found = trace_named(name)
        if found is not None and Path(found).resolve() == path.resolve():
            return name
    return None


def replay_rules(
    name: str, shared: Iterable[RouterKey], routers: Iterable[RouterSpec], *, span: str = "all"
) -> list[dict[str, Any]]:
    """A rule for each stream that imposes a trace's choice with the model's own gate weights.

    Args:
        name: of the trace in the library.
        shared: routers that both traces have.
        routers: the model's.
        span: `prompt` leaves what is generated to the model.
    """
    shared, rules = set(shared), []
    for stream in dict.fromkeys(spec.stream for spec in routers):
        of_stream = [spec for spec in routers if spec.stream == stream]
        layers = [spec.layer for spec in of_stream if spec.key in shared]
        rule: dict[str, Any] = {"rule": "replay", "trace": name, "weights": "live", "span": span}
        rule |= {} if stream == "decoder" else {"stream": stream}
        if layers:
            rules.append(rule if len(layers) == len(of_stream) else rule | {"layers": layers})
    return rules
