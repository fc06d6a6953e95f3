"""Outlines of items across the antimeridian, in the forms that services write."""

from __future__ import annotations

import numpy as np
import pytest

from rs_embed import PointBuffer, SpecError
from rs_embed.providers.rasters import scene_files
from rs_embed.providers.stac import outlines, search
from rs_embed.request.geometry import Grid, lonlat_boxes

from ...support.rasters import noise, write
from .test_provider import objects, planned

#: Upper left corner of a scene of UTM zone 1 that crosses the antimeridian near 17 S.
CRS, CORNER, SCALE = "EPSG:32701", (170000.0, 8130000.0), 100.0
WEST, EAST = PointBuffer(179.97, -17.0, 1500), PointBuffer(-179.9, -17.0, 1500)
#: Touches the antimeridian, so that its grid, or the box around it, crosses.
TOUCHING = PointBuffer(179.97, -17.0, 3193)


def ring(west, east, south=-17.4, north=-16.7) -> list:
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


SPLIT = {"type": "MultiPolygon", "coordinates": [[ring(179.7, 180)], [ring(-180, -179.2)]]}
FORMS = {
    "RFC 7946": ([179.7, -17.4, -179.2, -16.7], SPLIT),
    "box of the whole world": ([-180, -17.4, 180, -16.7], SPLIT),
    "ring that jumps": ([-179.2, -17.4, 179.7, -16.7], {"type": "Polygon", "coordinates": [ring(179.7, -179.2)]}),
    "ring that jumps, box of the whole world": (
        [-180, -17.4, 180, -16.7],
        {"type": "Polygon", "coordinates": [ring(179.7, -179.2)]},
    ),
    "beyond 180": ([179.7, -17.4, 180.8, -16.7], {"type": "Polygon", "coordinates": [ring(179.7, 180.8)]}),
    "beyond -180": ([-180.3, -17.4, -179.2, -16.7], {"type": "Polygon", "coordinates": [ring(-180.3, -179.2)]}),
    "box alone": ([179.7, -17.4, -179.2, -16.7], None),
    "box alone beyond 180": ([179.7, -17.4, 180.8, -16.7], None),
    "box with heights": ([179.7, -17.4, 0, -179.2, -16.7, 9], None),
}


def add(scenes, bbox, geometry, name="a", when="2022-07-01T10:00:00Z") -> np.ndarray:
    pixels = noise(3, (1, 600, 1100))
    if not (scenes.root / "a.tif").exists():
        write(scenes.root / "a.tif", pixels, crs=CRS, corner=CORNER, scale=SCALE)
    item = scenes.stac.add(name, {"blue": "a.tif"}, (0, 0, 1, 1), when)
    item |= {"bbox": bbox, "geometry": geometry}
    scenes.write_static()
    return pixels


@pytest.mark.parametrize("form", FORMS)
def test_an_item_across_the_antimeridian_is_found_on_both_sides(scenes, form):
    pixels = add(scenes, *FORMS[form])
    static = f"stac:{scenes.root / 'items.json'}"
    for spatial, backend in ((WEST, None), (EAST, None), (TOUCHING, None), (EAST, static)):
        got, grid = scenes.chip(spatial, backend, bands=("B2",), scale_m=SCALE)
        assert got.valid == 1, (spatial, backend)
        left, top = grid.affine[2], grid.affine[5]
        if grid.crs == CRS:
            column, row = round((left - CORNER[0]) / SCALE), round((CORNER[1] - top) / SCALE)
            expected = pixels[:, row : row + grid.height, column : column + grid.width]
            assert np.array_equal(got.pixels, expected)
    with pytest.raises(SpecError, match="has no imagery"):
        planned(scenes, [PointBuffer(20, -17, 500)], backend=static, bands=("B2",))


