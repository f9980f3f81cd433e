"""Placements of the experts of all layers, by six ways that stand side by side.

Fitted on one part of the prompts; `placement.py` reports them on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ....kernels.counting import transitions
from ....kernels.placement import (
    cluster_traffic,
    contiguous,
    greedy,
    random_placement,
    replicate_and_pack,
    solve_clusters,
    solve_mapping,
)
from ...errors import DecisionRefused
from ...read.token_filter import TokenFilter
from ...read.trace_rows import TraceRows
from .halves import Halves, refusals
from .paths import Paths, paths

METHODS = ("contiguous", "random", "greedy", "eplb-global", "eplb-hierarchical", "milp")
RANDOM_DRAWS = 20
_EVEN_ENOUGH = 1e-3
"""Share of the load by which devices may differ before the program is asked for a better placement."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The devices to place on."""

    devices: int = 8
    replicas: int = 0
    """Places for further copies of busy experts, over all devices; only EPLB uses them."""
    nodes: int = 1
    groups: int | None = None
    """Groups of experts that EPLB's hierarchical policy keeps within a node; as many as nodes where None."""


@dataclass(frozen=True)
class Loads:
    """What was recorded, as placements need it; P prompts, one entry a layer."""

    layers: list[int]
    stream: str
    experts: int
    count_LPE: list[np.ndarray]
    """Choices of each prompt."""
    fit_P: np.ndarray
    report_P: np.ndarray
    paths: Paths | None
    """None where the trace holds counts only."""

    @property
    def fit_LE(self) -> np.ndarray:
        return np.stack([count[self.fit_P].sum(0) for count in self.count_LPE])

    @property
    def report_LE(self) -> np.ndarray:
        return np.stack([count[self.report_P].sum(0) for count in self.count_LPE])

    def transitions(self, prompts_P: np.ndarray) -> np.ndarray | None:
        """(L − 1, E, E) of the tokens of some prompts; None where it is not known."""
        if self.paths is None or len(self.layers) < 2:
            return None
        ids_TLK = self.paths.of(prompts_P).ids_TLK
        pairs = range(len(self.layers) - 1)
        return np.stack(
            [transitions(ids_TLK[:, at], ids_TLK[:, at + 1], self.experts, self.experts) for at in pairs]
        )


@dataclass(frozen=True)
class Placement:
    """One placement of all layers."""

    method: str
    physical_LR: np.ndarray
    """(L, R) expert of each place; device g has places g · R/G and on."""
    gap_L: np.ndarray | None = None
    """Of the program, where one was solved; NaN where nothing was proven."""
    draws: list[np.ndarray] = field(default_factory=list)
    """Of `random`: all draws (L, R), of which the first is `physical_LR`."""


def loads(trace: TraceRows, layers: Sequence[int], stream: str, tokens: TokenFilter, parts: Halves) -> Loads:
    """Read what placements need.

    Raises:
        DecisionRefused: layers of different numbers of experts.
    """
    routers = [trace.router(layer, stream) for layer in layers]
    experts = {spec.num_experts for spec in routers}
    if len(experts) > 1:
        numbers = " and ".join(map(str, sorted(experts)))
        guessed = any("largest id" in spec.note for spec in routers)
        todo = "import it again with their number" if guessed else "name layers that have as many"
        why = ", guessed from the largest id of each" if guessed else ""
        raise DecisionRefused(f"the layers have {numbers} experts{why}: {todo}")
    counts = []
    for layer in layers:
        rows = trace.rollup_arrays(layer, stream, tokens=tokens)
        count_PE = np.zeros((trace.num_prompts, rows.num_experts), np.int64)
        count_PE[rows.prompt_index] = rows.count
        counts.append(count_PE)
    seen = paths(trace, list(layers), stream, tokens) if trace.num_events and len(layers) > 1 else None
    return Loads(list(layers), stream, experts.pop(), counts, parts.fit_P, parts.report_P, seen)


