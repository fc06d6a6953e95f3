"""Wake a waiting thread: from its own process, or, through a named socket, from any process of
this machine."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import weakref


class Wakeup:
    """What one thread waits on, with a time limit: other threads of its process wake it, and other
    processes of the machine that release what it listens for. (The socket's name is in Linux's
    abstract namespace: it has no file and ends with its process.)"""

    def __init__(self) -> None:
        self._receiver, self._sender = os.pipe()
        for end in (self._receiver, self._sender):
            os.set_blocking(end, False)
            weakref.finalize(self, os.close, end)
        self._address = b""
        self._socket: socket.socket | None = None

    def notify(self) -> None:
        """Wake the waiting thread of this process."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full, so the thread wakes anyway
            os.write(self._sender, b".")

    def listen(self, address: bytes) -> None:
        """Listen at this address only, b"" for none; without effect where another process already
        does."""
        if address == self._address:
            return
        if self._socket is not None:
            self._socket.close()
        self._address, self._socket = b"", None
        if address and sys.platform == "linux":
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            listener.setblocking(False)
            try:
                listener.bind(address)
            except OSError:
                listener.close()
            else:
                self._address, self._socket = address, listener

    def wait(self, seconds: float) -> None:
        """Wait until the thread is woken, or the time has passed."""
        ends = [self._receiver] if self._socket is None else [self._receiver, self._socket.fileno()]
        poll = select.poll()
        for end in ends:
            poll.register(end, select.POLLIN)
        poll.poll(1000 * seconds)
        for end in ends:
            with contextlib.suppress(BlockingIOError):
                while os.read(end, 1024):
                    pass


def notify_address(address: bytes) -> None:
    """Wake the process that listens at an address, if there is one."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(b".", address)
