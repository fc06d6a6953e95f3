"""How many ROIs a chunk has where the request leaves it open: a job's own start should be small beside its work, and there should be
something to run side by side. docs/scaling.md has the costs of a job, and what the sizes chosen here cost beside the best ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

#: Chunks of a run, about: Snakemake's own time follows jobs.
MOST_CHUNKS = 200
#: On CPUs the smallest of these that keeps a run under that.
CHUNK_SIZES = (256, 512, 1024)
#: Where models are fast, twice as many, and again, until a chunk takes a core as many seconds as this (a job's own start takes 3 to 4),
#: all ROIs are in one, or it is the largest.
WORTH_S, LARGEST_CHUNK = 16.0, 4096
#: On GPUs, and what a job takes there before its first image (Python, torch, the device, the weights), seconds; assumed.
GPU_CHUNK_SIZES = tuple(256 << i for i in range(8))
GPU_START_S = 10.0
#: Time that is given away for smaller chunks, whose first embeddings are there sooner and whose failures cost less.
SLACK = 1.05


def automatic_chunk_size(n: int, *, gpus: Sequence[int] = (), paces: Sequence[float] = (1.0,)) -> int:
    """The size of the chunks of ``n`` ROIs.

    Args:
        gpus: how many may be used; several numbers where it is not known; none: CPUs, whose cores a single job can use.
        paces: seconds that a core, or a GPU, takes for a ROI, of each model.
    """
    if gpus:
        return _for_gpus(n, gpus, paces)
    size = next((size for size in CHUNK_SIZES if n <= MOST_CHUNKS * size), CHUNK_SIZES[-1])
    while size * sum(paces) / len(paces) < WORTH_S and size < min(n, LARGEST_CHUNK):
        size *= 2
    return size


def _for_gpus(n: int, gpus: Sequence[int], paces: Sequence[float]) -> int:
    """The smallest size with which the GPUs are done nearly as soon as with the best one; where their number is not known, with which
    the largest loss is nearly the smallest."""
    jobs = {size: _jobs(n, size, paces) for size in GPU_CHUNK_SIZES if n <= MOST_CHUNKS * size}
    if not jobs:
        return GPU_CHUNK_SIZES[-1]
    loss = dict.fromkeys(jobs, 1.0)
    for count in gpus:
        took = {size: wall(each, count) for size, each in jobs.items()}
        best = min(took.values())
        loss = {size: max(loss[size], took[size] / best) for size in jobs}
    return next(size for size in jobs if loss[size] <= SLACK * min(loss.values()))


def _jobs(n: int, size: int, paces: Sequence[float]) -> list[float]:
    """Seconds of the jobs of a run."""
    chunks = [min(size, n - start) for start in range(0, n, size)]
    return [GPU_START_S + count * pace for pace in paces for count in chunks]


def wall(jobs: Iterable[float], workers: int) -> float:
    """Time until the last job has ended, if a worker that is free takes the longest one that is left."""
    busy = [0.0] * workers
    for each in sorted(jobs, reverse=True):
        heapq.heapreplace(busy, busy[0] + each)
    return max(busy)
