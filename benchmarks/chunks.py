"""`make bench-chunks`: the size of chunks that a run chooses, against fixed ones. Whole runs from nothing with `snakemake --cores 2`
on places of the sample scene, the smaller wall time of two, every size in turn. A service that takes 0.2 s for each chip is a
`sample` provider that sleeps. Of a GPU, which this machine has not, the seconds are calculated: jobs x 10 + images x 0.0015,
one GPU. Writes its table into docs/scaling.md, and says by how much the automatic size is slower than the best.
"""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path

from common import late, processor, rois, run, write_table

SIZES = (64, 128, 256, 512, 1024)
#: What is measured: N, features of mosaiks (2: a fast model, 8,192: as slow as a ViT), models, seconds of a request.
CASES = ((96, 8192, 1, 0.0), (96, 8192, 1, 0.2), (1024, 16, 1, 0.0), (1024, 16, 1, 0.2), (512, 16, 3, 0.2))
GPU_SIZES = (256, 1024, 4096, 16_384, 65_536)


def seconds(n: int, features: int, models: int, latency: float, size: int | None) -> float:
    """Wall seconds of one run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rois(folder / "rois.csv", n, 320)
        text = "rois: rois.csv\nbackend: sample\ndevice: cpu\ntarget: {layout: combined, path: run}\nmodels:\n"
        for i in range(models):
            text += f"  - {{name: mosaiks, label: m{i}, model_config: {{features: {features}, seed: {i}}}}}\n"
        chunk = "null" if size is None else size
        (folder / "config.yaml").write_text(f"{text}export: {{chunk_size: {chunk}}}\n")
        os.environ.pop("PYTHONPATH", None)
        if latency:
            os.environ |= late(folder / "late", "sample", latency)
        return run(folder, "--cores", "2")[0]


def measured() -> list[str]:
    """The rows of the CPU."""
    lines = []
    for case in CASES:
        found: dict[int | None, float] = {}
        for _ in range(2):
            for size in (None, *SIZES):
                if size is not None and size > 2 * case[0]:
                    continue
                found[size] = min(found.get(size, float("inf")), seconds(*case, size))
        best = min(found.values())
        n, features, models, latency = case
        cells = [f"{n:,} ROIs, {models} x {features:,} features, {latency:g} s a request", f"{found[None]:.1f}"]
        cells += [f"{found[s]:.1f}" if s in found else "" for s in SIZES]
        lines.append(f"| {' | '.join(cells)} | {found[None] / best:.2f} |")
        print(lines[-1], flush=True)
    return lines


def calculated() -> list[str]:
    """The rows of a GPU."""
    from rs_embed.plan import automatic_chunk_size

    lines = []
    for n in (1_000, 10_000, 100_000, 1_000_000):
        own = automatic_chunk_size(n, gpu=True)
        cost = {s: -(-n // s) * 10 + n * 0.0015 for s in (own, *GPU_SIZES)}
        cells = [f"{n:,}", f"{own:,}: {cost[own]:,.0f}", *(f"{cost[s]:,.0f}" for s in GPU_SIZES)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure and write the table."""
    head = ["", "automatic", *(f"{s}" for s in SIZES), "automatic / best"]
    gpu = ["N", "automatic", *(f"{s:,}" for s in GPU_SIZES)]
    lines = [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *measured(),
        "",
        "One GPU, one model, calculated:",
        "",
    ]
    lines += [f"| {' | '.join(gpu)} |", "|" + "---|" * len(gpu), *calculated()]
    about = f"{os.cpu_count()} x {processor()}, Python {platform.python_version()}; `mosaiks`, 64 x 64 pixels."
    write_table("scaling.md", "chunks.py", "\n".join([about, "", *lines]))


if __name__ == "__main__":
    main()
