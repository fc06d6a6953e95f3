"""`make bench-manifests`: size of manifests, and cost of writing them and of opening an export.

Runs are simulated: this script puts their chips and embeddings into the store, and only `write`,
`merge` and `load_export` run.
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
from common import CHECKOUT, cpu_name

from rs_embed import ExportConfig, ExportModelRequest, ExportTarget, FetchSpec, PointBuffer, TemporalSpec
from rs_embed.formats import manifest
from rs_embed.formats.arrays import ArrayMetadata, Row
from rs_embed.formats.npz import NpzWriter
from rs_embed.planning.units import Source
from rs_embed.request.request import Request
from rs_embed.runs.open_run import open_run
from rs_embed.runs.run import Run
from rs_embed.runs.run_files import freeze_run, load_run
from rs_embed.store import receipts
from rs_embed.store.objects import write_object

MODELS = 5
#: Runs a step of a simulated run; prints its seconds and peak MB.
STEP = """
import resource, sys, time
from rs_embed.runs.run_files import load_run
from rs_embed.stages import merge, write
run, begin = load_run("."), time.monotonic()
if sys.argv[1] == "merge":
    merge.merge(run)
else:
    for chunk in run.plan.chunk:
        write.write(run, chunk)
print(time.monotonic() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
#: Opens an export; prints a label, seconds and peak MB for each access.
OPEN = """
import resource, sys, time
import rs_embed, numpy
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def report(what, begin):
    print(f"{what}|{time.monotonic() - begin:.3f}|{peak():.0f}")
report("import", time.monotonic())
begin = time.monotonic(); result = rs_embed.load_export(sys.argv[1]); report("open", begin)
model = list(result.models.values())[-1]
begin = time.monotonic(); model.rows([3, 17, -1000]); report("three rows of a model", begin)
begin = time.monotonic(); model.meta[-777]; report("one record", begin)
begin = time.monotonic(); result.names, result.spatials; report("names and geometries", begin)
begin = time.monotonic(); model.embeddings; report("all vectors of a model", begin)
begin = time.monotonic(); result.items(); report("table of items", begin)
"""


def make_request(n: int, layout: str, pixels: bool) -> Request:
    """A request of n ROIs on the sample scene with five models on two sources."""
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


def list_scenes(i: int, pool: int) -> list[dict]:
    """Metadata of the twelve scenes of a ROI, out of a number of scenes, as a search returns
    them."""
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


def fill_store(run: Run, pool: int) -> None:
    """Put every object into the store, and the receipts of fetch and embed jobs into the run
    folder."""
    rng, plan = np.random.default_rng(0), run.plan
    for source in plan.sources:
        run.store.declare_bands(source.id, source.bands)
        for i, name in enumerate(plan.object_names(source.id)):
            pixels = rng.integers(0, 4000, (len(source.bands), 4, 4), dtype=np.uint16)
            write_object(
                run.store.chip_path(source.id, source.bands, name),
                pixels,
                make_metadata(run, source, i, pool, chip=True),
            )
        for part in plan.parts.values():
            rows = [{"object": o, "status": "ok"} for o in plan.object_names(source.id)[part.start : part.stop]]
            path = f"fetch/{source.id}/{part.name}.json"
            counts = {"fetched": len(rows), "reused": 0, "failed": 0, "seconds": 1.0, "cpu_seconds": 0.5}
            receipts.write(run.dir / path, "fetch", plan.fetch_key(source, part), rows, **counts)
    for unit in plan.units:
        source = plan.source[unit.source]
        for i, name in enumerate(plan.object_names(unit.source)):
            vector = rng.normal(size=16).astype(np.float32)
            write_object(
                run.store.embedding_path(unit.id, name), vector, make_metadata(run, source, i, pool, chip=False)
            )
        for chunk in plan.chunks:
            rows = [{"object": o, "status": "ok"} for o in plan.object_names(unit.source)[chunk.start : chunk.stop]]
            counts = {"embedded": len(rows), "reused": 0, "failed": 0, "seconds": 1.0, "cpu_seconds": 0.5}
            path = run.dir / f"embed/{unit.id}/{chunk.name}.json"
            receipts.write(path, "embed", plan.embed_key(unit, chunk), rows, **counts)


def make_metadata(run: Run, source: Source, i: int, pool: int, *, chip: bool) -> dict:
    """Metadata like that of real objects; every tenth ROI has a warning."""
    metadata = {
        "status": "ok",
        "crs": "EPSG:32633",
        "affine": [10.0, 0.0, 318020.0 + 10 * i, 0.0, -10.0, 5692980.0],
        "dates": ["2022-07-15"],
        "provenance": {"counts": {"images": 40, "clear": 12}, "request": "0" * 32, "scenes": list_scenes(i, pool)},
    }
    if chip:
        more = {"bands": list(source.bands), "coverage": dict.fromkeys(source.bands, 1.0)}
        return metadata | more | {"fetched": f"2026-11-22T{i // 3600 % 24:02d}:{i // 60 % 60:02d}:{i % 60:02d}Z"}
    quality = {"valid": 0.871, "warnings": ["12.9 % of the pixels have no data"]} if i % 10 == 0 else {"valid": 1.0}
    more = {"shape": [4, 4], "quality": quality, "device": "cpu", "batch": 32, "input_prep": {"mode": "native"}}
    more["weights"] = {"pretrained": False, "sha256": "0" * 64, "by_design": True}
    return metadata | more | {"software": {"numpy": "2.4.6", "rs-embed-workflow": "0.1.0", "torch": "2.13.0"}}


def measure_step(run: Run, name: str) -> tuple[float, float]:
    """Seconds and peak MB of a step in a new process."""
    done = subprocess.run([sys.executable, "-c", STEP, name], cwd=run.dir, capture_output=True, text=True, check=True)
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak


def measure_run(folder: Path, n: int, layout: str, pixels: bool, pool: int) -> tuple[str, Path]:
    """A row of the table, and the path of the manifest."""
    folder.mkdir()
    run = open_run(make_request(n, layout, pixels), str(folder))
    freeze_run(run)
    run = load_run(run.dir)
    fill_store(run, pool)
    write, merge = measure_step(run, "write"), measure_step(run, "merge")
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


def write_large_export(path: Path, target: Path, n: int) -> None:
    """Write an export of n ROIs that repeats the rows of a smaller one."""
    document = json.loads(path.read_text())
    m = document["n_items"]

    def cycle(rows: list) -> manifest.StreamedList:
        return manifest.StreamedList(rows[i % m] for i in range(n))

    for key in ("roi_ids", "spatials"):
        document[key] = cycle(document[key])
    document |= {"names": manifest.StreamedList(f"p{i:05d}" for i in range(n)), "n_items": n, "repeated_rois": []}
    for images in document["imagery"].values():
        images |= {"rows": cycle(images["rows"]), "scenes": manifest.StreamedList(images["scenes"])}
    for model in document["models"]:
        model |= {"metas": cycle(model["metas"]), "inputs": None}
        model["embeddings"]["shape"] = [n, 256]
    manifest.write(target.with_suffix(".json"), document)
    row = np.ones((1, 256), np.float32)
    with NpzWriter(target) as npz:
        for model in document["models"]:
            array = ArrayMetadata(model["embeddings"]["npz_key"], "embedding", model["model"], model["model"])
            npz.add(array, (n, 256), row.dtype, (Row(row[0] * i) for i in range(n)))


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
            row, path = measure_run(folder / str(number), n, layout, pixels, pool)
            rows.append(row)
            paths.append(path)
        begin = time.monotonic()
        write_large_export(paths[0], folder / "huge.npz", huge)
        print(f"large export written in {time.monotonic() - begin:.0f} s", flush=True)
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

Written by `make bench-manifests`; {os.cpu_count()} x {cpu_name()}, Python {platform.python_version()}.
The runs are simulated (objects of a few numbers), so that only the cost of manifests is measured:
{MODELS} models on two sources, twelve scenes per ROI out of the number in the row, a warning at every
tenth ROI. Seconds and peak memory of a process that does all `write` jobs of the run, and of the one
`merge` job, which reads every object of the store.

| export | ROIs | manifest | bytes per ROI and model | write | merge |
|---|---|---|---|---|---|
{chr(10).join(rows)}

`load_export` of a combined export of {huge:,} ROIs and {MODELS} models ({sizes[0]:.0f} MB of manifest, {sizes[1]:.0f} MB of vectors),
in this order in one process. Memory is the peak so far, including the pages of the manifest that are
mapped while it is opened. Parsing the whole manifest needs {float(parsed[0]):.1f} s and {float(parsed[1]):.0f} MB.

| | seconds | MB |
|---|---|---|
{table}
"""
    (CHECKOUT / "docs" / "benchmarks-manifests.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
