"""How much of a model's routing changes when only the arithmetic does."""
