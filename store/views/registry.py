"""Named views: functions from a trace to a table.

    @view("load")  # or @view("paths", needs=("events",)): what a trace may lack, see `_lacks`
    def load(trace: TraceRows, *, by: str | None = None, tokens: TokenFilter = ALL_TOKENS) -> pa.Table: ...

A view is called with keyword parameters only; option groups may be given by their fields (`options`). The command
line makes its options from the signature, and its help from the docstring. Views never draw; the arithmetic is in
the kernels.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from importlib.abc import InspectLoader
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..errors import UnknownColumn
from ..notes import notes_of, with_notes
from ._arguments import check
from ._lacks import Need, few_units, lacks, limits, why_empty
from .options import parameters_of, with_options, words_of

if TYPE_CHECKING:
    from ..read.trace_rows import TraceRows

_PACKAGE = __name__.rpartition(".")[0]
_VIEWS: dict[str, Callable[..., pa.Table]] = {}
_NEEDS: dict[str, tuple[Need, ...]] = {}


def view(
    name: str, *, needs: tuple[Need, ...] = ()
) -> Callable[[Callable[..., pa.Table]], Callable[..., pa.Table]]:
    """Register a function as a view.

    Args:
        needs: what a trace may lack without which the view has nothing to say; where it does, the table has no
            rows, and a note that says what is missing.
    """

    def register(function: Callable[..., pa.Table]) -> Callable[..., pa.Table]:
        _VIEWS[name] = with_options(function)
        _NEEDS[name] = needs
        return _VIEWS[name]

    return register


def _load_all() -> None:
    for module in _modules():
        importlib.import_module(module.name)


def _load(name: str) -> None:
    """Import the module whose source registers the view; all of them where none does. All take longer to import than
    most views take to run."""
    for module in registering(name):
        importlib.import_module(module)
        if name in _VIEWS:
            return
    _load_all()


def registering(name: str) -> Iterator[str]:
    """Modules whose source registers the view; this one only shows how."""
    for module in _modules():
        spec = module.module_finder.find_spec(module.name, None)
        source = spec and isinstance(spec.loader, InspectLoader) and spec.loader.get_source(module.name)
        if module.name != __name__ and source and f'@view("{name}"' in source:
            yield module.name


def _modules() -> Iterator[pkgutil.ModuleInfo]:
    package = importlib.import_module(_PACKAGE)
    return pkgutil.walk_packages(package.__path__, f"{_PACKAGE}.")


def names() -> list[str]:
    """Names of all views."""
    _load_all()
    return sorted(_VIEWS)


def get(name: str) -> Callable[..., pa.Table]:
    """The function of a view; `_` may stand for `-`. Raises UnknownColumn where there is none."""
    name = name.replace("_", "-")
    if name not in _VIEWS:
        _load(name)
    if name not in _VIEWS:
        raise UnknownColumn(f"there is no view {name!r}; there are: {', '.join(sorted(_VIEWS))}")
    return _VIEWS[name]


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """Parameters of a view by name, without the trace; annotations are types, not text."""
    return parameters_of(get(name))


def help_of(name: str) -> str:
    """The docstring of a view, and what each field of its option groups does."""
    return "\n".join([inspect.getdoc(get(name)) or "", *words_of(get(name))])


def run(trace: TraceRows, name: str, params: dict[str, Any]) -> pa.Table:
    """Run a view. Where what it selects holds no token, or the trace lacks what it is about, the table has no rows,
    and a note that says why.

    Raises:
        UnknownColumn: an unknown view, parameter or value of a column, or a parameter that is missing.
        BadArgument: a number or word that the view does not take.
    """
    from ._nothing import selects_nothing, without_rows

    function = get(name)
    known = parameters(name)
    unknown = sorted(set(params) - set(known))
    if unknown:
        raise UnknownColumn(f"view {name} has no parameter {unknown[0]!r}; it has: {', '.join(known)}")
    missing = [key for key, value in known.items() if value.default is value.empty and key not in params]
    if missing:
        raise UnknownColumn(f"view {name} needs {', '.join(missing)}")
    check(name, params, {key for key, value in known.items() if value.default is None})
    name = name.replace("_", "-")
    why = lacks(trace, name, _NEEDS[name]) or selects_nothing(trace, known, params)
    table = function(trace, **params)
    if why is None and not table.num_rows:
        why = why_empty(trace, name, _NEEDS[name], notes_of(table))
    said = [*limits(trace, name), *few_units(table)]
    if said:
        table = with_notes(table, [*notes_of(table), *said])
    return table if why is None else without_rows(table, why)
