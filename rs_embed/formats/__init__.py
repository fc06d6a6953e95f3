"""Bytes out: array files and manifests."""
