"""One side of `make bench-compare`: the same call of ``export_batch``, by the interpreter of either environment.

    python compare_side.py weights <folder>           make both models' weights in both published layouts (the reference's environment)
    python compare_side.py export <folder> <case.json> one export
    python compare_side.py forward <folder> <n> <precision>    the forward passes alone (this project's environment): CPU seconds as JSON

Both read the same raster through rasterio; a service's latency is slept once for each request. The reference gets its
imagery through a provider registered with its own registry and its weights through its own loaders, from a hub cache.
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


def reference(folder: Path, latency: float) -> None:
    """Make the reference work in this process: imagery, and operators that its torchvision asks for at import."""
    import functools
    import threading

    from torch import library as operators

    missing = operators.Library("torchvision", "DEF")  # its compiled part does not load with a CPU torch
    for operator in ("nms", "qnms"):
        missing.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    reference.operators = missing  # they are gone with their last name
    import numpy as np
    import rasterio
    from rasterio.windows import from_bounds
    from rs_embed.providers.gee_utils import _resolve_band_aliases
    from rs_embed.tools.projection import common_grid

    from rs_embed.providers import register_provider
    from rs_embed.providers.base import ProviderBase

    @functools.cache
    def opened():  # noqa: ANN202
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
                window = from_bounds(*grid.bounds(), opened().transform).round_offsets().round_lengths()
                pixels = opened().read([BANDS.index(b) + 1 for b in bands], window=window)
            if pixels.shape[1:] != (SIDE, SIDE):
                raise ValueError(f"{pixels.shape} pixels")
            return pixels.astype(np.float32)

    register_provider("files", Files)


def weights(folder: Path) -> None:
    """Random weights of both models: TerraFM's file and RemoteCLIP's for us, a hub cache with both for the reference."""
    reference(folder, 0)
    import torch
    from rs_embed.embedders._vendor import terrafm
    from rshf.remoteclip import RemoteCLIP, RemoteCLIPConfig
    from safetensors.torch import save_file

    def filled(state: dict, seed: int) -> dict:
        random, out = torch.Generator().manual_seed(seed), {}
        for name, tensor in state.items():
            if not tensor.is_floating_point() or name.endswith("attn_mask"):
                out[name] = tensor.clone()
                continue
            numbers = torch.randn(tensor.shape, generator=random)
            norm = name.endswith("weight") and tensor.ndim == 1
            out[name] = 1 + 0.1 * numbers if norm else 0.02 * numbers
        return out

    def cached(model: str) -> Path:
        path = folder / "hub" / HUB[model]
        (path / "refs").mkdir(parents=True)
        (path / "refs" / "main").write_text("0" * 40)
        snapshot = path / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        return snapshot

    # no config.json: the default is this architecture, and rshf 0.2.2 cannot read its own with transformers 5
    state = filled(RemoteCLIP(RemoteCLIPConfig("ViT-B-32")).state_dict(), 1)
    snapshot = cached("remoteclip")
    save_file({k: v.contiguous() for k, v in state.items()}, snapshot / "model.safetensors", metadata={"format": "pt"})
    torch.save({k.removeprefix("model."): v for k, v in state.items()}, folder / "remoteclip.pt")
    torch.save(filled(terrafm.terrafm_base().state_dict(), 2), folder / "terrafm.pt")
    (cached("terrafm") / "TerraFM-B.pth").symlink_to(folder / "terrafm.pt")


def places(folder: Path, n: int) -> list:
    """The first n places of the scene."""
    from rs_embed import PointBuffer

    return [PointBuffer(lon, lat, HALF) for lon, lat in json.loads((folder / "places.json").read_text())[:n]]


def export(folder: Path, case: dict) -> None:
    """One export as the case says it."""
    ours = case["side"] == "ours"
    if not ours:
        os.environ |= {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
        reference(folder, case["latency"])
    from rs_embed import ExportConfig, ExportModelRequest, ExportTarget, TemporalSpec, export_batch

    models: list = ["remoteclip", "terrafm"]
    more = {}
    if ours:
        # the numbers of the reference; what authors trained with differs in remoteclip's activation
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
        spatials=places(folder, case["n"]),
        temporal=TemporalSpec.range(*WINDOW),
        models=models,
        target=target,
        config=ExportConfig(**config, **more),
        backend=f"local:{folder}" if ours else "files",
        device="cpu",
    )


def forward(folder: Path, n: int, precision: str) -> None:
    """CPU seconds of a forward pass for one image of each model: n images, two threads with one torch thread each."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from rs_embed import ExportConfig, ExportModelRequest, ExportTarget, TemporalSpec
    from rs_embed.engine import engine as engines
    from rs_embed.engine import torch_device as on
    from rs_embed.machine.cores import Share
    from rs_embed.models import get_adapter
    from rs_embed.request.request import Request
    from rs_embed.runs.run import load_run, open_run
    from rs_embed.stages.fetch import fetch
    from rs_embed.stages.shared.model_images import image_of

    seconds = {}
    for model in ("remoteclip", "terrafm"):
        settings = {"weights": str(folder / f"{model}.pt"), "preset": "rs-embed"}
        request = Request.build(
            spatials=places(folder, 1),
            temporal=TemporalSpec.range(*WINDOW),
            models=[ExportModelRequest(model, model_config=settings)],
            target=ExportTarget.combined(f"floor/{model}-{precision}"),
            config=ExportConfig(projection="web_mercator", precision=precision),
            backend=f"local:{folder}",
            device="cpu",
        )
        run = open_run(request, str(folder))
        run.freeze()
        os.chdir(run.dir)
        run = load_run(".")
        unit = run.plan.units[0]
        fetch(run, unit.source, run.plan.chunks[0].parts[0].name)
        adapter = get_adapter(unit.model)
        how = engines.settings(adapter, "cpu", None, Share(2))
        about = (
            unit.options,
            unit.modality,
            unit.sensor.bands,
            request.output,
            how,
            run.checkpoint(unit),
            unit.prep,
            precision,
        )
        engine = engines.Engine(adapter, *about)
        ready = adapter.preprocess(image_of(run, unit, run.roi(0), {}), unit.options)
        batch = {name: on.placed([array] * how.batch, "cpu") for name, array in ready.items()}

        def once(_: int, engine: engines.Engine = engine, batch: dict = batch) -> None:
            with torch.inference_mode():
                engine._asked(engine.network, batch, "own")

        rounds = -(-n // how.batch)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(once, range(2)))
            started = time.process_time()
            list(pool.map(once, range(rounds)))
            seconds[model] = (time.process_time() - started) / (rounds * how.batch)
    print(json.dumps(seconds))


if __name__ == "__main__":
    what, where, *rest = sys.argv[1:]
    if what == "weights":
        weights(Path(where))
    elif what == "export":
        export(Path(where), json.loads(Path(rest[0]).read_text()))
    else:
        forward(Path(where), int(rest[0]), rest[1])
