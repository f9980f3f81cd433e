"""Weighs the experts of a model on the tokens of a trace, router by router, into the trace's expert sheet.

1. The trace must be of this model: the fingerprints of the weights are compared.
2. Some of the trace's own prompts, by their recorded token ids, run through the model as one batch.
3. As soon as a layer has run, while it is in memory, the rows of its router are computed and committed: what is
   interrupted goes on after its last router. With `--device disk` no more than a layer is held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...store.expert_sheet import read_sheet_list, write_router_rows
from ...store.files.folder import open_folder
from ...store.trace import Trace
from ..errors import TracerError
from ..models.card import weights_fingerprint
from ..routers.find import find_sites
from ..routers.site import Site
from .rows import rows_of
from .watch import Seen, run_through, weights_of

WHAT = ("norms", "outliers", "spectrum", "outputs", "quantisation", "similarity")
_NEED_OUTPUTS = {"outputs", "quantisation", "similarity"}


def weigh(
    model: Any,
    trace: Trace,
    *,
    what: Sequence[str] = WHAT,
    bits: Sequence[int] = (2, 3, 4),
    tokens: int = 4096,
    probe: int = 128,
    group: int = 128,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the expert sheet of a trace.

    Args:
        model: the model that was traced.
        what: of `WHAT`.
        bits: widths of the rounding errors.
        tokens: recorded tokens that run again, in whole prompts drawn at random.
        probe: of them, tokens on which every expert runs (similarity).
        group: inputs that share a scale when weights are rounded.
        progress: told how many routers are done.
    Returns:
        Routers weighed now; those that the sheet held already with the same settings are left as they are.
    Raises:
        TracerError: another model than the trace's, a trace without token ids, an architecture whose experts can't be
            run one by one.
    """
    if unknown := [name for name in what if name not in WHAT]:
        raise TracerError(f"cannot weigh {unknown[0]!r} (known: {', '.join(WHAT)})")
    _same_model(model, trace)
    folder = open_folder(trace.url)
    settings: dict[str, Any] = {
        "what": sorted(what), "bits": list(bits), "tokens": tokens, "probe": probe, "group": group, "seed": seed,
        "weights_fingerprint": trace.manifest.model.get("weights_fingerprint"), "prompts": trace.num_prompts,
    }  # fmt: skip
    listed = read_sheet_list(folder)
    done = (
        {one["router"] for one in listed["routers"]} if listed and listed["settings"] == settings else set()
    )
    number = {(spec.layer, spec.stream): at for at, spec in enumerate(trace.routers)}
    sites = [
        site
        for site in find_sites(model)
        if number.get((site.spec.layer, site.spec.stream), -1) not in {-1, *done}
    ]
    if not sites:
        return 0
    found: dict[str, list[dict[str, Any]]] = {}
    written: list[str] = []

    def commit(site: Site, change: float | None = None) -> None:
        rows = [row | {"block_change": change} for row in found.pop(site.spec.router)]
        write_router_rows(folder, number[site.spec.layer, site.spec.stream], rows, settings)
        written.append(site.spec.router)
        if progress is not None:
            progress(len(written), len(sites))

    def ran(site: Site, seen: Seen) -> None:
        with weights_of(site):
            found[site.spec.router] = rows_of(site, seen, what, bits, group, probe)

    if _NEED_OUTPUTS & set(what):
        run_through(model, sites, _prompts(trace, tokens, seed), ran, commit)
        for site in sites:
            if site.spec.router in found:  # its layer does not say what entered it
                commit(site)
        return len(written)
    for site in sites:
        with weights_of(site):
            found[site.spec.router] = rows_of(site, None, what, bits, group, probe)
        commit(site)
    return len(written)


def _same_model(model: Any, trace: Trace) -> None:
    recorded = trace.manifest.model.get("weights_fingerprint")
    if recorded is None:
        raise TracerError(
            f"{trace.url} does not say which weights it was made with: only traces by moescope can be weighed"
        )
    if recorded != weights_fingerprint(model):
        name = trace.manifest.model.get("name") or "another model"
        raise TracerError(f"{trace.url} was made with {name}, whose weights differ from those of this model")


def _prompts(trace: Trace, tokens: int, seed: int) -> list[list[int]]:
    """Token ids of whole prompts, drawn at random, until there are enough tokens."""
    ids = trace.prompts()["prompt_id"].to_pylist()
    found, total = [], 0
    for at in np.random.default_rng(seed).permutation(len(ids)).tolist():
        column = trace.tokens(ids[at])["token_id"]
        if column.null_count:
            raise TracerError(f"the tokens of prompt {ids[at]!r} have no ids, so they can't run again")
        if len(column):
            found.append(column.to_pylist())
            total += len(column)
        if total >= tokens:
            break
    if not found:
        raise TracerError(f"{trace.url} holds no tokens with ids, so nothing can run again")
    return found
