"""How routing is structured: by domain, by vocabulary, along the layers. Definitions and traps:
docs/methods/structure.md."""

from .information import Explained, TagInformation, explained, explained_interval, tag_information
from .paths import PathCounts, StrongestFlows, path_counts, strongest_flows
from .projection import Projection, principal_axes
from .spread import specialisation_spread
from .vocabulary import Luck, VocabularyShares, rare_token_baseline, vocabulary_shares

__all__ = [
    "Explained",
    "Luck",
    "PathCounts",
    "Projection",
    "StrongestFlows",
    "TagInformation",
    "VocabularyShares",
    "explained",
    "explained_interval",
    "path_counts",
    "principal_axes",
    "rare_token_baseline",
    "specialisation_spread",
    "strongest_flows",
    "tag_information",
    "vocabulary_shares",
]
