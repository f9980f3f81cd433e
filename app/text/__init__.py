"""Words, language names, and text shown literally."""
