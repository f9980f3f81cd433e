"""How routing is structured: over domains, over the vocabulary, along the layers, from token to token."""