def placements(
    given: Loads,
    cluster: Cluster,
    methods: Sequence[str] = METHODS,
    *,
    seed: int = 0,
    seconds: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Placement]:
    """Make each placement from the prompts to fit on.

    Args:
        seconds: time limit of the program for each layer.
        progress: told how many of the methods are done.
    Raises:
        DecisionRefused: more devices than experts, numbers that do not divide each other, an unknown method.
    """
    if unknown := [name for name in methods if name not in METHODS]:
        raise DecisionRefused(f"there is no placement {unknown[0]!r}; there are: {', '.join(METHODS)}")
    if cluster.devices > given.experts:
        raise DecisionRefused(
            f"{cluster.devices} devices are more than the {given.experts} experts of a layer: name {given.experts} or "
            "fewer"
        )
    made = []
    with refusals():
        for at, method in enumerate(methods):
            made.append(_MAKE[method](given, cluster, seed, seconds))
            if progress is not None:
                progress(at + 1, len(methods))
    return made


def _as_places(device_LE: np.ndarray) -> np.ndarray:
    """Experts in the order of their devices; refuses devices of different sizes, which engines do not take."""
    sizes = np.bincount(device_LE[0])
    if len(set(sizes.tolist())) > 1:
        raise DecisionRefused(f"{device_LE.shape[1]} experts do not divide over {len(sizes)} devices")
    return np.argsort(device_LE, axis=1, kind="stable")


def _contiguous(given: Loads, cluster: Cluster, seed: int, seconds: float) -> Placement:
    device = np.tile(contiguous(given.experts, cluster.devices), (len(given.layers), 1))
    return Placement("contiguous", _as_places(device))


def _random(given: Loads, cluster: Cluster, seed: int, seconds: float) -> Placement:
    rng = np.random.default_rng(seed)
    draws = [
        _as_places(np.stack([random_placement(given.experts, cluster.devices, rng) for _ in given.layers]))
        for _ in range(RANDOM_DRAWS)
    ]
    return Placement("random", draws[0], draws=draws)


def _greedy(given: Loads, cluster: Cluster, seed: int, seconds: float) -> Placement:
    return Placement("greedy", _as_places(np.stack([greedy(row, cluster.devices) for row in given.fit_LE])))


def _eplb(groups: Callable[[Cluster], int], method: str) -> Callable[..., Placement]:
    def make(given: Loads, cluster: Cluster, seed: int, seconds: float) -> Placement:
        places = given.experts + cluster.replicas
        hierarchy = groups(cluster)
        nodes = cluster.nodes if method == "eplb-hierarchical" else 1
        found = replicate_and_pack(given.fit_LE, places, hierarchy, nodes, cluster.devices)
        return Placement(method, found.physical_to_logical)

    return make


def _milp(given: Loads, cluster: Cluster, seed: int, seconds: float) -> Placement:
    """Evenly loaded clusters in each layer, then devices for them by what goes from layer to layer."""
    solved = [
        solve_clusters(row, cluster.devices, seconds=seconds, enough=_EVEN_ENOUGH) for row in given.fit_LE
    ]
    device = np.stack([one.cluster for one in solved])
    between = given.transitions(given.fit_P)
    if between is not None:
        traffic = np.stack(
            [
                cluster_traffic(counts, a, b, cluster.devices)
                for counts, a, b in zip(between, device, device[1:], strict=False)
            ]
        )
        mapped = solve_mapping(traffic).device
        device = np.take_along_axis(mapped, device, 1)
    return Placement("milp", _as_places(device), np.array([one.gap for one in solved]))


_MAKE: dict[str, Callable[..., Placement]] = {
    "contiguous": _contiguous,
    "random": _random,
    "greedy": _greedy,
    "eplb-global": _eplb(lambda cluster: 1, "eplb-global"),
    "eplb-hierarchical": _eplb(lambda cluster: cluster.groups or cluster.nodes, "eplb-hierarchical"),
    "milp": _milp,
}
