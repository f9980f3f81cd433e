"""The figure of each view: what reports, notebooks and the command line draw when only a view is named.

    figure = of_view("alignment")
    chart = figure.draw(trace.view("alignment"), LIGHT)
    sentence = figure.say(trace.view("alignment"))

A page may draw the same view with more around it; what is registered here is the figure that stands alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ...store.views.experts.load_difference import with_measure
from ..figures import alignment, half_life, specialised
from ..figures.load import HOVER, MEASURES, difference_hover
from ..figures.routing_map import Hover, routing_map
from ..figures.structure import over_layers
from ..figures.structure.cache_curve import cache_curves, pooled
from ..figures.structure.load_course import drift_map
from ..figures.structure.parallel import parallel_still
from ..figures.structure.sankey import sankey_still
from ..figures.theme import Theme
from ..figures.thresholds import Threshold
from ..sentences import alignment as alignment_words
from ..sentences import half_life as half_life_words
from ..sentences import load as load_words
from ..sentences import resonance as resonance_words
from ..sentences import structure as structure_words

Draw = Callable[[pa.Table, Theme], Any]
Say = Callable[[pa.Table], str]


@dataclass(frozen=True, kw_only=True)
class ViewFigure:
    """How a view's table is drawn and told."""

    title: str
    draw: Draw
    say: Say


def _load(table: pa.Table, theme: Theme) -> Any:
    measured = with_measure(table, "share")
    hover = [line for line in HOVER if measured[line.column].null_count < measured.num_rows]
    return routing_map(measured, "value", theme=theme, label=MEASURES["share"].label, hover=hover)


def _difference(table: pa.Table, theme: Theme) -> Any:
    hover = difference_hover("share", "a", "b")
    return routing_map(
        table, "value", theme=theme, label="a − b", hover=hover, value_format="+.1%", diverging=True
    )


def _resonance(table: pa.Table, theme: Theme) -> Any:
    hover = [
        Hover(column="q", title="q", format=".3g"),
        Hover(column="effect", title="effect", format="+.2f"),
    ]
    return routing_map(table, "score", theme=theme, label="score: target − rest", hover=hover, value_format="+.2f",
                       diverging=True)  # fmt: skip


def _chance(table: pa.Table) -> float | None:
    found = set(table["chance"].to_pylist()) if "chance" in table.column_names else set()
    return found.pop() if len(found) == 1 else None


def _over_layers(value: str, label: str) -> Draw:
    return lambda table, theme: alignment.by_layer(
        table, value, label=label, theme=theme, chance=_chance(table)
    )


def _window(table: pa.Table) -> str:
    layers = [row for row in table.to_pylist() if row["language_a"] < row["language_b"]]
    return (
        alignment_words.matrix(table, (0, 0)).split(": ", 1)[-1]
        if layers
        else "No two languages share a unit."
    )


FIGURES: Mapping[str, ViewFigure] = {
    "load": ViewFigure(
        title="Share of tokens by layer and expert",
        draw=_load,
        say=lambda table: load_words.load(with_measure(table, "share"), "share", "all"),
    ),
    "load-difference": ViewFigure(
        title="Load of two selections: a minus b",
        draw=_difference,
        say=lambda table: load_words.load_difference(table, "share", "a", "b"),
    ),
    "alignment": ViewFigure(
        title="Routing divergence by layer",
        draw=_over_layers("divergence", "divergence"),
        say=lambda table: alignment_words.lines(table, "the pivot"),
    ),
    "alignment-matrix": ViewFigure(
        title="Divergence between languages",
        draw=lambda table, theme: alignment.matrix(table, theme=theme),
        say=_window,
    ),
    "routing-entropy": ViewFigure(
        title="Routing entropy by layer",
        draw=_over_layers("entropy", "entropy (nats)"),
        say=lambda table: alignment_words.spread(table, "entropy", None),
    ),
    "routing-consistency": ViewFigure(
        title="Routing consistency by layer",
        draw=_over_layers("consistency", "consistency"),
        say=lambda table: alignment_words.spread(table, "consistency", _chance(table)),
    ),
    "resonance": ViewFigure(
        title="Resonance: score of each expert",
        draw=_resonance,
        say=lambda table: resonance_words.scan(table, Threshold(), "the target", "the rest", True),
    ),
    "specialised-counts": ViewFigure(
        title="Specialised experts by layer",
        draw=lambda table, theme: specialised.kinds_by_layer(_one_tau(table), theme=theme),
        say=lambda table: alignment_words.kinds(_one_tau(table), _one_tau(table)["tau"][0].as_py()),
    ),
    "explained": ViewFigure(
        title="Share of the first expert that a label explains, by layer",
        draw=lambda table, theme: over_layers.explained_lines(table, theme=theme),
        say=structure_words.explained,
    ),
    "local-consistency": ViewFigure(
        title="Segment routing best performance (SRP) by layer",
        draw=lambda table, theme: over_layers.consistency_lines(_one_phase(table), theme=theme),
        say=lambda table: structure_words.consistency(_one_phase(table), _phase(table)),
    ),
    "cache-hits": ViewFigure(
        title="Accesses that a cache of experts would serve, by its size",
        draw=lambda table, theme: cache_curves(pooled(_one_phase(table)), theme=theme),
        say=lambda table: structure_words.caches(pooled(_one_phase(table)), None),
    ),
    "repeats": ViewFigure(
        title="Consecutive tokens with the same first expert, by layer",
        draw=lambda table, theme: over_layers.repeat_lines(table, theme=theme),
        say=structure_words.repeats,
    ),
    "tag-information": ViewFigure(
        title="What a tag of the prompts says of their experts, by layer",
        draw=lambda table, theme: over_layers.information_lines(table, theme=theme),
        say=lambda table: structure_words.information(table, "tag"),
    ),
    "path-groups": ViewFigure(
        title="Paths of tokens through a window of layers",
        draw=lambda table, theme: parallel_still(table, theme=theme),
        say=lambda table: structure_words.path_groups(table, "first expert"),
    ),
    "flows": ViewFigure(
        title="Strongest flows of tokens between layers",
        draw=lambda table, theme: sankey_still(table, theme=theme),
        say=structure_words.flows,
    ),
    "load-drift": ViewFigure(
        title="Load over the course of the run, by layer",
        draw=lambda table, theme: drift_map(table, theme=theme),
        say=structure_words.drift,
    ),
    "expert-half-life": ViewFigure(
        title="Half-life of experts by layer",
        draw=lambda table, theme: half_life.half_life_by_layer(table, theme=theme),
        say=half_life_words.half_life,
    ),
}


def _phase(table: pa.Table) -> str:
    """The phase that is shown: generated tokens where there are any."""
    return "decode" if "decode" in set(table["phase"].to_pylist()) else "prefill"


def _one_phase(table: pa.Table) -> pa.Table:
    return table.filter(
        pa.array([phase == _phase(table) for phase in table["phase"].to_pylist()], pa.bool_())
    )


def _one_tau(table: pa.Table) -> pa.Table:
    """The rows of the smallest tau."""
    taus = table["tau"].to_pylist()
    return table.filter(pa.array([tau == min(taus) for tau in taus]))


def of_view(name: str) -> ViewFigure | None:
    """The figure of a view; None where its table is all there is to show."""
    return FIGURES.get(name)
