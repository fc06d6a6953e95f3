"""One live run per target: a file lock that the kernel releases when its holder dies, so a stale one needs nobody."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import IO

from .errors import RunLockedError

#: The launcher passes the file descriptor of a lock it holds already to Snakemake in this variable.
INHERITED = "RS_EMBED_LOCK_FD"
_held: dict[Path, IO[str]] = {}


def take(folder: Path) -> IO[str]:
    """Lock a run's folder for the life of this process; taking it twice is harmless.

    Raises:
        RunLockedError: says who works on it.
    """
    folder = folder.resolve()
    if folder in _held:
        return _held[folder]
    if os.environ.get(INHERITED):
        descriptor = int(os.environ.pop(INHERITED))
        os.set_inheritable(descriptor, False)  # an orphaned job must not hold the lock of a dead run
        _held[folder] = os.fdopen(descriptor, "r+")
        _sign(_held[folder])
        return _held[folder]
    _held[folder] = acquire(folder)
    return _held[folder]


def acquire(folder: Path) -> IO[str]:
    """Lock a run's folder; closing the returned file (by every process that inherited it) releases the lock.

    Raises:
        RunLockedError: says who works on it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / ".lock", "a+")  # noqa: SIM115 - held by the caller
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise RunLockedError(
            f"another run is working on this target ({holder or 'it has just started'}); wait for it, or stop it and start again"
        ) from None
    _sign(file)
    return file


def _sign(file: IO[str]) -> None:
    """Write into a lock who holds it: the process to wait for, or to stop."""
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    file.seek(0)
    file.truncate()
    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
    file.flush()
