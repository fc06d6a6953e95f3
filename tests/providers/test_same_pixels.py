"""The same files through Earth Engine, a STAC API (both on the loopback address) and a folder: the same pixels."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from rs_embed import BBox, ExportConfig, PointBuffer
from rs_embed.planning.model_info import Frames
from rs_embed.providers.rasters import raster_io

from ..support.gee_runs import DECIBEL, IW, S2, Archive, settings
from ..support.rasters import at, chip, noise
from ..support.stac_server import serving
from .rasters.test_local import PLACES, S2_BANDS, SHARED, real


def doors(archive: Archive, place, frames: Frames | None = None, **changes) -> dict:
    """(chip, grid) of a place by the name of the door, all over the files of the archive."""
    collection = changes.setdefault("collection", S2)
    with archive.served() as earth_engine, serving(archive.folder) as stac:
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
                raster_io.header(str(path)).box,
                f"{row['datetime']}T00:00:00Z",
                "c",
                **properties,
            )
        bands = archive.rows[0]["bands"].split()
        named = {"collection": "c", "assets": {b: f"data#{i}" for i, b in enumerate(bands, 1)}}
        others = {
            "gee": {"backend": "gee", "gee": settings(earth_engine)},
            "stac": {"backend": f"stac:{stac.address}", "stac": {"collections": {collection: named}}},
            "local": {},
        }  # fmt: skip
        return {door: chip(archive.folder, place, frames, **changes, **more) for door, more in others.items()}


def assert_one(found: dict) -> np.ndarray:
    """All doors show the same; returns the pixels."""
    here, grid = found["local"]
    for door, (there, where) in found.items():
        assert where == grid, door
        assert there.pixels.dtype == here.pixels.dtype, door
        assert np.array_equal(there.pixels, here.pixels), door
        assert there.coverage == pytest.approx(here.coverage), door
        assert (there.dates, there.warnings) == (here.dates, here.warnings), door
        assert there.provenance.get("frames") == here.provenance.get("frames"), door
        assert [s["scene"] for s in there.provenance["scenes"]] == [s["scene"] for s in here.provenance["scenes"]], door
    return here.pixels


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
    one = assert_one(doors(archive, at(28, 30, 300), **changes))
    assert 0 < (one == 0).mean() < 0.5
    several = assert_one(doors(archive, at(28, 30, 300), Frames("equal", 2), **changes))
    assert len(several) == 2


@real
@pytest.mark.parametrize("name", PLACES)
def test_real_sentinel_2_and_sentinel_1(tmp_path, name):
    lon, lat = PLACES[name]
    places = [PointBuffer(lon, lat, 700), BBox(lon - 0.004, lat - 0.003, lon + 0.005, lat + 0.002)]
    for kind, bands, more in (
        ("s2_l2a", S2_BANDS, {"cloud": 5.0}),
        ("s1_rtc", ("VV", "VH"), {"collection": DECIBEL, "cloud": None, **IW}),
    ):
        folder = tmp_path / kind
        folder.mkdir()
        shutil.copy(SHARED / kind / f"{name}.tif", folder)
        archive = Archive(folder)
        archive.add(folder / f"{name}.tif", "2022-07-01", bands, **more)
        for place in places:
            pixels = assert_one(doors(archive, place, bands=bands, collection=more.get("collection", S2)))
            assert len(pixels) == len(bands) and np.isfinite(pixels).all() and pixels.std() > 0
