"""Where experts go: replicas, packing, clusters, devices, and what a placement costs.

A placement is a prediction: fit it on some prompts, report it on others, beside the plain ones. A trace gives loads and
links between devices, never seconds. Definitions and traps: docs/methods/decisions.md.
"""

from .clusters import SolvedClusters, cluster_experts, solve_clusters
from .eplb import Replicas, replicate_and_pack
from .loads import balancedness, contiguous, device_loads, greedy, random_placement
from .mapping import (
    PlacementCost,
    SolvedMapping,
    cluster_traffic,
    map_clusters,
    placement_cost,
    solve_mapping,
)
from .resize import Resize, resize_moves

__all__ = [
    "PlacementCost",
    "Replicas",
    "Resize",
    "SolvedClusters",
    "SolvedMapping",
    "balancedness",
    "cluster_experts",
    "cluster_traffic",
    "contiguous",
    "device_loads",
    "greedy",
    "map_clusters",
    "placement_cost",
    "random_placement",
    "replicate_and_pack",
    "resize_moves",
    "solve_clusters",
    "solve_mapping",
]
