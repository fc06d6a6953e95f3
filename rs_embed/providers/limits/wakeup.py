"""Wake a thread that waits: one of this process, or, under a name, one of this machine."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import weakref


class Bell:
    """What a thread waits at, with a time limit: others of its process wake it, and others of the machine who give back what
    it listens for. (By a name that lies in no folder and ends with its process; Linux has such names.)"""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        for end in (self._out, self._in):
            os.set_blocking(end, False)
            weakref.finalize(self, os.close, end)
        self._address, self._outside = b"", None

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: rung often enough
            os.write(self._in, b".")

    def listen(self, address: bytes) -> None:
        """Listen for the machine's others at this address only, b"" for none; where somebody else does, in vain."""
        if address == self._address:
            return
        if self._outside is not None:
            self._outside.close()
        self._address, self._outside = b"", None
        if address and sys.platform == "linux":
            outside = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            outside.setblocking(False)
            try:
                outside.bind(address)
            except OSError:
                outside.close()
            else:
                self._address, self._outside = address, outside

    def wait(self, seconds: float) -> None:
        ends = [self._out] if self._outside is None else [self._out, self._outside.fileno()]
        heard = select.poll()
        for end in ends:
            heard.register(end, select.POLLIN)
        heard.poll(1000 * seconds)
        for end in ends:
            with contextlib.suppress(BlockingIOError):
                while os.read(end, 1024):
                    pass


def ring(address: bytes) -> None:
    """Wake who listens at an address, if anybody does."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
            bell.setblocking(False)
            bell.sendto(b".", address)
