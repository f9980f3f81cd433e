"""Loading a model and what is known of it."""
