"""Cores that a job may use beside its own: those of the run that no job has at the moment.

Snakemake gives a job its threads when it starts, and never more. Where models are unlike, or the last chunks are at work, cores
that were another job's would idle to the end. So the jobs of a run on one machine say by a locked file how many cores they
have from Snakemake, and those that can use more (embed jobs on CPUs, ``merge``, ``write`` of a combined export) divide what is left of
``--cores`` among them, batch by batch or ROI by ROI.
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

#: Cores of the run on this machine, for its jobs; set where they run beside each other (``workflow.py``).
CORES = "RS_EMBED_CORES"
#: Who else is at work is looked up at most so often, seconds.
_FRESH_S = 0.1


class Share:
    """What a job may use. Without others to divide with, always its own.

    Attributes:
        own: cores that it has from Snakemake.
        most: that it may have at any time.
    """

    def __init__(self, own: int, most: int = 0, mine: Path | None = None) -> None:
        self.own, self.most, self._mine = own, max(own, most), mine
        self._known, self._until, self._lock = own, 0.0, threading.Lock()

    def now(self) -> int:
        """Cores that it may use now: its own, and a part of those that no job has."""
        if self._mine is None:
            return self.own
        with self._lock:
            if time.monotonic() >= self._until:
                try:
                    self._known = self._divided()
                except (StoreError, OSError) as error:  # somebody has cleaned the folder away
                    _say(error)
                    self._known, self._mine = self.own, None
                self._until = time.monotonic() + _FRESH_S
            return self._known

    def _divided(self) -> int:
        claims = [path.name.split(".") for path in _live(self._mine.parent, self._mine.name.split(".")[0])]
        free = max(0, self.most - sum(int(own) for _, own, *_ in claims))
        rivals = sorted(name for _, _, name, kind, _ in claims if kind == "more")
        me = self._mine.name.split(".")[2]
        if me not in rivals:  # somebody has removed the file
            return self.own
        return self.own + free // len(rivals) + (rivals.index(me) < free % len(rivals))


class Turn:
    """A context that as many threads are in at a time as a share has cores; the others wait. It follows the share: a thread
    that waits looks again every now and then, because another job's end wakes nobody here.

    Attributes:
        most: threads that were in at a time.
    """

    def __init__(self, share: Share) -> None:
        self._share, self._at_work, self._free = share, 0, threading.Condition()
        self.most = 0

    def __enter__(self) -> None:
        with self._free:
            while self._at_work >= self._share.now():
                self._free.wait(_FRESH_S)
            self._at_work += 1
            self.most = max(self.most, self._at_work)

    def __exit__(self, *_: object) -> None:
        with self._free:
            self._at_work -= 1
            self._free.notify()


@contextlib.contextmanager
def share(run: Path, own: int, *, more: bool) -> Iterator[Share]:
    """Say for the duration that this process works for a run with ``own`` cores of this machine.

    Args:
        run: folder of the run.
        more: it can use further ones; others only keep theirs from being used.
    """
    most = int(os.environ.get(CORES) or 0)
    if not most:
        yield Share(own)
        return
    name = f"{digest(str(run.resolve()), 12)}.{own}.{secrets.token_hex(6)}.{'more' if more else 'own'}.lock"
    try:
        path = user_locks.folder("cores") / name
        _live(path.parent, "*")  # what killed jobs of any run left
        lock = _held(path)
    except (StoreError, OSError) as error:
        _say(error)
        yield Share(own)
        return
    try:
        yield Share(own, most, path)
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def _say(error: Exception) -> None:
    print(f"rs-embed: no core beside its own, because jobs cannot agree: {error}", file=sys.stderr, flush=True)


def _live(folder: Path, run: str) -> list[Path]:
    """Files of the jobs of a run that are alive; those of the dead are removed."""
    found = []
    for path in folder.glob(f"{run}.*.lock"):
        lock = user_locks.lock(path)
        if lock is None:
            found.append(path)
            continue
        if _is(lock, path):  # else its owner has made it anew
            path.unlink(missing_ok=True)
        os.close(lock)
    return found


def _is(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except FileNotFoundError:
        return False


def _held(path: Path) -> int:
    """The lock of a new file. Another job may look at it before it is locked, and remove it as that of a dead one."""
    while True:
        lock = user_locks.lock(path)
        if lock is not None:
            if _is(lock, path):
                return lock
            os.close(lock)
