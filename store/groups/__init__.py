"""Sums of rollups over the prompts of a group, for very large traces: `moescope rollup`."""
