"""Who runs when on a served model."""
