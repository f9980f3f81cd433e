"""Writing a trace: parts and rollups."""
