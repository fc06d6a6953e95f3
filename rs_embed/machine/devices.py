"""Which device a unit runs on, decided without torch where only a number of GPUs is asked for; and which GPU a job gets."""

from __future__ import annotations

import contextlib
import glob
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import ModelError, StoreError
from . import user_locks

VISIBLE = "CUDA_VISIBLE_DEVICES"
#: Tells jobs whether Snakemake's main process asks for GPUs with ``device: auto``.
_DECIDED = "RS_EMBED_GPUS"
#: Variables that say that a job was given GPUs: CUDA's, and SLURM's where a site does without it.
_GIVEN = (VISIBLE, "SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS", "SLURM_GPUS_ON_NODE")
#: What the locks are called in the user's folder.
_KIND = "gpus"
#: Longest time between two looks for a free GPU, seconds.
_LOOK_S = 0.5
#: So often a lock is opened whose file or folder is removed by a job that ends.
_TRIES = 100


def gpus_wanted(device: str) -> int:
    """GPUs an embed job should ask Snakemake for: 1 for ``cuda``, and for ``auto`` where this machine has one, or, in a job, was
    given one: where Snakemake's main process saw none, none was asked for, and what a node has is others'."""
    if device in ("cpu", "mps"):
        return 0
    if device == "cuda":
        return 1
    return int(visible_gpus() > 0 and not _others())


def decide(device: str) -> None:
    """For the jobs of this process, which run on other machines: whether embed jobs ask for GPUs."""
    os.environ.pop(_DECIDED, None)
    os.environ[_DECIDED] = str(gpus_wanted(device))


def _others() -> bool:
    return os.environ.get(_DECIDED) == "0" and not any(name in os.environ for name in _GIVEN)


def pool() -> tuple[str, ...]:
    """The NVIDIA devices that jobs of this machine may have, as ``CUDA_VISIBLE_DEVICES`` names them: numbers, or UUIDs of GPUs
    and MIG slices. Those of the variable where it is set (up to the first that is none, as CUDA reads it), else all."""
    named = os.environ.get(VISIBLE)
    if named is None:
        return tuple(str(i) for i in range(len(glob.glob("/dev/nvidia[0-9]*"))))
    words: dict[str, None] = {}
    for word in map(str.strip, named.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-[\w/-]+", word):  # SLURM says NoDevFiles
            break
        words[word] = None
    return tuple(words)


def visible_gpus() -> int:
    """Number of devices of the :func:`pool`."""
    return len(pool())


def card() -> str | None:
    """What the driver calls the first GPU of this machine (``NVIDIA A100-SXM4-80GB``); None without one."""
    for path in sorted(glob.glob("/proc/driver/nvidia/gpus/*/information")):
        found = re.search(r"^Model:\s*(.+?)\s*$", Path(path).read_text(errors="replace"), re.MULTILINE)
        if found:
            return found.group(1)
    return None


def resolve(device: str) -> str:
    """The torch device type for a request's ``device``: ``auto`` means cuda, else mps, else cpu.

    Raises:
        ModelError: an explicit device that torch does not see.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(d for d in ("cuda", "mps", "cpu") if available[d])
    if not available[device]:
        here = ", ".join(repr(d) for d in ("auto", *available) if available.get(d, True))
        raise ModelError(
            f"device: {device!r} was asked for, and torch {torch.__version__} sees none; allowed here: {here}"
        )
    return device


@contextlib.contextmanager
def lease(device: str, folder: Path | None = None) -> Iterator[str | None]:
    """Hold one GPU of the :func:`pool` for the duration, with ``CUDA_VISIBLE_DEVICES`` set to it; None where the request's
    ``device`` wants none or there is none. Must run before torch looks at the devices.

    Snakemake counts GPUs and never says which one a job has, so jobs of a user on a machine, of whatever run, agree by file
    locks that the kernel releases when their holder dies. A job that finds all of them taken waits: Snakemake lets no more
    jobs in than there are devices, so they are another run's, and on a shared GPU both could run out of memory. Where one
    device alone is named, somebody (a cluster, a person) has chosen it: it is taken as it is, and nobody waits.

    Args:
        folder: of the locks; None is the user's on this machine.

    Raises:
        StoreError: the folder of the locks is not the user's own, or has no locks.
    """
    names, before = pool() if gpus_wanted(device) else (), os.environ.get(VISIBLE)
    if not names:
        hidden = device == "auto" and _others()
        if hidden:  # torch would take one that is there
            os.environ[VISIBLE] = ""
        try:
            yield None
        finally:
            if hidden:
                os.environ.pop(VISIBLE)
        return
    name, held = _free(folder, names, patient=len(names) > 1 or before is None)
    os.environ[VISIBLE] = name
    try:
        yield name
    finally:
        os.environ.pop(VISIBLE)
        if before is not None:
            os.environ[VISIBLE] = before
        if held is not None:
            _give_back(*held)


def _free(folder: Path | None, names: tuple[str, ...], *, patient: bool) -> tuple[str, tuple[Path, int] | None]:
    """The first free device, and its lock; where there is none and nobody shall wait, the first."""
    said = False
    while True:
        for name in names:
            path, lock = _take(folder, f"gpu-{re.sub(r'[^A-Za-z0-9-]', '_', name)}.lock")
            if lock is not None:
                return name, (path, lock)
        if not patient:
            return names[0], None
        if not said:
            said = True
            print(
                f"embed: waiting for a GPU, other jobs have {', '.join(names)} (locks in {path.parent})",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(random.uniform(0.2, 1.0) * _LOOK_S)


def _take(folder: Path | None, file: str) -> tuple[Path, int | None]:
    """A lock, and the descriptor that holds it; None where another process does."""
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):  # a job that ended has removed the folder this moment
            path = (folder or user_locks.folder(_KIND)) / file
            lock = user_locks.lock(path)
            if lock is None or _is(lock, path):
                return path, lock
            os.close(lock)
    raise StoreError(f"{tempfile.gettempdir()} keeps no folder of locks; allowed: another TMPDIR")


def _give_back(path: Path, lock: int) -> None:
    """Release a lock. Of an allocation nothing is left on the node: the last job to end removes its folder. The file goes while
    it is locked, and who opened it before finds out that it is not the one with the name (``_is``)."""
    passing = path.parent.name.startswith(f"{_KIND}-")
    with contextlib.suppress(OSError):
        if passing and _is(lock, path):
            path.unlink()
    os.close(lock)
    with contextlib.suppress(OSError):
        if passing:
            path.parent.rmdir()  # only if it is empty


def _is(lock: int, path: Path) -> bool:
    """A lock is of the file that has the name now, and not of one that was removed before it was locked."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except FileNotFoundError:
        return False
