"""What the user asks for: specs, config files, ROI tables, pixel grids, identities. Reads tables, writes nothing."""
