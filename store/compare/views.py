"""The named views of a comparison."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from ...kernels.statistics.bootstrap import FEWEST_UNITS
from ..errors import UnknownColumn
from ..notes import notes_of, with_notes
from ..views._arguments import check
from ..views._lacks import FEW_UNITS
from ..views.options import parameters_of, with_options, words_of
from .by_layer import agreement
from .experts import agreement_experts
from .margin import agreement_margin
from .overall import agreement_overall
from .pairing import pair_traces
from .pairs import Pairs, parts_of
from .prompts import agreement_of_prompt, agreement_prompts
from .sequences import agreement_sequences
from .tokens import agreement_tokens

VIEWS: dict[str, Callable[..., pa.Table]] = {
    "agreement": with_options(agreement),
    "agreement-overall": with_options(agreement_overall),
    "agreement-tokens": with_options(agreement_tokens),
    "agreement-margin": with_options(agreement_margin),
    "agreement-experts": with_options(agreement_experts),
    "agreement-prompts": with_options(agreement_prompts),
    "agreement-of-prompt": with_options(agreement_of_prompt),
    "agreement-sequences": with_options(agreement_sequences),
}


def names() -> list[str]:
    """Names of all views of a comparison."""
    return list(VIEWS)


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """Parameters of a view by name, without the pairs. Raises UnknownColumn."""
    return {key: value for key, value in parameters_of(_get(name)).items() if key != "pairs"}


def help_of(name: str) -> str:
    """The docstring of a view, and what each field of its option groups does."""
    return "\n".join([inspect.getdoc(inspect.unwrap(_get(name))) or "", *words_of(_get(name))])


def view(pairs: Pairs, name: str, **params: Any) -> pa.Table:
    """A named view of a comparison; the notes of the pairing go before its own.

    A part that turns out to be damaged meanwhile is left out: the traces are paired again without it.
    Raises:
        UnknownColumn: no such view, parameter, layer, column or value.
        BadArgument: a number that the view does not take.
    """
    function = _get(name)
    _check(name, params)
    while True:
        state = parts_of(pairs.a, pairs.b)
        table = function(pairs, **params)
        if parts_of(pairs.a, pairs.b) == state:
            return with_notes(table, [*pairs.notes(), *notes_of(table), *_few(table)])
        again = pair_traces(pairs.a, pairs.b, pair_by=pairs.pair_by, align=pairs.align)
        vars(pairs).update(vars(again))


def _few(table: pa.Table) -> list[str]:
    """Why some points have no interval."""
    if "prompts" not in table.column_names or not any(name.endswith("_low") for name in table.column_names):
        return []
    return [FEW_UNITS] if any(0 < (n or 0) < FEWEST_UNITS for n in table["prompts"].to_pylist()) else []


def _check(name: str, params: dict[str, Any]) -> None:
    known = parameters(name)
    if unknown := sorted(set(params) - set(known)):
        raise UnknownColumn(f"view {name} has no parameter {unknown[0]!r}; it has: {', '.join(known)}")
    missing = [key for key, value in known.items() if value.default is value.empty and key not in params]
    if missing:
        raise UnknownColumn(f"view {name} needs {', '.join(missing)}")
    check(name, params, {key for key, value in known.items() if value.default is None})


def _get(name: str) -> Callable[..., pa.Table]:
    name = name.replace("_", "-")
    if name not in VIEWS:
        raise UnknownColumn(f"there is no view {name!r} of a comparison; there are: {', '.join(VIEWS)}")
    return VIEWS[name]
