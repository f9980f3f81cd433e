"""Makes the traces of the gallery's examples, and of each the pictures of docs/gallery.md and of the Library's cards:
`python docs/gallery.py WORK [NAME ...]`. WORK keeps the traces; those that are there are not made again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import altair as alt

from moescope.app import export
from moescope.app.figures.patch_overlay import patch_overlay
from moescope.app.figures.routing_map import routing_map
from moescope.app.figures.structure.reuse import reuse_map
from moescope.app.figures.structure.timeline import timeline_chart
from moescope.app.figures.theme import DARK, LIGHT, Theme
from moescope.app.text.picture import picture_of
from moescope.sample_data import gallery
from moescope.store import Trace, open_trace

FOLDER = Path(__file__).parent
SMALL, LARGE = 320, 640
Draw = Callable[[Trace, Theme, int], Any]


def along(by: str, measure: str = "use", *, stacked: bool = True, **ask: Any) -> Draw:
    """The timeline."""

    def draw(trace: Trace, theme: Theme, width: int) -> Any:
        table = trace.view("timeline", by=by, **ask)
        return timeline_chart(table, by=by, measure=measure, stacked=stacked, theme=theme, width=width)

    return draw


def load(**ask: Any) -> Draw:
    """The routing map of one stream."""
    return lambda trace, theme, width: routing_map(
        trace.view("load", **ask), "share", label="share of tokens", theme=theme, width=width
    )


def overlay(trace: Trace, theme: Theme, width: int) -> Any:
    """The first image under the first task."""
    row = trace.prompts().to_pylist()[0]
    events = trace.events(row["prompt_id"], layer=1).to_pylist()
    first = [event["experts"][0] for event in sorted(events, key=lambda event: event["position"])]
    return patch_overlay(
        picture_of(dict(row["tags"])), (4, 4), first, theme=theme, width=min(width // 2 + 20, 300)
    )


def reused(trace: Trace, theme: Theme, width: int) -> Any:
    return reuse_map(trace.view("reuse"), theme=theme, width=width)


PICTURES: Mapping[str, Draw] = {
    "relu_experts": load(),
    "two_streams": along("task", stream="task", layer=1),
    "neighbour_layers": reused,
    "noise_router": along("noise", layer=1),
    "kmeans_gate": along("step", where={"family": ["oscillator"]}),
    "product_keys": along("language", stream="head0", layer=1),
    "pathways": along("eps", stream="standard", layer=1),
    "actor": along("position", "weight", stream="mixture"),
    "patches": overlay,
    "switch_encoder": along("dataset", stream="encoder", layer=1),
    "global_local": along("writer", "weight"),
    "null_experts": along("null_logit", "share", stacked=False, stream="null", layer=3),
    "whole_models": along("kind", stream="models"),
    "series": along("day", "weight", stream="stocks"),
}
"""Of each example, the picture that shows what it is about."""


def main(work: Path, names: list[str]) -> None:
    """Make what is missing, draw everything, say how long it took."""
    seconds = {}
    (gallery.FOLDER / "thumbnails").mkdir(exist_ok=True)
    (FOLDER / "img" / "gallery").mkdir(exist_ok=True)
    for name in names or gallery.ORDER:
        if not (work / name).exists():
            began = time.process_time()
            gallery.run(name, work / name)
            seconds[name] = round(time.process_time() - began, 1)
            print(name, seconds[name], "s of CPU", flush=True)
        trace, draw = open_trace(work / name), PICTURES[name]
        for theme in (LIGHT, DARK):
            png = picture(draw(trace, theme, SMALL), height=150, scale=1.5)
            gallery.card(name).thumbnails[theme.name].write_bytes(png)
        (FOLDER / "img" / "gallery" / f"{name}.png").write_bytes(
            picture(draw(trace, LIGHT, LARGE), height=240, scale=1.5)
        )
    if seconds:
        print(json.dumps({"seconds of CPU": seconds, "together": round(sum(seconds.values()), 1)}))


def picture(chart: Any, *, height: int, scale: float) -> bytes:
    """A chart as PNG; a chart of many rows keeps its height."""
    spec = export.specification(chart)
    if "layer" in spec and "height" in spec and not spec.get("usermeta"):
        spec["height"] = min(spec["height"], height) if spec["width"] > spec["height"] else spec["height"]
    return export.renderer.draw("png", spec, scale=scale)


if __name__ == "__main__":
    alt.data_transformers.disable_max_rows()
    main(Path(sys.argv[1]), sys.argv[2:])
