"""The gallery: one script for each kind of router that the research has, each of them alive within a minute.

A script of this folder is an example: its docstring is its card (`Card`), and `run(out, small=False, seed=0)` builds a
model, trains it, records its routing and writes the trace. `small` is a miniature for tests. This module reads the
cards without running a script, so that listing them loads no model library.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from functools import cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moescope.store import Trace

FOLDER = Path(__file__).parent
ORDER = (
    "relu_experts", "two_streams", "neighbour_layers", "noise_router", "kmeans_gate", "product_keys", "pathways",
    "actor", "patches", "switch_encoder", "global_local", "null_experts", "whole_models", "series",
)  # fmt: skip
"""The examples, in the order of the gallery."""
FIELDS = ("Systems", "Real", "Toy", "Not shown", "Look at", "Opens")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a person reads of an example before running it."""

    name: str
    title: str
    sentence: str
    """What the example is, in one or two sentences."""
    systems: str
    """Numbers and names of the systems, with their papers."""
    real: str
    """What of the paper is really done."""
    toy: str
    """What is small, made up or simplified."""
    not_shown: str
    look_at: str
    """What to see in the trace, and where."""
    opens: str
    """Page and address with which it is best opened: `structure?question=Timeline&by=step`."""

    @property
    def papers(self) -> list[str]:
        """arXiv numbers."""
        return re.findall(r"arXiv (\d{4}\.\d{4,5})", self.systems)

    @property
    def thumbnails(self) -> dict[str, Path]:
        """Pictures of its trace by theme, made by docs/gallery.py."""
        return {theme: FOLDER / "thumbnails" / f"{self.name}-{theme}.png" for theme in ("light", "dark")}


def cards() -> list[Card]:
    """All examples, in the gallery's order."""
    return [card(name) for name in ORDER]


@cache
def card(name: str) -> Card:
    """The card of an example. Raises KeyError for a name that there is none of."""
    if name not in ORDER:
        raise KeyError(f"there is no example {name!r}; there are: {', '.join(ORDER)}")
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    return _read(name, inspect.cleandoc(ast.get_docstring(ast.parse(source)) or ""))


def _read(name: str, text: str) -> Card:
    title, body = text.split("\n", 1)
    pieces = re.split(rf"^({'|'.join(FIELDS)}): ", body, flags=re.MULTILINE)
    sentence, fields = pieces[0], dict(zip(pieces[1::2], pieces[2::2], strict=True))
    missing = [field for field in FIELDS if field not in fields]
    if missing:
        raise ValueError(f"the docstring of the example {name} has no {missing[0]!r}")
    words = {field.lower().replace(" ", "_"): " ".join(fields[field].split()) for field in FIELDS}
    return Card(name=name, title=title.rstrip("."), sentence=" ".join(sentence.split()), **words)


def run(name: str, out: str | PathLike[str], *, small: bool = False, seed: int = 0) -> Trace:
    """Build, train and record an example, and write its trace.

    Args:
        out: folder of the trace, which must not exist.
        small: a miniature of a second or two, for tests; its numbers mean little.
        seed: of everything that is drawn.
    Raises:
        KeyError: there is no such example.
        StoreError: something lies at `out` already.
    """
    from moescope.store import open_trace
    from moescope.store.write.target import check_target

    card(name)
    check_target(out)
    example = importlib.import_module(f".{name}", __name__)
    if "://" in os.fspath(out):
        return example.run(out, small=small, seed=seed)
    # Under its own name it is there whole or not at all.
    making = Path(out).with_name(f".{Path(out).name}.making-{uuid.uuid4().hex[:8]}")
    try:
        example.run(making, small=small, seed=seed)
        os.rename(making, out)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return open_trace(out)
