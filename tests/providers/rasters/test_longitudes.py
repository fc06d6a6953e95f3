"""Rasters that leave the longitudes -180..180 have the pixels of their places."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from rs_embed import ExportConfig, PointBuffer, SpecError
from rs_embed.request.geometry import get_transformer

from ...support.rasters import catalogue, chip

STEP = 0.01


def make(folder, west: float, east: float, lat: float, crs="EPSG:4326", step=STEP):
    """A raster of two degrees of latitude; its numbers and transform."""
    width = round((east - west) / step)
    height = round(2 * STEP * 100 / step) if crs == "EPSG:4326" else 200
    values = np.random.default_rng(0).integers(1, 60000, (1, height, width)).astype("uint16")
    transform = rasterio.Affine(step, 0, west, 0, -step, lat + height * step / 2)
    profile = {"driver": "GTiff", "count": 1, "height": height, "width": width, "dtype": "uint16", "crs": crs}
    with rasterio.open(folder / "a.tif", "w", transform=transform, **profile) as file:
        file.write(values)
    catalogue(folder, {"path": "a.tif", "bands": "B2"})
    return values[0], transform


def expected_of(values, transform, grid, turn=360.0, crs="EPSG:4326"):
    """The pixel under each centre of a grid, in whichever turn it lies; 0 where there is none."""
    x, y = np.meshgrid(*grid.centres())
    lon, lat = get_transformer(grid.crs, "EPSG:4326").transform(x, y)
    east, north = (lon, lat) if crs == "EPSG:4326" else get_transformer("EPSG:4326", crs).transform(lon, lat)
    out = np.zeros(lon.shape, values.dtype)
    for number in (-1, 0, 1):
        columns, rows = (np.floor(v).astype(int) for v in ~transform @ (east + number * turn, north))
        inside = (columns >= 0) & (columns < values.shape[1]) & (rows >= 0) & (rows < values.shape[0])
        out[inside] = values[rows[inside], columns[inside]]
    return out


@pytest.mark.parametrize("projection", ["utm", "web_mercator"])
@pytest.mark.parametrize(
    ("west", "east", "places"),
    [
        (0, 360, [-75.3, -0.02, 0.02, 75.3, 179.95, -179.95]),
        (-0.05, 359.95, [-0.02, 0.02, -120.4]),  # centres of pixels on whole steps
        (170, 190, [175.2, 179.95, -179.95, -175.2]),
        (-190, -170, [175.2, 179.95, -179.95, -175.2]),
        (200, 300, [-75.3, -159.3]),
        (-180, 180, [-75.3, 75.3, 179.95, -179.95]),
        (360, 400, [20.4]),
    ],
)
def test_longitudes_beyond_180_degrees(tmp_path, west, east, places, projection):
    values, transform = make(tmp_path, west, east, 5.0)
    for lon in places:
        config = ExportConfig(projection=projection, save_embeddings=False)
        got, grid = chip(tmp_path, PointBuffer(lon, 5.0, 5000), bands=("B2",), scale_m=500.0, config=config)
        expected = expected_of(values, transform, grid)
        assert got.valid == 1.0, lon
        assert (got.pixels[0] == expected).mean() > 0.99, lon  # the warp is exact within an eighth of a pixel


def test_places_beside_such_a_raster_are_not_in_it(tmp_path):
    make(tmp_path, 170, 190, 5.0)
    for lon in (10.0, -10.0, -165.0, 165.0):
        with pytest.raises(SpecError, match="has no imagery"):
            chip(tmp_path, PointBuffer(lon, 5.0, 5000), bands=("B2",), scale_m=500.0)


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:3395", "EPSG:4087"])
def test_projected_rasters_across_the_antimeridian(tmp_path, crs):
    half = get_transformer("EPSG:4326", crs).transform(90, 0)[0] * 2
    _, y = get_transformer("EPSG:4326", crs).transform(0, 5.0)
    values, transform = make(tmp_path, half - 50_000, half + 50_000, y, crs, step=500.0)
    for lon in (179.9, -179.9):
        got, grid = chip(tmp_path, PointBuffer(lon, 5.0, 5000), bands=("B2",), scale_m=500.0)
        expected = expected_of(values, transform, grid, 2 * half, crs)
        assert got.valid == 1.0
        assert (got.pixels[0] == expected).mean() > 0.99


@pytest.mark.parametrize(
    ("crs", "lon", "lat"),
    [
        ("EPSG:32660", 179.98, 5.0),
        ("EPSG:32601", -179.98, 5.0),
        ("EPSG:3832", 179.98, 5.0),
        ("EPSG:3031", 179.9, -75.0),
    ],
)
def test_other_projections_across_the_antimeridian(tmp_path, crs, lon, lat):
    x, y = get_transformer("EPSG:4326", crs).transform(lon, lat)
    values, transform = make(tmp_path, x - 50_000, x + 50_000, y, crs, step=500.0)
    for place in (lon, -lon):
        got, grid = chip(tmp_path, PointBuffer(place, lat, 2000), bands=("B2",), scale_m=500.0)
        assert got.valid == 1.0
        assert (got.pixels[0] == expected_of(values, transform, grid, 0.0, crs)).mean() > 0.99


def test_a_grid_in_strips_is_the_same(tmp_path, monkeypatch):
    from rs_embed.providers.rasters import scenes

    make(tmp_path, 0, 360, 5.0)
    place = PointBuffer(0.02, 5.0, 20000)
    one, _ = chip(tmp_path, place, bands=("B2",), scale_m=500.0)
    monkeypatch.setattr(scenes, "STRIP_BYTES", 2000)
    strips, _ = chip(tmp_path, place, bands=("B2",), scale_m=500.0)
    assert np.array_equal(one.pixels, strips.pixels) and one.valid == 1.0
