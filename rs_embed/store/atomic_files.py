"""Files that appear whole or not at all: written to a name of their own, and renamed."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import StoreError

_counter = itertools.count()
#: Temporary files begin with this; ``clean`` removes those that dead processes left.
TEMP_PREFIX = ".tmp-"
#: A temporary file of another machine, whose processes nobody sees from here, is a leftover when it has not been written to
#: for so many days: a cluster may suspend a job for some.
FOREIGN_DAYS = 7
_TEMPORARY = re.compile(rf"{re.escape(TEMP_PREFIX)}.+-\d+-\d+-")


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


def clean(folder: str | Path, *, below: bool = False) -> int:
    """Remove temporary files of dead processes of this machine directly in ``folder``; returns how many. What vanishes
    meanwhile, or cannot be removed, is passed over: nobody's work depends on it.

    Args:
        below: and in the folders below it.
    """
    removed = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if below and entry.is_dir(follow_symlinks=False):
                removed += clean(entry.path, below=True)
            elif is_leftover(entry.name):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
                    removed += 1
    return removed


def is_leftover(name: str, written: float | None = None) -> bool:
    """A file name is that of a temporary file of a dead process of this machine.

    Args:
        written: when the file was last written to (seconds since 1970). Where it is given, a file of another machine is a
            leftover, too, after :data:`FOREIGN_DAYS`.
    """
    prefix = f"{TEMP_PREFIX}{socket.gethostname()}-"
    if name.startswith(prefix):
        pid = name[len(prefix) :].split("-", 1)[0]
        return pid.isdigit() and not _alive(int(pid))
    old = written is not None and time.time() - written > FOREIGN_DAYS * 86400
    return old and _TEMPORARY.match(name) is not None


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
