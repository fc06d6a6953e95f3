"""Which thread gets the next slot of the quota: the threads of a job in turn, and of several jobs
the first."""

from __future__ import annotations

import random
import threading
import time

from .quota import QUEUE_HEAD, SLOT, Quota
from .wakeup import Wakeup

#: Shortest and longest pause between two attempts to lock a slot, seconds; it doubles while all
#: are locked.
_POLL_S = (0.002, 1.0)


class RequestSlots:
    """A context for the threads of a job: at most ``workers`` are inside at a time, each with a
    slot of the quota.

    A released slot goes to the next waiting thread of the same job, and of several jobs that wait
    for slots the first one gets them. Where the quota is too small for all of them, jobs therefore
    end one after the other rather than all at once, and the next job has started up by the time
    the first one ends.
    """

    def __init__(self, quota: Quota, workers: int) -> None:
        self.quota, self.workers = quota, workers
        # never held while files are used: a thread that ends must not wait for them
        self._change = threading.Condition()
        self._inside: dict[int, str] = {}  # slot by thread
        self._spare: list[str] = []
        self._waiting = 0
        self._polling = False  # one of the waiting threads polls the files, for all of them
        self._is_first = False  # the job is the first of those that wait for slots
        self._wakeup = Wakeup()  # of the polling thread
        self._pause, self._next_poll = _POLL_S[0], 0.0

    def __enter__(self) -> None:
        surplus: list[str] = []
        try:
            with self._change:
                self._waiting += 1
                try:
                    while not (self._spare and self._free_workers()):
                        if self._polling or not self._free_workers():
                            self._change.wait()
                        else:
                            self._wait_for_slot()
                    self._inside[threading.get_ident()] = self._spare.pop()
                finally:
                    self._waiting -= 1
                    surplus = self._take_surplus()
                    self._notify_one()
        finally:
            self._release(surplus)

    def __exit__(self, *_: object) -> None:
        with self._change:
            self._spare.append(self._inside.pop(threading.get_ident()))
            surplus = self._take_surplus()
            self._notify_one()
        self._release(surplus)

    def _free_workers(self) -> int:
        return max(0, self.workers - len(self._inside))

    def _notify_one(self) -> None:
        """Wake a thread that can enter or poll: the one that polls already only where no other
        thread waits."""
        if self._waiting > self._polling:
            self._change.notify()
        elif self._waiting and self._spare:
            self._wakeup.notify()

    def _take_surplus(self) -> list[str]:
        """Names that no thread of the job can use: slots, and the head of the queue, so that
        another job becomes the first."""
        wanted = min(self._waiting, self._free_workers())
        surplus = [self._spare.pop() for _ in range(len(self._spare) - wanted)]
        if self._is_first and not wanted:
            self._is_first = False
            surplus.append(QUEUE_HEAD)
        return surplus

    def _release(self, names: list[str]) -> None:
        for name in names:
            self.quota.release(name)
        if names and self._waiting:  # a thread that has come meanwhile may have found them locked
            self._wakeup.notify()

    def _wait_for_slot(self) -> None:
        """Wait, without the condition, until there is a spare slot: released by another thread, or
        locked by this one."""
        self._polling, found = True, None
        self._change.release()
        try:
            while found is None and not self._spare:
                found = self._poll_files()
        finally:
            self._wakeup.listen(b"")
            self._change.acquire()
            self._polling = False
            if found is not None:
                self._spare.append(found)

    def _poll_files(self) -> str | None:
        """One attempt to lock a slot, when its time has come or a slot was released."""
        pause = self._next_poll - time.monotonic()
        if pause > 0:
            self._wakeup.listen(self.quota.wakeup_address(SLOT if self._is_first else QUEUE_HEAD))
            self._wakeup.wait(pause)
            if self._spare:
                return None
        became_first = not self._is_first and self.quota.try_lock(QUEUE_HEAD)
        if became_first:
            self._is_first = True
        found = self.quota.try_lock_slot() if self._is_first else None
        if found is not None:
            self._pause, self._next_poll = _POLL_S[0], 0.0
            return found
        self._pause = _POLL_S[0] if became_first else min(2 * self._pause, _POLL_S[1])
        self._next_poll = time.monotonic() + random.uniform(0.5, 1.0) * self._pause
        return None
