"""Routers of a model that were found once, to be handed on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from ...store.schema import RouterSpec
from .site import Site


class FoundRouters(list[RouterSpec]):
    """Specs of a model's routers with their modules: whoever is handed them need not walk through the model again.

    For one piece of work: a model whose modules are exchanged meanwhile must be searched anew.
    """

    def __init__(self, model: nn.Module, sites: Iterable[Site]) -> None:
        self.model = model
        self.sites = list(sites)
        super().__init__(site.spec for site in self.sites)

    def without_streams(self, streams: Sequence[str]) -> FoundRouters:
        return FoundRouters(self.model, [site for site in self.sites if site.spec.stream not in streams])
