"""What earlier jobs of a model in this work folder took, from their receipts."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from ..errors import StoreError
from ..planning.units import Unit
from ..runs.run import Run
from ..store import receipts
from . import speeds

#: Receipts that are read of a model, the newest first.
_MOST = 32


@dataclass(frozen=True)
class Before:
    """Means over earlier jobs.

    Attributes:
        images: that they embedded. each: seconds an image of one GPU (wall time) or one core (CPU time).
        start: seconds of a job beside that (of one GPU or core).
    """

    images: int
    each: float
    start: float


def speed(run: Run, unit: Unit, device: str, card: str) -> Before | None:
    """Of the same unit on the same kind of device, in any run of the work folder; None where there is none."""
    paths = (run.work / "runs").glob(f"*/embed/{unit.id}/*.json")
    newest = sorted(paths, key=lambda p: (_time(p), str(p)), reverse=True)
    images, each, start, count = 0, 0.0, 0.0, 0
    for path in itertools.islice(newest, _MOST):
        try:
            said = receipts.read(path)
        except (StoreError, FileNotFoundError):
            continue  # a start sees to it
        if said.get("device") != device or not said.get("embedded"):
            continue
        name = said.get("card") or ""
        if device == "cuda" and (speeds.known(name) or name) != card:
            continue
        images += said["embedded"]
        each += said["embed_cpu_seconds" if device == "cpu" else "embed_seconds"]
        start += said["seconds"] - said["embed_seconds"]
        count += 1
    return Before(images, each / images, start / count) if images else None


def _time(path: Path) -> int:
    """When a receipt was written; 0 where a start has just withdrawn it."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
