"""The caller's handle of the child process (``child_main.py``) in which Snakemake runs.

The process starts before its task is known: it imports Snakemake (half a second) while the request
is checked. A process of its own, because Snakemake's API changes the working directory and fails
inside a running event loop.
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

#: Files that the child receives, in this order: for events, its log, and the two locks that it
#: takes over.
FILES = ("events", "log", "run", "store")


class Child:
    """The child process, started by the constructor. For ``with``, which ends a process without a
    task."""

    def __init__(self) -> None:
        self._has_task = False
        self._early_output = tempfile.TemporaryFile()  # noqa: SIM115 - until it has a log; closed in __exit__
        self._socket, child_socket = socket.socketpair()  # its end shows the child that this process has ended
        # socket.setdefaulttimeout must not apply: checking the request may take longer
        self._socket.setblocking(True)
        child_socket.setblocking(True)
        with child_socket:
            self._process = subprocess.Popen(
                # -P: imports nothing from the working directory
                [sys.executable, "-P", "-m", "rs_embed.launch.child_main"],
                stdin=child_socket.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._early_output,
                start_new_session=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._early_output.close()
        if not self._has_task:
            self._process.kill()
            self._process.wait()

    def run(
        self, arguments: Sequence[str], folder: str | os.PathLike, environment: Mapping[str, str], files: Sequence[IO]
    ) -> None:
        """Send the child its task.

        Args:
            arguments: of Snakemake. folder: its working directory. environment: variables to add.
            files: :data:`FILES`, open; the child gets descriptors of its own.
        """
        task = {"arguments": list(arguments), "folder": os.fspath(folder), "environment": dict(environment)}
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended: its status shows it
            socket.send_fds(self._socket, [b"\n"], [f.fileno() for f in files])
            self._socket.sendall(json.dumps(task).encode() + b"\n")
        self._has_task = True

    def wait(self) -> int:
        """Wait for its end; returns its exit status."""
        return self._process.wait()

    def read_early_output(self) -> bytes:
        """Its messages on stderr before it had a log."""
        self._early_output.seek(0)
        return self._early_output.read()

    def stop(self, *, patience: float) -> None:
        """Stop Snakemake and its jobs: SIGINT to the process group, as a terminal sends it, then
        SIGTERM and SIGKILL.

        Args:
            patience: seconds that Snakemake has to cancel its jobs.
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
