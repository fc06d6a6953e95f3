"""`make bench-chunks`: compares the chunk size that a run chooses with fixed sizes. Whole runs
from the start with `snakemake --cores 2` on ROIs of the sample scene, the smaller wall time of
two, every size in turn. A service that needs 0.2 s for each chip is a `sample` provider that
sleeps. Seconds on GPUs are calculated. Writes its tables into docs/scaling.md, with the ratio of
the automatic size to the best one.
"""

from __future__ import annotations

import heapq
import itertools
import os
import platform
import sys
import tempfile
from pathlib import Path

from common import cpu_name, delay_provider, run_snakemake, write_rois, write_table

from rs_embed.planning.chunk_sizes import GPU_START_S, choose_chunk_size
from rs_embed.runs.open_run import ASSUMED_GPUS

SIZES = (64, 128, 256, 512, 1024)
#: Measured cases: N, features of mosaiks (2: a fast model, 8,192: as slow as a ViT), models,
#: seconds per request.
CASES = ((96, 8192, 1, 0.0), (96, 8192, 1, 0.2), (1024, 16, 1, 0.0), (1024, 16, 1, 0.2), (512, 16, 3, 0.2))
#: Calculated cases: sizes, N, and seconds of a GPU per ROI.
GPU_SIZES, GPU_ROIS = (256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536), (1_000, 10_000, 100_000, 1_000_000)
PACES = {"fast": 0.0025, "slow": 0.0173}


def measure_seconds(n: int, features: int, models: int, latency: float, size: int | None) -> float:
    """Wall seconds of one run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rois(folder / "rois.csv", n, 320)
        text = "rois: rois.csv\nbackend: sample\ndevice: cpu\ntarget: {layout: combined, path: run}\nmodels:\n"
        for i in range(models):
            text += f"  - {{name: mosaiks, label: m{i}, model_config: {{features: {features}, seed: {i}}}}}\n"
        chunk = "null" if size is None else size
        (folder / "config.yaml").write_text(f"{text}export: {{chunk_size: {chunk}}}\n")
        os.environ.pop("PYTHONPATH", None)
        if latency:
            os.environ |= delay_provider(folder / "late", "sample", latency)
        return run_snakemake(folder, "--cores", "2")[0]


def measure_cpu() -> list[str]:
    """The table rows of CPU runs."""
    lines = []
    for case in CASES:
        found: dict[int | None, float] = {}
        for _ in range(2):
            for size in (None, *SIZES):
                if size is not None and size > 2 * case[0]:
                    continue
                found[size] = min(found.get(size, float("inf")), measure_seconds(*case, size))
        best = min(found.values())
        n, features, models, latency = case
        cells = [f"{n:,} ROIs, {models} x {features:,} features, {latency:g} s per request", f"{found[None]:.1f}"]
        cells += [f"{found[s]:.1f}" if s in found else "" for s in SIZES]
        lines.append(f"| {' | '.join(cells)} | {found[None] / best:.2f} |")
        print(lines[-1], flush=True)
    return lines


def simulate_wall_seconds(n: int, size: int, seconds: float, models: int, gpus: int) -> float:
    """Seconds until the last GPU is free: jobs in order, each on the first free GPU; a job starts
    in GPU_START_S. It is another schedule than ``chunk_sizes.wall_seconds``, which chooses the
    size, so that it checks it."""
    busy = [0.0] * gpus
    for _ in range(models):
        for start in range(0, n, size):
            heapq.heapreplace(busy, busy[0] + GPU_START_S + min(size, n - start) * seconds)
    return max(busy)


def calculate_gpu() -> list[str]:
    """The table rows of GPUs: the automatic size, its seconds and those of the best fixed size."""
    lines = []
    for gpus, models, (name, each) in itertools.product((1, 4, 16), (1, 5), PACES.items()):
        cells = [f"{gpus}", f"{models} x {name}"]
        for n in GPU_ROIS:
            size = choose_chunk_size(n, gpus=[gpus] if gpus < 16 else ASSUMED_GPUS, paces=[each] * models)
            best = min(simulate_wall_seconds(n, fixed, each, models, gpus) for fixed in GPU_SIZES)
            automatic = simulate_wall_seconds(n, size, each, models, gpus)
            cells.append(f"{size:,}: {automatic:,.0f} / {best:,.0f} = {automatic / best:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure and write the tables; with the argument ``calculated`` only print the rows of
    GPUs."""
    gpu = ["GPUs", "models", *(f"{n:,} ROIs" for n in GPU_ROIS)]
    table = [f"| {' | '.join(gpu)} |", "|" + "---|" * len(gpu), *calculate_gpu()]
    if "calculated" in sys.argv[1:]:
        print("\n".join(table))
        return
    head = ["", "automatic", *(f"{s}" for s in SIZES), "automatic / best"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *measure_cpu()]
    about = f"{os.cpu_count()} x {cpu_name()}, Python {platform.python_version()}; `mosaiks`, 64 x 64 pixels; whole runs from nothing, "
    about += "`--cores 2`, the smaller of two, seconds."
    more = "GPUs, calculated and not measured (jobs of 10 s, and images of 2.5 ms, fast, or 17 ms, as `thor` with 224 x 224 pixels on an "
    more += "A100): the automatic size, seconds with it and with the best of 256 to 65,536. "
    more += "The rows of 16 GPUs are those of a cluster, which may have 2, 4, 8 or 16."
    write_table("scaling.md", "chunks.py", "\n".join([about, "", *lines, "", more, "", *table]))


if __name__ == "__main__":
    main()
