"""The plan of a run: a pure function of the request. Standard library only.

``plan``: sources, units, parts, chunks, keys and file names of a run; ``units``: one model request
with all defaults, and its identity; ``chunk_sizes``: ROIs per chunk; ``model_info``: how a model
describes itself; ``flops``: operations of forward passes.
"""
