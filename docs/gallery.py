"""Writes docs/gallery.md from the examples' cards, and with `python docs/gallery.py WORK [NAME ...]` makes the
traces and of each the pictures of that page and of the Library's cards. WORK keeps the traces; those that are
there are not made again. Without WORK only the page is written; a test holds it to the cards."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from PIL import Image

from moescope.app import export
from moescope.app.figures.look import finish
from moescope.app.figures.patch_overlay import patch_overlay
from moescope.app.figures.routing_map import routing_map
from moescope.app.figures.structure.gate_histogram import gate_histogram
from moescope.app.figures.structure.reuse import reuse_map
from moescope.app.figures.structure.timeline import timeline_chart
from moescope.app.figures.theme import DARK, LIGHT, Theme
from moescope.app.text.picture import pixels_of
from moescope.sample_data import gallery
from moescope.sample_data.gallery.product_keys import KEYS
from moescope.store import Trace, open_trace

FOLDER = Path(__file__).parent
HEAD = """# The gallery of routers

```
moescope example
moescope example kmeans_gate --out my-trace --open
```

Made from the examples' own docstrings by `docs/gallery.py`; a test fails when it is out of date.

Each example is one script of at most 150 lines in `sample_data/gallery/`. It builds a small model of a kind of
router that the research has, trains it on a CPU, records its routing with `record_routing` and a `DeclaredRouter`,
and writes a trace with `save_routing`: the way in which you would record a router of your own
([routers.md](routers.md)). The imports among them are written in the neutral format and read by
`moescope import neutral` ([import.md](import.md)). Nothing is downloaded; all data is made by rule or comes with
moescope, the digits too.

In the app the cards stand at the foot of the Library: *Run* makes a trace in a process of its own, *Open* goes
where it is best seen. All numbers are drawn with a seed (`--seed`) and differ a little between processors. A trace
of an example holds in its settings what the script measured (`measured`) and what is toy about it (`toy`); the app
shows the latter on every page. One small run of a toy is an illustration, not evidence about the paper's system.

COST

"""
COST = """Measured on one core of an AMD EPYC processor: all fourteen take 114 s of CPU time together, the longest 25 s
(`pathways`), after about 4 s each for loading PyTorch."""
MEASURED, LONGEST = FOLDER / "img" / "gallery" / "measured.json", 700
"""What the scripts measured, and the most characters of it that stand on the page."""
SMALL, LARGE, FRAME = 320, 640, (600, 360)
"""Widths of the charts on cards and in the docs; pixels of a card's picture."""
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
        pixels_of(dict(row["tags"])), (4, 4), first, theme=theme, width=min(width // 2 + 20, 300)
    )


def reused(trace: Trace, theme: Theme, width: int) -> Any:
    return reuse_map(trace.view("reuse"), theme=theme, width=width)


def gates(trace: Trace, theme: Theme, width: int) -> Any:
    """The histogram of the gate by writer."""
    table = trace.view("gate-weights", layer=0, expert=1, by="writer")
    return gate_histogram(table, by="writer", expert=1, theme=theme, width=width)


