"""Named views: functions from a trace to a table, one package for each family; see `registry`."""

from .registry import get, help_of, names, parameters, run, view

__all__ = ["get", "help_of", "names", "parameters", "run", "view"]
