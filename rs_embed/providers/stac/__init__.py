"""STAC APIs and static catalogues (``backend="stac"``)."""
