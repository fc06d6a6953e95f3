"""`make bench`: cost of a run with N = 16, 256 and 2,048 ROIs of the sample scene, and its parts.

Every run is `snakemake --cores 1`, so that wall times add up: the benchmark files of Snakemake
have the wall time of the jobs, the receipts the time inside the stages (without the start of
Python) and the CPU time of each job; Snakemake itself needs the remaining time. Each N runs in a
new folder; the no-op is the same command again. Medians of three no-op runs.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from common import CHECKOUT, cpu_name, run_snakemake, write_rois

SIZES = (16, 256, 2048)
STAGES = ("fetch", "embed", "write", "merge")
COLUMNS = (
    "N",
    "jobs",
    "whole run",
    "Snakemake's share",
    "starting the steps (Python, imports)",
    "inside the stages (wall; CPU with start-up)",
    "stages, ms per ROI",
    "peak MB of a process",
    "no-op rerun",
    "no-op, MB",
)


def measure_stages(folder: Path) -> dict[str, tuple[int, float, float, float]]:
    """Per stage: jobs, wall seconds of the jobs, seconds inside the stage, CPU seconds of the
    jobs."""
    (runs,) = (folder / ".rs_embed" / "runs").iterdir()
    patterns = {"fetch": "fetch/*/*.json", "embed": "embed/*/*.json", "write": "items/*.json", "merge": "merge.json"}
    out = {}
    for stage in STAGES:
        receipts = [json.loads(p.read_text()) for p in runs.glob(patterns[stage])]
        tables = [
            p
            for p in (runs / "benchmarks").glob("**/*.tsv")
            if p.relative_to(runs / "benchmarks").parts[0].startswith(stage)
        ]
        wall = 0.0
        for path in tables:
            with open(path) as file:
                wall += float(next(csv.DictReader(file, delimiter="\t"))["s"])
        inside, cpu = (sum(r[k] for r in receipts) for k in ("seconds", "cpu_seconds"))
        out[stage] = (len(receipts), wall, inside, cpu)
    return out


def main() -> None:
    """Measure and write docs/benchmarks.md."""
    costs, split = [], []
    for n in SIZES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_rois(folder / "rois.csv", n, 320)
            config = "rois: rois.csv\nmodels: [mosaiks]\nbackend: sample\ndevice: cpu\ntarget: {layout: combined, path: run}\n"
            (folder / "config.yaml").write_text(config)
            wall, cpu, memory = run_snakemake(folder, "--cores", "1")
            found = measure_stages(folder)
            jobs, job_wall, inside, job_cpu = (sum(f[i] for f in found.values()) for i in range(4))
            again = [run_snakemake(folder, "--cores", "1") for _ in range(3)]
            noop, noop_cpu, noop_memory = (statistics.median(r[i] for r in again) for i in range(3))
            if "Nothing to be done" not in (folder / "log").read_text():
                sys.exit("the no-op did something")
        costs.append(
            f"| {n:,} | {jobs} | {wall:.1f} / {cpu:.1f} | {wall - job_wall:.1f} / {cpu - job_cpu:.1f} "
            f"| {job_wall - inside:.1f} | {inside:.1f} / {job_cpu:.1f} | {1000 * inside / n:.1f} | {memory:.0f} "
            f"| {noop:.1f} / {noop_cpu:.1f} | {noop_memory:.0f} |"
        )
        split.append(f"| {n:,} | " + " | ".join(f"{found[s][0]} / {found[s][2]:.2f}" for s in STAGES) + " |")
        print(costs[-1], flush=True)
    text = f"""# Benchmarks

Written by `make bench` (`benchmarks/scaling.py`, which documents the measurement of the shares):
N squares of 64 x 64 pixels of the sample scene, model `mosaiks` (512 features, 4 bands), combined npz with inputs,
`snakemake --cores 1`, on {os.cpu_count()} x {cpu_name()},
Python {platform.python_version()}, torch {version("torch")}, Snakemake {version("snakemake")}. Seconds are wall / CPU. The machine
is shared: compare columns of one row, not runs of different days.

| {" | ".join(COLUMNS)} |
|{"---|" * len(COLUMNS)}
{chr(10).join(costs)}

Jobs and wall seconds inside each stage:

| N | {" | ".join(STAGES)} |
|---|---|---|---|---|
{chr(10).join(split)}

How to read it: Snakemake costs a fixed start and little per job, so its share falls with N. A step costs
the start of a Python process (and of torch in `embed`, once per chunk). A fetch step also decodes the JSON
of the sample scene, 0.2 s whatever it fetches. The no-op builds the plan, reads every receipt and stats
the outputs.
"""
    (CHECKOUT / "docs" / "benchmarks.md").write_text(text)
    print("wrote docs/benchmarks.md")


if __name__ == "__main__":
    main()
