"""`make bench-compare`: this project and the published `rs-embed` 0.3.1 on the same ROIs, pixels,
weights and settings.

Both are started as a Python process that calls `export_batch` (including Snakemake's start, jobs
and the loading of models), in turns, each run in a new folder. The reference has its own
environment (`.venv/compare`; it declares Python 3.12 and runs on 3.11). The latency of a service
is one sleep per request: the reference sends a request for each model, this project one for both.
Measured: wall time; CPU seconds of all processes; the largest sum of the memory of the processes
(PSS, sampled); bytes written. The *forward* is the CPU time of the networks alone, two threads
with one torch thread each, in the same run. After each pair the embeddings are compared. Writes
docs/benchmarks-compare.md (`--print`: only to the terminal).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import compare_side as side
from common import CHECKOUT, cpu_name, delay_provider, write_table

ENVIRONMENT = CHECKOUT / ".venv" / "compare"
#: Installed without dependencies: the reference requires a newer Python, and the packages of its
#: models more than they use.
PACKAGES = ["rs-embed==0.3.1", "torchvision==0.28.0", "timm==1.0.15", "open_clip_torch==3.3.0", "rshf==0.2.2"]
DEPENDENCIES = "torch==2.13.0 numpy xarray netCDF4 pandas pyproj rasterio huggingface_hub einops pillow ftfy regex tqdm safetensors transformers"
SIZES, LATENCIES = (16, 64, 256), (0.0, 0.2)


def prepare_reference_python() -> Path:
    """The interpreter of the reference's environment, which is created if it is missing."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "done").exists():
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "--ignore-requires-python", *PACKAGES], check=True)
        subprocess.run([*pip, *DEPENDENCIES.split()], check=True)
        (ENVIRONMENT / "done").touch()
    return python


