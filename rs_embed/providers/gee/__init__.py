"""Google Earth Engine (``backend="gee"``).

- ``provider``: the provider: images of a ROI, and chips.
- ``known_bands``: what a start of a run looks up about collections.
- ``images``: which images a request uses: filters, and the search for the images of a ROI.
- ``band_types``: types of the bands of images.
- ``composites``, ``masks``: expressions for composites, and for the mask of an image.
- ``parts``: requests within the service's limits.
- ``client``: the connection: credentials, requests, and which failures are retryable.
"""
