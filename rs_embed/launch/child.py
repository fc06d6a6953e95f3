"""Snakemake as a child process, begun before it is known what it is to run: it imports (half a second) while the request is checked.

It has a process group of its own: its API changes the working directory and fails inside a running event loop.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO

#: In this order it is given files: for events, of its log, and the locks it takes over.
FILES = ("events", "log", "run", "store")


class Child:
    """Begins when it is made; for ``with``, at whose end it has ended if it was told nothing."""

    def __init__(self) -> None:
        self._told = False
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - what it says before it has a log; closed in __exit__
        self._socket, its = socket.socketpair()  # its end tells the child that this process is gone
        # whatever socket.setdefaulttimeout was told: the other side knows nothing of it
        self._socket.setblocking(True)
        its.setblocking(True)
        with its:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "rs_embed.launch.child_main",
                ],  # the working directory has nothing that it imports
                stdin=its,
                stdout=subprocess.DEVNULL,
                stderr=self._words,
                start_new_session=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._words.close()
        if not self._told:
            self._process.kill()
            self._process.wait()

    def run(
        self, arguments: Sequence[str], folder: str | os.PathLike, environment: Mapping[str, str], files: Sequence[IO]
    ) -> None:
        """Tell it what to run.

        Args:
            arguments: Snakemake's. folder: to run in. environment: beside what is there.
            files: :data:`FILES`, open; the child has them for itself.
        """
        said = {"arguments": list(arguments), "folder": os.fspath(folder), "environment": dict(environment)}
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended: its status says so
            socket.send_fds(self._socket, [b"\n"], [f.fileno() for f in files])
            self._socket.sendall(json.dumps(said).encode() + b"\n")
        self._told = True

    def wait(self) -> int:
        """Its status, when it has ended."""
        return self._process.wait()

    def words(self) -> bytes:
        """What it has said before it had a log."""
        self._words.seek(0)
        return self._words.read()

    def stop(self, *, patience: float) -> None:
        """Stop Snakemake and its jobs: SIGINT to the group, as a terminal would, then harder.

        Args:
            patience: seconds that it has to cancel its jobs.
        """
        for number, seconds in ((signal.SIGINT, patience), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(seconds)
                return
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue
