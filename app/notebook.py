"""In a notebook: the figure of a view, the same that the app and its reports draw.

from moescope.app.notebook import show
show("my-trace", "alignment", pivot="en")
"""

from __future__ import annotations

import os
from typing import Any

from ..store import Trace, open_trace, trace_address
from .figures.theme import LIGHT
from .reports.of_view import FIGURES, of_view


def show(trace: Trace | str | os.PathLike[str], view: str, **params: Any) -> Any:
    """The figure of a view, which a notebook draws inline.

    Args:
        trace: an opened trace, its folder or URL, or its name in the library.
        view: a view that has a figure of its own (`FIGURES`); others are tables: `trace.view(view)`.
        params: those of the view.
    Returns:
        An Altair chart; the view's table (pandas) where it holds no row.
    Raises:
        ValueError: the view has no figure.
        StoreError: as `Trace.view`.
    """
    opened = trace if isinstance(trace, Trace) else open_trace(trace_address(os.fspath(trace)))
    name = view.replace("_", "-")
    figure = of_view(name)
    if figure is None:
        raise ValueError(f"the view {view!r} has no figure; these have: {', '.join(FIGURES)}")
    table = opened.view(name, **params)
    return figure.draw(table, LIGHT).properties(title=figure.title) if table.num_rows else table.to_pandas()
