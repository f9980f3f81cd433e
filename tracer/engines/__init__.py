"""Inference engines that run a model in processes of their own, with moescope's taps inside them.

An engine hands over the same routing events as `run.trace`, and nothing above it knows which engine ran.
"""