def write_scene(folder: Path, n: int) -> None:
    """Write a raster of n adjacent chips near the equator, on the grid of both projects, its
    catalogue and the coordinates of the ROIs."""
    import numpy as np
    import rasterio
    from rasterio.enums import Resampling

    from rs_embed.request.geometry import get_transformer

    across = int(np.ceil(n**0.5))
    size, left, top = across * side.SIDE, 1_000_000.0, 30_000.0
    random = np.random.default_rng(0)
    profile = {"driver": "GTiff", "width": size, "height": size, "count": len(side.BANDS), "dtype": "uint16"}
    profile |= {"crs": "EPSG:3857", "transform": rasterio.Affine(side.SCALE, 0, left, 0, -side.SCALE, top)}
    with rasterio.open(folder / "s2.tif", "w", **profile, tiled=True, BIGTIFF="IF_SAFER") as file:
        for band in range(1, len(side.BANDS) + 1):
            with rasterio.io.MemoryFile() as rough:  # fields that look like land, with noise
                shape = {"width": size // 16, "height": size // 16, "count": 1, "dtype": "float32", "driver": "GTiff"}
                with rough.open(**shape) as small:
                    small.write(random.random((1, size // 16, size // 16), np.float32))
                with rough.open() as small:
                    smooth = small.read(1, out_shape=(size, size), resampling=Resampling.bilinear)
            file.write((200 + 4000 * smooth + random.integers(0, 400, (size, size))).astype("uint16"), band)
    row = f"s2.tif,{side.COLLECTION},2022-07-10,{' '.join(side.BANDS)}\n"
    (folder / "catalogue.csv").write_text("path,collection,datetime,bands\n" + row)
    to, step = get_transformer("EPSG:3857", "EPSG:4326"), side.SIDE * side.SCALE
    centres = [(left + step * (i % across + 0.5), top - step * (i // across + 0.5)) for i in range(n)]
    (folder / "rois.json").write_text(json.dumps([to.transform(x, y) for x, y in centres]))


def run_measured(python: Path, arguments: list[str], environment: dict) -> dict:
    """Run a process and measure it with all its descendants."""
    import psutil

    with tempfile.TemporaryFile() as log:
        started = time.monotonic()
        script = str(Path(__file__).with_name("compare_side.py"))
        child = subprocess.Popen([str(python), script, *arguments], stdout=log, stderr=log, env=environment)
        peak, done = 0, threading.Event()

        def sample() -> None:
            nonlocal peak
            root = psutil.Process(child.pid)
            while not done.wait(0.3):
                total = 0
                try:
                    processes = [root, *root.children(recursive=True)]
                except psutil.Error:
                    return
                for process in processes:
                    try:
                        total += process.memory_full_info().pss
                    except psutil.Error:  # it has just ended
                        continue
                peak = max(peak, total)

        sampler = threading.Thread(target=sample)
        sampler.start()
        _, status, used = os.wait4(child.pid, 0)
        wall = time.monotonic() - started
        done.set()
        sampler.join()
        child.returncode = status
        if status:
            log.seek(0)
            sys.exit(f"{' '.join(arguments)} failed:\n{log.read().decode()[-4000:]}")
    cpu = used.ru_utime + used.ru_stime
    return {"wall": wall, "cpu": cpu, "peak": peak / 1e6, "written": used.ru_oublock * 512 / 1e6}


def run_export(folder: Path, case: dict, python: Path) -> dict:
    """Run and measure one export, with the bytes of its final files; they stay in
    ``folder / case["side"]``."""
    out = folder / case["side"]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    path = folder / "case.json"
    path.write_text(json.dumps(case | {"out": str(out)}))
    more = {}
    if case["side"] == "project" and case["latency"]:
        more = delay_provider(folder / f"late-{case['latency']}", "local", case["latency"])
    found = run_measured(python, ["export", str(folder), str(path)], os.environ | more)
    found["final"] = sum(p.stat().st_size for p in (*out.glob("*"), *out.glob("items/*")) if p.is_file()) / 1e6
    return found


def max_difference(folder: Path, case: dict) -> float:
    """The largest difference of the embeddings of both, relative to their largest value."""
    import numpy as np

    from rs_embed import load_export

    found = {}
    for name in ("project", "reference"):
        out = folder / name
        suffix = ".npz" if case["format"] == "npz" else ".nc"
        result = load_export(str(out / (f"run{suffix}" if case["layout"] == "combined" else "items")))
        found[name] = [np.asarray(result.embedding(m)) for m in ("remoteclip", "terrafm")]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(*found.values()))


def format_table(rows: list[dict], machine: str) -> str:
    """The table."""
    columns = [
        "N",
        "layout",
        "format",
        "inputs",
        "precision of this project",
        "latency, s",
        "wall, s: reference",
        "this project",
        "ratio",
        "CPU, s: forward",
    ]
    columns += [
        "reference",
        "this project",
        "this project / forward",
        "peak MB: reference",
        "this project",
        "final MB: reference",
        "this project",
        "runs",
        "embeddings differ by",
    ]
    head = f"| {' | '.join(columns)} |"
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for row in rows:
        case, (a, b) = row["case"], (row["reference"], row["project"])
        mid = {k: (statistics.median(x[k] for x in a), statistics.median(x[k] for x in b)) for k in a[0]}
        ratios = sorted(y["wall"] / x["wall"] for x, y in zip(a, b))
        spread = f" ({ratios[0]:.2f}-{ratios[-1]:.2f})" if len(ratios) > 1 else ""
        cells = [case["n"], case["layout"], case["format"], "yes" if case["inputs"] else "no"]
        cells += [row["precision"], case["latency"]]
        cells += [f"{mid['wall'][0]:.1f}", f"{mid['wall'][1]:.1f}", f"**{statistics.median(ratios):.2f}**{spread}"]
        cells += [f"{row['forward']:.1f}", f"{mid['cpu'][0]:.1f}", f"{mid['cpu'][1]:.1f}"]
        cells += [f"{mid['cpu'][1] / row['forward']:.2f}"]
        cells += [f"{v:.0f}" for v in (*mid["peak"], *mid["final"])]
        cells += [len(a), f"{row['difference']:.0e}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([machine, "", *lines])


def merge_rows(rows: Iterable[dict]) -> list[dict]:
    """Merge the runs of each case, from several starts, into one row."""
    found: dict[str, dict] = {}
    for row in rows:
        known = found.setdefault(
            json.dumps([row["case"], row["precision"]]), row | {"reference": [], "project": [], "forwards": []}
        )
        known["reference"] += row["reference"]
        known["project"] += row["project"]
        known["forwards"].append(row["forward"])
        known["forward"] = statistics.median(known["forwards"])
        known["difference"] = max(known["difference"], row["difference"])
    return list(found.values())


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, nargs="*", default=SIZES)
    parser.add_argument("--layouts", nargs="*", default=("per_item", "combined"))
    parser.add_argument("--formats", nargs="*", default=("npz", "netcdf"))
    parser.add_argument("--inputs", type=int, nargs="*", default=(1, 0))
    parser.add_argument("--latencies", type=float, nargs="*", default=LATENCIES)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--keep", type=Path, help="folder for scene, weights and results; used again by the next start")
    parser.add_argument("--print", action="store_true")
    args = parser.parse_args()
    # the reference was compiled at installation; a checkout is compiled at its first use, unless
    # this variable is set
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    reference_python = prepare_reference_python()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.keep or Path(temporary)).absolute()
        folder.mkdir(exist_ok=True)
        if not (folder / "rois.json").exists():
            write_scene(folder, max(*args.n, *SIZES))
            run_measured(reference_python, ["weights", str(folder)], dict(os.environ))
        rows = []
        grid = itertools.product(args.n, args.layouts, args.formats, args.inputs, args.latencies)
        for n, layout, kind, inputs, latency in grid:
            case = {"n": n, "layout": layout, "format": kind, "inputs": bool(inputs), "latency": latency}
            row = {"case": case, "reference": [], "project": []}
            forward = subprocess.run(
                [sys.executable, side.__file__, "forward", str(folder), "32", args.precision],
                capture_output=True,
                text=True,
                check=True,
            )
            row["forward"] = n * sum(json.loads(forward.stdout.splitlines()[-1]).values())
            for _ in range(args.repeat):
                for name, python in (("reference", reference_python), ("project", Path(sys.executable))):
                    row[name].append(run_export(folder, case | {"side": name, "precision": args.precision}, python))
            row |= {"difference": max_difference(folder, case), "precision": args.precision}
            rows.append(row)
            with open(folder / "results.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")
            print(format_table([row], "").splitlines()[-1], f"difference {row['difference']:.1e}", flush=True)
        if args.keep:  # the page includes the results of earlier starts with this folder
            lines = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
            rows = merge_rows(lines)
            rows.sort(
                key=lambda r: (r["precision"] != "fp32", *map(str, (f"{r['case']['n']:06d}", *r["case"].values())))
            )
    machine = f"{os.cpu_count()} x {cpu_name()}, Python {platform.python_version()}, torch {version('torch')}, Snakemake {version('snakemake')}."
    if not args.print:
        write_table("benchmarks-compare.md", "compare.py", format_table(rows, machine))


if __name__ == "__main__":
    main()
