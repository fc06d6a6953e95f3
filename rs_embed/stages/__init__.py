"""The jobs of a run, each a function of (run, part or chunk), which can also be called by hand.

``prepare``: once, before Snakemake decides which jobs to run. ``fetch``: chips of a part.
``embed``: embeddings of a chunk and a unit. ``write``: records and per-item files of a chunk.
``repair``: damaged per-item files of a chunk. ``merge``: the final files. ``manifests``: their
contents. ``shared``: what several jobs use.
"""
