"""What a figure's numbers are by definition: the words of docs/methods, which is the only place where they stand.

A wheel holds them beside the app (`METHODS`). A place is `page#Heading`, a whole section, or
`page:name`, the row of a table whose first cell holds the name.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

APP = Path(__file__).parent.parent
METHODS = next((place for place in (APP / "methods", APP.parent / "docs" / "methods") if place.is_dir()), APP)
"""The pages: of an installed wheel, else of the repository."""
LOAD = ("counting#Load of an expert", "counting:load_imbalance")
NEIGHBOURS = ("structure#Neighbours of an expert",)
VOCABULARY = ("structure#Vocabulary",)
PATHS = ("structure#Paths",)
ALIGNMENT = ("alignment#Formulas",)
SPECIALISED = ("alignment:selection_frequency", "alignment:specialised_experts", "alignment:expert_kinds")
CACHES = ("consistency#Formulas", "structure#Local consistency and caches")
RUN, AXIS = ("structure#Load over the run",), ("structure#Along an axis, gate weights, reuse",)
RESONANCE = ("resonance#Formulas",)
IMPORTANCE, LIKENESS = ("decisions#Importance",), ("decisions#Likeness",)
FLIPS = ("agreement:flip", "agreement:set overlap", "agreement:chance overlap")
OF_VIEW: dict[str, tuple[str, ...]] = {
    "load": LOAD, "load-balance": LOAD, "load-difference": LOAD, "expert-shares": LOAD, "expert-tokens": LOAD,
    "co-activation": ("counting:co_activation", *NEIGHBOURS), "transitions": ("counting:transitions", *NEIGHBOURS),
    "expert-neighbours": NEIGHBOURS, "expert-weights": NEIGHBOURS, "expert-likeness": NEIGHBOURS,
    "explained": ("structure#What explains the first expert", "structure#Intervals"),
    "tag-information": ("structure#What explains the first expert",),
    "specialisation": ("structure#Specialisation",), "tag-experts": ("structure#Specialisation",),
    "vocabulary": VOCABULARY, "token-experts": VOCABULARY,
    "paths": PATHS, "path-groups": PATHS, "flows": PATHS, "repeats": PATHS,
    "expert-map": ("structure#The map of experts",),
    "local-consistency": CACHES, "cache-hits": CACHES,
    "expert-half-life": ("consistency#Half-life of experts (our choice)",),
    "load-drift": RUN, "load-influence": RUN, "timeline": AXIS, "gate-weights": AXIS, "reuse": AXIS,
    "alignment": ALIGNMENT, "alignment-matrix": ALIGNMENT, "alignment-scores": ALIGNMENT,
    "alignment-correlation": (*ALIGNMENT, "alignment#Traps"),
    "routing-entropy": ("alignment:routing entropy",), "routing-consistency": ("alignment:routing consistency [ours]",),
    "specialised-experts": SPECIALISED, "specialised-counts": SPECIALISED, "language-classes": SPECIALISED,
    "resonance": RESONANCE, "resonance-tokens": RESONANCE, "prompt-maps": RESONANCE, "prompt-scan": RESONANCE,
    "resonance-overlap": RESONANCE,
    "placement": ("decisions#Placement",), "resize": ("decisions#Placement",), "dispatch": ("decisions#Dispatch",),
    "offload": ("decisions#Offloading",), "expert-prediction": ("decisions#Offloading",),
    "regrouping": ("decisions#Offloading",),
    "expert-scores": IMPORTANCE, "score-agreement": IMPORTANCE, "kept-overlap": IMPORTANCE,
    "calibration-balance": ("decisions:calibration_sigma", "decisions:balanced_subset"),
    "bits": ("decisions#Bits",), "likeness": LIKENESS, "merge-tree": LIKENESS,
    "agreement": (*FLIPS, "agreement:first-expert flip", "agreement:gate distance", "agreement:load correlation"),
    "agreement-overall": FLIPS, "agreement-prompts": FLIPS, "agreement-of-prompt": FLIPS,
    "agreement-experts": ("agreement:exchange",), "agreement-margin": ("agreement:selection margin",),
    "agreement-tokens": ("agreement:first flip layer", "agreement:compounding"),
}  # fmt: skip
"""Name of a view → the places that define what it holds."""
EFFECTS = ("evaluation#Measures", "evaluation#Controls and findings", "evaluation#Intervals")
OF_CALL: dict[str, tuple[str, ...]] = {
    "evaluation.effects": EFFECTS, "compare_evaluations": EFFECTS, "dose_table": ("evaluation#Dose", *EFFECTS),
    "client.generate": ("evaluation#Token by token",), "attribute_routing": ("agreement#Attribution",),
}  # fmt: skip
"""Call in a snippet that is no view's → the same."""
_HEADING = re.compile(r"^## ", re.MULTILINE)
_CELL = re.compile(r"(?<!\\)\|")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")
_CALL = re.compile(r"\bview\((?:\w+, )?['\"]([\w-]+)['\"]")


def of_snippet(python: str) -> str:
    """The definitions of what a snippet calls, a view or an evaluation, as Markdown; empty where there are none."""
    if called := _CALL.search(python):
        return of_view(called[1])
    other = next((name for name in OF_CALL if f"{name}(" in python), None)
    return "\n\n".join(map(of_place, OF_CALL[other])) if other else ""


@cache
def of_view(name: str) -> str:
    """The definitions of a view, as Markdown; empty where docs/methods has none."""
    return "\n\n".join(map(of_place, OF_VIEW.get(name, ())))


@cache
def of_place(place: str) -> str:
    """Markdown of a section, or `**name**: definition` of a table's row.

    Raises:
        KeyError: docs/methods has no such place.
    """
    page, mark, name = re.split(r"([#:])", place, maxsplit=1)
    return _section(page, name) if mark == "#" else _row(page, name)


def _section(page: str, heading: str) -> str:
    for part in _HEADING.split(_text(page)):
        first, _, rest = part.partition("\n")
        if first.strip() == heading:
            return rest.strip()
    raise KeyError(f"{page}#{heading}")


def _row(page: str, name: str) -> str:
    header: list[str] = []
    for line in _text(page).splitlines():
        if not line.startswith("|"):
            header = []
            continue
        cells = [cell.strip() for cell in _CELL.split(line)[1:-1]]
        header = header or cells
        if len(cells) > 1 and name in [one.split("(")[0].strip(" `") for one in cells[0].split(",")]:
            more = [
                f"*{head}:* {cell}"
                for head, cell in zip(header[2:], cells[2:], strict=False)
                if cell.strip("–")
            ]
            return " · ".join([f"**{name.replace('_', ' ')}**: {cells[1]}", *more]).replace("\\|", "|")
    raise KeyError(f"{page}:{name}")


@cache
def _text(page: str) -> str:
    return _LINK.sub(r"\1", (METHODS / f"{page}.md").read_text(encoding="utf-8"))
