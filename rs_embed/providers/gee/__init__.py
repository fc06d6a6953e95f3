"""Google Earth Engine (``backend="gee"``)."""
