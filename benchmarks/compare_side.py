"""One side of `make bench-compare`: the same call of ``export_batch`` with the interpreter of
either environment.

    python compare_side.py weights <folder>                    weights in both published layouts
    (reference) python compare_side.py export <folder> <case.json>         one export (either)
    python compare_side.py forward <folder> <n> <precision>    forward passes; CPU seconds as JSON
    (project)

Both read the same raster with rasterio; the latency of a service is one sleep per request. The
reference reads imagery through a provider in its own registry, and weights with its own loaders
from a hub cache.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

SIDE, SCALE = 224, 10.0
HALF = 1118.0  # 2 m inside the edge of 224 pixels, so that the grid is these pixels
COLLECTION = "COPERNICUS/S2_SR_HARMONIZED"
BANDS = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"]
WINDOW = ("2022-07-01", "2022-08-01")
HUB = {
    "remoteclip": "models--MVRL--remote-clip-vit-base-patch32",
    "terrafm": "models--MBZUAI--TerraFM",
}


def prepare_reference(folder: Path, latency: float) -> None:
    """Set up the reference in this process: imagery, and the operators that its torchvision
    imports."""
    import functools
    import threading

    from torch import library as operators

    missing = operators.Library("torchvision", "DEF")  # its compiled part does not load with a CPU torch
    for operator in ("nms", "qnms"):
        missing.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    prepare_reference.operators = missing  # a reference keeps them registered
    import numpy as np
    import rasterio
    from rasterio.windows import from_bounds
    from rs_embed.providers.gee_utils import _resolve_band_aliases
    from rs_embed.tools.projection import common_grid

    from rs_embed.providers import register_provider
    from rs_embed.providers.base import ProviderBase

    @functools.cache
    def open_raster():  # noqa: ANN202
        return rasterio.open(folder / "s2.tif")

    lock = threading.Lock()

    class Files(ProviderBase):
        name = "files"

        def ensure_ready(self) -> None:
            pass

        def get_region(self, spatial):  # noqa: ANN001, ANN202
            return spatial

        def normalize_bands(self, *, collection, bands):  # noqa: ANN001, ANN202
            return _resolve_band_aliases(collection, tuple(bands))

        def fetch_sensor_patch_chw(self, *, spatial, temporal, sensor, to_float_image=False):  # noqa: ANN001, ANN202
            time.sleep(latency)
            grid = common_grid(spatial, scale_m=sensor.scale_m)
            bands = self.normalize_bands(collection=sensor.collection, bands=sensor.bands)
            with lock:
                window = from_bounds(*grid.bounds(), open_raster().transform).round_offsets().round_lengths()
                pixels = open_raster().read([BANDS.index(b) + 1 for b in bands], window=window)
            if pixels.shape[1:] != (SIDE, SIDE):
                raise ValueError(f"{pixels.shape} pixels")
            return pixels.astype(np.float32)

    register_provider("files", Files)


def write_weights(folder: Path) -> None:
    """Write random weights of both models: files for this project, a hub cache for the
    reference."""
    prepare_reference(folder, 0)
    import torch
    from rs_embed.embedders._vendor import terrafm
    from rshf.remoteclip import RemoteCLIP, RemoteCLIPConfig
    from safetensors.torch import save_file

    def fill(state: dict, seed: int) -> dict:
        random, out = torch.Generator().manual_seed(seed), {}
        for name, tensor in state.items():
            if not tensor.is_floating_point() or name.endswith("attn_mask"):
                out[name] = tensor.clone()
                continue
            numbers = torch.randn(tensor.shape, generator=random)
            norm = name.endswith("weight") and tensor.ndim == 1
            out[name] = 1 + 0.1 * numbers if norm else 0.02 * numbers
        return out

    def make_snapshot(model: str) -> Path:
        path = folder / "hub" / HUB[model]
        (path / "refs").mkdir(parents=True)
        (path / "refs" / "main").write_text("0" * 40)
        snapshot = path / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        return snapshot

    # no config.json: the default is this architecture, and rshf 0.2.2 cannot read its own with
    # transformers 5
    state = fill(RemoteCLIP(RemoteCLIPConfig("ViT-B-32")).state_dict(), 1)
    snapshot = make_snapshot("remoteclip")
    save_file({k: v.contiguous() for k, v in state.items()}, snapshot / "model.safetensors", metadata={"format": "pt"})
    torch.save({k.removeprefix("model."): v for k, v in state.items()}, folder / "remoteclip.pt")
    torch.save(fill(terrafm.terrafm_base().state_dict(), 2), folder / "terrafm.pt")
    (make_snapshot("terrafm") / "TerraFM-B.pth").symlink_to(folder / "terrafm.pt")


def read_rois(folder: Path, n: int) -> list:
    """The first n ROIs of the scene."""
    from rs_embed import PointBuffer

    return [PointBuffer(lon, lat, HALF) for lon, lat in json.loads((folder / "rois.json").read_text())[:n]]


def export(folder: Path, case: dict) -> None:
    """Run the export of a case."""
    is_project = case["side"] == "project"
    if not is_project:
        os.environ |= {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
        prepare_reference(folder, case["latency"])
    from rs_embed import ExportConfig, ExportModelRequest, ExportTarget, TemporalSpec, export_batch

    models: list = ["remoteclip", "terrafm"]
    more = {}
    if is_project:
        # the preset of the reference: its activation of remoteclip differs from the training
        models = [
            ExportModelRequest(m, model_config={"weights": str(folder / f"{m}.pt"), "preset": "rs-embed"})
            for m in models
        ]
        more = {"precision": case["precision"], "projection": "web_mercator"}
    out = Path(case["out"])
    target = (
        ExportTarget.combined(str(out / "run"))
        if case["layout"] == "combined"
        else ExportTarget.per_item(str(out / "items"))
    )
    config = {"format": case["format"], "save_inputs": case["inputs"], "input_prep": "resize", "show_progress": False}
    export_batch(
        spatials=read_rois(folder, case["n"]),
        temporal=TemporalSpec.range(*WINDOW),
        models=models,
        target=target,
        config=ExportConfig(**config, **more),
        backend=f"local:{folder}" if is_project else "files",
        device="cpu",
    )


def measure_forward(folder: Path, n: int, precision: str) -> None:
    """Print the CPU seconds per image of the forward passes of each model: n images, two threads
    with one torch thread each."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from rs_embed import ExportConfig, ExportModelRequest, ExportTarget, TemporalSpec
    from rs_embed.engine import engine as engines
    from rs_embed.engine import torch_device
    from rs_embed.machine.cores import CoreShare
    from rs_embed.models import get_adapter
    from rs_embed.request.request import Request
    from rs_embed.runs.open_run import open_run
    from rs_embed.runs.run_files import freeze_run, load_run
    from rs_embed.stages.fetch import fetch
    from rs_embed.stages.shared.model_images import make_image

    seconds = {}
    for model in ("remoteclip", "terrafm"):
        config = {"weights": str(folder / f"{model}.pt"), "preset": "rs-embed"}
        request = Request.build(
            spatials=read_rois(folder, 1),
            temporal=TemporalSpec.range(*WINDOW),
            models=[ExportModelRequest(model, model_config=config)],
            target=ExportTarget.combined(f"forward/{model}-{precision}"),
            config=ExportConfig(projection="web_mercator", precision=precision),
            backend=f"local:{folder}",
            device="cpu",
        )
        run = open_run(request, str(folder))
        freeze_run(run)
        os.chdir(run.dir)
        run = load_run(".")
        unit = run.plan.units[0]
        fetch(run, unit.source, run.plan.chunks[0].parts[0].name)
        adapter = get_adapter(unit.model)
        settings = engines.resolve_settings(adapter, "cpu", None, CoreShare(2))
        arguments = (
            unit.options,
            unit.modality,
            unit.sensor.bands,
            request.output,
            settings,
            run.checkpoint(unit),
            unit.prep,
            precision,
        )
        engine = engines.Engine(adapter, *arguments)
        inputs = adapter.preprocess(make_image(run, unit, run.roi(0), {}), unit.options)
        batch = {name: torch_device.stack_on_device([array] * settings.batch, "cpu") for name, array in inputs.items()}

        def once(_: int, engine: engines.Engine = engine, batch: dict = batch) -> None:
            with torch.inference_mode():
                engine.run_network(engine.network, batch, "pooled")

        rounds = -(-n // settings.batch)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(once, range(2)))
            started = time.process_time()
            list(pool.map(once, range(rounds)))
            seconds[model] = (time.process_time() - started) / (rounds * settings.batch)
    print(json.dumps(seconds))


if __name__ == "__main__":
    command, folder, *rest = sys.argv[1:]
    if command == "weights":
        write_weights(Path(folder))
    elif command == "export":
        export(Path(folder), json.loads(Path(rest[0]).read_text()))
    else:
        measure_forward(Path(folder), int(rest[0]), rest[1])
