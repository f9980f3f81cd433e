"""Reading a trace: its parts, rows, sums and selections."""
