"""Rasters and catalogues for tests: real files, small, and runs that read them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import rasterio

from rs_embed import ExportTarget, PointBuffer, SensorSpec, TemporalSpec
from rs_embed.request.geometry import Grid, get_transformer
from rs_embed.request.request import Request
from rs_embed.runs.open_run import open_run
from rs_embed.runs.run import Run

ZONE = "EPSG:32632"
ORIGIN = (550000.0, 6350000.0)  # upper left corner, near 57.3 N 9.8 E
WINDOW = TemporalSpec.range("2022-06-01", "2022-09-01")


def write(
    path: Path, pixels: np.ndarray, *, crs=ZONE, corner=ORIGIN, scale=10.0, names=(), tags=None, **profile
) -> Path:
    """A GeoTIFF of (C, H, W) pixels whose upper left corner is at ``corner``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    transform = rasterio.Affine(scale, 0, corner[0], 0, -scale, corner[1])
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": pixels.dtype} | profile
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile) as file:
        file.write(pixels)
        for index, name in enumerate(names, 1):
            file.set_band_description(index, name)
        file.update_tags(**(tags or {}))
    return path


def catalogue(folder: Path, *rows: dict, name="catalogue.csv") -> Path:
    """A catalogue of rows; ``collection``, ``datetime`` and ``bands`` have defaults."""
    default = {"collection": "S2", "datetime": "2022-07-01", "bands": "B2 B3"}
    filled = [{k: v for k, v in (default | r).items() if v is not None} for r in rows]
    columns = list(dict.fromkeys(k for r in filled for k in r))
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(filled)
    return folder / name


def noise(seed: int, shape=(2, 60, 60), dtype="uint16", high=10000) -> np.ndarray:
    """Random pixels."""
    return np.random.default_rng(seed).integers(1, high, shape).astype(dtype)


def at(column: float, row: float, buffer_m: float = 100, crs=ZONE, corner=ORIGIN, scale=10.0) -> PointBuffer:
    """The square around a pixel position of such a raster."""
    lon, lat = get_transformer(crs, "EPSG:4326").transform(corner[0] + column * scale, corner[1] - row * scale)
    return PointBuffer(lon, lat, buffer_m)


def request(folder: Path, spatials: list, **changes) -> Request:
    """A request for the bands B2 and B3 of the collection S2 in a catalogue's folder."""
    sensor = {k: changes.pop(k) for k in list(changes) if k in SensorSpec.__dataclass_fields__}
    given = {
        "spatials": spatials,
        "temporal": WINDOW,
        "models": ["mosaiks"],
        "target": ExportTarget.combined(str(folder / "out" / "run")),
        "backend": f"local:{folder}",
        "sensor": SensorSpec(**({"collection": "S2", "bands": ("B2", "B3")} | sensor)),
    }
    return Request.build(**given | changes)


def run(folder: Path, spatials: list, **changes) -> Run:
    """The planned run of :func:`request`."""
    return open_run(request(folder, spatials, **changes), "/")


def chip(folder: Path, spatial, frames=None, **changes):
    """(chip, grid) of one ROI, as its fetch job gets it."""
    import dataclasses

    made = run(folder, [spatial], **changes)
    source, roi = made.plan.sources[0], made.roi(0)
    if frames is not None:
        source = dataclasses.replace(source, frames=frames)
    grid = made.grid(source, roi)
    return made.provider.fetch(source, source.bands, roi, grid), grid


def warped(path: Path, grid: Grid, fill=0) -> np.ndarray:
    """rasterio's own warp of a whole file onto a grid."""
    from rasterio.warp import Resampling, reproject

    with rasterio.open(path) as file:
        out = np.full((file.count, grid.height, grid.width), fill, file.dtypes[0])
        reproject(
            rasterio.band(file, file.indexes),
            out,
            dst_transform=rasterio.Affine(*grid.affine),
            dst_crs=grid.crs,
            resampling=Resampling.nearest,
        )
    return out
