"""Weights files: where they are, whether they are the right ones, and into a network."""
