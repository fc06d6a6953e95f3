"""STAC APIs and static catalogues (``backend="stac"``).

- ``provider``: the provider of a catalogue's items.
- ``services``: known services, and how their collections correspond to Earth Engine's.
- ``search``: the items of a request, from an API or a static catalogue.
- ``items``: items as files of scenes, and their JSON form.
- ``remote_rasters``: pixels of files behind HTTP.
- ``signing``: tokens for signed files.
"""
