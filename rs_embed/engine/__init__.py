"""Runs images through models in batches: tiles, devices, precision, memory. Once for all model families."""
