"""Starts Snakemake on a run, follows it and explains its failures; what the Snakefile needs beside the plan."""
