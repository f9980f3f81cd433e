"""The `moescope` command: one module for each group of commands."""

from .commands import cli, main, run

__all__ = ["cli", "main", "run"]