def test_a_raster_beyond_180_degrees_is_read_on_both_sides(scenes):
    pixels = noise(3, (1, 70, 110))
    write(scenes.root / "a.tif", pixels, crs="EPSG:4326", corner=(179.7, -16.7), scale=0.01)
    item = scenes.stac.add("a", {"blue": "a.tif"}, (0, 0, 1, 1))
    item |= dict(zip(("bbox", "geometry"), FORMS["beyond 180"]))
    scenes.write_static()
    for spatial in (WEST, EAST):
        got, _ = scenes.chip(spatial, bands=("B2",), scale_m=SCALE)
        assert got.valid == 1
        lon = spatial.lon % 360
        column, row = int((lon - 179.7) / 0.01), int((-16.7 - spatial.lat) / 0.01)
        assert got.pixels[0, 15, 15] in pixels[0, row - 1 : row + 2, column - 1 : column + 2]


def test_all_forms_give_the_same_names(scenes):
    names = set()
    for form in FORMS.values():
        scenes.stac.items.clear()
        add(scenes, *form)
        names.add(objects(scenes, [WEST, EAST, TOUCHING], bands=("B2",), scale_m=SCALE))
    assert len(names) == 1


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_are_one_outline(form):
    bbox, geometry = FORMS[form]
    rings, box = outlines.parse_outline({"bbox": bbox, "geometry": geometry})
    assert box == (179.7, -17.4, -179.2, -16.7)
    for inside in ((179.75, 179.8), (-180, -179.9), (179.9, -179.9)):
        probe = (inside[0], -17, inside[1], -16.9)
        assert not rings or any(outlines.ring_overlaps(r, probe) for r in rings)
    for outside in ((179, 179.6), (-179, -178), (0, 1)):
        assert not any(outlines.ring_overlaps(r, (outside[0], -17, outside[1], -16.9)) for r in rings)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (ring(10, 11), (10, -17.4, 11, -16.7)),
        (ring(-180, 180, -90, 90), (-180, -90, 180, 90)),
        (ring(-179.875, 179.875, -89.875, 89.875), (-179.875, -89.875, 179.875, 89.875)),
        (ring(0, 359.5, -90, 90), (0, -90, -0.5, 90)),
        (ring(350, 370), (-10, -17.4, 10, -16.7)),
        # around the pole
        ([[0, 80], [90, 80], [180, 80], [-90, 80], [0, 80]], (-180, 80, 180, 90)),
    ],
)
def test_wide_outlines(points, expected):
    rings, box = outlines.parse_outline({"geometry": {"type": "Polygon", "coordinates": [points]}})
    assert box == expected
    assert outlines.ring_overlaps(
        rings[0], (expected[0] + 0.1, expected[3] - 0.2, expected[0] + 0.2, expected[3] - 0.1)
    )


#: Longitudes and latitudes of grids that are wider than half of the earth.
WIDE = [
    (-179.95, 179.95, -30, 30),
    (-95, 100, -30, 40),
    (-178.75, 178.75, -10, 10),
    (-120, 110, 0, 5),
    (-170, 20, 20, 70),
]
GRID = {"proj:epsg": 4326}


@pytest.mark.parametrize("span", WIDE)
@pytest.mark.parametrize("says", ["box", "nothing", "projection", "projection of an asset", "damaged projection"])
def test_wide_rings_are_as_wide_as_written(span, says):
    west, east, south, north = span
    bbox = [west, south, east, north]
    feature = {"geometry": {"type": "Polygon", "coordinates": [ring(west, east, south, north)]}}
    feature |= {
        "box": {"bbox": bbox},
        "nothing": {},
        "projection": {"properties": GRID | {"proj:bbox": bbox}},
        "projection of an asset": {"assets": {"none": None, "a": GRID | {"proj:bbox": bbox}}},
        "damaged projection": {"bbox": bbox, "properties": {"proj:epsg": 4326, "proj:bbox": ["a"]}},
    }[says]
    rings, box = outlines.parse_outline(feature)
    assert box == (west, south, east, north)
    middle = (west + east) / 2
    assert outlines.ring_overlaps(rings[0], (middle - 1, south + 1, middle + 1, south + 2))


@pytest.mark.parametrize(
    "more",
    [
        {"bbox": [170, -30, -170, 30]},
        {"bbox": [170, -30, 190, 30]},
        {"properties": GRID | {"proj:bbox": [170, -30, 190, 30]}},
        {"properties": {"proj:code": CRS, "proj:bbox": [170000, 8070000, 280000, 8130000]}},
    ],
)
def test_a_box_or_projection_across_the_antimeridian_decides(more):
    feature = {"geometry": {"type": "Polygon", "coordinates": [ring(170, -170, -30, 30)]}} | more
    assert outlines.parse_outline(feature)[1] == (170, -30, -170, 30)


