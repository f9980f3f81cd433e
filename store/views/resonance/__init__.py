"""Views of resonance: contrasts of two groups of prompts."""
