"""The same files through Earth Engine, a STAC API (both on the loopback address) and a folder have
the same pixels."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import rasterio

from rs_embed import BBox, ExportConfig, PointBuffer
from rs_embed.planning.model_info import Frames
from rs_embed.providers.rasters import raster_io
from rs_embed.providers.rasters.make_catalogue import make_catalogue
from rs_embed.providers.stac import services

from ..support import product_folders
from ..support.earth_engine import serve_earth_engine
from ..support.ee_images import Scene
from ..support.gee_runs import DECIBEL, IW, S2, Archive, settings
from ..support.rasters import ORIGIN, at, chip, noise, write
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


@pytest.fixture
def one_product(tmp_path, monkeypatch):
    """Three scenes of Sentinel-2 L2A as a folder of products, as items of the Planetary Computer
    and as images of Earth Engine; yields the settings of each backend."""
    folder = tmp_path / "products"
    with serve_stac(tmp_path) as stac:
        images = []
        for number, (day, east, cloud) in enumerate(
            (("20220703", 0.0, 12.5), ("20220812", 300.0, 29.0), ("20220810", 0, 31))
        ):
            root, _ = product_folders.safe(
                folder,
                time=f"{day}T104031",
                baseline="0510",
                driver="GTiff",
                cloud=cloud,
                corner=(ORIGIN[0] + east, ORIGIN[1]),
                seed=number,
            )
            paths = {b: next(root.glob(f"GRANULE/*/IMG_DATA/*/*_{b}_{m}m.tif")) for b, m in FILES.items()}
            when = f"{day[:4]}-{day[4:6]}-{day[6:]}T10:40:31Z"
            stac.add(
                root.name,
                {band: str(path.relative_to(tmp_path)) for band, path in paths.items()},
                raster_io.read_header(str(paths["B02"])).box,
                when,
                "sentinel-2-l2a",
                **{"eo:cloud_cover": cloud, "s2:processing_baseline": "05.10"},
            )
            images.append(_harmonized_scene(tmp_path / "gee", root.name, when, paths, cloud))
        service = dataclasses.replace(services.PLANETARY_COMPUTER, url=stac.address)
        monkeypatch.setitem(services.SERVICES, "planetary-computer", service)
        make_catalogue(str(folder))
        with serve_earth_engine(collections={S2: images}) as earth_engine:
            yield (
                folder,
                {
                    "gee": {"backend": "gee", "gee": settings(earth_engine)},
                    "stac": {"backend": "stac:planetary-computer"},
                    "local": {},
                },
            )


FILES = {"B02": 10, "B08": 10, "B11": 20, "SCL": 20}


def _harmonized_scene(folder, name: str, when: str, paths: dict, cloud: float) -> Scene:
    """The image of Earth Engine's harmonized collection: without the constant of baseline 04.00,
    and masked where the files have no data."""
    written = []
    for band, path in paths.items():
        with rasterio.open(path) as file:
            values, corner, scale = file.read(), (file.bounds.left, file.bounds.top), file.res[0]
        if band != "SCL":
            values = np.where(values == 0, 65535, np.maximum(values, 1000) - 1000).astype("uint16")
        nodata = 0 if band == "SCL" else 65535
        target = write(folder / f"{name}_{band}.tif", values, corner=corner, scale=scale, nodata=nodata)
        written.append((target, (band if band == "SCL" else f"B{int(band[1:])}",)))
    (first, bands), *more = written
    return Scene(name, first, when[:19], bands, {"CLOUDY_PIXEL_PERCENTAGE": cloud}, more=tuple(more))


def test_one_product_as_a_folder_as_items_and_in_earth_engine(one_product):
    """Offsets, masks, pixel sizes, cloud limits, and a ROI of which each image covers a part."""
    folder, backends = one_product
    for frames in (None, Frames("equal", 2)):
        for mask in (None, "clouds", {"classes": ["water", "thin_cirrus"]}):
            changes = {"collection": S2, "bands": ("B2", "B8", "B11"), "mask": mask}
            found = {
                name: chip(folder, at(65, 15, 250), frames, **changes, **backend)[0]
                for name, backend in backends.items()
            }
            local = found["local"]
            for name, other in found.items():
                assert other.pixels.dtype == local.pixels.dtype, name
                assert np.array_equal(other.pixels, local.pixels), name
                assert other.coverage == pytest.approx(local.coverage), name
                assert (other.dates, other.date_is) == (local.dates, local.date_is), name
                assert other.provenance.get("mask") == local.provenance.get("mask"), name
                assert len(other.provenance["scenes"]) == 2, name
            assert 0.3 < local.valid < 1 and local.pixels.max() < 9000
            assert ("mask" in local.provenance) == (mask is not None)
            if frames:
                assert local.date_is == ("acquisition", "acquisition")
                assert local.dates == ("2022-07-03", "2022-08-12")
