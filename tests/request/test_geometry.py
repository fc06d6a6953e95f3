"""geometry.py: pixel grids against pyproj, lattice rules, ground size, and ROIs without a grid."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyproj import Geod, Proj, Transformer
from pyproj.aoi import AreaOfInterest
from pyproj.database import query_utm_crs_info

from rs_embed import BBox, ExportConfig, PointBuffer, SpecError
from rs_embed.request.geometry import MAX_SIDE, MERCATOR_MAX_LAT, Grid, centre_lonlat, make_grid, to_mercator, utm_crs
from rs_embed.request.specs import EARTH_RADIUS_M

from ..support.factories import PROPERTY, assert_refusal

GEOD = Geod(ellps="WGS84")

lons = st.floats(-179, 179)
lats = st.floats(-79, 83)
#: Lengths with one decimal: the exact value of 0.1 m is not that of the float.
lengths = st.decimals("0.1", 5000, places=1)
scales = st.sampled_from([Decimal(s) for s in ("0.3", "3", "4.77", "10", "20", "30", "250")])
spans = st.floats(1e-4, 0.05)
boxes = st.builds(lambda lon, lat, w, h: BBox(lon, lat, lon + w, lat + h), lons, lats, spans, spans)


def outline(box: BBox, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """x and y of many points along the edge of a box, from pyproj."""
    t = np.linspace(0, 1, 201)
    lon = box.minlon + (box.maxlon - box.minlon) * np.concatenate([t, t, 0 * t, 0 * t + 1])
    lat = box.minlat + (box.maxlat - box.minlat) * np.concatenate([0 * t, 0 * t + 1, t, t])
    return Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)


def assert_on_lattice(grid: Grid, scale: float) -> None:
    """North-up square pixels whose edges lie on multiples of the scale, counted from the
    projection's origin."""
    a, b, c, d, e, f = grid.affine
    assert (a, b, d, e) == (scale, 0, 0, -scale)
    assert c == round(c / scale) * scale and f == round(f / scale) * scale
    assert isinstance(grid.width, int) and isinstance(grid.height, int) and min(grid.width, grid.height) >= 1


def ground(grid: Grid) -> tuple[float, float]:
    """Geodesic width and height of a grid through its middle, metres."""
    left, bottom, right, top = grid.bounds
    x, y = (left + right) / 2, (bottom + top) / 2
    to = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    (w, e, s, n) = (to.transform(*p) for p in ((left, y), (right, y), (x, bottom), (x, top)))
    return GEOD.inv(*w, *e)[2], GEOD.inv(*s, *n)[2]


# UTM --------------------------------------------------------------------------------------------


@PROPERTY
@given(lons, lats, lengths, scales)
def test_a_point_has_the_same_number_of_pixels_everywhere(lon, lat, buffer, scale):
    size = math.ceil(Fraction(2 * buffer) / Fraction(scale))
    assume(size <= MAX_SIDE)
    grid = make_grid(PointBuffer(lon, lat, float(buffer)), "utm", float(scale))
    assert (grid.width, grid.height) == (size, size)
    assert_on_lattice(grid, float(scale))


@PROPERTY
@given(lons, lats, st.floats(1, 5000), st.sampled_from([3.0, 10.0, 30.0]))
def test_the_footprint_of_a_point_lies_in_its_grid_to_within_half_a_pixel(lon, lat, buffer, scale):
    grid = make_grid(PointBuffer(lon, lat, buffer), "utm", scale)
    x, y = Proj(grid.crs)(lon, lat)
    left, bottom, right, top = grid.bounds
    slack = scale / 2 + 1e-6
    assert left <= x - buffer + slack and right >= x + buffer - slack
    assert bottom <= y - buffer + slack and top >= y + buffer - slack
    # the corner moves to the nearest lattice line
    assert abs(left - (x - buffer)) <= slack and abs(top - (y + buffer)) <= slack


@PROPERTY
@given(boxes, st.sampled_from([3.0, 10.0, 30.0]))
def test_a_box_is_snapped_outward_around_its_outline(box, scale):
    grid = make_grid(box, "utm", scale)
    x, y = outline(box, grid.crs)
    left, bottom, right, top = grid.bounds
    assert_on_lattice(grid, scale)
    slack = 0.1 + 1e-6  # both outlines are sampled: decimetres on the scale of kilometres
    assert -slack <= min(x) - left < scale + slack and -slack <= right - max(x) < scale + slack
    assert -slack <= min(y) - bottom < scale + slack and -slack <= top - max(y) < scale + slack


