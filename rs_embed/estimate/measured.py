"""Speed of earlier jobs of a model in this work folder, from their receipts."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from ..errors import StoreError
from ..planning.units import Unit
from ..runs.run import Run
from ..store import receipts
from . import speeds

#: Receipts that are read for a model, at most; the newest first.
_MAX_RECEIPTS = 32


@dataclass(frozen=True)
class MeasuredSpeed:
    """Means over earlier jobs.

    Attributes:
        images: number of images that they embedded. image_s: seconds per image of one GPU (wall
            time) or one core (CPU time).
        start_s: other seconds of a job (of one GPU or core).
    """

    images: int
    image_s: float
    start_s: float


def read_measured_speed(run: Run, unit: Unit, device: str, card: str) -> MeasuredSpeed | None:
    """Speed of a unit on a kind of device, in any run of the work folder; None without such
    jobs."""
    paths = (run.work / "runs").glob(f"*/embed/{unit.id}/*.json")
    newest = sorted(paths, key=lambda p: (_modification_time(p), str(p)), reverse=True)
    images, embedding_s, start_s, count = 0, 0.0, 0.0, 0
    for path in itertools.islice(newest, _MAX_RECEIPTS):
        try:
            receipt = receipts.read(path)
        except (StoreError, FileNotFoundError):
            continue  # the next start of its run reports it
        if receipt.get("device") != device or not receipt.get("embedded"):
            continue
        name = receipt.get("card") or ""
        if device == "cuda" and (speeds.find_card(name) or name) != card:
            continue
        images += receipt["embedded"]
        embedding_s += receipt["embed_cpu_seconds" if device == "cpu" else "embed_seconds"]
        start_s += receipt["seconds"] - receipt["embed_seconds"]
        count += 1
    return MeasuredSpeed(images, embedding_s / images, start_s / count) if images else None


def _modification_time(path: Path) -> int:
    """Modification time of a receipt, ns; 0 where a start has just withdrawn it."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
