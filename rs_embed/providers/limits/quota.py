"""What all jobs of a run may ask of a service together: requests in flight, and requests begun in a second.

Both are kept in files of the run's folder under locks that the kernel releases when their holder dies: so they hold
between threads, processes and, where the file system's locks do, machines. Such a file system is a network's, and others
use it: files stay open between two tries, one thread of a job tries for all, and ever less often where nothing is free.
Nobody waits inside a lock: an NFS client asks for one that is taken at intervals that grow to half a minute.
"""

from __future__ import annotations

import fcntl
import functools
import os
import random
import struct
import threading
import time
import weakref
from pathlib import Path

from ...errors import StoreError
from ...request.identity import digest
from .wakeup import ring

#: Shortest and longest pause between two tries for the lock of the next start, seconds, which is held for a few calls of the file system.
_TRY_S = (0.001, 0.05)
#: Requests may come together that this share of a second allows: the size of the token bucket, seconds.
_BURST_S = 0.1
#: Coarsest dates of files (FAT), seconds.
_COARSE_S = 2.0
#: Files kept open; more slots than that are opened for each try (a process may have 256 files on macOS, 1024 on Linux).
_KEPT = 64
FRONT, SLOT, _NEXT = "front", "slot", "next"
_TIME = struct.Struct("<d")

_quotas: weakref.WeakSet[Quota] = weakref.WeakSet()


class Quota:
    """Slots and a token bucket in a folder.

    Args:
        concurrency: requests in flight at a time. per_second: requests begun in a second.
    """

    def __init__(self, folder: str | Path, concurrency: int, per_second: float) -> None:
        self.folder = Path(folder)
        self.concurrency = concurrency
        self.interval = 1.0 / per_second
        self._files: dict[str, int] = {}
        self._taken: set[str] = set()  # what a thread of this process has, or is trying to get
        self._mutex, self._pacing = threading.Lock(), threading.Lock()
        weakref.finalize(self, _close, self._files)
        _quotas.add(self)

    def free(self) -> str | None:
        """Take a slot; None where all are taken. :meth:`give` returns it, and so does the end of the process."""
        first = random.randrange(self.concurrency)
        names = (f"{SLOT}-{(first + i) % self.concurrency:03d}" for i in range(self.concurrency))
        return next((name for name in names if self.take(name)), None)

    def take(self, name: str) -> bool:
        """Lock a file of the folder, at once or not at all.

        Raises:
            StoreError: the file system has no locks.
        """
        with self._mutex:  # the lock is the open file's: a second thread would get it as well
            if name in self._taken:
                return False
            self._taken.add(name)
        locked = False
        try:
            locked = self._lock(name)
        finally:
            if not locked:
                self._let_go(name)
        return locked

    def give(self, name: str) -> None:
        """Return what was taken."""
        if name in self._files:
            fcntl.flock(self._files[name], fcntl.LOCK_UN)  # closing is not enough where a child has the file, too
        self._let_go(name)
        if name != _NEXT:
            ring(self.address(name.partition("-")[0]))

    def pace(self) -> None:
        """Wait until one more request may begin. The bucket is the time at which it is full again (generic cell rate
        algorithm, ITU-T I.371): one number for all processes.

        The present is the date that the file gets when it is touched: the file server's, so that nodes need not agree on
        it. (Some file systems, as Lustre and SMB, take a node's own; there the clocks of nodes have to agree.) Dates may
        be coarse: a request then waits longer than it has to by up to their resolution (2 s at most), and in a stretch
        of time no more begin beyond the rate than it allows in that resolution.
        """
        with self._pacing:
            pause = _TRY_S[0]
            while not self.take(_NEXT):
                time.sleep(random.uniform(0.5, 1.0) * pause)
                pause = min(2 * pause, _TRY_S[1])
            try:
                file = self._files[_NEXT]
                now, here = self._now(file), time.monotonic()
                said = os.pread(file, _TIME.size, 0)
                due = _TIME.unpack(said)[0] if len(said) == _TIME.size else now
                # No more wait than may be in flight, and as many may have died waiting: beyond that, the server's clock
                # was set back, or the file is damaged.
                last = now + 2 * self.concurrency * self.interval + _COARSE_S
                due = max(due, now) if due < last else last
                os.pwrite(file, _TIME.pack(due + self.interval), 0)
            finally:
                self.give(_NEXT)
        time.sleep(max(0.0, due - _BURST_S - now - (time.monotonic() - here)))

    def address(self, what: str) -> bytes:
        """Where one of those who wait on this machine hears that a slot, or the front, was given back."""
        return f"\0rs-embed-{self._id}-{what}".encode()

    @functools.cached_property
    def _id(self) -> str:
        return digest(os.path.realpath(self.folder), 12)

    @staticmethod
    def _now(file: int) -> float:
        os.utime(file)
        return os.fstat(file).st_mtime_ns / 1e9

    def _lock(self, name: str) -> bool:
        if name not in self._files:
            self._files[name] = self._open(name)
        file = self._files[name]
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise StoreError(
                f"{self.folder} cannot be locked ({error.strerror}), so requests cannot be counted; "
                "allowed: a work folder on a file system with flock"
            ) from None
        if os.fstat(file).st_nlink:
            return True
        os.close(self._files.pop(name))  # somebody has cleaned the folder away; others lock the new file
        return self._lock(name)

    def _open(self, name: str) -> int:
        path, flags = self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:
            self.folder.mkdir(parents=True, exist_ok=True)
            return os.open(path, flags, 0o666)

    def _let_go(self, name: str) -> None:
        if len(self._files) > _KEPT and name in self._files:
            os.close(self._files.pop(name))
        self._taken.discard(name)

    def _forked(self) -> None:
        """A child has nothing of its parent's, whose slots would else be taken until the child ends."""
        _close(self._files)
        self._taken.clear()
        self._mutex, self._pacing = threading.Lock(), threading.Lock()


def _close(files: dict[str, int]) -> None:
    while files:
        os.close(files.popitem()[1])


os.register_at_fork(after_in_child=lambda: [quota._forked() for quota in list(_quotas)])