@PROPERTY
@given(boxes, st.sampled_from(["utm", "web_mercator"]), st.sampled_from([10.0, 30.0]))
def test_a_squared_box_is_square_and_centred_and_contains_the_box(box, projection, scale):
    grid = make_grid(box, projection, scale, square=True)
    x, y = outline(box, grid.crs)
    left, bottom, right, top = grid.bounds
    assert_on_lattice(grid, scale)
    # the reference library snaps both axes apart, so one can have a pixel more
    assert grid.width == grid.height or (projection == "web_mercator" and abs(grid.width - grid.height) == 1)
    assert (
        0 <= max(grid.width, grid.height) - math.ceil(max(np.ptp(x), np.ptp(y)) / scale - 1e-3) <= 1
    )  # on the longer side
    slack = scale / 2 + 0.1
    assert left <= min(x) + slack and right >= max(x) - slack
    assert bottom <= min(y) + slack and top >= max(y) - slack
    middle = (min(x) + max(x)) / 2, (min(y) + max(y)) / 2
    assert np.allclose(((left + right) / 2, (bottom + top) / 2), middle, rtol=0, atol=scale)


def test_squaring_leaves_a_point_alone():
    point = PointBuffer(12.4, 51.3, 333)
    for projection in ("utm", "web_mercator"):
        assert make_grid(point, projection, 10, square=True) == make_grid(point, projection, 10)


@pytest.mark.parametrize(
    ("lon", "lat"), [(12.4, 51.3), (9, 45), (0.01, 0), (5.99, 0), (-70, -33), (15, 78), (179.9, -17), (-121, 70)]
)
def test_a_thousand_metres_are_a_thousand_metres_on_the_ground(lon, lat):
    width, height = ground(make_grid(PointBuffer(lon, lat, 1000), "utm", 10))
    assert width == pytest.approx(2000, rel=1e-3) and height == pytest.approx(2000, rel=1e-3)


@settings(PROPERTY, max_examples=25)  # the database is slow
@given(st.floats(-179.9, 179.9), st.floats(-79.9, 83.9))
def test_a_zone_is_the_one_that_the_epsg_database_knows(lon, lat):
    assume(not (3 <= lon <= 12 and 56 <= lat <= 64) and not (0 <= lon <= 42 and lat >= 72))
    assume(1e-6 < lon % 6 < 6 - 1e-6 and abs(lat) > 1e-6)  # on a border, the database has both sides
    known = query_utm_crs_info("WGS 84", AreaOfInterest(lon, lat, lon, lat))
    assert utm_crs(lon, lat) in {f"EPSG:{info.code}" for info in known}


@pytest.mark.parametrize(
    ("lon", "lat", "code"),
    [
        (-180, 1, 32601),
        (180, 1, 32660),  # the end of the last zone, not a 61st
        (0, 0, 32631),
        (0, -1e-9, 32731),
        (5.999, 45, 32631),
        (6, 45, 32632),
        (2.999, 60, 32631),  # 32V is widened over south-west Norway
        (3, 60, 32632),
        (11.999, 60, 32632),
        (12, 60, 32633),
        (5, 55.999, 32631),
        (5, 56, 32632),
        (5, 63.999, 32632),
        (5, 64, 32631),
        (8.999, 75, 32631),  # Svalbard has 31X, 33X, 35X and 37X only
        (9, 75, 32633),
        (20.999, 75, 32633),
        (21, 75, 32635),
        (32.999, 75, 32635),
        (33, 75, 32637),
        (41.999, 83.999, 32637),
        (42, 75, 32638),
        (10, 71.999, 32632),
        (-1, 75, 32630),
        (10, 83.999, 32633),
        (10, 84, 5041),  # UPS
        (10, -80, 32732),
        (10, -80.001, 5042),
    ],
)
def test_zones_have_the_exceptions_of_the_grid_and_the_poles(lon, lat, code):
    assert utm_crs(lon, lat) == f"EPSG:{code}"


@pytest.mark.parametrize(("lon", "lat"), [(0, 89), (100, 85), (-179, 86), (30, -82), (-120, -89.5)])
def test_polar_places_have_a_grid_of_the_usual_size(lon, lat):
    grid = make_grid(PointBuffer(lon, lat, 1000), "utm", 10)
    assert (grid.width, grid.height) == (200, 200)
    assert grid.crs == ("EPSG:5041" if lat > 0 else "EPSG:5042")
    assert ground(grid) == pytest.approx((2000, 2000), rel=0.01)  # UPS: 0.994 at the pole
    assert_on_lattice(grid, 10)


