"""Hooks on a model: what its routers and experts receive and return."""
