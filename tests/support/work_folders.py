"""Small work folders for the tests of status, verify and prune: requests, their steps in this
process, the commands' output."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from rs_embed import ExportModelRequest, ExportTarget, SensorSpec
from rs_embed.request.config import ExportConfig
from rs_embed.request.request import Request
from rs_embed.runs.open_run import open_run
from rs_embed.runs.run import Run
from rs_embed.runs.run_files import freeze_run, load_run
from rs_embed.stages.embed import embed
from rs_embed.stages.fetch import fetch
from rs_embed.stages.merge import merge
from rs_embed.stages.write import write
from rs_embed.store import locks, receipts
from rs_embed.upkeep.free_space import free_space

from .exports import WINDOW, places

RGB = SensorSpec("COPERNICUS/S2_SR_HARMONIZED", ("B4", "B3", "B2"))
ONE = ExportModelRequest("mosaiks", model_config={"features": 16})
TWO = ExportModelRequest("mosaiks", label="rgb", sensor=RGB, model_config={"features": 8})
STEPS = ("fetch", "embed", "write", "merge")
SPOTS = places(9, 60)


def make(
    folder: Path,
    spots=slice(0, 4),
    models=(ONE,),
    target="run",
    layout="combined",
    upto: str | None = "merge",
    **options,
) -> Run:
    """What a run of these places below ``folder`` does, up to a step, in this process."""
    chosen = ExportTarget.combined(target) if layout == "combined" else ExportTarget.per_item(target)
    request = Request.build(
        spatials=SPOTS[spots],
        temporal=WINDOW,
        models=list(models),
        target=chosen,
        backend="sample",
        config=ExportConfig(**{"chunk_size": 2} | options),
    )
    folder.mkdir(exist_ok=True)
    return do(open_run(request, str(folder)), upto)


def do(opened: Run, upto: str | None = "merge") -> Run:
    """Freeze a run, and do its steps up to one (None: no step)."""
    freeze_run(opened)
    with contextlib.chdir(opened.dir):
        run = load_run(".")
        for step in STEPS[: STEPS.index(upto) + 1] if upto else ():
            if step == "fetch":
                [fetch(run, s.id, p) for s in run.plan.sources for p in run.plan.parts]
            elif step == "embed":
                [embed(run, u.id, c) for u in run.plan.embedded_units for c in run.plan.chunk]
            elif step == "write":
                [write(run, c) for c in run.plan.chunk]
            else:
                merge(run)
    return run


def free(run: Run) -> None:
    """What a finished run does at its end, in this process."""
    locks.hold_store_lock(run.store.root)
    try:
        free_space(run)
    finally:
        locks._held_locks.pop(run.store.root.resolve()).close()


def objects(folder: Path, kind: str = "") -> set[str]:
    """Objects of the store of a work folder beside a target."""
    root = folder / ".rs_embed" / "store"
    return {str(p.relative_to(root)) for p in root.glob(f"{kind or '*'}/**/*.npy")}


def rewrite(receipt: Path, **changes) -> None:
    """A whole receipt with other content."""
    content = receipts.read(receipt) | changes
    content.pop("schema")
    content.pop("sha256")
    receipts.write(receipt, content.pop("step"), content.pop("key"), content.pop("rows"), **content)


def flip(path: Path) -> None:
    """Change one byte in the middle, and keep the time, as a failing disk would."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
