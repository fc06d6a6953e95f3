"""The same files through Earth Engine, a STAC API (both on the loopback address) and a folder have
the same pixels."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from rs_embed import BBox, ExportConfig, PointBuffer
from rs_embed.planning.model_info import Frames
from rs_embed.providers.rasters import raster_io

from ..support.gee_runs import DECIBEL, IW, S2, Archive, settings
from ..support.rasters import at, chip, noise
from ..support.stac_server import serve_stac
from .rasters.test_local import PLACES, S2_BANDS, SHARED, real


def fetch_with_all(archive: Archive, spatial, frames: Frames | None = None, **changes) -> dict:
    """(chip, grid) of a ROI by backend, all from the files of the archive."""
    collection = changes.setdefault("collection", S2)
    with archive.served() as earth_engine, serve_stac(archive.folder) as stac:
        for row in archive.rows:
            path = archive.folder / row["path"]
            properties = {"eo:cloud_cover": row["cloud_cover"]} if "cloud_cover" in row else {}
            if collection == DECIBEL:
                properties = {
                    "sar:instrument_mode": "IW",
                    "sar:polarizations": ["VV", "VH"],
                    "sat:orbit_state": "ascending",
                }
            stac.add(
                path.stem,
                {"data": path.name},
                raster_io.read_header(str(path)).box,
                f"{row['datetime']}T00:00:00Z",
                "c",
                **properties,
            )
        bands = archive.rows[0]["bands"].split()
        named = {"collection": "c", "assets": {b: f"data#{i}" for i, b in enumerate(bands, 1)}}
        backends = {
            "gee": {"backend": "gee", "gee": settings(earth_engine)},
            "stac": {"backend": f"stac:{stac.address}", "stac": {"collections": {collection: named}}},
            "local": {},
        }  # fmt: skip
        return {backend: chip(archive.folder, spatial, frames, **changes, **more) for backend, more in backends.items()}


def assert_all_equal(found: dict) -> np.ndarray:
    """All backends return the same chip; returns its pixels."""
    from_files, grid = found["local"]
    for backend, (from_gee, where) in found.items():
        assert where == grid, backend
        assert from_gee.pixels.dtype == from_files.pixels.dtype, backend
        assert np.array_equal(from_gee.pixels, from_files.pixels), backend
        assert from_gee.coverage == pytest.approx(from_files.coverage), backend
        assert (from_gee.dates, from_gee.warnings) == (from_files.dates, from_files.warnings), backend
        assert from_gee.provenance.get("frames") == from_files.provenance.get("frames"), backend
        assert [s["scene"] for s in from_gee.provenance["scenes"]] == [
            s["scene"] for s in from_files.provenance["scenes"]
        ], backend
    return from_files.pixels


@pytest.mark.parametrize("projection", ["utm", "web_mercator"])
@pytest.mark.parametrize("composite", ["median", "mosaic"])
def test_masked_scenes_of_several_days(tmp_path, composite, projection):
    archive = Archive(tmp_path)
    for i, day in enumerate(("2022-07-03", "2022-07-01", "2022-08-02")):
        pixels = noise(i)
        pixels[np.random.default_rng(i).random(pixels.shape) < 0.4] = 0
        archive.make(pixels, day, profile={"nodata": 0}, cloud=10.0 * i)
    archive.make(noise(9), "2022-07-04", cloud=30.5)
    changes = {"composite": composite, "config": ExportConfig(projection=projection)}
    one = assert_all_equal(fetch_with_all(archive, at(28, 30, 300), **changes))
    assert 0 < (one == 0).mean() < 0.5
    several = assert_all_equal(fetch_with_all(archive, at(28, 30, 300), Frames("equal", 2), **changes))
    assert len(several) == 2


@real
@pytest.mark.parametrize("name", PLACES)
def test_real_sentinel_2_and_sentinel_1(tmp_path, name):
    lon, lat = PLACES[name]
    spatials = [PointBuffer(lon, lat, 700), BBox(lon - 0.004, lat - 0.003, lon + 0.005, lat + 0.002)]
    for kind, bands, more in (
        ("s2_l2a", S2_BANDS, {"cloud": 5.0}),
        ("s1_rtc", ("VV", "VH"), {"collection": DECIBEL, "cloud": None, **IW}),
    ):
        folder = tmp_path / kind
        folder.mkdir()
        shutil.copy(SHARED / kind / f"{name}.tif", folder)
        archive = Archive(folder)
        archive.add(folder / f"{name}.tif", "2022-07-01", bands, **more)
        for spatial in spatials:
            pixels = assert_all_equal(
                fetch_with_all(archive, spatial, bands=bands, collection=more.get("collection", S2))
            )
            assert len(pixels) == len(bands) and np.isfinite(pixels).all() and pixels.std() > 0
