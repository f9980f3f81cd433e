"""Deploy: from a trace to a decision and its file, one question a tab."""

from .page import page

__all__ = ["page"]
