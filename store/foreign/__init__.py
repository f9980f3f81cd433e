"""Files that others wrote: how their rows are cut, and how much of them is read. Prompt sets and importers share it."""
