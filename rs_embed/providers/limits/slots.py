"""Whose turn it is to have a slot of the quota: the threads of a job, and of several jobs the first."""

from __future__ import annotations

import random
import threading
import time

from .quota import FRONT, SLOT, Quota
from .wakeup import Bell

#: Shortest and longest pause between two looks for a free slot, seconds; it doubles while there is none.
_LOOK_S = (0.002, 1.0)


class Turns:
    """Entered by the threads of a job: at most ``workers`` are inside at a time, each with a slot of the quota.

    A slot is handed on to the job's own next thread, and of several jobs that want more slots the first one gets them. Where
    the quota does not feed all of them, jobs therefore end one after the other rather than all at once, and the next one has
    started up by the time that the first one ends.
    """

    def __init__(self, quota: Quota, workers: int) -> None:
        self.quota, self.workers = quota, workers
        self._change = threading.Condition()  # never held where files are used: who ends must not wait for them
        self._inside: dict[int, str] = {}  # slot by thread
        self._spare: list[str] = []
        self._waiting = 0
        self._looking = False  # one of those who wait looks into the files, for all of them
        self._front = False  # the job is the first of those that want slots
        self._bell = Bell()  # wakes the one who looks
        self._pause, self._next = _LOOK_S[0], 0.0  # how long until the next look, and when it is

    def __enter__(self) -> None:
        left: list[str] = []
        try:
            with self._change:
                self._waiting += 1
                try:
                    while not (self._spare and self._room()):
                        if self._looking or not self._room():
                            self._change.wait()
                        else:
                            self._look()
                    self._inside[threading.get_ident()] = self._spare.pop()
                finally:
                    self._waiting -= 1
                    left = self._left_over()
                    self._wake()
        finally:
            self._give(left)

    def __exit__(self, *_: object) -> None:
        with self._change:
            self._spare.append(self._inside.pop(threading.get_ident()))
            left = self._left_over()
            self._wake()
        self._give(left)

    def _room(self) -> int:
        return max(0, self.workers - len(self._inside))

    def _wake(self) -> None:
        """Wake one who can go on, or look: the one who looks already only where nobody else waits."""
        if self._waiting > self._looking:
            self._change.notify()
        elif self._waiting and self._spare:
            self._bell.ring()

    def _left_over(self) -> list[str]:
        """What no thread of the job can use: slots, and the front, to let another job be the first to get slots."""
        wanted = min(self._waiting, self._room())
        left = [self._spare.pop() for _ in range(len(self._spare) - wanted)]
        if self._front and not wanted:
            self._front = False
            left.append(FRONT)
        return left

    def _give(self, names: list[str]) -> None:
        for name in names:
            self.quota.give(name)
        if names and self._waiting:  # who has come meanwhile may have found them taken
            self._bell.ring()

    def _look(self) -> None:
        """Wait, without the condition, until there is a spare slot: returned by another thread, or found."""
        self._looking, found = True, None
        self._change.release()
        try:
            while found is None and not self._spare:
                found = self._from_files()
        finally:
            self._bell.listen(b"")
            self._change.acquire()
            self._looking = False
            if found is not None:
                self._spare.append(found)

    def _from_files(self) -> str | None:
        """One look, when it is time for it or something was given back."""
        pause = self._next - time.monotonic()
        if pause > 0:
            self._bell.listen(self.quota.address(SLOT if self._front else FRONT))
            self._bell.wait(pause)
            if self._spare:
                return None
        first = not self._front and self.quota.take(FRONT)
        if first:
            self._front = True
        found = self.quota.free() if self._front else None
        if found is not None:
            self._pause, self._next = _LOOK_S[0], 0.0
            return found
        self._pause = _LOOK_S[0] if first else min(2 * self._pause, _LOOK_S[1])
        self._next = time.monotonic() + random.uniform(0.5, 1.0) * self._pause
        return None
