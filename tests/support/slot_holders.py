"""For the tests of slots and starts: processes and threads that hold slots, and calls that are counted."""

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
def process(code: str, *arguments: object):
    """A Python process of this checkout, killed at the end; arguments are sys.argv[1:]."""
    made = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
    )
    try:
        yield made
    finally:
        made.kill()
        made.wait()
        made.stdin.close()
        made.stdout.close()


#: Holds a slot until it is told to end.
HOLD = """
import sys
from rs_embed.providers.limits.quota import Quota
from rs_embed.providers.limits.slots import Turns
with Turns(Quota(sys.argv[1], int(sys.argv[2]), 1e6), 1):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder(folder: Path, concurrency: int):
    with process(HOLD, folder, concurrency) as made:
        assert made.stdout.readline() == "held\n"
        yield made


class Thread(threading.Thread):
    """Enters a job's turns, and stays inside until it is told to leave."""

    def __init__(self, turns) -> None:
        super().__init__(daemon=True)
        self.turns, self.inside, self.leave = turns, threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self.turns:
            self.inside.set()
            self.leave.wait()

    def end(self) -> None:
        self.leave.set()
        self.join(30)
        assert not self.is_alive()


def until(holds, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def counted(monkeypatch) -> Counter:
    """Calls of open and flock from here on, and the threads that lock."""
    calls: Counter = Counter()
    real_open, real_flock = os.open, fcntl.flock

    def opened(*arguments, **keywords):
        calls["open"] += 1
        return real_open(*arguments, **keywords)

    def locked(file, kind):
        calls["flock"] += 1
        calls["blocking"] += not kind & (fcntl.LOCK_NB | fcntl.LOCK_UN)
        calls[threading.current_thread()] += 1
        return real_flock(file, kind)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(fcntl, "flock", locked)
    return calls
