"""The automatic chunk size: large enough that the start-up time of a job is small, and small
enough for parallel jobs.

docs/scaling.md has the costs of a job, and compares the automatic sizes with the best ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

#: Approximate limit on the chunks of a run: the overhead of Snakemake is proportional to the
#: number of jobs.
MOST_CHUNKS = 200
#: On CPUs: the smallest of these sizes that keeps a run below the limit.
CHUNK_SIZES = (256, 512, 1024)
#: For fast models the size is doubled until a chunk takes a core this many seconds (a job takes 3
#: to 4 to start), one chunk contains all ROIs, or the size is the largest.
MIN_CHUNK_S, LARGEST_CHUNK = 16.0, 4096
#: Sizes on GPUs, and the assumed start-up time of a job there (Python, torch, the device, the
#: weights), seconds.
GPU_CHUNK_SIZES = tuple(256 << i for i in range(8))
GPU_START_S = 10.0
#: Accepted slow-down for smaller chunks, whose first embeddings are ready sooner and whose
#: failures cost less.
SLACK = 1.05


def choose_chunk_size(n: int, *, gpus: Sequence[int] = (), paces: Sequence[float] = (1.0,)) -> int:
    """The number of ROIs in a chunk, for ``n`` ROIs.

    Args:
        gpus: number of GPUs; several numbers if it is not known; empty: CPUs, of which one job can
            use all cores.
        paces: seconds per ROI on a core or a GPU, for each model.
    """
    if gpus:
        return _choose_gpu_chunk_size(n, gpus, paces)
    size = next((size for size in CHUNK_SIZES if n <= MOST_CHUNKS * size), CHUNK_SIZES[-1])
    while size * sum(paces) / len(paces) < MIN_CHUNK_S and size < min(n, LARGEST_CHUNK):
        size *= 2
    return size


def _choose_gpu_chunk_size(n: int, gpus: Sequence[int], paces: Sequence[float]) -> int:
    """The smallest size whose run time is close to that of the best size.

    If the number of GPUs is not known: whose largest slow-down over all numbers is close to the
    smallest one.
    """
    jobs = {size: _job_seconds(n, size, paces) for size in GPU_CHUNK_SIZES if n <= MOST_CHUNKS * size}
    if not jobs:
        return GPU_CHUNK_SIZES[-1]
    slowdown = dict.fromkeys(jobs, 1.0)
    for count in gpus:
        seconds = {size: wall_seconds(each, count) for size, each in jobs.items()}
        best = min(seconds.values())
        slowdown = {size: max(slowdown[size], seconds[size] / best) for size in jobs}
    return next(size for size in jobs if slowdown[size] <= SLACK * min(slowdown.values()))


def _job_seconds(n: int, size: int, paces: Sequence[float]) -> list[float]:
    """Seconds of each embed job of a run."""
    chunks = [min(size, n - start) for start in range(0, n, size)]
    return [GPU_START_S + count * pace for pace in paces for count in chunks]


def wall_seconds(jobs: Iterable[float], workers: int) -> float:
    """Time until the last job ends, if each free worker starts the longest remaining job."""
    busy = [0.0] * workers
    for each in sorted(jobs, reverse=True):
        heapq.heapreplace(busy, busy[0] + each)
    return max(busy)
