"""Traces that run in a process of their own, started by the app."""
