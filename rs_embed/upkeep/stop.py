"""``rs-embed stop``: stops a run that another process has started, or that was left on a cluster,
with its jobs."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import ModelError, RunLockedError
from ..request.fields import suggest_nearest
from ..runs import cluster_queue
from ..store import locks
from .work_folder import FOLDER_NAME, RunFolder, WorkFolder

#: Signals, each with the seconds that Snakemake has afterwards to cancel its jobs and end.
_SIGNALS = (signal.SIGINT, 60), (signal.SIGTERM, 10), (signal.SIGKILL, 10)
#: Seconds between two checks whether it has ended.
_PAUSE_S = 0.1


def stop_run(work: WorkFolder, given: str | Path, name: str | None = None) -> dict:
    """Stop the live run of a work folder or of a target, and cancel its jobs, also those that a
    dead Snakemake left in a cluster's queue. Finished jobs are kept.

    Args:
        given: path of the work folder or target. name: of the run, where several are live.

    Returns:
        ``run`` (its name; None where none is live), ``cancelled`` (jobs that were in a cluster's
        queue after it ended).

    Raises:
        ModelError: no run has that name. RunLockedError: several are live, it runs on another
            machine, belongs to another user, has just started, or does not end.
    """
    selected = _select_runs(work, given)
    if name is not None and name not in (names := [r.name for r in selected]):
        raise ModelError(
            f"--run: {name!r} is not valid{suggest_nearest(name, names)}; allowed: one of {', '.join(names) or 'none'}"
        )
    selected = [r for r in selected if name in (None, r.name)]
    live = [r for r in selected if locks.read_lock_holder(r.folder) is not None]
    if len(live) > 1:
        raise RunLockedError(f"--run: several runs are live; allowed: one of {', '.join(sorted(r.name for r in live))}")
    if live:
        _end_processes(live[0])
        selected = live
    return {"run": live[0].name if live else None, "cancelled": sum(map(_cancel_queued_jobs, selected))}


def _select_runs(work: WorkFolder, given: str | Path) -> list[RunFolder]:
    """The runs of a work folder; those of one target where a target is given."""
    path = Path(os.path.realpath(os.path.expanduser(given)))
    if work.folder in (path, path / FOLDER_NAME):
        return list(work.run_folders)
    real = {r.name: os.path.realpath(r.target) for r in work.run_folders}
    return [r for r in work.run_folders if str(path) in (real[r.name], os.path.splitext(real[r.name])[0])]


def _end_processes(entry: RunFolder) -> None:
    """End Snakemake and the processes that it has started.

    Raises:
        RunLockedError: it cannot be ended from here, or it does not end.
    """
    holder = locks.read_lock_holder(entry.folder)
    if holder is None:
        return
    host, pid = holder.get("host"), holder.get("pid")
    if not isinstance(pid, int) or pid < 2 or holder.get("starting"):
        raise RunLockedError(f"run {entry.name} has just started; try again in a moment")
    if host != socket.gethostname():
        raise RunLockedError(f"run {entry.name} is process {pid} on {host}; allowed: rs-embed stop on that machine")
    locks.mark_run_stopped(entry.folder)  # or a call that waits for it would start it again
    pids = _process_tree(pid)
    for number, seconds in _SIGNALS:
        if not _send_signal(pids, number, entry, host):
            return
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not _live_processes(pids):
                return
            time.sleep(_PAUSE_S)
    live = ", ".join(map(str, _live_processes(pids)))
    raise RunLockedError(f"run {entry.name} does not end; its processes are {live}")


def _process_tree(pid: int) -> list[int]:
    """A process and its descendants, which would continue without it."""
    import psutil

    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _live_processes(pids: Sequence[int]) -> list[int]:
    import psutil

    live = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                live.append(pid)
        except psutil.NoSuchProcess:
            continue
    return live


def _send_signal(pids: Sequence[int], number: int, entry: RunFolder, host: str) -> bool:
    """Send a signal to all processes; True if any of them exists."""
    exists = False
    for pid in pids:
        try:
            os.kill(pid, number)
            exists = True
        except ProcessLookupError:
            continue
        except PermissionError:
            raise RunLockedError(
                f"run {entry.name} is process {pid} of another user on {host}; allowed: to stop your own"
            ) from None
    return exists


def _cancel_queued_jobs(entry: RunFolder) -> int:
    """Cancel the jobs of a run in a cluster's queue; returns how many. The folder is locked, so
    that no start submits jobs meanwhile."""
    try:
        lock = locks.acquire_run_lock(entry.folder)
    except (RunLockedError, locks.PreviousRunEnded):
        return 0  # it was started again
    with lock:
        locks.mark_run_stopped(entry.folder)  # the lock file names this process now
        return cluster_queue.cancel_jobs(entry.folder)
