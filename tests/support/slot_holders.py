"""Support for the tests of slots and throttling: processes and threads that hold slots, and counts
of system calls."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from .exports import CHECKOUT


@contextmanager
def run_code(code: str, *arguments: object):
    """A Python process of this checkout, killed at the end; arguments are sys.argv[1:]."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


#: Holds a slot until it reads a line or the end of its stdin.
HOLD_SLOT = """
import sys
from rs_embed.providers.limits.quota import Quota
from rs_embed.providers.limits.slots import RequestSlots
with RequestSlots(Quota(sys.argv[1], int(sys.argv[2]), 1e6), 1):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def hold_slot(folder: Path, concurrency: int):
    """A process that holds a slot."""
    with run_code(HOLD_SLOT, folder, concurrency) as process:
        assert process.stdout.readline() == "held\n"
        yield process


class SlotThread(threading.Thread):
    """A thread that enters the slots of a job and stays inside until :meth:`end`."""

    def __init__(self, slots) -> None:
        super().__init__(daemon=True)
        self.slots, self.inside, self.leave = slots, threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self.slots:
            self.inside.set()
            self.leave.wait()

    def end(self) -> None:
        self.leave.set()
        self.join(30)
        assert not self.is_alive()


def wait_until(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def count_calls(monkeypatch) -> Counter:
    """Counts of calls of open and flock from now on, and of flock by thread."""
    calls: Counter = Counter()
    real_open, real_flock = os.open, fcntl.flock

    def counting_open(*arguments, **keywords):
        calls["open"] += 1
        return real_open(*arguments, **keywords)

    def counting_flock(file, kind):
        calls["flock"] += 1
        calls["blocking"] += not kind & (fcntl.LOCK_NB | fcntl.LOCK_UN)
        calls[threading.current_thread()] += 1
        return real_flock(file, kind)

    monkeypatch.setattr(os, "open", counting_open)
    monkeypatch.setattr(fcntl, "flock", counting_flock)
    return calls
