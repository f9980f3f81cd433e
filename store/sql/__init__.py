"""A user's SQL over a trace, in a process of its own."""
