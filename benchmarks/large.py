"""`make bench-large`: cost by the number of ROIs. Writes two tables of docs/scaling.md.

*Starts*: 5 models, a combined file without pixels, N up to 100,000, in the chunks of slow models,
which give the largest number of jobs. Simulated: this script puts pixels and embeddings (a few
numbers each) into the store, because this machine would compute for a day; at N = 100,000 also the
receipts of fetch and embed jobs, because 1,763 starts of Python last an hour. All other work is
real: `snakemake --cores 2` plans, starts every job (for smaller N, fetch and embed jobs find their
objects and write receipts), writes, merges, and is started again with nothing to do.

*Memory*: nothing is simulated: N squares of 64 x 64 pixels of the sample scene with `mosaiks`,
pixels saved, chunks of the automatic size, and the peak memory of all jobs of a stage, from their
receipts.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from common import cpu_name, run_snakemake, write_rois, write_table

from rs_embed.planning.chunk_sizes import CHUNK_SIZES
from rs_embed.runs.run_files import freeze_run

LARGE = 50_000
SIZES, MEMORY = (1_000, 10_000, 100_000), (100, 1_000, 10_000)


def write_config(folder: Path, models: str, **export: object) -> None:
    """Write a request into ``config.yaml``."""
    text = f"rois: rois.csv\nbackend: sample\ndevice: cpu\ntarget: {{layout: combined, path: run}}\nmodels:\n{models}"
    (folder / "config.yaml").write_text(f"{text}export: {json.dumps(export)}\n")


def measure_start(folder: Path, *arguments: str) -> tuple[float, float, float]:
    """Start Snakemake; returns wall seconds, seconds until the first job, and peak MB."""
    begin = time.time()
    wall, _, memory = run_snakemake(folder, *arguments)
    stamps = re.findall(r"^\[(\w{3} \w{3} +\d+ [\d:]+ \d{4})\]$", (folder / "log").read_text(), re.MULTILINE)
    first = time.mktime(time.strptime(stamps[0], "%a %b %d %H:%M:%S %Y")) - begin if stamps else wall
    return wall, max(first, 0.0), memory


def fill_store(folder: Path) -> int:
    """Put every chip and embedding of a request into its store; returns the jobs of the run."""
    import numpy as np
    import yaml

    from rs_embed.runs.open_run import open_config
    from rs_embed.store import receipts
    from rs_embed.store.objects import write_object

    run = open_config(yaml.safe_load((folder / "config.yaml").read_text()), str(folder))
    plan, store = run.plan, run.store
    image = {"status": "ok", "crs": "EPSG:32633", "affine": [10.0, 0.0, 318020.0, 0.0, -10.0, 5692980.0]}
    image |= {"dates": ["2022-07-15"], "provenance": {"scenes": []}}
    vector = np.ones(2, np.float32)
    for source in plan.sources:
        store.declare_bands(source.id, source.bands)
        pixels = np.ones((len(source.bands), 4, 4), np.uint16)
        chip = image | {"bands": list(source.bands), "coverage": dict.fromkeys(source.bands, 1.0)}
        chip["fetched"] = "2026-11-22T00:00:00Z"
        for name in plan.object_names(source.id):
            write_object(store.chip_path(source.id, source.bands, name), pixels, chip)
    metadata = image | {"shape": [4, 4], "quality": {"valid": 1.0}, "device": "cpu", "batch": 32}
    metadata |= {"input_prep": {"mode": "native"}, "weights": {"pretrained": False}, "software": {"numpy": "2"}}
    for unit in plan.units:
        for name in plan.object_names(unit.source):
            write_object(store.embedding_path(unit.id, name), vector, metadata)
    jobs = len(plan.receipts()) + 1
    if len(plan.roi_ids) < LARGE:
        return jobs
    freeze_run(run)
    counts = {
        "reused": 0,
        "failed": 0,
        "seconds": 1.0,
        "cpu_seconds": 0.5,
        "peak_mb": 90,
        "finished": image["dates"][0],
    }
    for source in plan.sources:
        for part in plan.parts.values():
            rows = [{"object": o, "status": "ok"} for o in plan.object_names(source.id)[part.start : part.stop]]
            path, key = run.dir / f"fetch/{source.id}/{part.name}.json", plan.fetch_key(source, part)
            receipts.write(path, "fetch", key, rows, fetched=len(rows), **counts)
    for unit in plan.units:
        for chunk in plan.chunks:
            rows = [{"object": o, "status": "ok"} for o in plan.object_names(unit.source)[chunk.start : chunk.stop]]
            path, key = run.dir / f"embed/{unit.id}/{chunk.name}.json", plan.embed_key(unit, chunk)
            receipts.write(path, "embed", key, rows, embedded=len(rows), load_seconds=0.0, **counts)
    return jobs


def measure_starts(n: int) -> str:
    """A row of the first table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rois(folder / "rois.csv", n, 20)
        models = [f"  - {{name: mosaiks, label: m{i}, model_config: {{features: 2, seed: {i}}}}}\n" for i in range(5)]
        size = next(s for s in CHUNK_SIZES if n <= 200 * s)
        write_config(folder, "".join(models), save_inputs=False, chunk_size=size)
        dry, _, dry_memory = measure_start(folder, "--cores", "2", "-n")
        all_jobs = fill_store(folder)
        whole, first, memory = measure_start(folder, "--cores", "2")
        again, _, again_memory = measure_start(folder, "--cores", "2")
        if "Nothing to be done" not in (folder / "log").read_text():
            sys.exit("the rerun did something")
        dry_again, _, _ = measure_start(folder, "--cores", "2", "-n")
        (done,) = (folder / ".rs_embed" / "runs").iterdir()
        files = sum(p.is_file() for p in done.rglob("*"))
        merge = json.loads((done / "merge.json").read_text())
    cells = [
        f"{n:,}",
        f"{all_jobs:,}",
        f"{dry:.1f} s, {dry_memory:.0f} MB",
        f"{first:.0f} s",
        f"{whole:.0f} s, {memory:.0f} MB",
    ]
    cells += [f"{merge['seconds']:.0f} s, {merge['peak_mb']} MB", f"{again:.1f} s, {again_memory:.0f} MB"]
    row = f"| {' | '.join([*cells, f'{dry_again:.1f} s', f'{files:,}'])} |"
    print(row, flush=True)
    return row


