"""Figures of the Structure page."""
