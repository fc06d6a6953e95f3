"""`make bench-large`: how cost grows with the number of places. Two tables of docs/scaling.md.

*Starts*: 5 models, a combined file without pixels, N up to 100,000, in the chunks that slow models have, which are the smallest and
most jobs. What is simulated: pixels and embeddings (a few numbers each) are put into the store by this script, because a machine of this
size would compute for a day; at N = 100,000 the receipts of fetch and embed jobs, too, which would take an hour of starting Python 1,763
times. Everything else is the real thing:
`snakemake --cores 2` plans, starts every job (below that, fetch and embed jobs find their objects and write receipts), writes, merges,
and is started again with nothing to do.

*Memory*: nothing simulated: N squares of 64 x 64 pixels of the sample scene with `mosaiks`, pixels saved, a chunk of the automatic size,
and the most memory of any job of a stage, from its receipts.
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

from common import processor, rois, run, write_table

from rs_embed.planning.chunk_sizes import CHUNK_SIZES

LARGE = 50_000
SIZES, MEMORY = (1_000, 10_000, 100_000), (100, 1_000, 10_000)


def config(folder: Path, models: str, **export: object) -> None:
    """A request in ``config.yaml``."""
    text = f"rois: rois.csv\nbackend: sample\ndevice: cpu\ntarget: {{layout: combined, path: run}}\nmodels:\n{models}"
    (folder / "config.yaml").write_text(f"{text}export: {json.dumps(export)}\n")


def started(folder: Path, *arguments: str) -> tuple[float, float, float]:
    """Wall seconds of a start, those of them until the first job, and MB."""
    began = time.time()
    wall, _, memory = run(folder, *arguments)
    stamps = re.findall(r"^\[(\w{3} \w{3} +\d+ [\d:]+ \d{4})\]$", (folder / "log").read_text(), re.MULTILINE)
    first = time.mktime(time.strptime(stamps[0], "%a %b %d %H:%M:%S %Y")) - began if stamps else wall
    return wall, max(first, 0.0), memory


def stock(folder: Path) -> int:
    """Put every chip and embedding of a request into its store; returns the jobs of the run."""
    import numpy as np
    import yaml

    from rs_embed.runs.run import open_config
    from rs_embed.store import receipts
    from rs_embed.store.store import write_object

    made = open_config(yaml.safe_load((folder / "config.yaml").read_text()), str(folder))
    plan, store = made.plan, made.store
    image = {"status": "ok", "crs": "EPSG:32633", "affine": [10.0, 0.0, 318020.0, 0.0, -10.0, 5692980.0]}
    image |= {"dates": ["2022-07-15"], "provenance": {"scenes": []}}
    vector = np.ones(2, np.float32)
    for source in plan.sources:
        store.declare_bands(source.id, source.bands)
        pixels = np.ones((len(source.bands), 4, 4), np.uint16)
        chip = image | {"bands": list(source.bands), "coverage": dict.fromkeys(source.bands, 1.0)}
        chip["fetched"] = "2026-11-22T00:00:00Z"
        for name in plan.objects(source.id):
            write_object(store.chip(source.id, source.bands, name), pixels, chip)
    said = image | {"shape": [4, 4], "quality": {"valid": 1.0}, "device": "cpu", "batch": 32}
    said |= {"input_prep": {"mode": "native"}, "weights": {"pretrained": False}, "software": {"numpy": "2"}}
    for unit in plan.units:
        for name in plan.objects(unit.source):
            write_object(store.embedding(unit.id, name), vector, said)
    jobs = len(plan.receipts()) + 1
    if len(plan.roi_ids) < LARGE:
        return jobs
    made.freeze()
    about = {"reused": 0, "failed": 0, "seconds": 1.0, "cpu_seconds": 0.5, "peak_mb": 90, "finished": image["dates"][0]}
    for source in plan.sources:
        for part in plan.parts.values():
            rows = [{"object": o, "status": "ok"} for o in plan.objects(source.id)[part.start : part.stop]]
            path, key = made.dir / f"fetch/{source.id}/{part.name}.json", plan.fetch_key(source, part)
            receipts.write(path, "fetch", key, rows, fetched=len(rows), **about)
    for unit in plan.units:
        for chunk in plan.chunks:
            rows = [{"object": o, "status": "ok"} for o in plan.objects(unit.source)[chunk.start : chunk.stop]]
            path, key = made.dir / f"embed/{unit.id}/{chunk.name}.json", plan.embed_key(unit, chunk)
            receipts.write(path, "embed", key, rows, embedded=len(rows), load_seconds=0.0, **about)
    return jobs


def starts(n: int) -> str:
    """A row of the first table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rois(folder / "rois.csv", n, 20)
        models = [f"  - {{name: mosaiks, label: m{i}, model_config: {{features: 2, seed: {i}}}}}\n" for i in range(5)]
        size = next(s for s in CHUNK_SIZES if n <= 200 * s)
        config(folder, "".join(models), save_inputs=False, chunk_size=size)
        dry, _, dry_memory = started(folder, "--cores", "2", "-n")
        all_jobs = stock(folder)
        whole, first, memory = started(folder, "--cores", "2")
        again, _, again_memory = started(folder, "--cores", "2")
        if "Nothing to be done" not in (folder / "log").read_text():
            sys.exit("the rerun did something")
        dry_again, _, _ = started(folder, "--cores", "2", "-n")
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


def memory(n: int, format_: str) -> str:
    """A row of the second table: the most memory of a job of each stage."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rois(folder / "rois.csv", n, 320)
        config(folder, "  - mosaiks\n", format=format_, keep_work="all")
        run(folder, "--cores", "2")
        (done,) = (folder / ".rs_embed" / "runs").iterdir()
        cells = []
        for stage in ("fetch/*/*.json", "embed/*/*.json", "items/*.json", "merge.json"):
            cells.append(str(max(json.loads(p.read_text())["peak_mb"] for p in done.glob(stage))))
        size = next(folder.glob("run.n*")).stat().st_size / 1e6
    row = f"| {format_} | {n:,} | {' | '.join(cells)} | {size:,.0f} |"
    print(row, flush=True)
    return row


def main() -> None:
    """Measure and write the tables: all, or those that are named (``starts``, ``memory``)."""
    about = f"{os.cpu_count()} x {processor()}, Python {platform.python_version()}, Snakemake {version('snakemake')}."
    for what in sys.argv[1:] or ("starts", "memory"):
        if what == "starts":
            columns = "N | jobs | dry run of a new request | a start, until its first job | whole run | of it, merge"
            columns += " | started again: nothing to do | dry run then | files of the run's folder"
            rows = [starts(n) for n in SIZES]
        else:
            columns = "format | N | fetch, MB | embed, MB | write, MB | merge, MB | file, MB"
            rows = [memory(n, f) for f in ("npz", "netcdf") for n in MEMORY]
        line = "|" + "---|" * len(columns.split("|"))
        write_table("scaling.md", f"large.py, {what}", "\n".join([about, "", f"| {columns} |", line, *rows]))


if __name__ == "__main__":
    main()
