"""The limits of all jobs of a run together on requests to a service: in flight, and started per
second.

Both are files of the run folder under locks that the kernel releases when their holder dies. So
they are valid between threads, processes and, where the file system's locks are, machines. Such a
file system is a shared network one: files stay open between two attempts, one thread of a job
polls for all, at growing intervals while all slots are locked. No call blocks on a lock: an NFS
client polls a lock that is held at intervals that grow to half a minute.
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
from .wakeup import notify_address

#: Shortest and longest pause between two attempts to lock the token bucket, seconds; the lock is
#: held for a few file operations.
_RETRY_S = (0.001, 0.05)
#: Size of the token bucket, seconds: as many requests may start at once as the rate allows in this
#: time.
_BURST_S = 0.1
#: Coarsest modification times of files (FAT), seconds.
_COARSE_S = 2.0
#: Files that stay open; further slots are opened for each attempt (a process may have 256 files on
#: macOS, 1024 on Linux).
_MAX_OPEN = 64
#: Names of the lock files: the first of the waiting jobs, a slot (with its number), the token
#: bucket.
QUEUE_HEAD, SLOT, _BUCKET = "front", "slot", "next"
_TIME = struct.Struct("<d")

_quotas: weakref.WeakSet[Quota] = weakref.WeakSet()


class Quota:
    """Slots and a token bucket in a folder.

    Args:
        concurrency: requests in flight at a time. per_second: requests started per second.
    """

    def __init__(self, folder: str | Path, concurrency: int, per_second: float) -> None:
        self.folder = Path(folder)
        self.concurrency = concurrency
        self.interval = 1.0 / per_second
        self._files: dict[str, int] = {}
        self._locked: set[str] = set()  # locked, or about to be, by this process
        self._mutex, self._throttling = threading.Lock(), threading.Lock()
        weakref.finalize(self, _close_all, self._files)
        _quotas.add(self)

    def try_lock_slot(self) -> str | None:
        """Lock a free slot and return its name; None where all are locked. :meth:`release` unlocks
        it, and so does the end of the process."""
        first = random.randrange(self.concurrency)
        names = (f"{SLOT}-{(first + i) % self.concurrency:03d}" for i in range(self.concurrency))
        return next((name for name in names if self.try_lock(name)), None)

    def try_lock(self, name: str) -> bool:
        """Lock a file of the folder without waiting; False where it is locked.

        Raises:
            StoreError: the file system does not support locks.
        """
        with self._mutex:  # the lock belongs to the open file: a second thread would get it, too
            if name in self._locked:
                return False
            self._locked.add(name)
        locked = False
        try:
            locked = self._lock(name)
        finally:
            if not locked:
                self._forget(name)
        return locked

    def release(self, name: str) -> None:
        """Unlock a file, and wake a process of this machine that waits for it."""
        if name in self._files:
            fcntl.flock(
                self._files[name], fcntl.LOCK_UN
            )  # closing is not enough where a child process has the file open
        self._forget(name)
        if name != _BUCKET:
            notify_address(self.wakeup_address(name.partition("-")[0]))

    def throttle(self) -> None:
        """Wait until one more request may start. The bucket is the time at which it is full again
        (generic cell rate algorithm, ITU-T I.371): one number for all processes.

        The current time is the modification time that the file gets when it is touched. It comes
        from the file server, so the clocks of nodes may differ. (Some file systems, such as Lustre
        and SMB, use the node's clock; there the clocks of nodes must agree.) File times may be
        coarse: a request then waits too long by up to their resolution (2 s at most), and in any
        period the number of requests beyond the rate is at most what the rate allows in that
        resolution.
        """
        with self._throttling:
            pause = _RETRY_S[0]
            while not self.try_lock(_BUCKET):
                time.sleep(random.uniform(0.5, 1.0) * pause)
                pause = min(2 * pause, _RETRY_S[1])
            try:
                file = self._files[_BUCKET]
                now, started = self._server_time(file), time.monotonic()
                stored = os.pread(file, _TIME.size, 0)
                due = _TIME.unpack(stored)[0] if len(stored) == _TIME.size else now
                # At most ``concurrency`` requests wait, and as many may have been killed while
                # they waited: a later time means that the server's clock was set back, or that the
                # file is damaged.
                latest = now + 2 * self.concurrency * self.interval + _COARSE_S
                due = max(due, now) if due < latest else latest
                os.pwrite(file, _TIME.pack(due + self.interval), 0)
            finally:
                self.release(_BUCKET)
        time.sleep(max(0.0, due - _BURST_S - now - (time.monotonic() - started)))

    def wakeup_address(self, name: str) -> bytes:
        """The address at which a process of this machine listens for the release of a slot, or of
        the head of the queue."""
        return f"\0rs-embed-{self._id}-{name}".encode()

    @functools.cached_property
    def _id(self) -> str:
        return digest(os.path.realpath(self.folder), 12)

    @staticmethod
    def _server_time(file: int) -> float:
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
        os.close(self._files.pop(name))  # deleted: other processes lock a new file
        return self._lock(name)

    def _open(self, name: str) -> int:
        path, flags = self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:
            self.folder.mkdir(parents=True, exist_ok=True)
            return os.open(path, flags, 0o666)

    def _forget(self, name: str) -> None:
        if len(self._files) > _MAX_OPEN and name in self._files:
            os.close(self._files.pop(name))
        self._locked.discard(name)

    def _reset_after_fork(self) -> None:
        """Close the parent's files in a child: otherwise its slots stay locked until the child
        ends."""
        _close_all(self._files)
        self._locked.clear()
        self._mutex, self._throttling = threading.Lock(), threading.Lock()


def _close_all(files: dict[str, int]) -> None:
    while files:
        os.close(files.popitem()[1])


def _reset_all_after_fork() -> None:
    for quota in list(_quotas):
        quota._reset_after_fork()


os.register_at_fork(after_in_child=_reset_all_after_fork)