@pytest.mark.parametrize(
    "box", [BBox(-40, 85, 50, 86), BBox(-180, 87, 180, 90), BBox(100, -83, 170, -81)], ids=lambda b: f"{b.minlat:g}"
)
def test_a_polar_box_covers_its_outline_to_within_half_a_pixel(box):
    # parallels are circles in UPS: the extreme of an edge lies between its corners
    grid = make_grid(box, "utm", 100)
    x, y = outline(box, grid.crs)
    left, bottom, right, top = grid.bounds
    assert left <= min(x) + 50 and right >= max(x) - 50
    assert bottom <= min(y) + 50 and top >= max(y) - 50


def test_a_grid_of_ten_metres_shares_the_lattice_of_its_neighbours():
    one, other = (make_grid(PointBuffer(lon, 51.3, 320), "utm", 10) for lon in (12.4, 12.4001234))
    shift = (other.affine[2] - one.affine[2]) / 10
    assert one.crs == other.crs and shift == int(shift) != 0


# Web Mercator -----------------------------------------------------------------------------------


@PROPERTY
@given(lons, st.floats(-85, 85))
def test_mercator_is_that_of_pyproj(lon, lat):
    assert to_mercator(lon, lat) == pytest.approx(Proj("EPSG:3857")(lon, lat), abs=1e-6)


@PROPERTY
@given(boxes | st.builds(PointBuffer, lons, lats, st.floats(1, 5000)), st.sampled_from([3.0, 10.0, 30.0]))
def test_web_mercator_takes_every_pixel_that_the_footprint_touches(spatial, scale):
    to = Proj("EPSG:3857")
    if isinstance(spatial, PointBuffer):
        x, y = to(spatial.lon, spatial.lat)
        r = spatial.buffer_m
        minx, miny, maxx, maxy = x - r, y - r, x + r, y + r
    else:
        minx, miny = to(spatial.minlon, spatial.minlat)
        maxx, maxy = to(spatial.maxlon, spatial.maxlat)
    # a pixel is touched from a billionth of its side on: floats of lattice lines are not exact
    col0, col1 = math.floor(minx / scale + 1e-9), math.ceil(maxx / scale - 1e-9)
    row0, row1 = math.floor(-maxy / scale + 1e-9), math.ceil(-miny / scale - 1e-9)
    assert make_grid(spatial, "web_mercator", scale) == Grid(
        "EPSG:3857", (scale, 0, col0 * scale, 0, -scale, -row0 * scale), max(1, col1 - col0), max(1, row1 - row0)
    )


@PROPERTY
@given(lons, st.floats(-80, 80))
def test_a_web_mercator_point_differs_in_size_by_a_pixel_at_most(lon, lat):
    grid = make_grid(PointBuffer(lon, lat, 1120), "web_mercator", 30)
    assert {grid.width, grid.height} <= {75, 76}  # 2240 / 30 = 74.67, touching one or two more


@PROPERTY
@given(st.integers(-660_000, 660_000), st.integers(-400_000, 400_000))
def test_a_web_mercator_square_on_the_lattice_has_no_extra_pixels(col, row):
    # its edges miss the lattice lines by rounding errors only
    lon, lat = Proj("EPSG:3857")(30 * col, 30 * row, inverse=True)
    grid = make_grid(PointBuffer(lon, lat, 300), "web_mercator", 30)
    assert grid == Grid("EPSG:3857", (30, 0, 30 * (col - 10), 0, -30, 30 * (row + 10)), 20, 20)


@pytest.mark.parametrize("lat", [0, 23, -45, 60, 78])
def test_metres_of_web_mercator_shrink_with_the_cosine_of_the_latitude(lat):
    grid = make_grid(PointBuffer(10, lat, 1000), "web_mercator", 1)
    # the sphere of the projection is the ellipsoid to within 0.7 %
    assert ground(grid) == pytest.approx([2000 * math.cos(math.radians(lat))] * 2, rel=0.01)


# grids ------------------------------------------------------------------------------------------


