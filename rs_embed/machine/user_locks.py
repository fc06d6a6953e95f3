"""What processes of a user on one machine agree by: file locks in a folder of theirs, which the kernel releases when their holder
dies. Neither a run's folder nor a network's will do, because GPUs and cores are a machine's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import tempfile
from pathlib import Path

from ..errors import StoreError

#: Of a scheduler's job: what it calls device 0 is another GPU than what its next job on the machine calls so.
_ALLOCATION = ("SLURM_JOB_ID", "SLURM_STEP_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")


def folder(kind: str) -> Path:
    """The user's folder of locks of one kind, made where it is missing. Apart for each allocation of a scheduler, which numbers its
    devices anew.

    Raises:
        StoreError: what has its name is not the user's own, or others can write to it.
    """
    allocation = "-".join([kind, *(v for name in _ALLOCATION if (v := os.environ.get(name)))])
    top = Path(tempfile.gettempdir(), f"rs-embed-{os.getuid()}")
    for path in (top, top / re.sub(r"[^A-Za-z0-9-]", "_", allocation)):
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = os.lstat(path)
        # a folder of another user's, or a link, at a name that anybody can guess
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise StoreError(
                f"{path} is not a folder of your own that only you can write to; allowed: another TMPDIR, or delete it"
            )
    return path


def lock(path: Path) -> int | None:
    """The descriptor that holds a lock until it is closed; None where another process holds it.

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
