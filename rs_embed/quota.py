"""What all jobs of a run may ask of a service together: requests in flight, and requests begun in a second.

Both are kept in files of the run's folder under locks that the kernel releases when their holder dies: so they hold
between threads, processes and, where the file system's locks do, machines.
"""

from __future__ import annotations

import fcntl
import os
import random
import struct
import threading
import time
from pathlib import Path

from .errors import StoreError

#: Longest time between two looks for a free slot, seconds.
_LOOK_S = 0.02
#: Requests may come together that this share of a second allows: the size of the token bucket, seconds.
_BURST_S = 0.1
#: A next start that lies further ahead than this was written under another clock, seconds.
_SANE_S = 120.0
_TIME = struct.Struct("<d")


class Quota:
    """Slots and a token bucket in a folder.

    Args:
        concurrency: requests in flight at a time. per_second: requests begun in a second.
    """

    def __init__(self, folder: str | Path, concurrency: int, per_second: float) -> None:
        self.folder = Path(folder)
        self.concurrency = concurrency
        self.interval = 1.0 / per_second

    def free(self) -> int | None:
        """A slot, as the descriptor of its file, which closing gives back; None where all are taken."""
        first = random.randrange(self.concurrency)
        names = (f"slot-{(first + i) % self.concurrency:03d}" for i in range(self.concurrency))
        return next((file for name in names if (file := self._take(name)) is not None), None)

    def front(self) -> int | None:
        """The head of the queue for slots, as a descriptor; None where another job has it."""
        return self._take("front")

    def _take(self, name: str) -> int | None:
        file = self._open(name)
        if self._lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return file
        os.close(file)
        return None

    def pace(self) -> None:
        """Wait until one more request may begin. The bucket is the time at which it is full again (generic cell rate
        algorithm, ITU-T I.371): one number for all processes."""
        file = self._open("next")
        try:
            self._lock(file, fcntl.LOCK_EX)
            now, said = time.time(), os.pread(file, _TIME.size, 0)
            due = _TIME.unpack(said)[0] if len(said) == _TIME.size else now
            due = max(due, now) if due < now + _SANE_S else now
            os.pwrite(file, _TIME.pack(due + self.interval), 0)
        finally:
            os.close(file)
        time.sleep(max(0.0, due - _BURST_S - now))

    def turns(self, workers: int) -> Turns:
        """The slots as one job of so many workers takes them."""
        return Turns(self, workers)

    def _open(self, name: str) -> int:
        path, flags = self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:
            self.folder.mkdir(parents=True, exist_ok=True)
            return os.open(path, flags, 0o666)

    def _lock(self, file: int, kind: int) -> bool:
        try:
            fcntl.flock(file, kind)
        except BlockingIOError:
            return False
        except OSError as error:
            raise StoreError(
                f"{self.folder} cannot be locked ({error.strerror}), so requests cannot be counted; "
                "allowed: a work folder on a file system with flock"
            ) from None
        return True


class Turns:
    """Entered by the threads of a job: at most ``workers`` are inside at a time, each with a slot of the quota.

    A slot is handed on to the job's own next thread, and of several jobs that want more slots the first one gets them. Where
    the quota does not feed all of them, jobs therefore end one after the other rather than all at once, and the next one has
    started up by the time that the first one ends.
    """

    def __init__(self, quota: Quota, workers: int) -> None:
        self.quota, self.workers = quota, workers
        self._change = threading.Condition()
        self._inside: dict[int, int] = {}  # descriptor of the slot by thread
        self._spare: list[int] = []
        self._front: int | None = None
        self._waiting = 0

    def __enter__(self) -> None:
        with self._change:
            self._waiting += 1
            try:
                while (file := self._slot()) is None:
                    full = len(self._inside) >= self.workers
                    self._change.wait(None if full else random.uniform(0.1, 1.0) * _LOOK_S)
                self._inside[threading.get_ident()] = file
            finally:
                self._waiting -= 1
                if not self._waiting or len(self._inside) >= self.workers:
                    self._step_back()

    def _slot(self) -> int | None:
        if len(self._inside) >= self.workers:
            return None
        if self._spare:
            return self._spare.pop()
        if self._front is None:
            self._front = self.quota.front()
        return None if self._front is None else self.quota.free()

    def _step_back(self) -> None:
        """Let another job be the first to get slots."""
        if self._front is not None:
            os.close(self._front)
            self._front = None

    def __exit__(self, *_: object) -> None:
        with self._change:
            file = self._inside.pop(threading.get_ident())
            if self._waiting:
                self._spare.append(file)
            else:
                os.close(file)
            self._change.notify()
