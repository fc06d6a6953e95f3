"""CPU cores and GPUs that the processes of a user share on one machine.

- ``devices``: the device type of a unit, and the GPU that a job gets.
- ``cores``: the cores that a job may use in addition to those from Snakemake.
- ``user_locks``: the file locks by which these processes agree.
"""