def test_centres_and_bounds_belong_to_the_affine():
    grid = make_grid(PointBuffer(12.4, 51.3, 45), "utm", 10)
    x, y = grid.centres()
    left, bottom, right, top = grid.bounds
    assert (len(x), len(y)) == (9, 9) and x.dtype == y.dtype == np.float64
    assert (x[0], x[-1], y[0], y[-1]) == (left + 5, right - 5, top - 5, bottom + 5)
    assert set(np.diff(x)) == {10} and set(np.diff(y)) == {-10}  # north-up: y falls from row to row


@PROPERTY
@given(lons, lats, st.sampled_from(["utm", "web_mercator"]))
def test_the_centre_of_a_grid_is_its_place(lon, lat, projection):
    grid = make_grid(PointBuffer(lon, lat, 500), projection, 10)
    assert GEOD.inv(lon, lat, *centre_lonlat(grid))[2] <= 10


# what has no grid -------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", ["utm", "web_mercator"])
def test_the_largest_chip_is_allowed_and_one_pixel_more_is_refused(projection):
    half = MAX_SIDE / 2
    assert make_grid(PointBuffer(0, 0, half), projection, 1.0).width == MAX_SIDE
    with pytest.raises(SpecError) as refused:
        make_grid(PointBuffer(0, 0, half + 0.51), projection, 1.0)
    assert_refusal(refused.value, "ROI", f"{MAX_SIDE}")


@pytest.mark.parametrize(
    ("spatial", "words"),
    [
        (PointBuffer(10, 85.2, 100), ["latitude 85.2", "web_mercator", "utm"]),
        (PointBuffer(10, -86, 100), ["latitude -86", "web_mercator"]),
        (BBox(10, 80, 11, 85.1), ["latitude 85.1", "web_mercator"]),
        (PointBuffer(10, 85.05, 2000), ["leaves the extent"]),
    ],
    ids=str,
)
def test_places_beyond_the_edge_of_web_mercator_are_refused_and_have_a_utm_grid(spatial, words):
    with pytest.raises(SpecError) as refused:
        make_grid(spatial, "web_mercator", 10)
    assert_refusal(refused.value, "ROI", *words)
    assert make_grid(spatial, "utm", 100).width >= 1
    assert Proj("EPSG:3857")(0, MERCATOR_MAX_LAT)[1] == pytest.approx(Proj("EPSG:3857")(180, 0)[0])


@PROPERTY
@given(st.floats(100, 5000), lats, st.sampled_from([-1, 1]))
def test_a_footprint_over_180_degrees_is_refused_and_one_just_short_of_it_has_a_grid(buffer, lat, side):
    reach = math.degrees(buffer / (EARTH_RADIUS_M * math.cos(math.radians(lat))))
    with pytest.raises(SpecError) as refused:
        PointBuffer(side * (180 - 0.98 * reach), lat, buffer)
    assert_refusal(refused.value, "PointBuffer.lon", "antimeridian")
    near = PointBuffer(side * (180 - 1.1 * reach), lat, buffer)
    for projection in ("utm", "web_mercator"):
        assert abs(centre_lonlat(make_grid(near, projection, 10))[0] - near.lon) < 0.1 * reach + 0.001


@PROPERTY
@given(
    st.builds(
        lambda x, y: BBox(*sorted_pair(x, y)),
        st.lists(st.floats(-180, 180), min_size=2, max_size=2, unique=True),
        st.lists(st.floats(-90, 90), min_size=2, max_size=2, unique=True),
    ),
    st.sampled_from(["utm", "web_mercator"]),
    st.sampled_from([10.0, 1000.0, 100_000.0]),
)
def test_any_box_of_the_world_has_a_grid_or_is_refused_in_a_sentence(box, projection, scale):
    try:
        grid = make_grid(box, projection, scale)
    except SpecError as refused:
        assert_refusal(refused, "ROI")
    else:
        assert_on_lattice(grid, scale)
        assert max(grid.width, grid.height) <= MAX_SIDE


def sorted_pair(x: list[float], y: list[float]) -> tuple[float, float, float, float]:
    (x0, x1), (y0, y1) = sorted(x), sorted(y)
    return x0, y0, x1, y1


def test_an_absurd_scale_is_refused_and_numpy_numbers_are_numbers():
    with pytest.raises(SpecError, match="too large"):
        make_grid(PointBuffer(12.4, 51.3, 320), "utm", 1e-320)
    assert PointBuffer(np.float32(12.5), np.float64(51.5), np.int64(320)) == PointBuffer(12.5, 51.5, 320)
    assert ExportConfig(chunk_size=np.int64(7)) == ExportConfig(chunk_size=7)
