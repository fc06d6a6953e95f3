"""Stop a run that somebody else started, or that was left on a cluster, with its jobs."""

from __future__ import annotations

import os
import socket
import subprocess
import time

from .. import locks, queued
from ..errors import ModelError, RunLockedError
from ..fields import nearest
from ..runner import stop
from .work import RunFolder, Work

#: What a Snakemake has to cancel its jobs and end, seconds; and between two looks.
_PATIENCE_S, _PAUSE_S = 60, 0.1


def stop_run(work: Work, name: str | None = None) -> dict:
    """Stop the live run of a work folder and cancel its jobs. What was finished is kept.

    Args:
        name: of the run, where several are live.

    Returns:
        ``run`` (its name; None where none is live), ``cancelled`` (jobs that were in a cluster's queue after it ended).

    Raises:
        ModelError: there is no run of that name. RunLockedError: several are live, it runs on another machine, or it does not end.
    """
    if name is not None and name not in (names := [r.name for r in work.runs]):
        raise ModelError(f"--run: {name!r} is not valid{nearest(name, names)}; allowed: one of {', '.join(names)}")
    live = [r for r in work.runs if r.running is not None and name in (None, r.name)]
    if not live:
        return {"run": None, "cancelled": 0}
    if len(live) > 1:
        raise RunLockedError(f"--run: several runs are live; allowed: one of {', '.join(sorted(r.name for r in live))}")
    (entry,) = live
    _end(entry)
    return {"run": entry.name, "cancelled": _cancel(entry)}


def _end(entry: RunFolder) -> None:
    host, pid = entry.running.get("host"), entry.running.get("pid")
    if not isinstance(pid, int) or pid < 2:
        raise RunLockedError(f"run {entry.name} has just started; try again")
    if host != socket.gethostname():
        raise RunLockedError(f"run {entry.name} is process {pid} on {host}; allowed: rs-embed stop on that machine")
    stop(pid, lambda seconds: _wait(entry, pid, seconds), patience=_PATIENCE_S, alone=os.getpgid(pid) != pid)
    if locks.holder(entry.folder) is not None:
        raise RunLockedError(f"run {entry.name} does not end; its process is {pid}")


def _wait(entry: RunFolder, pid: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (now := locks.holder(entry.folder)) is not None and now.get("pid") == pid:
        if time.monotonic() > end:
            raise subprocess.TimeoutExpired(["snakemake"], seconds)
        time.sleep(_PAUSE_S)


def _cancel(entry: RunFolder) -> int:
    """With the folder locked, so that no start submits jobs meanwhile."""
    try:
        lock = locks.acquire(entry.folder)
    except (RunLockedError, locks.Waited):
        return 0  # it has been started again
    with lock:
        return queued.cancel(entry.folder)
