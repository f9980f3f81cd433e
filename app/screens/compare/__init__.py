"""Compare: how far the routing of two traces agrees, token by token."""

from .page import page

__all__ = ["page"]
