"""The user's own rasters (``backend="local:..."``), and reading raster files for every provider.

- ``local``: the provider of a catalogue's files.
- ``scenes``: the base of the providers that read raster files: which files a chip is read from,
  and how they are combined.
- ``scene_files``: files with their metadata; filters on them, and their JSON form.
- ``catalogue``: the table that describes the files of a folder.
- ``make_catalogue``, ``folder_scan``, ``file_names``: the draft of such a table, from the
  conventions of products, and from the metadata and names of other files.
- ``raster_io``: headers and pixels of raster files, with rasterio. ``alpha_bands``: bands that
  GDAL takes for transparency. ``longitudes``: rasters beyond 180 degrees.
- ``product_units``: conversion between collections with the same product in other units of
  measure.
"""
