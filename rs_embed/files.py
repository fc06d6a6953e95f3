"""Files that appear whole or not at all: written to a name of their own, and renamed."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from .errors import StoreError

_counter = itertools.count()
#: Temporary files begin with this; ``clean`` removes those that dead processes left.
TEMP_PREFIX = ".tmp-"


def replace_file(path: str | Path, data: bytes, *, durable: bool = False) -> None:
    """Write a file so that readers see the old or the whole new content; survives two writers and a crash.

    Args:
        durable: survive a power loss, too (for the few small files that nothing else can restore).

    Raises:
        StoreError: it cannot be written, for example because the disk is full.
    """
    with writing(path):
        _replace_file(Path(path), data, durable)


def _replace_file(path: Path, data: bytes, durable: bool) -> None:
    temporary = temporary_name(path)
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace_file(path, data, durable)
    except BaseException:
        with contextlib.suppress(OSError):  # the error that is on its way says more
            temporary.unlink()
        raise


def sync_folder(folder: Path) -> None:
    """New names in a folder are on the disk before anything is deleted for them."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # file systems that have no such call
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """What is done inside writes this file, or into this folder.

    Raises:
        StoreError: it cannot be written: one sentence with the path and the system's reason.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise StoreError(f"{path} cannot be written ({why})") from error


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other thread, process or machine uses."""
    return path.with_name(f"{TEMP_PREFIX}{socket.gethostname()}-{os.getpid()}-{next(_counter)}-{path.name[-80:]}")


def clean(folder: Path) -> int:
    """Remove temporary files of dead processes of this machine directly in ``folder``; returns how many."""
    removed = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_leftover(entry.name):
                Path(entry.path).unlink(missing_ok=True)
                removed += 1
    return removed


def is_leftover(name: str) -> bool:
    """A file name is that of a temporary file of a dead process of this machine."""
    prefix = f"{TEMP_PREFIX}{socket.gethostname()}-"
    pid = name[len(prefix) :].split("-", 1)[0] if name.startswith(prefix) else ""
    return pid.isdigit() and not _alive(int(pid))


def _alive(pid: int) -> bool:
    """A process of this machine that can still write: one that only waits to be collected (in containers, for good) cannot."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # no such process, or no /proc
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
