"""Requests whose identities are recorded in ``tests/planning/identities.json``.

``python -m tests.support.identities`` records them again, after a change that must change them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from rs_embed.models import get_model_info
from rs_embed.planning.plan import Plan, make_plan
from rs_embed.planning.units import Generation
from rs_embed.providers import get_provider
from rs_embed.request.identity import digest
from rs_embed.request.request import Request
from rs_embed.request.rois import read_rois, roi_id
from rs_embed.runs.open_run import open_config

from . import rasters

RECORDED = Path(__file__).resolve().parents[1] / "planning" / "identities.json"
#: Modification time of local files, seconds.
MTIME = 1_700_000_000

POINTS = [
    {"name": "a", "lon": 12.4024, "lat": 51.3561, "buffer_m": 320},
    {"name": "b", "lon": 12.4129, "lat": 51.3563, "buffer_m": 160},
    {"name": "box", "minlon": 12.400, "minlat": 51.350, "maxlon": 12.408, "maxlat": 51.354},
]
WINDOWED = [POINTS[0] | {"start": "2022-07-01", "end": "2022-08-01"}, POINTS[1]]
SUMMER = {"start": "2022-06-01", "end": "2022-09-01"}
S1 = {"collection": "COPERNICUS/S1_GRD_FLOAT", "bands": ["VV", "VH"]}
RGB = {"collection": "COPERNICUS/S2_SR_HARMONIZED", "bands": ["B4", "B3", "B2"]}
LANDSAT = {"collection": "LANDSAT/LC08/C02/T1_L2", "bands": ["SR_B2", "SR_B3", "SR_B4", "SR_B5"], "scale_m": 30}
FILES = {"collection": "S2", "bands": ["B2", "B3"]}


def model(name: str, **options) -> dict:
    """A model request with options."""
    return {"name": name, "model_config": options}


def request(*models, **changes) -> dict:
    """A config; ``layout``, ``path`` and ``export`` go into its target and export options."""
    target = {"layout": changes.pop("layout", "combined"), "path": changes.pop("path", "out/run")}
    export = {"chunk_size": 2} | changes.pop("export", {})
    return {"rois": POINTS, "temporal": SUMMER, "models": [*models], "target": target, "export": export} | changes


#: Requests by name. Plans with ``backend: gee`` are made without the service: no identity depends
#: on it.
REQUESTS = {
    "sample mosaiks": request("mosaiks", backend="sample"),
    "sample mosaiks per_item netcdf": request(
        "mosaiks", backend="sample", layout="per_item", path="out/places", export={"format": "netcdf"}
    ),
    "sample mosaiks options": request(
        model("mosaiks", features=64, patch_size=5, seed=7, bias=-0.5, input_scale=0.001, grid_cell=8),
        backend="sample",
    ),
    "sample mosaiks grid max": request("mosaiks", backend="sample", output={"mode": "grid", "pooling": "max"}),
    "sample two labels": request(
        "mosaiks", {"name": "rcf", "label": "rgb", "sensor": RGB, "model_config": {"seed": 1}}, backend="sample"
    ),
    "sample web_mercator": request("mosaiks", backend="sample", export={"projection": "web_mercator"}),
    "sample own windows": request("mosaiks", backend="sample", rois=WINDOWED),
    "sample inputs only": request("mosaiks", backend="sample", export={"save_embeddings": False}),
    "sample model inputs": request("mosaiks", backend="sample", export={"save_inputs": "model", "format": "netcdf"}),
    "sample no manifest": request("mosaiks", backend="sample", export={"save_manifest": False}),
    "sample bad input fails": request("mosaiks", backend="sample", export={"fail_on_bad_input": True}),
    "sample fetch": request("mosaiks", backend="sample", fetch={"scale_m": 20, "fill_value": 1, "composite": "mosaic"}),
    "sample remoteclip": request("remoteclip", backend="sample"),
    "sample remoteclip large": request(
        model("remoteclip", variant="ViT-L-14", activation="quickgelu", weights="random", seed=3),
        backend="sample",
        export={"precision": "bf16"},
    ),
    "sample remoteclip tiles": request(
        model("remoteclip", preset="rs-embed"),
        backend="sample",
        output={"mode": "grid"},
        export={"input_prep": "tile"},
    ),
    "sample remoteclip tile options": request(
        "remoteclip",
        backend="sample",
        output={"mode": "grid"},
        export={"input_prep": {"mode": "auto", "tile_size": 64, "max_tiles": 9, "tile_snap_frac": 0.2}},
    ),
    "local": request("mosaiks", backend="local:rasters", sensor=FILES, rois="local.csv"),
    "local grid per_item": request(
        "mosaiks", backend="local:rasters", sensor=FILES, rois="local.csv", output={"mode": "grid"}, layout="per_item"
    ),
    "local weights": request(
        model("remoteclip", weights="weights.safetensors"),
        backend="local:rasters",
        sensor=FILES | {"bands": ["B4", "B3", "B2"]},
        rois="local.csv",
    ),
    "gee all models": request("remoteclip", "prithvi", "terrafm", "thor", "mosaiks"),
    "gee project": request("mosaiks", backend="gee:some-project"),
    "gee endpoint": request("mosaiks", backend="gee", gee={"url": "https://ee.example.org"}),
    "gee year": request("thor", temporal={"year": 2021}),
    "gee prithvi single 300": request(model("prithvi", variant="prithvi_eo_v2_300_tl", temporal_mode="single")),
    "gee prithvi 600 six frames": request(
        model("prithvi", variant="600_tl", max_frames=6, temporal_mode="multi"), temporal={"year": 2020}
    ),
    "gee prithvi rs-embed": request(model("prithvi", preset="rs-embed"), export={"projection": "web_mercator"}),
    "gee terrafm large l1c": request(model("terrafm", variant="l", stem="l1c", weights="random")),
    "gee terrafm radar": request({"name": "terrafm", "modality": "s1"}),
    "gee terrafm rs-embed": request(model("terrafm", preset="rs-embed")),
    "gee thor radar": request({"name": "thor", "modality": "s1"}, modality="s1"),
    "gee thor tiny patches": request(model("thor", variant="tiny", patch_size=16), output={"mode": "grid"}),
    "gee thor large rs-embed": request(model("thor", variant="large", preset="rs-embed")),
    "gee terrafm descending": request("terrafm", modality="s1", sensor=S1 | {"orbit": "DESCENDING"}),
    "gee mosaiks landsat": request(model("mosaiks", input_scale=1.0), sensor=LANDSAT),
    "gee cloud limit": request("terrafm", "thor", fetch={"cloudy_pct": 80}),
    "stac": request("mosaiks", backend="stac"),
    "stac planetary computer": request("terrafm", "thor", backend="stac:planetary-computer"),
}


def prepare(folder: Path) -> None:
    """Write the files that the local requests refer to, with the same bytes, names and times in
    every folder."""
    pixels = np.arange(3 * 60 * 60, dtype="uint16").reshape(3, 60, 60)
    raster = rasters.write(folder / "rasters" / "scene.tif", pixels, names=("B2", "B3", "B4"))
    os.truncate(raster, 1 << 16)  # zeros after the end: the number of tags depends on the version of GDAL
    (folder / "weights.safetensors").write_bytes(b"weights")
    rows = {"path": raster.name, "collection": "S2", "datetime": "2022-07-01T10:00:00Z", "cloud_cover": 3}
    rasters.catalogue(folder / "rasters", rows | {"bands": "B2 B3 B4"})
    rois = [rasters.at(20, 20, 200), rasters.at(35, 30, 200), rasters.at(30, 35, 220)]
    rows = [f"p{i},{p.lon:.6f},{p.lat:.6f},{p.buffer_m:g}" for i, p in enumerate(rois)]
    (folder / "local.csv").write_text("\n".join(["name,lon,lat,buffer_m", *rows, ""]))
    for path in folder.rglob("*.*"):
        os.utime(path, (MTIME, MTIME))


def make(config: dict, folder: Path) -> Plan:
    """The plan of a request in a folder, without any service."""
    backend = config.get("backend", "auto")
    if backend.partition(":")[0] in ("sample", "local"):
        return open_config(config, str(folder)).plan
    requested = Request.from_config(config, read_rois(config["rois"], str(folder)))
    provider = get_provider(requested.backend, str(folder), settings={"gee": requested.gee, "stac": requested.stac})
    return make_plan(
        requested,
        [roi_id(s, requested.window(i)) for i, s in enumerate(requested.spatials)],
        describe=get_model_info,
        provider=provider.identity(),
        target="../../../out/run.npz",
        generation=Generation(),
    )


def identities(plan: Plan) -> dict:
    """All identities that decide which objects and receipts a run reuses."""
    return {
        "rois": digest(list(plan.roi_ids), 16),
        "sources": list(plan.source),
        "units": list(plan.unit),
        "objects": digest([list(plan.object_names(s)) for s in plan.source], 16),
        "receipts": digest(plan.receipts(), 16),
        "merge": digest(plan.merge_key, 16),
        "fingerprint": digest(plan.fingerprint, 16),
    }


def all_identities(folder: Path) -> dict[str, dict]:
    """The identities of all requests."""
    prepare(folder)
    return {name: identities(make(config, folder)) for name, config in REQUESTS.items()}


def main() -> int:
    """Record the identities."""
    with tempfile.TemporaryDirectory() as folder:
        RECORDED.write_text(json.dumps(all_identities(Path(folder)), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
