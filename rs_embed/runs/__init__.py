"""Runs: a plan with its folders, provider and weights, on disk and in memory.

``run``: the run itself. ``open_run``: planned from a request. ``run_files``: written into its
folder, and read by its jobs. ``folders``: paths of target, work folder and store. ``profiles``:
Snakemake's profiles. ``cluster_queue``: jobs in SLURM's queue.
"""
