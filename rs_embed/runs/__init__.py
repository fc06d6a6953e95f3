"""Runs: a plan with its folders, provider and weights, on disk and in memory.

``run``: the run itself. ``open_run``: planned from a request. ``freeze_run``: written into its
folder. ``load_run``: read by its jobs. ``run_files``: the files of its folder. ``folders``: paths
of target, work folder and store. ``profiles``: Snakemake's profiles. ``cluster_queue``: jobs in
SLURM's queue.
"""
