"""Boxes enlarged to squares and cropped back, and boxes in degrees that contain a grid."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer

from rs_embed import BBox, PointBuffer
from rs_embed.request.geometry import (
    Grid,
    centre_of_window,
    crop_slices,
    lonlat_boxes,
    make_grid,
    model_location,
    roi_in_square,
)

from ..support.factories import PROPERTY
from .test_geometry import boxes


@PROPERTY
@given(boxes, st.sampled_from(["utm", "web_mercator"]), st.integers(1, 40))
def test_cropping_a_squared_box_back_gives_the_cells_that_it_touches(box, projection, n):
    own, grid = make_grid(box, projection, 10.0), make_grid(box, projection, 10.0, square=True)
    window = roi_in_square(box, projection, grid)
    if own == grid and (projection == "utm" or window is None):
        assert window is None
        return
    y0, y1, x0, x1 = window
    left, bottom, right, top = grid.bounds
    cropped = (
        left + x0 * (right - left),
        top - y1 * (top - bottom),
        left + x1 * (right - left),
        top - y0 * (top - bottom),
    )
    # exact in UTM; on the reference library's lattice the shares are those before snapping,
    # rounded to six decimals
    slack = 1e-6 * (right - left) + (20.0 if projection == "web_mercator" else 0.0)
    assert np.allclose(cropped, own.bounds, rtol=0, atol=slack)
    rows, columns = crop_slices((n, n), window)
    for span, low, high in ((rows, y0, y1), (columns, x0, x1)):
        assert 0 <= span.start < span.stop <= n
        assert span.start <= low * n + 1e-6 and high * n - 1e-6 <= span.stop  # covers the ROI ...
        assert low * n < span.start + 1 + 1e-6 and high * n > span.stop - 1 - 1e-6  # ... and no cell more
    pixels = crop_slices((grid.height, grid.width), window)  # cells of one pixel: exactly the ROI's own
    shape = pixels[0].stop - pixels[0].start, pixels[1].stop - pixels[1].start
    assert np.allclose(shape, (own.height, own.width), rtol=0, atol=0 if projection == "utm" else 2)


def test_a_box_is_not_enlarged_beyond_web_mercator():
    box = BBox(-179.999, 0, -179.99, 0.1)
    grid = make_grid(box, "web_mercator", 10, square=True)
    assert grid == make_grid(box, "web_mercator", 10)
    assert roi_in_square(box, "web_mercator", grid) is None


@PROPERTY
@given(st.one_of(boxes, st.builds(PointBuffer, st.floats(-179, 179), st.floats(-84, 84), st.floats(5, 9000))))
def test_a_box_in_degrees_contains_its_grid(spatial):
    for projection in ("utm", "web_mercator"):
        grid = make_grid(spatial, projection, 10.0)
        west, south, east, north = lonlat_boxes([grid])[0]
        left, bottom, right, top = grid.bounds
        t = np.linspace(0, 1, 41)
        x = np.concatenate([left + (right - left) * t] * 2 + [np.full(41, left), np.full(41, right)])
        y = np.concatenate([np.full(41, bottom), np.full(41, top)] + [bottom + (top - bottom) * t] * 2)
        lon, lat = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(x, y)
        assert west <= min(lon) and max(lon) <= east and south <= min(lat) and max(lat) <= north
        if east - west < 180:
            assert (east - west) <= 1.05 * (max(lon) - min(lon)) and (north - south) <= 1.05 * (max(lat) - min(lat))


def test_a_box_in_degrees_of_a_grid_at_a_pole_or_over_180_degrees_has_all_longitudes():
    pole = Grid("EPSG:5041", (10.0, 0.0, 1999000.0, 0.0, -10.0, 2001000.0), 200, 200)
    west, south, east, north = lonlat_boxes([pole])[0]
    assert (west, east, north) == (-180, 180, 90) and 89.98 < south < 90
    over = Grid("EPSG:32660", (10.0, 0.0, 820000.0, 0.0, -10.0, 1000000.0), 2000, 10)
    west, _, east, _ = lonlat_boxes([over])[0]
    assert (west, east) == (-180, 180)


def test_on_the_lattice_of_the_reference_library_shares_are_its_own():
    """Computed by hand: a box 1/3 as high as wide, in the middle of its square, rounded to six
    decimals; so a cell whose edge is at exactly 1/3 is touched."""
    side = 0.03
    box = BBox(10.0, -side / 6, 10.0 + side, side / 6)  # at the equator, where Mercator does not stretch
    grid = make_grid(box, "web_mercator", 10.0, square=True)
    window = roi_in_square(box, "web_mercator", grid)
    assert window == (0.333333, 0.666667, 0.0, 1.0)
    assert crop_slices((21, 21), window) == (slice(6, 15), slice(0, 21))


def test_models_get_the_point_or_the_centre_of_the_image():
    point = PointBuffer(9.8449, 57.2269, 500)
    assert model_location(point, "utm", make_grid(point, "utm", 10)) == (9.8449, 57.2269)
    box = BBox(9.80, 57.20, 9.90, 57.21)
    for projection in ("utm", "web_mercator"):
        grid = make_grid(box, projection, 10.0, square=True)
        assert np.allclose(model_location(box, projection, grid), (9.85, 57.205), rtol=0, atol=2e-3)
        corner = centre_of_window(grid, (0.0, 0.5, 0.0, 0.5))
        assert corner[0] < 9.85 and corner[1] > 57.21
