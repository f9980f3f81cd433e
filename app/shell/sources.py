"""Traces and views as the pages get them: opened once, computed once, shared by all who look.

A running trace does not change under a reader's eyes: every session keeps the state that it first saw of a
trace (its stamp) until `refresh` is called.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import streamlit as st

from ...store import StoreError, Trace, default_library, list_traces, open_trace
from ...store.expert_sheet import SHEET_NAME
from ...store.files.commits import MANIFEST_NAME, local_names
from ...store.files.group_list import LIST_NAME
from ...store.library import TraceSummary, summarise
from ...store.views import parameters


def library() -> Path:
    """The folder whose traces are listed; `moescope app --library` sets it by MOESCOPE_LIBRARY."""
    return default_library()


@st.cache_resource
def opened() -> list[str]:
    """Addresses of traces outside the library that were opened in this app, the start one first."""
    start = os.environ.get("MOESCOPE_TRACE") or next(iter(sys.argv[1:]), None)
    return [start] if start else []


def add(url: str) -> TraceSummary:
    """Open a trace outside the library. Raises StoreError where there is none."""
    summary = summarise(url)
    if summary.error:
        raise StoreError(summary.error)
    if url not in opened():
        opened().append(url)
    return summary


def summaries() -> dict[str, TraceSummary]:
    """All known traces by a name that is unique here; those opened by address first, then the library's."""
    found = [_summary(url, stamp(url)) for url in opened()]
    known = {os.path.realpath(summary.url) for summary in found}
    folder = library()
    listed = _listed(str(folder), _stamps(folder))
    found += [summary for summary in listed if os.path.realpath(summary.url) not in known]
    named: dict[str, TraceSummary] = {}
    for summary in found:
        name, number = summary.name, 2
        while name in named:
            name, number = f"{summary.name} ({number})", number + 1
        named[name] = summary
    return named


def stamp(url: str) -> str:
    """Changes when the trace's manifest, the files with commits beside it, its expert sheet or its sums by group
    do; constant for addresses that are not local files."""
    times = (_changed_at(url, name) for name in (MANIFEST_NAME, SHEET_NAME, LIST_NAME))
    return " ".join(filter(None, (*times, *local_names(url))))


def _changed_at(url: str, name: str) -> str:
    try:
        return str(os.stat(os.path.join(url, name)).st_mtime_ns)
    except OSError:
        return ""


def _stamps(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(f"{path.name} {stamp(str(path))}" for path in sorted(folder.iterdir()))
    except OSError:
        return ()


@st.cache_data(max_entries=64, show_spinner=False)
def _summary(url: str, stamp: str) -> TraceSummary:
    return summarise(url)


@st.cache_data(max_entries=8, show_spinner=False)
def _listed(folder: str, stamps: tuple[str, ...]) -> list[TraceSummary]:
    return list_traces(folder)


@st.cache_resource(max_entries=16, show_spinner=False)
def _opened(url: str, stamp: str) -> Trace:
    return open_trace(url)


def seen_stamp(url: str) -> str:
    """The state of a trace that this session looks at."""
    return st.session_state.setdefault(f"stamp {url}", stamp(url))


def get(url: str) -> Trace:
    """The opened trace, in the state that this session looks at. Raises StoreError."""
    return _opened(url, seen_stamp(url))


def version(url: str) -> tuple[str, int]:
    """What results are remembered under: the state of the trace that this session looks at, and how many parts were
    found to be damaged in it so far. Raises StoreError."""
    return seen_stamp(url), len(get(url).problems)


def changed(url: str) -> bool:
    """Whether the trace has grown since this session first looked."""
    return stamp(url) != seen_stamp(url)


def refresh(url: str) -> None:
    """Look at the newest state of a trace."""
    st.session_state[f"stamp {url}"] = stamp(url)


def view(url: str, name: str, **params: Any) -> pa.Table:
    """A named view of a trace, cached. Raises StoreError."""
    return _view(url, version(url), name, params)


@st.cache_data(max_entries=256, show_spinner=False)
def _view(url: str, version: tuple[str, int], name: str, params: dict[str, Any]) -> pa.Table:
    return _opened(url, version[0]).view(name, **params)


def takes(name: str, param: str) -> bool:
    """Whether a view has a parameter."""
    return param in parameters(name)
