"""Starting Snakemake on a run, and functions for the Snakefile.

``launcher``: the caller's side of a run. ``child``: its handle of the child process.
``child_main``: the program of that process. ``progress``: bars. ``explain``: why a run failed.
``report``: the result of a run. ``snakefile``: functions for the Snakefile.
"""