def measure_memory(n: int, format_: str) -> str:
    """A row of the second table: the peak memory of the jobs of each stage."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rois(folder / "rois.csv", n, 320)
        write_config(folder, "  - mosaiks\n", format=format_, keep_work="all")
        run_snakemake(folder, "--cores", "2")
        (done,) = (folder / ".rs_embed" / "runs").iterdir()
        cells = []
        for stage in ("fetch/*/*.json", "embed/*/*.json", "items/*.json", "merge.json"):
            cells.append(str(max(json.loads(p.read_text())["peak_mb"] for p in done.glob(stage))))
        size = next(folder.glob("run.n*")).stat().st_size / 1e6
    row = f"| {format_} | {n:,} | {' | '.join(cells)} | {size:,.0f} |"
    print(row, flush=True)
    return row


def main() -> None:
    """Measure and write the tables: all, or those in the arguments (``starts``, ``memory``)."""
    machine = f"{os.cpu_count()} x {cpu_name()}, Python {platform.python_version()}, Snakemake {version('snakemake')}."
    for table in sys.argv[1:] or ("starts", "memory"):
        if table == "starts":
            columns = "N | jobs | dry run of a new request | a start, until its first job | whole run | of it, merge"
            columns += " | started again: nothing to do | dry run then | files of the run folder"
            rows = [measure_starts(n) for n in SIZES]
        else:
            columns = "format | N | fetch, MB | embed, MB | write, MB | merge, MB | file, MB"
            rows = [measure_memory(n, f) for f in ("npz", "netcdf") for n in MEMORY]
        line = "|" + "---|" * len(columns.split("|"))
        write_table("scaling.md", f"large.py, {table}", "\n".join([machine, "", f"| {columns} |", line, *rows]))


if __name__ == "__main__":
    main()
