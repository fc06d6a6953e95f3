"""Google Earth Engine (``backend="gee"``).

- ``provider``: the provider: images of a ROI, and chips.
- ``images``: expressions for the service, and parsers of its answers.
- ``client``: the connection: credentials, requests, and which failures are retryable.
"""
