"""Traces at rest."""
