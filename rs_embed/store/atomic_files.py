"""Files that are written completely or not at all: under a temporary name, then renamed."""

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
#: Prefix of temporary files; :func:`remove_temporary_files` removes those that dead processes
#: left.
TEMP_PREFIX = ".tmp-"
#: The processes of another machine are not visible. Its temporary files count as leftovers after
#: this many days without a write, because a cluster may suspend a job for some days.
OTHER_HOST_DAYS = 7
_TEMPORARY_NAME = re.compile(rf"{re.escape(TEMP_PREFIX)}.+-\d+-\d+-")


def replace_file(path: str | Path, data: bytes | memoryview, *, durable: bool = False) -> None:
    """Write a file so that readers see either the old or the complete new content.

    Concurrent writers and a crash do no harm.

    Args:
        durable: survive a power loss, too (for the few small files that cannot be restored).

    Raises:
        StoreError: the file cannot be written, for example because the disk is full.
    """
    with report_write_errors(path):
        _write_and_rename(Path(path), data, durable)


def _write_and_rename(path: Path, data: bytes | memoryview, durable: bool) -> None:
    temporary = temporary_path(path)
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_and_rename(path, data, durable)
    except BaseException:
        with contextlib.suppress(OSError):  # the error that is being raised is more informative
            temporary.unlink()
        raise


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, before files that they replace are deleted."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems do not support it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def report_write_errors(path: str | Path) -> Iterator[None]:
    """Report an ``OSError`` inside the context as a failure to write this file or folder.

    Raises:
        StoreError: one sentence with the path and the system's reason.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise StoreError(f"{path} cannot be written ({why})") from error


def temporary_path(path: Path) -> Path:
    """A path beside ``path`` that no other thread, process or machine uses."""
    return path.with_name(f"{TEMP_PREFIX}{socket.gethostname()}-{os.getpid()}-{next(_counter)}-{path.name[-80:]}")


def remove_temporary_files(folder: str | Path, *, below: bool = False) -> int:
    """Remove temporary files that dead processes of this machine left in ``folder``.

    Files that vanish meanwhile or cannot be removed are skipped: nothing depends on their removal.

    Args:
        below: include the folders below it.

    Returns:
        Number of removed files.
    """
    removed = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if below and entry.is_dir(follow_symlinks=False):
                removed += remove_temporary_files(entry.path, below=True)
            elif is_leftover(entry.name):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
                    removed += 1
    return removed


def is_leftover(name: str, written: float | None = None) -> bool:
    """Whether a file name is that of a temporary file of a dead process of this machine.

    Args:
        written: time of the last write (seconds since 1970). If it is given, a file of another
            machine is a leftover, too, after :data:`OTHER_HOST_DAYS`.
    """
    prefix = f"{TEMP_PREFIX}{socket.gethostname()}-"
    if name.startswith(prefix):
        pid = name[len(prefix) :].split("-", 1)[0]
        return pid.isdigit() and not _is_alive(int(pid))
    old = written is not None and time.time() - written > OTHER_HOST_DAYS * 86400
    return old and _TEMPORARY_NAME.match(name) is not None


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine can still write.

    A zombie cannot; in containers, zombies can stay for good.
    """
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
