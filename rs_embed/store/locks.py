"""One live run per target, and no pruning under live runs: file locks that the kernel releases when their holder dies,
so a stale one needs nobody. A run holds its folder alone and its store together with other runs; jobs hold neither."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import IO

from ..errors import RunLockedError, StoreError
from .store import writing

#: Where Snakemake finds the descriptors of the locks (run, store) that it was given by its launcher.
INHERITED, INHERITED_STORE = "RS_EMBED_LOCK_FD", "RS_EMBED_STORE_LOCK_FD"
#: Set for a Snakemake that goes on when its launcher is gone, to this where it begins a new generation; its lock says so, and the
#: next launcher waits for it.
LEFT, FRESH = "RS_EMBED_LEFT", "fresh"
#: Time between two looks at such a lock, seconds.
_PATIENCE_S = 1.0
#: Somebody who asks whether a folder is locked (``holder``) holds its lock for a moment: a second look is worth it.
_LOOKS, _PAUSE_S = 5, 0.05
_held: dict[Path, IO[str]] = {}


def take(folder: Path) -> IO[str]:
    """Lock a run's folder for the life of this process; taking it twice is harmless.

    Raises:
        RunLockedError: says who works on it.
    """
    folder = folder.resolve()
    if folder in _held:
        return _held[folder]
    inherited = _inherited(INHERITED, "r+")
    if inherited:
        _held[folder] = inherited
        with writing(folder / ".lock"):
            _sign(inherited)
        os.environ.pop(LEFT, None)  # not for the jobs
        return inherited
    try:
        _held[folder] = acquire(folder)
    except Waited:
        raise RunLockedError("another run on this target has ended just now; start again") from None
    return _held[folder]


def _inherited(variable: str, mode: str) -> IO[str] | None:
    if not os.environ.get(variable):
        return None
    descriptor = int(os.environ.pop(variable))
    os.set_inheritable(descriptor, False)  # an orphaned job must not hold the lock of a dead run
    return os.fdopen(descriptor, mode)


class Waited(Exception):
    """A run that went on without its caller has ended meanwhile: what was planned before may not hold any more.

    Attributes:
        fresh: it had begun a new generation (``resume=False``).
    """

    def __init__(self, fresh: bool) -> None:
        super().__init__()
        self.fresh = fresh


def acquire(folder: Path, *, starting: bool = False, left: bool = False, fresh: bool = False) -> IO[str]:
    """Lock a run's folder; closing the returned file (by every process that inherited it) releases the lock.

    Args:
        starting: a Snakemake that this process starts will take it over. left: it is going to go on without this process.
        fresh: it begins a new generation.

    Raises:
        Waited: after waiting for a run of that kind. RunLockedError: says who works on it. StoreError: the folder cannot be written,
            or its file system has no locks.
    """
    with writing(folder / ".lock"):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a+")  # noqa: SIM115 - held by the caller
    for look in range(_LOOKS):
        if _try(file, fcntl.LOCK_EX, folder):
            with writing(folder / ".lock"):
                _sign(file, starting=starting, left=left, fresh=fresh)
            return file
        time.sleep(_PAUSE_S * (look + 1 < _LOOKS))
    if _was_left(file):
        print(f"rs-embed: waiting for the run that an earlier call began ({_said(file)})", file=sys.stderr, flush=True)
        while not _try(file, fcntl.LOCK_EX, folder):
            time.sleep(_PATIENCE_S)
        about = _about(file)
        file.close()
        if about.get("stopped"):
            raise RunLockedError("the run that this call waited for was stopped; start it again to go on")
        raise Waited(about.get("fresh") is True)
    said = _said(file)
    file.close()
    raise RunLockedError(
        f"another run is working on this target ({said or 'it has just started'}); wait for it, or stop it and start again"
    )


def holder(folder: Path) -> dict | None:
    """Who works on a run's folder now (``pid``, ``host``, ``since``; empty if it has just started), or None.

    Raises:
        StoreError: its file system has no locks.
    """
    try:
        with open(folder / ".lock") as file:
            if _try(file, fcntl.LOCK_SH, folder):
                return None
            said = json.loads(_said(file) or "{}")
            return said if isinstance(said, dict) else {}
    except FileNotFoundError:
        return None
    except ValueError:
        return {}


def mark_stopped(folder: Path) -> None:
    """For those who wait for the run of a folder: that it does not end by itself."""
    with writing(folder / ".lock"), open(folder / ".lock", "r+") as file:
        about = _about(file) | {"stopped": True}
        file.seek(0)
        file.write(json.dumps(about))
        file.truncate()


def _was_left(file: IO[str]) -> bool:
    return bool(_about(file).get("left"))


def _about(file: IO[str]) -> dict:
    try:
        about = json.loads(_said(file))
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def hold(store: Path) -> None:
    """Share a store for the life of this process; see :func:`share`."""
    store = store.resolve()
    if store not in _held:
        _held[store] = _inherited(INHERITED_STORE, "r") or share(store)


def alone(store: Path) -> bool:
    """Have a store that this process holds for itself until the process ends; False while another run uses it, too, and
    where this process does not hold it."""
    held = _held.get(store.resolve())
    try:
        if held is not None:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # others have it; or a file system that gives no such lock to a file opened for reading
        return False
    return held is not None


def share(store: Path) -> IO[str]:
    """Keep a store from being pruned until the returned file is closed; waits while that is being done.

    Raises:
        StoreError: the store cannot be written, or its file system has no locks.
    """
    with writing(store / ".lock"):
        store.mkdir(parents=True, exist_ok=True)
        # to read: the lock of a store that people share may be another's file
        file = os.fdopen(os.open(store / ".lock", os.O_RDONLY | os.O_CREAT, 0o666))
    if not _try(file, fcntl.LOCK_SH, store):
        print(f"rs-embed: waiting, the store {store} is being pruned ({_said(file)})", file=sys.stderr, flush=True)
        fcntl.flock(file, fcntl.LOCK_SH)
    return file


def exclude(store: Path) -> IO[str] | None:
    """Keep runs from using a store until the returned file is closed; None, at once, while one does.

    Raises:
        StoreError: its file system has no locks.
    """
    file = open(store / ".lock", "a+")  # noqa: SIM115 - held by the caller
    if not _try(file, fcntl.LOCK_EX, store):
        file.close()
        return None
    _sign(file)
    return file


def _try(file: IO[str], kind: int, folder: Path) -> bool:
    """Lock the file of a folder; False while another process has it. Where there are no locks, it is closed."""
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


def _said(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip()


def _sign(file: IO[str], *, starting: bool = False, left: bool = False, fresh: bool = False) -> None:
    """Write into a lock who holds it: the process to wait for, or to stop."""
    kept = os.environ.get(LEFT, "")
    about = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    flags = {"starting": starting, "left": left or bool(kept), "fresh": fresh or kept == FRESH}
    file.seek(0)
    file.truncate()
    file.write(json.dumps(about | {name: True for name, given in flags.items() if given}))
    file.flush()
