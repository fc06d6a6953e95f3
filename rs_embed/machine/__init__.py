"""Cores, GPUs and file locks that the processes of a user share on one machine."""
