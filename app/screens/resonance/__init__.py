"""The Resonance page, part by part."""

from .page import page

__all__ = ["page"]
