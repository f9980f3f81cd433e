"""Views of experts: load, pairs, tokens, contexts."""
