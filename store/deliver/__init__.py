"""Decisions as files that other tools read."""
