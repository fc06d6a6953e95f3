"""`make bench-models`: cost of embedding in addition to the network itself, and gain of bfloat16.

The *baseline* of a model is the plain loop of its forward passes over prepared tensors, in the
batches and the precision of the embed stage. The *stage* is the embed stage as a job runs it:
reading chips, checks, preprocessing, forward, pooling, writing; without loading the model, which
has its own column. Both run in one process with one torch thread, one after the other and twice.
Numbers are CPU seconds of the process, the smaller of the two: ratios of one run are valid on a
busy machine. The weights are random (they cost the same as trained ones). Cosines compare the
stored embeddings of both precisions.

With ``--device cuda`` it measures wall seconds on the GPU instead, for several batch sizes, TF32
off and on, and 4,096 images. Writes docs/benchmarks-models.md (``--print``: only to the terminal).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from common import CHECKOUT, FOUNDATION, SIDE, cpu_name

if TYPE_CHECKING:
    from rs_embed.engine.engine import Engine
    from rs_embed.runs.run import Run

#: Divisors of the number of images on a CPU, for models that need seconds per image.
FEWER = {"thor base s2": 8}
S2 = "B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B11 B12"


def write_imagery(folder: Path, n: int) -> list:
    """Write rasters for n ROIs and their catalogue: smooth fields with noise, a separate part for
    every chip. Returns the ROIs."""
    import numpy as np
    import rasterio
    import torch

    from rs_embed import PointBuffer
    from rs_embed.request.geometry import get_transformer

    across = int(np.ceil(n**0.5))
    size, left, top = across * SIDE, 500_000.0, 5_800_000.0
    random = np.random.default_rng(0)

    def field(low: float, high: float):  # noqa: ANN202
        rough = torch.from_numpy(random.random((1, 1, size // 32, size // 32), np.float32))
        smooth = torch.nn.functional.interpolate(rough, (size, size), mode="bilinear")[0, 0].numpy()
        return low + (high - low) * (0.8 * smooth + 0.2 * random.random((size, size), np.float32))

    rows = []
    for name, collection, bands, low, high, kind in (
        ("s2", "COPERNICUS/S2_SR_HARMONIZED", S2, 200, 6000, "uint16"),
        ("s1", "COPERNICUS/S1_GRD_FLOAT", "VV VH", 0.01, 0.4, "float32"),
    ):
        count = len(bands.split())
        profile = {"driver": "GTiff", "width": size, "height": size, "count": count, "dtype": kind, "crs": "EPSG:32633"}
        profile |= {"transform": rasterio.Affine(10, 0, left, 0, -10, top), "tiled": True, "BIGTIFF": "IF_SAFER"}
        with rasterio.open(folder / f"{name}.tif", "w", **profile) as file:
            for band in range(1, count + 1):
                file.write(field(low, high).astype(kind), band)
        rows.append(f"{name}.tif,{collection},2022-07-10,{bands}\n")
    (folder / "catalogue.csv").write_text("path,collection,datetime,bands\n" + "".join(rows))
    to = get_transformer("EPSG:32633", "EPSG:4326")
    half = SIDE * 5
    centres = [(left + half * (2 * (i % across) + 1), top - half * (2 * (i // across) + 1)) for i in range(n)]
    return [PointBuffer(*to.transform(x, y), half) for x, y in centres]


def prepare_run(folder: Path, n: int, case: tuple, precision: str, device: str, batch: int | None, tag: str) -> Run:
    """A run of one model over the ROIs, with fetched chips."""
    from rs_embed import ExportConfig, ExportModelRequest, ExportTarget, FetchSpec, TemporalSpec
    from rs_embed.request.request import Request
    from rs_embed.runs.open_run import open_run
    from rs_embed.runs.run_files import freeze_run, load_run
    from rs_embed.stages.fetch import fetch

    model, modality, options = case
    if not (folder / "catalogue.csv").exists():
        (folder / "rois.json").write_text(json.dumps([[p.lon, p.lat, p.buffer_m] for p in write_imagery(folder, n)]))
    from rs_embed import PointBuffer

    rois = [PointBuffer(*row) for row in json.loads((folder / "rois.json").read_text())][:n]
    config = {"precision": precision, "infer_batch_size": batch, "chunk_size": n, "num_workers": 2}
    request = Request.build(
        spatials=rois,
        temporal=TemporalSpec.range("2022-07-01", "2022-08-01"),
        models=[ExportModelRequest(model, modality=modality, model_config=options | {"weights": "random"})],
        target=ExportTarget.combined(f"out/{model}-{modality}-{precision}-{tag}"),
        config=ExportConfig(save_inputs=False, store_dir="store", work_dir="work", **config),
        fetch=FetchSpec(scale_m=10),
        backend=f"local:{folder}",
        device=device,
    )
    run = open_run(request, str(folder))
    freeze_run(run)
    os.chdir(run.dir)
    run = load_run(".")
    for part in run.plan.parts:
        fetch(run, run.plan.sources[0].id, part)
    return run


def make_batches(run: Run, engine: Engine) -> list[dict]:
    """The inputs of the network for all ROIs, in the batches of the engine, on its device."""
    from rs_embed.engine import torch_device
    from rs_embed.stages.shared.model_images import make_image

    unit, size = run.plan.units[0], engine.settings.batch
    inputs = [
        engine.adapter.preprocess(make_image(run, unit, run.roi(i), {}), unit.options)
        for i in range(len(run.plan.names))
    ]
    groups = [inputs[i : i + size] for i in range(0, len(inputs), size)]
    return [
        {name: torch_device.stack_on_device([m[name] for m in group], engine.settings.device) for name in group[0]}
        for group in groups
    ]


def measure_model(
    folder: Path, n: int, case: tuple, precision: str, device: str, batch: int | None, tf32: bool
) -> dict:
    """Measure one model in one precision; runs in a new process."""
    import resource

    import numpy as np
    import torch

    from rs_embed.engine import engine as engines
    from rs_embed.machine.cores import CoreShare
    from rs_embed.models import get_adapter
    from rs_embed.stages.embed import embed
    from rs_embed.store.objects import read_object

    torch.backends.cuda.matmul.allow_tf32 = tf32
    clock = time.process_time if device == "cpu" else time.perf_counter
    loading: list[float] = []
    original = engines.Engine.__init__

    def timed(self, *arguments, **keywords):  # noqa: ANN001, ANN002, ANN003, ANN202
        started = clock()
        original(self, *arguments, **keywords)
        loading.append(clock() - started)

    engines.Engine.__init__ = timed
    tag = f"{batch}-{tf32}"
    run = prepare_run(folder, n, case, precision, device, batch, tag)
    unit, chunk = run.plan.units[0], run.plan.chunks[0].name
    threads = 1 if device == "cpu" else len(os.sched_getaffinity(0))
    settings = engines.resolve_settings(get_adapter(unit.model), device, batch, CoreShare(threads))
    engine = engines.Engine(
        get_adapter(unit.model), unit.options, unit.modality, unit.sensor.bands, run.request.output, settings,
        run.checkpoint(unit), unit.prep, precision,
    )  # fmt: skip
    batches = make_batches(run, engine) if device == "cpu" else make_batches(run, engine)[:8]
    images = sum(len(next(iter(b.values()))) for b in batches)

    def measure_baseline() -> float:
        with torch.inference_mode():
            started = clock()
            for ready in batches:
                rows = engine.run_network(engine.network, ready, "pooled")
            rows.float().cpu()
            return (clock() - started) / images

    def measure_stage() -> float:
        for path in (run.store.root / "embeddings").rglob("*.npy"):
            path.unlink()
        loading.clear()
        started = clock()
        embed(run, unit.id, chunk, CoreShare(threads))
        return (clock() - started - loading[0]) / n

    with torch.inference_mode():
        engine.run_network(engine.network, batches[0], "pooled")  # warm
    baselines, stages = [], []
    for _ in range(2):
        baselines.append(measure_baseline())
        stages.append(measure_stage())
    load = loading[0]
    vectors = [
        read_object(run.store.embedding_path(unit.id, name)).array for name in run.plan.object_names(unit.source)
    ]
    np.save(folder / f"{case[0]}-{case[1]}-{precision}.npy", np.stack(vectors))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"baseline": min(baselines), "stage": min(stages), "load": load, "batch": settings.batch, "peak": peak}


def run_child(
    folder: Path,
    n: int,
    case: tuple,
    precision: str,
    args: argparse.Namespace,
    batch: int | None = None,
    tf32: bool = False,
) -> dict:
    """Run :func:`measure_model` in a new process."""
    given = json.dumps([str(folder), n, case, precision, args.device, batch, tf32])
    command = [sys.executable, __file__, "--one", given]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def min_cosine(folder: Path, case: tuple) -> float:
    """The smallest cosine of the embeddings of both precisions."""
    import numpy as np

    a, b = (np.load(folder / f"{case[0]}-{case[1]}-{p}.npy").astype(float) for p in ("fp32", "bf16"))
    return float((np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def format_case(case: tuple) -> str:
    """The name of a case in tables."""
    return f"{case[0]} {' '.join(str(v) for v in case[2].values())} {case[1]}".replace("  ", " ")


def measure_cpu(folder: Path, args: argparse.Namespace) -> list[str]:
    """The table of the CPU."""
    lines = [
        "| model | batch | load, s | fp32 baseline, ms per image | stage | ratio | bf16 baseline | stage | ratio | bf16 gain | smallest cosine |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in args.cases:
        n = max(1, args.n // FEWER.get(format_case(case), 1))
        full, low = (run_child(folder, n, case, precision, args) for precision in ("fp32", "bf16"))
        cells = [format_case(case), str(full["batch"]), f"{full['load']:.2f}"]
        for found in (full, low):
            cells += [
                f"{1000 * found['baseline']:.1f}",
                f"{1000 * found['stage']:.1f}",
                f"{found['stage'] / found['baseline']:.3f}",
            ]
        cells += [f"{full['stage'] / low['stage']:.2f}x", f"{min_cosine(folder, case):.5f}"]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def measure_gpu(folder: Path, args: argparse.Namespace) -> list[str]:
    """The table of a GPU: images per second, end to end as a share of the baseline."""
    lines = [
        "| model | precision | batch | baseline, images/s | stage, images/s | share |",
        "|---|---|---|---|---|---|",
    ]
    for case in args.cases:
        for precision, tf32 in (("fp32", False), ("fp32", True), ("bf16", False)):
            for batch in args.batches:
                found = run_child(folder, args.n, case, precision, args, batch, tf32)
                word = f"{precision}{' TF32' if tf32 else ''}"
                rates = [f"{1 / found[k]:,.0f}" for k in ("baseline", "stage")]
                lines.append(
                    f"| {format_case(case)} | {word} | {batch} | {' | '.join(rates)} | {found['baseline'] / found['stage']:.2f} |"
                )
                print(lines[-1], flush=True)
    return lines


def measure_memory(args: argparse.Namespace) -> list[str]:
    """Peak memory of an embed job over the number of ROIs."""
    lines = ["| ROIs in the job | peak memory of the process, MB |", "|---|---|"]
    for n in (16, 64, 256):
        with tempfile.TemporaryDirectory() as name:
            command = [sys.executable, __file__, "--peak", json.dumps([name, n])]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            lines.append(f"| {n} | {float(done.stdout.splitlines()[-1]):.0f} |")
            print(lines[-1], flush=True)
    return lines


def measure_peak(folder: str, n: int) -> float:
    """Peak memory of one embed stage of remoteclip, MB; runs in a new process."""
    pid = os.fork()
    if pid == 0:  # fetching is another job, with its own memory
        prepare_run(Path(folder), n, FOUNDATION[0], "fp32", "cpu", None, "peak")
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        sys.exit("fetching failed")
    import resource

    from rs_embed.runs.run_files import load_run
    from rs_embed.stages.embed import embed

    (config,) = Path(folder).glob("work/runs/*/config.yaml")
    os.chdir(config.parent)
    run = load_run(".")
    embed(run, run.plan.units[0].id, run.plan.chunks[0].name)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--one")
    parser.add_argument("--peak")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--only", help="cases whose name contains this")
    parser.add_argument("-n", type=int)
    parser.add_argument("--batches", type=int, nargs="*", default=[64, 256])
    parser.add_argument("--print", action="store_true")
    args = parser.parse_args()
    if args.one:
        folder, *rest = json.loads(args.one)
        print(json.dumps(measure_model(Path(folder), *rest)))
        return
    if args.peak:
        print(measure_peak(*json.loads(args.peak)))
        return
    args.cases = [c for c in FOUNDATION if not args.only or args.only in format_case(c)]
    args.n = args.n or (64 if args.device == "cpu" else 4096)
    with tempfile.TemporaryDirectory() as name:
        lines = (measure_cpu if args.device == "cpu" else measure_gpu)(Path(name), args)
    if args.device == "cpu" and not args.only:
        lines += [
            "",
            "Peak memory of an embed job (remoteclip, float32), which must not grow with the number of ROIs:",
            "",
            *measure_memory(args),
        ]
    if not args.print:
        machine = f"{os.cpu_count()} x {cpu_name()}, Python {platform.python_version()}, torch {version('torch')}"
        page = CHECKOUT / "docs" / "benchmarks-models.md"
        head = [
            "# Benchmarks of the models",
            "",
            "Written by `make bench-models`.",
            *__doc__.split("\n\n")[1].splitlines(),
        ]
        page.write_text(
            "\n".join(
                [
                    *head,
                    "",
                    f"{args.n} images of {SIDE} x {SIDE} pixels (thor base: {args.n // 8}, so that the fixed cost of a job has more "
                    f"weight) on {machine}.",
                    "",
                    *lines,
                ]
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
