"""STAC APIs and static catalogues (``backend="stac"``).

- ``provider``: the provider of a catalogue's items.
- ``services``: known services; ``mappings``: how a collection corresponds to Earth Engine's.
- ``search``: the items of a request from an API; ``static_catalogue``: all items of a catalogue.
- ``links``: absolute links without secrets.
- ``items``: items as files of scenes, and their JSON form; ``assets``: what an item says about its
  numbers; ``outlines``: where it is; ``sentinel_2``: the constant of baseline 04.00;
  ``left_out``: items that cannot be used.
- ``remote_rasters``: pixels of files behind HTTP; ``side_files``: masks beside them; ``signing``:
  tokens for signed files.
"""
