"""Runs images through models in batches, once for all model families.

- :mod:`.engine`: batches, threads, halving on out-of-memory; the entry point
- :mod:`.preprocessing`: inputs of networks, computed ahead of the forward passes
- :mod:`.tiled_image`: one image as tiles, and one embedding from their results
- :mod:`.tile_layout`: where tiles lie and how grids and vectors are joined
- :mod:`.torch_device`: bfloat16 and its check, memory, batches on a device
- :mod:`.size_checks`: images that a model refuses, found when a request is planned
- :mod:`.image_cost`: passes, operations and seconds of one image
"""
