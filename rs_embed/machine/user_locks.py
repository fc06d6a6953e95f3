"""File locks by which the processes of a user on one machine agree on GPUs and cores.

The kernel releases the locks of dead processes. The files are in a folder of the user on the
machine, not in the run folder or on a network file system, because GPUs and cores belong to a
machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import tempfile
from pathlib import Path

from ..errors import StoreError

#: Identify the allocation of a scheduler: device 0 is another GPU in the next allocation on the
#: same machine.
_ALLOCATION_VARIABLES = ("SLURM_JOB_ID", "SLURM_STEP_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")


def lock_folder(kind: str) -> Path:
    """The user's folder of locks of one kind, created if it is missing.

    Each allocation of a scheduler has its own, because it renumbers the devices.

    Raises:
        StoreError: the path is not a folder of the user, or others can write to it.
    """
    allocation = "-".join([kind, *(v for name in _ALLOCATION_VARIABLES if (v := os.environ.get(name)))])
    top = Path(tempfile.gettempdir(), f"rs-embed-{os.getuid()}")
    for path in (top, top / re.sub(r"[^A-Za-z0-9-]", "_", allocation)):
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = os.lstat(path)
        # another user can create a folder or a link with this name, which is easy to guess
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise StoreError(
                f"{path} is not a folder of your own that only you can write to; allowed: another TMPDIR, or delete it"
            )
    return path


def try_lock(path: Path) -> int | None:
    """Lock a file, which is created if it is missing.

    Returns:
        The descriptor that holds the lock until it is closed; None if another process holds it.

    Raises:
        StoreError: the file system has no locks.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except OSError as error:
        os.close(file)
        raise StoreError(
            f"{path} cannot be locked ({error.strerror}), so jobs cannot agree on GPUs and cores; allowed: TMPDIR on a local disk"
        ) from None
    return file


def is_current(lock: int, path: Path) -> bool:
    """Whether a lock is that of the file that has this path now.

    The file may have been removed before it was locked.
    """
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except FileNotFoundError:
        return False
