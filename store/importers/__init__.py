"""Routing recorded by others, read into traces: one module for each format."""