def test_a_swath_across_the_antimeridian_is_no_grid():
    """A granule of MODIS, with the box of its numbers."""
    points = [[168, -9], [-171, -12], [-175, 9], [164, 12], [168, -9]]
    feature = {"geometry": {"type": "Polygon", "coordinates": [points]}, "bbox": [-175, -12, 168, 12]}
    assert outlines.parse_outline(feature)[1] == (164, -12, -171, 12)


def test_a_wide_grid_is_found_inside_and_not_outside(scenes):
    add(scenes, [-179.95, -30, 179.95, 30], {"type": "Polygon", "coordinates": [ring(-179.95, 179.95, -30, 30)]})
    assert len(objects(scenes, [PointBuffer(20, -17, 500)], bands=("B2",), scale_m=SCALE)) == 1
    with pytest.raises(SpecError, match="has no imagery"):
        planned(scenes, [PointBuffer(20, 40, 500)], bands=("B2",))


def test_an_item_without_outline_is_located_by_its_projection(scenes):
    fields = {
        "proj:code": CRS,
        "proj:shape": [600, 1100],
        "proj:transform": [SCALE, 0, CORNER[0], 0, -SCALE, CORNER[1]],
    }
    box = outlines.located_by_projection({"properties": fields})
    assert box[0] > 179 > 0 > box[2] > -179.1
    left, top = CORNER
    bounds = [left, top - 600 * SCALE, left + 1100 * SCALE, top]
    for more in ({"proj:epsg": 32701, "proj:bbox": bounds}, {"assets": {"blue": fields}}):
        feature = more if "assets" in more else {"properties": more}
        assert outlines.located_by_projection(feature) == pytest.approx(box)
    assert outlines.located_by_projection({"properties": {"proj:epsg": None}, "assets": {}}) is None


def test_a_grid_across_the_antimeridian_overlaps_outlines_of_both_sides():
    grid = Grid(CRS, (10.0, 0.0, 167000.0, 0.0, -10.0, 8120000.0), 2000, 10)
    box = lonlat_boxes([grid], fold=True)[0]
    assert box[0] > 179 > 0 > box[2] > -180
    around = np.array([(179, -18, 180, -16), (-180, -18, -179, -16), (179.9, -18, -179.9, -16), (-180, -90, 180, 90)])
    assert scene_files.overlaps_box(around, box).all()
    away = np.array([(0, -18, 1, -16), (-179, -18, -178, -16), (178, -18, 179, -16), (179, 0, -179, 1)])
    assert not scene_files.overlaps_box(away, box).any()
    plain = lonlat_boxes([Grid("EPSG:32632", (10.0, 0.0, 5e5, 0.0, -10.0, 6e6), 10, 10)], fold=True)
    assert np.array_equal(plain, lonlat_boxes([Grid("EPSG:32632", (10.0, 0.0, 5e5, 0.0, -10.0, 6e6), 10, 10)]))


def test_searches_are_cut_at_the_antimeridian():
    def boxes(*box):
        return [s.box for s in search.plan_searches([None], [box])]

    assert boxes(179.92, -17.02, -179.98, -16.98) == [(177.0, -17.1, 180.0, -16.9), (-180.0, -17.1, -177.0, -16.9)]
    assert boxes(-179.42, -17.02, -179.38, -16.98) == [(-179.5, -17.1, -179.3, -16.9), (177.0, -17.1, 180.0, -16.9)]
    assert boxes(179.42, -17.02, 179.48, -16.98) == [(179.4, -17.1, 179.5, -16.9), (-180.0, -17.1, -177.0, -16.9)]
    assert boxes(-180, 88, 180, 90) == [(-180.0, 88.0, 180.0, 90.0)]
    assert boxes(10.02, 50.02, 10.08, 50.08) == [(10.0, 50.0, 10.1, 50.1)]
