"""The user's own rasters (``backend="local:..."``), and reading raster files for every provider."""
