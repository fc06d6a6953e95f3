"""Locks of run folders and stores.

One run at a time works on a target, and no store is pruned while a run uses it.

The kernel releases a file lock when the process that holds it dies, so stale locks do not exist. A
run holds the lock of its folder exclusively and that of its store together with other runs; jobs
hold neither.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import IO, Any, NoReturn

from ..errors import RunLockedError, StoreError
from .atomic_files import report_write_errors

#: Descriptors of the locks of run folder and store that a launcher passes to Snakemake.
RUN_LOCK_VARIABLE, STORE_LOCK_VARIABLE = "RS_EMBED_LOCK_FD", "RS_EMBED_STORE_LOCK_FD"
#: Set for a detached Snakemake, which continues when its launcher has ended; its lock records
#: this, and the next launcher waits for it. The value is FRESH_VALUE if the run starts a new
#: generation.
DETACHED_VARIABLE, FRESH_VALUE = "RS_EMBED_LEFT", "fresh"
#: Time between two attempts to get the lock of a detached run, seconds.
_WAIT_INTERVAL_S = 1.0
#: ``read_lock_holder`` holds a lock for a moment, so one failed attempt does not mean that a run
#: is active.
_LOCK_ATTEMPTS, _ATTEMPT_PAUSE_S = 5, 0.05
_held_locks: dict[Path, IO[str]] = {}


def hold_run_lock(folder: Path) -> IO[str]:
    """Lock a run folder until this process ends; a second call has no effect.

    Raises:
        RunLockedError: another run works on it; the message names its process.
    """
    folder = folder.resolve()
    if folder in _held_locks:
        return _held_locks[folder]
    inherited = _open_inherited_lock(RUN_LOCK_VARIABLE, "r+")
    if inherited:
        _held_locks[folder] = inherited
        with report_write_errors(folder / ".lock"):
            _write_holder(inherited)
        os.environ.pop(DETACHED_VARIABLE, None)  # not for the jobs
        return inherited
    try:
        _held_locks[folder] = acquire_run_lock(folder)
    except PreviousRunEnded:
        raise RunLockedError("another run on this target has ended just now; start again") from None
    return _held_locks[folder]


def _open_inherited_lock(variable: str, mode: str) -> IO[str] | None:
    if not os.environ.get(variable):
        return None
    descriptor = int(os.environ.pop(variable))
    os.set_inheritable(descriptor, False)  # an orphaned job must not hold the lock of a dead run
    return os.fdopen(descriptor, mode)


class PreviousRunEnded(Exception):
    """A detached run that this process waited for has ended: earlier plans may be outdated.

    Attributes:
        fresh: that run had started a new generation (``resume=False``).
    """

    def __init__(self, fresh: bool) -> None:
        super().__init__()
        self.fresh = fresh


def acquire_run_lock(folder: Path, *, starting: bool = False, detached: bool = False, fresh: bool = False) -> IO[str]:
    """Lock a run folder.

    Args:
        starting: a Snakemake that this process starts will take over the lock.
        detached: that Snakemake will continue when this process has ended.
        fresh: it starts a new generation.

    Returns:
        A file; closing it (in every process that inherited it) releases the lock.

    Raises:
        PreviousRunEnded: after waiting for a detached run.
        RunLockedError: another run works on the folder; the message names its process.
        StoreError: the folder cannot be written, or its file system has no locks.
    """
    with report_write_errors(folder / ".lock"):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a+")  # noqa: SIM115 - the caller closes it
    for attempt in range(_LOCK_ATTEMPTS):
        if _try_lock(file, fcntl.LOCK_EX, folder):
            with report_write_errors(folder / ".lock"):
                _write_holder(file, starting=starting, detached=detached, fresh=fresh)
            return file
        time.sleep(_ATTEMPT_PAUSE_S * (attempt + 1 < _LOCK_ATTEMPTS))
    if _read_fields(file).get("left"):
        _wait_for_detached_run(file, folder)
    holder = _read_text(file)
    file.close()
    raise RunLockedError(
        f"another run is working on this target ({holder or 'it has just started'}); wait for it, or stop it and start again"
    )


def _wait_for_detached_run(file: IO[str], folder: Path) -> NoReturn:
    """Wait until the run has ended; raises like :func:`acquire_run_lock`."""
    print(f"rs-embed: waiting for the run that an earlier call began ({_read_text(file)})", file=sys.stderr, flush=True)
    while not _try_lock(file, fcntl.LOCK_EX, folder):
        time.sleep(_WAIT_INTERVAL_S)
    fields = _read_fields(file)
    file.close()
    if fields.get("stopped"):
        raise RunLockedError("the run that this call waited for was stopped; start it again to go on")
    raise PreviousRunEnded(fields.get("fresh") is True)


def read_lock_holder(folder: Path) -> dict[str, Any] | None:
    """The process that works on a run folder now, or None.

    Returns:
        ``pid``, ``host``, ``since``; empty if the run has just started.

    Raises:
        StoreError: the file system has no locks.
    """
    try:
        with open(folder / ".lock") as file:
            if _try_lock(file, fcntl.LOCK_SH, folder):
                return None
            fields = json.loads(_read_text(file) or "{}")
            return fields if isinstance(fields, dict) else {}
    except FileNotFoundError:
        return None
    except ValueError:
        return {}


def mark_run_stopped(folder: Path) -> None:
    """Record that the run of a folder is stopped, for processes that wait for it."""
    with report_write_errors(folder / ".lock"), open(folder / ".lock", "r+") as file:
        fields = _read_fields(file) | {"stopped": True}
        file.seek(0)
        file.write(json.dumps(fields))
        file.truncate()


def hold_store_lock(store: Path) -> None:
    """Share a store until this process ends; see :func:`acquire_shared_store_lock`."""
    store = store.resolve()
    if store not in _held_locks:
        _held_locks[store] = _open_inherited_lock(STORE_LOCK_VARIABLE, "r") or acquire_shared_store_lock(store)


def upgrade_store_lock(store: Path) -> bool:
    """Make the lock of a store that this process holds exclusive, until the process ends.

    Returns:
        False while another run uses the store, or if this process does not hold its lock.
    """
    held = _held_locks.get(store.resolve())
    try:
        if held is not None:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # others hold it; or the file system needs a file opened for writing for such a lock
        return False
    return held is not None


def acquire_shared_store_lock(store: Path) -> IO[str]:
    """Prevent a store from being pruned until the returned file is closed.

    Waits while the store is being pruned.

    Raises:
        StoreError: the store cannot be written, or its file system has no locks.
    """
    with report_write_errors(store / ".lock"):
        store.mkdir(parents=True, exist_ok=True)
        # opened for reading: the lock file of a shared store may belong to another user
        file = os.fdopen(os.open(store / ".lock", os.O_RDONLY | os.O_CREAT, 0o666))
    if not _try_lock(file, fcntl.LOCK_SH, store):
        print(f"rs-embed: waiting, the store {store} is being pruned ({_read_text(file)})", file=sys.stderr, flush=True)
        fcntl.flock(file, fcntl.LOCK_SH)
    return file


def acquire_exclusive_store_lock(store: Path) -> IO[str] | None:
    """Prevent runs from using a store until the returned file is closed.

    Returns None, at once, while a run uses it.

    Raises:
        StoreError: the file system has no locks.
    """
    file = open(store / ".lock", "a+")  # noqa: SIM115 - the caller closes it
    if not _try_lock(file, fcntl.LOCK_EX, store):
        file.close()
        return None
    _write_holder(file)
    return file


def _try_lock(file: IO[str], kind: int, folder: Path) -> bool:
    """Lock the file of a folder; False while another process holds the lock.

    Closes the file if the file system has no locks.
    """
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        file.close()
        raise StoreError(
            f"{folder} cannot be locked ({error.strerror}), so runs cannot be kept apart; "
            "allowed: a work_dir and a store_dir on a file system with flock (Lustre: mounted with the option flock)"
        ) from None
    return True


def _read_text(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip()


def _read_fields(file: IO[str]) -> dict[str, Any]:
    """The JSON fields of a lock file; empty if it has none."""
    try:
        fields = json.loads(_read_text(file))
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _write_holder(file: IO[str], *, starting: bool = False, detached: bool = False, fresh: bool = False) -> None:
    """Record in a lock file which process holds it, so that others can wait for it or stop it."""
    inherited = os.environ.get(DETACHED_VARIABLE, "")
    fields = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    flags = {"starting": starting, "left": detached or bool(inherited), "fresh": fresh or inherited == FRESH_VALUE}
    file.seek(0)
    file.truncate()
    file.write(json.dumps(fields | {name: True for name, value in flags.items() if value}))
    file.flush()
