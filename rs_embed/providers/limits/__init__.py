"""Limits that all jobs of a run share when they use a service.

- ``quota``: requests in flight and requests per second, counted in files of the run folder.
- ``slots``: which thread and which job gets the next slot of the quota.
- ``wakeup``: wakes a waiting thread of this process or of another process on this machine.
"""
