"""Stored chips and embeddings, and the receipts of jobs. Standard library and numpy only.

- ``store``: the folders of chips and embeddings under one root, by identity; the module to start
  with.
- ``groups``: the objects of one folder, each in a file of its own or in a pack; packing and
  unpacking.
- ``objects``: the bytes of one object (a ``.npy`` array with metadata and a digest).
- ``packs``: the bytes of one pack (a file with many objects), and an index of several packs.
- ``freed_chips``: records of chips that were deleted because an export has their pixels.
- ``receipts``: the JSON files that finished jobs declare to Snakemake.
- ``locks``: locks of run folders and stores.
- ``atomic_files``: files that are written completely or not at all, and their temporary files.
"""
