"""The time, and what a job has used: for its receipt and for manifests."""

from __future__ import annotations

import datetime as dt
import time


def utc_now() -> str:
    """The time in RFC 3339, UTC, whole seconds."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def measure_job(started: float) -> dict:
    """What a job has used, for its receipt: wall seconds of the stage since ``started``
    (``time.monotonic()``), CPU seconds and the peak memory (MB) of the whole process, and the time
    at which it finished."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB; bytes on macOS
    return {
        "seconds": round(time.monotonic() - started, 3),
        "cpu_seconds": round(time.process_time(), 3),
        "peak_mb": round(peak / (1e6 if sys.platform == "darwin" else 1024)),
        "finished": utc_now(),
    }
