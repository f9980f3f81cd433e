"""Bootstrap intervals and percentiles, for every kernel."""
