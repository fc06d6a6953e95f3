"""Stop a run that somebody else started, or that was left on a cluster, with its jobs."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import ModelError, RunLockedError
from ..request.fields import nearest
from ..runs import cluster_queue
from ..store import locks
from .work_folder import NAME, RunFolder, Work

#: Signals, and what a Snakemake has after each to cancel its jobs and end, seconds; and between two looks.
_WAYS, _PAUSE_S = ((signal.SIGINT, 60), (signal.SIGTERM, 10), (signal.SIGKILL, 10)), 0.1


def stop_run(work: Work, given: str | Path, name: str | None = None) -> dict:
    """Stop the live run of a work folder, or of the target that was given, and cancel its jobs, also those that a dead Snakemake left
    in a cluster's queue. What was finished is kept.

    Args:
        name: of the run, where several are live.

    Returns:
        ``run`` (its name; None where none is live), ``cancelled`` (jobs that were in a cluster's queue after it ended).

    Raises:
        ModelError: there is no run of that name. RunLockedError: several are live, it runs on another machine, is not this user's, has
            just started, or does not end.
    """
    meant = _meant(work, given)
    if name is not None and name not in (names := [r.name for r in meant]):
        raise ModelError(
            f"--run: {name!r} is not valid{nearest(name, names)}; allowed: one of {', '.join(names) or 'none'}"
        )
    meant = [r for r in meant if name in (None, r.name)]
    live = [r for r in meant if locks.holder(r.folder) is not None]
    if len(live) > 1:
        raise RunLockedError(f"--run: several runs are live; allowed: one of {', '.join(sorted(r.name for r in live))}")
    if live:
        _end(live[0])
        meant = live
    return {"run": live[0].name if live else None, "cancelled": sum(map(_cancel, meant))}


def _meant(work: Work, given: str | Path) -> list[RunFolder]:
    """The runs of a work folder; those of one target where that was given."""
    path = Path(os.path.realpath(os.path.expanduser(given)))
    if work.folder in (path, path / NAME):
        return list(work.runs)
    real = {r.name: os.path.realpath(r.target) for r in work.runs}
    return [r for r in work.runs if str(path) in (real[r.name], os.path.splitext(real[r.name])[0])]


def _end(entry: RunFolder) -> None:
    now = locks.holder(entry.folder)
    if now is None:
        return
    host, pid = now.get("host"), now.get("pid")
    if not isinstance(pid, int) or pid < 2 or now.get("starting"):
        raise RunLockedError(f"run {entry.name} has just started; try again in a moment")
    if host != socket.gethostname():
        raise RunLockedError(f"run {entry.name} is process {pid} on {host}; allowed: rs-embed stop on that machine")
    locks.mark_stopped(entry.folder)  # or who waits for it would start it again
    family = _family(pid)
    for number, seconds in _WAYS:
        if not _signal(family, number, entry, host):
            return
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not _alive(family):
                return
            time.sleep(_PAUSE_S)
    raise RunLockedError(f"run {entry.name} does not end; its processes are {', '.join(map(str, _alive(family)))}")


def _family(pid: int) -> list[int]:
    """A process and those that it has started, which would go on without it."""
    import psutil

    try:
        parent = psutil.Process(pid)
        return [pid, *(child.pid for child in parent.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _alive(family: Sequence[int]) -> list[int]:
    import psutil

    found = []
    for pid in family:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


def _signal(family: Sequence[int], number: int, entry: RunFolder, host: str) -> bool:
    """Whether any of them was there."""
    there = False
    for pid in family:
        try:
            os.kill(pid, number)
            there = True
        except ProcessLookupError:
            continue
        except PermissionError:
            raise RunLockedError(
                f"run {entry.name} is process {pid} of another user on {host}; allowed: to stop your own"
            ) from None
    return there


def _cancel(entry: RunFolder) -> int:
    """With the folder locked, so that no start submits jobs meanwhile."""
    try:
        lock = locks.acquire(entry.folder)
    except (RunLockedError, locks.Waited):
        return 0  # it has been started again
    with lock:
        locks.mark_stopped(entry.folder)  # it says now who holds it
        return cluster_queue.cancel(entry.folder)