def pairs(trace: Trace, theme: Theme, width: int) -> Any:
    """The 96 × 96 experts of one head as rows and columns."""
    counts = np.array(trace.view("load", stream="head0", layer=1)["count"].to_pylist())
    used = np.flatnonzero(counts)
    data = pd.DataFrame({"row": used // KEYS, "column": used % KEYS, "tokens": counts[used]})
    cells = alt.Chart(data).mark_square(size=8 * (width / SMALL) ** 2, opacity=1).encode(
        x=alt.X("column:Q", scale=alt.Scale(domain=[0, KEYS])), y=alt.Y("row:Q", scale=alt.Scale(domain=[0, KEYS])),
        color=alt.Color("tokens:Q", scale=alt.Scale(type="log", range=list(theme.sequential[1:])),
                        legend=alt.Legend(orient="top", gradientLength=120, gradientThickness=8)),
    )  # fmt: skip
    return finish(cells, theme, width=width, height=150)


PICTURES: Mapping[str, Draw] = {
    "relu_experts": load(),
    "two_streams": along("task", stream="task", layer=1),
    "neighbour_layers": reused,
    "noise_router": along("noise", layer=1),
    "kmeans_gate": along("step", where={"family": ["oscillator"]}),
    "product_keys": pairs,
    "pathways": along("eps", stream="standard", layer=0),
    "actor": along("position", "weight", stream="mixture"),
    "patches": overlay,
    "switch_encoder": along("dataset", stream="encoder", layer=1),
    "global_local": gates,
    "null_experts": along("null_logit", "share", stream="null", layer=3),
    "whole_models": along("kind", stream="models"),
    "series": along("day", "weight", stream="stocks"),
}
"""Of each example, the picture that shows what it is about."""


def main(work: Path, names: list[str]) -> None:
    """Make what is missing, draw everything, say how long it took."""
    seconds = {}
    measured = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    (gallery.FOLDER / "thumbnails").mkdir(exist_ok=True)
    (FOLDER / "img" / "gallery").mkdir(exist_ok=True)
    for name in names or gallery.ORDER:
        if not (work / name).exists():
            began = time.process_time()
            gallery.run(name, work / name)
            seconds[name] = round(time.process_time() - began, 1)
            print(name, seconds[name], "s of CPU", flush=True)
        trace, draw = open_trace(work / name), PICTURES[name]
        measured[name] = trace.manifest.settings["measured"]
        for theme in (LIGHT, DARK):
            png = picture(draw(trace, theme, SMALL), height=150, scale=1.5, frame=FRAME)
            gallery.card(name).thumbnails[theme.name].write_bytes(png)
        (FOLDER / "img" / "gallery" / f"{name}.png").write_bytes(
            picture(draw(trace, LIGHT, LARGE), height=240, scale=1.5)
        )
    MEASURED.write_text(json.dumps(measured, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if seconds:
        print(json.dumps({"seconds of CPU": seconds, "together": round(sum(seconds.values()), 1)}))


def picture(chart: Any, *, height: int, scale: float, frame: tuple[int, int] | None = None) -> bytes:
    """A chart as PNG; a chart of many rows keeps its height."""
    spec = export.specification(chart)
    if "layer" in spec and "height" in spec and not spec.get("usermeta"):
        spec["height"] = min(spec["height"], height) if spec["width"] > spec["height"] else spec["height"]
    drawn = Image.open(io.BytesIO(export.renderer.draw("png", spec, scale=scale))).convert("RGB")
    if frame is not None:
        # All cards have pictures of one size.
        drawn.thumbnail(frame)
        sheet = Image.new("RGB", frame, drawn.getpixel((0, 0)))
        sheet.paste(drawn, ((frame[0] - drawn.width) // 2, (frame[1] - drawn.height) // 2))
        drawn = sheet
    file = io.BytesIO()
    drawn.quantize(96).save(file, "PNG", optimize=True)
    return file.getvalue()


def told_as(name: str, value: Any) -> str:
    """A measured number in a sentence; long tables stay in the trace."""
    text = json.dumps(value, ensure_ascii=False).replace('"', "")
    name = name.replace("_", " ")
    return f"{name} {text}" if len(text) <= LONGEST else f"{name}: in the settings of the trace"


def page() -> str:
    """docs/gallery.md: the head, and a section for each card."""
    parts = [HEAD.replace("COST", COST)]
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    for card in gallery.cards():
        parts.append(
            f"## {card.name}\n\n![{card.title}](img/gallery/{card.name}.png)\n\n**{card.title}.** {card.sentence}\n\n"
        )
        told = {"Systems": card.systems, "Real": card.real, "Toy": card.toy, "Not shown": card.not_shown}
        parts += [f"- {label}: {text}\n" for label, text in (told | {"Look at": card.look_at}).items()]
        found = [told_as(name, value) for name, value in measured[card.name].items()]
        parts.append(f"- Measured, seed 0: {'; '.join(found)}\n\n" if found else "\n")
    return "".join(parts).rstrip("\n") + "\n"


if __name__ == "__main__":
    alt.data_transformers.disable_max_rows()
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), sys.argv[2:])
    (FOLDER / "gallery.md").write_text(page(), encoding="utf-8")
