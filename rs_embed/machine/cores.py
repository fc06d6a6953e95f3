"""Threads of embed jobs, and cores that a job may use in addition to those from Snakemake.

The additional cores are those of the run that no job uses at the moment.

Snakemake fixes the threads of a job when it starts. If models have different costs, or during the
last chunks, cores of finished jobs would stay idle. So the jobs of a run on one machine record in
the name of a locked file how many cores they have from Snakemake (a claim). Jobs that can use more
(embed jobs on CPUs, ``merge``, ``write`` of a combined export) share the remaining cores of
``--cores``; they check for every batch or ROI.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import StoreError
from ..request.identity import digest
from . import user_locks

#: Cores of the run on this machine; set for its jobs if they run on the same machine
#: (:func:`set_shared_cores`).
CORES_VARIABLE = "RS_EMBED_CORES"
#: The claims of other jobs are listed at most this often, seconds.
_REFRESH_S = 0.1


class CoreShare:
    """The cores that a job may use. Without a claim, always those assigned to it.

    Attributes:
        assigned: number of cores from Snakemake.
        maximum: most cores that it may ever use.
    """

    def __init__(self, assigned: int, maximum: int = 0, claim: Path | None = None) -> None:
        self.assigned, self.maximum, self._claim = assigned, max(assigned, maximum), claim
        self._known, self._until, self._lock = assigned, 0.0, threading.Lock()

    def available(self) -> int:
        """Number of cores that the job may use now: the assigned ones and a share of the unused
        ones."""
        if self._claim is None:
            return self.assigned
        with self._lock:
            if self._claim is not None and time.monotonic() >= self._until:
                try:
                    self._known = self._divide(self._claim)
                except (StoreError, OSError) as error:  # the folder of the claims was deleted
                    _report_error(error)
                    self._known, self._claim = self.assigned, None
                self._until = time.monotonic() + _REFRESH_S
            return self._known

    def _divide(self, claim: Path) -> int:
        run, _, own_id, *_ = claim.name.split(".")
        claims = [path.name.split(".") for path in _list_claims(claim.parent, run)]
        unused = max(0, self.maximum - sum(int(assigned) for _, assigned, *_ in claims))
        sharing = sorted(job_id for _, _, job_id, kind, _ in claims if kind == "more")
        if own_id not in sharing:  # the file was deleted
            return self.assigned
        return self.assigned + unused // len(sharing) + (sharing.index(own_id) < unused % len(sharing))


class ThreadLimit:
    """A context that as many threads can enter at a time as a share has cores; others wait.

    A waiting thread checks the share regularly, because the end of another job does not notify it.

    Attributes:
        peak: most threads that were inside at a time.
    """

    def __init__(self, share: CoreShare) -> None:
        self._share, self._inside, self._changed = share, 0, threading.Condition()
        self.peak = 0

    def __enter__(self) -> None:
        with self._changed:
            while self._inside >= self._share.available():
                self._changed.wait(_REFRESH_S)
            self._inside += 1
            self.peak = max(self.peak, self._inside)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify()


@contextlib.contextmanager
def share_cores(run: Path, assigned: int, *, can_use_more: bool) -> Iterator[CoreShare]:
    """Claim ``assigned`` cores of this machine for a job of a run, while the context is active.

    Args:
        run: folder of the run.
        can_use_more: the job can use further cores; other jobs only prevent the use of theirs.
    """
    maximum = int(os.environ.get(CORES_VARIABLE) or 0)
    if not maximum:
        yield CoreShare(assigned)
        return
    kind = "more" if can_use_more else "own"
    name = f"{digest(str(run.resolve()), 12)}.{assigned}.{secrets.token_hex(6)}.{kind}.lock"
    try:
        path = user_locks.lock_folder("cores") / name
        _list_claims(path.parent, "*")  # removes those of killed jobs of any run
        lock = _lock_new_file(path)
    except (StoreError, OSError) as error:
        _report_error(error)
        yield CoreShare(assigned)
        return
    try:
        yield CoreShare(assigned, maximum, path)
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def _report_error(error: Exception) -> None:
    print(f"rs-embed: no additional cores, because jobs cannot share them: {error}", file=sys.stderr, flush=True)


def _list_claims(folder: Path, run: str) -> list[Path]:
    """Claims of the live jobs of a run; those of dead jobs are removed."""
    found = []
    for path in folder.glob(f"{run}.*.lock"):
        lock = user_locks.try_lock(path)
        if lock is None:
            found.append(path)
            continue
        if user_locks.is_current(lock, path):  # otherwise its job has created it again
            path.unlink(missing_ok=True)
        os.close(lock)
    return found


def _lock_new_file(path: Path) -> int:
    """Create and lock a claim.

    Another job may remove it before it is locked, as that of a dead job.
    """
    while True:
        lock = user_locks.try_lock(path)
        if lock is not None:
            if user_locks.is_current(lock, path):
                return lock
            os.close(lock)


#: Most threads that read and preprocess for a GPU (``engine/engine.py``).
_MAX_READERS = 8


def count_embed_threads(cores: int, jobs: int, gpus: int) -> int:
    """Threads of an embed job on a machine that runs ``jobs`` of them in all.

    On CPUs the cores are divided among the jobs that can run at a time: one thread each where
    there are enough jobs, so that no core idles while a job starts or loads its model; all cores
    where there is one job. With GPUs as many jobs run as there are GPUs, threads only read and
    preprocess, and a share of the cores remains for fetching and writing.

    Args:
        gpus: number of GPUs that may be used at a time; 0: on CPUs.
    """
    jobs = max(1, jobs)
    if gpus:
        return max(1, min(_MAX_READERS, cores // (min(jobs, gpus) + 1)))
    return max(1, cores // min(jobs, cores))


def set_shared_cores(cores: int | None) -> None:
    """Let the jobs of this process share ``--cores``; None: they run on other machines."""
    os.environ.pop(CORES_VARIABLE, None)
    if cores:
        os.environ[CORES_VARIABLE] = str(cores)
