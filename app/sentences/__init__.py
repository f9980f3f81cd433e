"""What stands under a chart: what it shows in words, with its numbers and what chance would give."""
