"""ROIs at the edges of grids, with pixels: zone borders, the antimeridian, the far north, one
pixel, many pixels."""

from __future__ import annotations

import numpy as np
import pytest

from rs_embed import BBox, ExportConfig, PointBuffer, SpecError
from rs_embed.request.geometry import get_transformer

from ...support.factories import assert_refusal
from ...support.rasters import catalogue, chip, noise, run, warped, write


def around(lon: float, lat: float, crs: str, side: int = 400, scale: float = 10.0) -> tuple[float, float]:
    """Upper left corner, on the lattice, of a raster centred on a point."""
    x, y = get_transformer("EPSG:4326", crs).transform(lon, lat)
    return round(x / scale) * scale - side * scale / 2, round(y / scale) * scale + side * scale / 2


def raster(folder, name: str, lon: float, lat: float, crs: str, seed: int = 0, side: int = 400, scale: float = 10.0):
    corner = around(lon, lat, crs, side, scale)
    return write(folder / name, noise(seed, (2, side, side)), crs=crs, corner=corner, scale=scale)


@pytest.mark.parametrize(
    ("lon", "lat", "zone", "expected"),
    [
        (6.0005, 45.0, "EPSG:32631", "EPSG:32632"),  # in a file of the neighbouring zone
        (5.9995, 45.0, "EPSG:32632", "EPSG:32631"),
        (15.0, 80.0, "EPSG:32633", "EPSG:32633"),
        (20.9995, 80.0, "EPSG:32635", "EPSG:32633"),  # a border of Svalbard's wide zones
        (20.0, 84.5, "EPSG:5041", "EPSG:5041"),
        (0.002, 0.0005, "EPSG:32631", "EPSG:32631"),  # over the equator: northings below 0
        (179.99, -17.0, "EPSG:32760", "EPSG:32760"),
        (-179.99, -17.0, "EPSG:32760", "EPSG:32701"),  # a file across the antimeridian
        (179.99, -17.0, "EPSG:32701", "EPSG:32760"),
    ],
)
@pytest.mark.parametrize("shape", ["point", "box"])
def test_pixels_are_correct_everywhere_on_earth(tmp_path, lon, lat, zone, expected, shape):
    path = raster(tmp_path, "a.tif", lon, lat, zone)
    catalogue(tmp_path, {"path": "a.tif"})
    wide = 0.004 / np.cos(np.radians(lat))
    spatial = PointBuffer(lon, lat, 400) if shape == "point" else BBox(lon - wide, lat - 0.003, lon + wide, lat + 0.003)
    got, grid = chip(tmp_path, spatial)
    assert grid.crs == expected
    assert np.array_equal(got.pixels, warped(path, grid))
    assert got.valid == 1.0
    if shape == "point":
        assert got.pixels.shape == (2, 80, 80)


def test_a_roi_on_a_border_is_one_mosaic_of_files_of_both_zones(tmp_path):
    west = raster(tmp_path, "west.tif", 5.99, 45.0, "EPSG:32631", 1, side=200)
    east = raster(tmp_path, "east.tif", 6.01, 45.0, "EPSG:32632", 2, side=200)
    catalogue(tmp_path, {"path": "west.tif", "scene": "s"}, {"path": "east.tif", "scene": "s"})
    got, grid = chip(tmp_path, PointBuffer(6.0, 45.0, 500))
    one, two = warped(west, grid), warped(east, grid)
    assert (one == 0).any() and (two == 0).any()
    # of one scene the last path wins where both have a pixel
    assert np.array_equal(got.pixels, np.where(one > 0, one, two))
    assert got.valid == 1.0


@pytest.mark.parametrize("projection", ["utm", "web_mercator"])
def test_a_roi_of_one_pixel(tmp_path, projection):
    path = raster(tmp_path, "a.tif", 9.8, 57.2, "EPSG:32632")
    catalogue(tmp_path, {"path": "a.tif"})
    x, y = get_transformer("EPSG:4326", "EPSG:3857").transform(9.8, 57.2)
    middle = get_transformer("EPSG:3857", "EPSG:4326").transform(
        (x // 10) * 10 + 5, (y // 10) * 10 + 5
    )  # of a lattice cell
    got, grid = chip(
        tmp_path, PointBuffer(*middle, 4.9), config=ExportConfig(projection=projection, save_embeddings=False)
    )
    assert (grid.width, grid.height, got.pixels.shape) == (1, 1, (2, 1, 1))
    assert np.array_equal(got.pixels, warped(path, grid))
    tiny, grid = chip(
        tmp_path,
        BBox(9.8, 57.2, 9.8 + 1e-7, 57.2 + 1e-7),
        config=ExportConfig(projection=projection, save_embeddings=False),
    )
    assert max(grid.width, grid.height) <= 2 and tiny.valid == 1.0


def test_a_roi_of_five_thousand_pixels(tmp_path):
    path = raster(tmp_path, "a.tif", 9.8, 57.2, "EPSG:32632", side=1200, scale=60.0)
    catalogue(tmp_path, {"path": "a.tif"})
    got, grid = chip(tmp_path, PointBuffer(9.8, 57.2, 25_000))
    assert got.pixels.shape == (2, 5000, 5000)
    rows, columns = slice(2000, 2300), slice(4100, 4400)
    assert np.array_equal(got.pixels[:, rows, columns], warped(path, grid)[:, rows, columns])
    assert got.valid == 1.0


def test_a_roi_across_the_edge_of_a_grid_is_refused_with_its_name(tmp_path):
    raster(tmp_path, "a.tif", 9.8, 57.2, "EPSG:32632")
    catalogue(tmp_path, {"path": "a.tif"})
    mercator = {"config": ExportConfig(projection="web_mercator")}
    for spatial, more in (
        (PointBuffer(20, 86, 500), mercator),
        (PointBuffer(9.8, 57.2, 400_000), {}),
        (BBox(-170, -10, 170, 10), {}),
    ):
        with pytest.raises(SpecError) as error:
            run(tmp_path, [PointBuffer(9.8, 57.2, 100), spatial], **more)
        assert_refusal(error.value, "ROI 'p00001'")
    with pytest.raises(SpecError, match="crosses the antimeridian"):
        PointBuffer(179.999, 0, 5000)
