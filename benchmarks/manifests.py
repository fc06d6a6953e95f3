"""`make bench-manifests`: how large manifests are, what writing them takes, and what opening an export takes.

Runs are faked: their chips and embeddings are put into the store by this script, and only `write`, `merge` and `load_export` work.
Writes docs/benchmarks-manifests.md.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import CHECKOUT, processor

from rs_embed import ExportConfig, ExportModelRequest, ExportTarget, FetchSpec, PointBuffer, TemporalSpec
from rs_embed.formats import manifest
from rs_embed.formats.npz import NpzWriter
from rs_embed.request.request import Request
from rs_embed.runs.run import Run, load_run, open_run
from rs_embed.store import receipts
from rs_embed.store.store import write_object

MODELS = 5
#: What a step of a faked run is run with: it says how long it took and the most memory it had.
STEP = """
import resource, sys, time
from rs_embed.runs.run import load_run
from rs_embed.stages import merge, write
run, began = load_run("."), time.monotonic()
if sys.argv[1] == "merge":
    merge.merge(run)
else:
    for chunk in run.plan.chunk:
        write.write(run, chunk)
print(time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
OPEN = """
import resource, sys, time
import rs_embed, numpy
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def say(what, began):
    print(f"{what}|{time.monotonic() - began:.3f}|{peak():.0f}")
say("import", time.monotonic())
began = time.monotonic(); result = rs_embed.load_export(sys.argv[1]); say("open", began)
model = list(result.models.values())[-1]
began = time.monotonic(); model.rows([3, 17, -1000]); say("three rows of a model", began)
began = time.monotonic(); model.meta[-777]; say("one record", began)
began = time.monotonic(); result.names, result.spatials; say("names and geometries", began)
began = time.monotonic(); model.embeddings; say("all vectors of a model", began)
began = time.monotonic(); result.items(); say("table of items", began)
"""


def requested(n: int, layout: str, pixels: bool) -> Request:
    """n places on the sample scene, five models on two sources."""
    side = int(n**0.5) + 1
    spatials = [PointBuffer(12.39 + 0.03 * (i % side) / side, 51.345 + 0.01 * (i // side) / side, 40) for i in range(n)]
    models = [ExportModelRequest("mosaiks", label=f"m{i}", model_config={"features": 16, "seed": i}) for i in range(3)]
    coarse = FetchSpec(scale_m=20)
    models += [
        ExportModelRequest("mosaiks", label=f"m{i}", fetch=coarse, model_config={"features": 16})
        for i in range(3, MODELS)
    ]
    target = ExportTarget.combined("run") if layout == "combined" else ExportTarget.per_item("run")
    window = TemporalSpec.range("2022-06-01", "2022-09-01")
    config = ExportConfig(save_inputs=pixels)
    return Request.build(
        spatials=spatials, temporal=window, models=models, target=target, backend="sample", config=config
    )


def scenes(i: int, pool: int) -> list[dict]:
    """Twelve of the scenes of a season, as a search finds them."""
    first = i * pool // 20_000
    return [
        {
            "scene": f"S2B_MSIL2A_202207{1 + (first + k) % 28:02d}T101559_N0400_R065_T33UUS_{first + k:08d}",
            "datetime": f"2022-07-{1 + (first + k) % 28:02d}T10:20:{(first + k) % 60:02d}.024000Z",
            "collection": "COPERNICUS/S2_SR_HARMONIZED",
            "cloud_cover": round((first + k) * 7.123 % 30, 3),
        }
        for k in range(12)
    ]


def fill(run: Run, pool: int) -> None:
    """Put every object into the store, and the receipts of fetch and embed into the run's folder."""
    rng, plan = np.random.default_rng(0), run.plan
    for source in plan.sources:
        run.store.declare_bands(source.id, source.bands)
        for i, name in enumerate(plan.objects(source.id)):
            pixels = rng.integers(0, 4000, (len(source.bands), 4, 4), dtype=np.uint16)
            write_object(run.store.chip(source.id, source.bands, name), pixels, record(run, source, i, pool, chip=True))
        for part in plan.parts.values():
            rows = [{"object": o, "status": "ok"} for o in plan.objects(source.id)[part.start : part.stop]]
            path = f"fetch/{source.id}/{part.name}.json"
            about = {"fetched": len(rows), "reused": 0, "failed": 0, "seconds": 1.0, "cpu_seconds": 0.5}
            receipts.write(run.dir / path, "fetch", plan.fetch_key(source, part), rows, **about)
    for unit in plan.units:
        source = plan.source[unit.source]
        for i, name in enumerate(plan.objects(unit.source)):
            vector = rng.normal(size=16).astype(np.float32)
            write_object(run.store.embedding(unit.id, name), vector, record(run, source, i, pool, chip=False))
        for chunk in plan.chunks:
            rows = [{"object": o, "status": "ok"} for o in plan.objects(unit.source)[chunk.start : chunk.stop]]
            about = {"embedded": len(rows), "reused": 0, "failed": 0, "seconds": 1.0, "cpu_seconds": 0.5}
            path = run.dir / f"embed/{unit.id}/{chunk.name}.json"
            receipts.write(path, "embed", plan.embed_key(unit, chunk), rows, **about)


def record(run: Run, source: object, i: int, pool: int, *, chip: bool) -> dict:
    """What the footers of real objects say; every tenth ROI has a warning."""
    said = {
        "status": "ok",
        "crs": "EPSG:32633",
        "affine": [10.0, 0.0, 318020.0 + 10 * i, 0.0, -10.0, 5692980.0],
        "dates": ["2022-07-15"],
        "provenance": {"counts": {"images": 40, "clear": 12}, "request": "0" * 32, "scenes": scenes(i, pool)},
    }
    if chip:
        more = {"bands": list(source.bands), "coverage": dict.fromkeys(source.bands, 1.0)}
        return said | more | {"fetched": f"2026-11-22T{i // 3600 % 24:02d}:{i // 60 % 60:02d}:{i % 60:02d}Z"}
    quality = {"valid": 0.871, "warnings": ["12.9 % of the pixels have no data"]} if i % 10 == 0 else {"valid": 1.0}
    more = {"shape": [4, 4], "quality": quality, "device": "cpu", "batch": 32, "input_prep": {"mode": "native"}}
    more["weights"] = {"pretrained": False, "sha256": "0" * 64, "by_design": True}
    return said | more | {"software": {"numpy": "2.4.6", "rs-embed-workflow": "0.1.0", "torch": "2.13.0"}}


def step(run: Run, name: str) -> tuple[float, float]:
    """Seconds and peak MB of a step in a process of its own."""
    done = subprocess.run([sys.executable, "-c", STEP, name], cwd=run.dir, capture_output=True, text=True, check=True)
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak


def measured(folder: Path, n: int, layout: str, pixels: bool, pool: int) -> tuple[str, Path]:
    """A row of the table, and the manifest."""
    folder.mkdir()
    run = open_run(requested(n, layout, pixels), str(folder))
    run.freeze()
    run = load_run(run.dir)
    fill(run, pool)
    write, merge = step(run, "write"), step(run, "merge")
    path = Path(os.path.normpath(run.dir / run.plan.manifest))
    size = path.stat().st_size
    what = f"{layout}, {'with' if pixels else 'without'} pixels, {pool + 12} scenes" if pool else f"{layout}, 12 scenes"
    row = f"| {what} | {n:,} | {size / 1e6:.2f} MB | {size / n / MODELS:.0f} |"
    if layout == "per_item":
        items = sum(p.stat().st_size for p in path.parent.glob("p*.json"))
        row = f"| {what} (index; files of ROIs) | {n:,} | {size / 1e6:.2f}; {items / 1e6:.1f} MB |"
        row += f" {size / n / MODELS:.0f}; {items / n / MODELS:.0f} |"
    row += f" {write[0]:.1f} s, {write[1]:.0f} MB | {merge[0]:.1f} s, {merge[1]:.0f} MB |"
    print(row, flush=True)
    return row, path


def grown(path: Path, target: Path, n: int) -> None:
    """An export of n ROIs with the rows of a smaller one, again and again."""
    said = json.loads(path.read_text())
    m = said["n_items"]

    def cycle(rows: list) -> manifest.Stream:
        return manifest.Stream(rows[i % m] for i in range(n))

    for key in ("roi_ids", "spatials"):
        said[key] = cycle(said[key])
    said |= {"names": manifest.Stream(f"p{i:05d}" for i in range(n)), "n_items": n, "repeated_rois": []}
    for images in said["imagery"].values():
        images |= {"rows": cycle(images["rows"]), "scenes": manifest.Stream(images["scenes"])}
    for model in said["models"]:
        model |= {"metas": cycle(model["metas"]), "inputs": None}
        model["embeddings"]["shape"] = [n, 256]
    manifest.write(target.with_suffix(".json"), said)
    row = np.ones((1, 256), np.float32)
    with NpzWriter(target) as npz:
        for model in said["models"]:
            npz.add(model["embeddings"]["npz_key"], (n, 256), row.dtype, (row * i for i in range(n)))


def main() -> None:
    """Measure and write the page."""
    small, large, huge = map(int, sys.argv[1:4]) if len(sys.argv) > 3 else (1_000, 10_000, 100_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows, paths = [], []
        for number, (n, layout, pixels, pool) in enumerate(
            [
                (small, "combined", True, 200),
                (large, "combined", True, 200),
                (large, "combined", False, 200),
                (large, "combined", True, 20_000),
                (small, "per_item", True, 200),
            ]
        ):
            row, path = measured(folder / str(number), n, layout, pixels, pool)
            rows.append(row)
            paths.append(path)
        began = time.monotonic()
        grown(paths[0], folder / "huge.npz", huge)
        print(f"grown in {time.monotonic() - began:.0f} s", flush=True)
        sizes = [(folder / f"huge{s}").stat().st_size / 1e6 for s in (".json", ".npz")]
        command = [sys.executable, "-c", OPEN, str(folder / "huge.npz")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        opened = [line.split("|") for line in done.stdout.splitlines()]
        whole = "import json, resource, sys, time; t = time.monotonic(); m = json.load(open(sys.argv[1])); "
        whole += "print(time.monotonic() - t, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
        command = [sys.executable, "-c", whole, str(folder / "huge.json")]
        parsed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    table = "\n".join(f"| {what} | {float(seconds):.3f} | {peak} |" for what, seconds, peak in opened)
    text = f"""# Manifests, measured

Written by `make bench-manifests`; {os.cpu_count()} x {processor()}, Python {platform.python_version()}.
Runs are faked (objects of a few numbers), so that only the manifests and what they take are seen: {MODELS} models on two sources, twelve scenes
a ROI out of so many as the row says, a warning at every tenth ROI. Seconds and the most memory of a process that does all `write`
jobs of the run, and of the one `merge` job, which reads every object of the store.

| export | ROIs | manifest | bytes a ROI and model | write | merge |
|---|---|---|---|---|---|
{chr(10).join(rows)}

`load_export` of a combined export of {huge:,} ROIs and {MODELS} models ({sizes[0]:.0f} MB of manifest, {sizes[1]:.0f} MB of vectors), one
thing after the other in one process; memory is the most so far, with the pages of the manifest that are mapped while it is
opened. To parse the whole manifest takes {float(parsed[0]):.1f} s and {float(parsed[1]):.0f} MB.

| | seconds | MB |
|---|---|---|
{table}
"""
    (CHECKOUT / "docs" / "benchmarks-manifests.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
