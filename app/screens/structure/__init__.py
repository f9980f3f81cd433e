"""Structure: what routing follows, where it goes, and whether it stays."""

from .page import page

__all__ = ["page"]
