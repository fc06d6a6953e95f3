"""`make bench-threads`: division of cores among embed jobs; wall seconds of whole runs from the
start.

The same request with the threads that the rule chooses, and with `--set-threads embed=4`, the
earlier rule. `mosaiks` with many features on squares of 128 x 128 pixels of the sample scene. Runs
alternate; the smaller of two. Prints a table.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import cpu_name, run_snakemake, write_rois

CASES = [(1, 1), (1, 3), (4, 1), (4, 3), (12, 1)]
ROIS, CORES, FEATURES = 48, (2,), 8192


def wall_seconds(chunks: int, models: int, cores: int, *more: str) -> float:
    """Seconds of one run in a new folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rois(folder / "rois.csv", ROIS, 640)
        requests = [
            f"{{name: mosaiks, label: m{i}, model_config: {{features: {FEATURES}, seed: {i}}}}}" for i in range(models)
        ]
        (folder / "config.yaml").write_text(
            f"rois: rois.csv\nmodels: [{', '.join(requests)}]\nbackend: sample\ndevice: cpu\ntarget: {{layout: combined, path: run}}\n"
            f"export: {{chunk_size: {-(-ROIS // chunks)}, save_inputs: false}}\n"
        )
        return run_snakemake(folder, "--cores", str(cores), *more)[0]


def main() -> None:
    """Measure, and print a table."""
    print(f"{ROIS} ROIs on {cpu_name()}\n")
    print("| chunks | models | cores | divided, s | 4 threads, s |\n|---|---|---|---|---|")
    for chunks, models in CASES:
        for cores in CORES:
            times = [
                (wall_seconds(chunks, models, cores), wall_seconds(chunks, models, cores, "--set-threads", "embed=4"))
                for _ in range(2)
            ]
            print(
                f"| {chunks} | {models} | {cores} | {min(t[0] for t in times):.1f} | {min(t[1] for t in times):.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
