"""What all jobs of a run may ask of a service together: requests in flight, and requests begun in a second.

Both are kept in files of the run's folder under locks that the kernel releases when their holder dies: so they hold
between threads, processes and, where the file system's locks do, machines.
"""

from __future__ import annotations

import fcntl
import os
import random
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
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

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold one of the slots; waits for one to become free."""
        file = self._free()
        while file is None:
            time.sleep(random.uniform(0.1, 1.0) * _LOOK_S)
            file = self._free()
        try:
            yield
        finally:
            os.close(file)

    def _free(self) -> int | None:
        first = random.randrange(self.concurrency)
        for i in range(self.concurrency):
            file = self._open(f"slot-{(first + i) % self.concurrency:03d}")
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
