"""Which device a unit runs on, decided without torch where only a number of GPUs is asked for."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator
from pathlib import Path

from .errors import ModelError


def gpus_wanted(device: str) -> int:
    """GPUs an embed job should ask Snakemake for: 1 for ``cuda``, and for ``auto`` where this machine has one."""
    if device in ("cpu", "mps"):
        return 0
    if device == "cuda":
        return 1
    return int(visible_gpus() > 0)


def visible_gpus() -> int:
    """NVIDIA devices this process may use, from ``CUDA_VISIBLE_DEVICES`` or the device files."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return len([d for d in named.split(",") if d.strip() and d.strip() != "-1"])
    return len(glob.glob("/dev/nvidia[0-9]*"))


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
def lease(folder: Path) -> Iterator[str]:
    """Hold one free GPU for the duration: ``CUDA_VISIBLE_DEVICES`` is set to it unless the environment already chose.

    Snakemake counts GPUs but never says which one a job has, so concurrent local jobs agree by file locks. When all are
    taken the first one is shared: slow, not dead. Must run before torch looks at the devices.
    """
    import fcntl

    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None or visible_gpus() < 2:
        yield os.environ.get("CUDA_VISIBLE_DEVICES", "0")
        return
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(visible_gpus()):
        file = open(folder / f"gpu-{number}.lock", "w")  # noqa: SIM115 - held until the job ends
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        os.environ["CUDA_VISIBLE_DEVICES"] = str(number)
        try:
            yield str(number)
        finally:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
            file.close()
        return
    yield "0"
