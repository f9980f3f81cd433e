"""What weights and outputs say of each expert: the expert sheet of a trace."""

from .weigh import WHAT, weigh

__all__ = ["WHAT", "weigh"]
