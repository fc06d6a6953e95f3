"""The device type that a unit runs on, and the GPU that a job gets.

Torch is not imported where only a number of GPUs is needed.
"""

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

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
#: Tells jobs whether Snakemake's main process requests GPUs for ``device: auto``.
_DECISION_VARIABLE = "RS_EMBED_GPUS"
#: One of these is set in a job that has GPUs: CUDA's, and SLURM's at sites that do not set CUDA's.
_ALLOCATED_VARIABLES = (VISIBLE_VARIABLE, "SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS", "SLURM_GPUS_ON_NODE")
#: Kind of the locks in the user's folder.
_LOCKS = "gpus"
#: Longest time between two attempts to get a GPU, seconds.
_POLL_S = 0.5
#: Attempts to open a lock whose file or folder is removed by a job that ends.
_LOCK_ATTEMPTS = 100


def gpus_wanted(device: str) -> int:
    """Number of GPUs that an embed job requests from Snakemake.

    1 for ``cuda``. For ``auto``, 1 if this machine has a GPU. In a job of a run whose main process
    found no GPU, ``auto`` means 1 only if the scheduler allocated one: other GPUs of the node
    belong to other jobs.
    """
    if device in ("cpu", "mps"):
        return 0
    if device == "cuda":
        return 1
    return int(count_visible_gpus() > 0 and not _is_none_allocated())


def record_gpu_decision(device: str) -> None:
    """Record whether embed jobs request GPUs, for the jobs of this process on other machines."""
    os.environ.pop(_DECISION_VARIABLE, None)
    os.environ[_DECISION_VARIABLE] = str(gpus_wanted(device))


def _is_none_allocated() -> bool:
    return os.environ.get(_DECISION_VARIABLE) == "0" and not any(name in os.environ for name in _ALLOCATED_VARIABLES)


def visible_devices() -> tuple[str, ...]:
    """The NVIDIA devices that jobs of this machine may use, as in ``CUDA_VISIBLE_DEVICES``.

    Numbers, or UUIDs of GPUs and MIG slices. If the variable is set, the devices in it (up to the
    first invalid one, as CUDA reads it); otherwise all devices.
    """
    value = os.environ.get(VISIBLE_VARIABLE)
    if value is None:
        return tuple(str(i) for i in range(len(glob.glob("/dev/nvidia[0-9]*"))))
    names: dict[str, None] = {}
    for name in map(str.strip, value.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-[\w/-]+", name):  # SLURM writes NoDevFiles
            break
        names[name] = None
    return tuple(names)


def count_visible_gpus() -> int:
    """Number of :func:`visible_devices`."""
    return len(visible_devices())


def gpu_model_name() -> str | None:
    """The driver's name of the first GPU (``NVIDIA A100-SXM4-80GB``); None without a GPU."""
    for path in sorted(glob.glob("/proc/driver/nvidia/gpus/*/information")):
        found = re.search(r"^Model:\s*(.+?)\s*$", Path(path).read_text(errors="replace"), re.MULTILINE)
        if found:
            return found.group(1)
    return None


def resolve_device(device: str) -> str:
    """The torch device type for a request's ``device``.

    ``auto`` means cuda if available, otherwise mps, otherwise cpu.

    Raises:
        ModelError: torch does not find the requested device.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(d for d in ("cuda", "mps", "cpu") if available[d])
    if not available[device]:
        usable = ", ".join(repr(d) for d in ("auto", *available) if available.get(d, True))
        raise ModelError(
            f"device: {device!r} was requested, and torch {torch.__version__} finds none; allowed here: {usable}"
        )
    return device


@contextlib.contextmanager
def lease_gpu(device: str, folder: Path | None = None) -> Iterator[str | None]:
    """Lease one of the :func:`visible_devices`, and set ``CUDA_VISIBLE_DEVICES`` to it meanwhile.

    Yields None if the request's ``device`` needs no GPU or none is visible. Must be entered before
    torch initializes the devices.

    Snakemake counts GPUs but does not assign them, so all jobs of a user on a machine, of any run,
    agree by file locks; the kernel releases those of dead processes. A job that finds all GPUs
    leased waits: Snakemake does not start more jobs than there are devices, so they are leased by
    another run, and two jobs on one GPU could run out of memory. If ``CUDA_VISIBLE_DEVICES`` names
    a single device, a cluster or the user has chosen it, and it is used without waiting.

    Args:
        folder: folder of the locks; None is the user's folder on this machine.

    Raises:
        StoreError: the folder of the locks does not belong to the user, or its file system has no
            locks.
    """
    names, before = visible_devices() if gpus_wanted(device) else (), os.environ.get(VISIBLE_VARIABLE)
    if not names:
        with _hide_gpus(device == "auto" and _is_none_allocated()):
            yield None
        return
    name, lock = _wait_for_device(folder, names, wait=len(names) > 1 or before is None)
    os.environ[VISIBLE_VARIABLE] = name
    try:
        yield name
    finally:
        os.environ.pop(VISIBLE_VARIABLE)
        if before is not None:
            os.environ[VISIBLE_VARIABLE] = before
        if lock is not None:
            _release_lock(*lock)


@contextlib.contextmanager
def _hide_gpus(hidden: bool) -> Iterator[None]:
    """Hide unallocated GPUs of the machine from torch, which would use them."""
    if hidden:
        os.environ[VISIBLE_VARIABLE] = ""
    try:
        yield
    finally:
        if hidden:
            os.environ.pop(VISIBLE_VARIABLE)


def _wait_for_device(folder: Path | None, names: tuple[str, ...], *, wait: bool) -> tuple[str, tuple[Path, int] | None]:
    """The first free device and its lock.

    Without waiting, the first device and None if no device is free.
    """
    is_reported = False
    while True:
        for name in names:
            path, lock = _try_device_lock(folder, f"gpu-{re.sub(r'[^A-Za-z0-9-]', '_', name)}.lock")
            if lock is not None:
                return name, (path, lock)
        if not wait:
            return names[0], None
        if not is_reported:
            is_reported = True
            print(
                f"embed: waiting for a GPU, other jobs have {', '.join(names)} (locks in {path.parent})",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(random.uniform(0.2, 1.0) * _POLL_S)


def _try_device_lock(folder: Path | None, file: str) -> tuple[Path, int | None]:
    """A lock file, and the descriptor that holds its lock; None if another process holds it."""
    for _ in range(_LOCK_ATTEMPTS):
        with contextlib.suppress(FileNotFoundError):  # a job that ended has just removed the folder
            path = (folder or user_locks.lock_folder(_LOCKS)) / file
            lock = user_locks.try_lock(path)
            if lock is None or user_locks.is_current(lock, path):
                return path, lock
            os.close(lock)
    raise StoreError(
        f"the folder of locks in {tempfile.gettempdir()} is deleted again and again; allowed: another TMPDIR"
    )


def _release_lock(path: Path, lock: int) -> None:
    """Release a lock.

    The last job of an allocation also removes the folder, so that nothing stays on the node.
    The file is removed while it is locked. A process that opened it before detects this
    (``user_locks.is_current``).
    """
    is_of_allocation = path.parent.name.startswith(f"{_LOCKS}-")
    with contextlib.suppress(OSError):
        if is_of_allocation and user_locks.is_current(lock, path):
            path.unlink()
    os.close(lock)
    with contextlib.suppress(OSError):
        if is_of_allocation:
            path.parent.rmdir()  # fails unless it is empty
