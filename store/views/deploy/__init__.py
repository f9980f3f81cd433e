"""Decisions about a model, made of the routing that was recorded: fitted on some prompts, reported on others."""
