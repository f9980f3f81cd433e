"""Views of cross-lingual alignment."""
