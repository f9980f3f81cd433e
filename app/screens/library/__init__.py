"""The Library page: traces, running jobs, new traces."""

from .page import page

__all__ = ["page"]
