"""Traces at rest: written by `TraceWriter`, opened by `open_trace`.

Nothing here imports torch, transformers or streamlit.
"""

from .errors import StoreError, TraceLocked
from .library import default_library, list_traces, sample_dir, trace_address
from .schema import Part, RouterEvents, RouterSpec, RouterSums
from .trace import Trace, open_trace
from .write.writer import TraceWriter

__all__ = [
    "Part",
    "RouterEvents",
    "RouterSpec",
    "RouterSums",
    "StoreError",
    "Trace",
    "TraceLocked",
    "TraceWriter",
    "default_library",
    "list_traces",
    "open_trace",
    "sample_dir",
    "trace_address",
]
