"""The HTTP face of a served model."""
