"""Requests of the user: specs, config files, ROI tables, pixel grids, identities. Reads tables,
writes no files."""
