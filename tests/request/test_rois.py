"""ROI tables from files and frames, and windows of single ROIs. Invalid tables are in
test_rois_refused.py."""

from __future__ import annotations

import datetime as dt
import json
import math
from pathlib import Path

import geopandas
import numpy as np
import pandas
import pytest
import shapely
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pyproj import Transformer
from shapely.geometry import (
    GeometryCollection,
    LineString,
    MultiLineString,
    MultiPoint,
    MultiPolygon,
    Point,
    Polygon,
    box,
)

from rs_embed import BBox, ExportTarget, ModelError, PointBuffer, SpecError, TemporalSpec, export_batch, load_export
from rs_embed.request.request import Request
from rs_embed.request.rois import RoiTable, format_rois, read_rois
from rs_embed.request.schema import config_schema

from ..support.exports import combined, export, places, snakemake, times
from ..support.factories import PROPERTY, assert_refusal, read_config

JUNE = TemporalSpec.range("2022-06-01", "2022-09-01")
JULY = TemporalSpec.range("2022-07-01", "2022-08-01")
FORMATS = ("geojson", "gpkg")
ONE = [box(1, 2, 3, 4)]


def frame(geometries: list, crs: object = 4326, **columns) -> geopandas.GeoDataFrame:
    return geopandas.GeoDataFrame(columns, geometry=geometries, crs=crs)


def every_way(made: geopandas.GeoDataFrame, folder: Path) -> list[RoiTable]:
    """The tables of a frame and of the files that geopandas writes from it."""
    tables = [read_rois(made, ".")]
    for suffix in FORMATS:
        path = folder / f"t.{suffix}"
        path.unlink(missing_ok=True)
        made.to_file(path)
        tables.append(read_rois(str(path), "."))
    return tables


# what is read -----------------------------------------------------------------------------------

#: Millionths of a degree: what a GeoJSON writer keeps of them is exact.
degrees = st.integers(-170_000_000, 169_000_000)
latitudes = st.integers(-80_000_000, 79_000_000)
sides = st.integers(1, 1_000_000)
days = st.dates(dt.date(1980, 1, 1), dt.date(2030, 1, 1))
own = st.none() | st.lists(days, min_size=2, max_size=2, unique=True).map(lambda d: [x.isoformat() for x in sorted(d)])
points = st.tuples(st.builds(lambda x, y: Point(x / 1e6, y / 1e6), degrees, latitudes), st.integers(1, 5000).map(float))
boxes = st.tuples(
    st.builds(lambda *c: box(*degrees_of(*c)), degrees, latitudes, sides, sides),
    st.none(),
)


def degrees_of(x: int, y: int, width: int, height: int) -> list[float]:
    return [v / 1e6 for v in (x, y, x + width, y + height)]


def expected(geometry, buffer_m: float | None) -> PointBuffer | BBox:
    return PointBuffer(geometry.x, geometry.y, buffer_m) if buffer_m else BBox(*geometry.bounds)


@settings(PROPERTY, max_examples=30)
@given(features=st.lists(st.tuples(points | boxes, own), min_size=1, max_size=5), named=st.booleans())
def test_a_table_reads_the_same_from_every_kind_of_file_and_from_frames(tmp_path_factory, features, named):
    folder = tmp_path_factory.getbasetemp()
    names = [f"r{i}" for i in range(len(features))]
    windows = [w and TemporalSpec.range(*w) for _, w in features]
    columns = {
        "buffer_m": [b for (_, b), _ in features],
        "start": [w and w[0] for _, w in features],
        "end": [w and w[1] for _, w in features],
        "landuse": ["forest"] * len(features),  # other columns are ignored
    }
    spatials = [expected(*f) for f, _ in features]
    want = RoiTable(spatials, names if named else None, windows if any(windows) else None)
    made = frame([g for (g, _), _ in features], **columns | ({"name": names} if named else {}))
    assert every_way(made, folder) == [want] * 3

    (folder / "t.csv").write_text(format_rois(spatials, names, windows=windows if any(windows) else None))
    from_text = read_rois("t.csv", str(folder))
    assert from_text == want._replace(names=names)
    assert read_rois(pandas.read_csv(folder / "t.csv"), ".") == from_text
    rows = [{k: v for k, v in row.items() if v == v} for row in pandas.read_csv(folder / "t.csv").to_dict("records")]
    assert read_rois(rows, ".") == from_text


@pytest.mark.parametrize(
    "geometry",
    [
        Polygon([(1, 2), (4, 3), (2, 5)]),
        MultiPolygon([box(1, 2, 2, 3), box(3, 4, 4, 5)]),
        LineString([(1, 2), (4, 5)]),
        MultiLineString([[(1, 2), (2, 3)], [(3, 4), (4, 5)]]),
        MultiPoint([(1, 2), (4, 5)]),
        GeometryCollection([Point(1, 2), Point(4, 5)]),
        shapely.force_3d(box(1, 2, 4, 5), 100.0),
    ],
    ids=lambda g: g.geom_type + ("Z" if g.has_z else ""),
)
def test_of_everything_but_points_the_bounds_are_the_roi(tmp_path, geometry):
    for table in every_way(frame([geometry]), tmp_path):
        assert table == ([BBox(1, 2, 4, 5)], None, None)


def test_points_may_be_multi_points_of_one_and_have_heights(tmp_path):
    made = frame([MultiPoint([(1, 2)]), Point(3, 4, 500), box(5, 6, 7, 8)], buffer_m=[10, 20, None])
    for table in every_way(made, tmp_path):
        assert table.spatials == [PointBuffer(1, 2, 10), PointBuffer(3, 4, 20), BBox(5, 6, 7, 8)]


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3857", "EPSG:3035", "EPSG:2056", "EPSG:4258"])
def test_other_crs_agree_with_pyproj(tmp_path, crs):
    here = Transformer.from_crs(4326, crs, always_xy=True).transform(8.5, 47.4)
    side = 0.02 if crs == "EPSG:4258" else 1500.0
    x, y = here
    tilted = Polygon([(x, y), (x + side, y + side / 3), (x + side / 2, y + side)])
    to = Transformer.from_crs(crs, 4326, always_xy=True)
    lon, lat = to.transform(x, y)
    for table in every_way(frame([Point(x, y), tilted], crs, buffer_m=[100.0, None]), tmp_path):
        point, area = table.spatials
        assert (point.lon, point.lat) == pytest.approx((lon, lat), abs=1e-9, rel=0)
        bounds = (area.minlon, area.minlat, area.maxlon, area.maxlat)
        assert bounds == pytest.approx(to.transform_bounds(*tilted.bounds), abs=1e-9, rel=0)
        west, south, east, north = frame([tilted], crs).to_crs(4326).total_bounds
        assert area.minlon <= west + 1e-9, "the box contains the whole feature"
        assert area.minlat <= south + 1e-9
        assert area.maxlon >= east - 1e-9
        assert area.maxlat >= north - 1e-9


def test_longitude_and_latitude_are_taken_as_they_are(tmp_path):
    """Without a transformation that could change a digit, because they are in identities."""
    lon, lat = 12.123456789012345, 51.987654321098765
    for crs in (4326, "OGC:CRS84"):
        frame([Point(lon, lat)], crs, buffer_m=[1.0]).to_file(tmp_path / "t.gpkg")
        (made,), _, _ = read_rois("t.gpkg", str(tmp_path))
        assert (made.lon, made.lat) == (lon, lat)


def test_geojson_without_a_crs_is_wgs_84(tmp_path):
    feature = {"type": "Feature", "properties": {"buffer_m": 5}, "geometry": {"type": "Point", "coordinates": [1, 2]}}
    for name, content in {
        "feature.json": feature,
        "collection.geojson": {"type": "FeatureCollection", "features": [feature]},
        "null.GeoJSON": {"type": "FeatureCollection", "crs": None, "features": [feature]},
    }.items():
        (tmp_path / name).write_text(json.dumps(content))
        assert read_rois(name, str(tmp_path)).spatials == [PointBuffer(1, 2, 5)]


def test_a_table_of_styles_is_no_layer(tmp_path):
    """QGIS stores a table of styles in the file."""
    import pyogrio

    frame([box(1, 2, 3, 4)]).to_file(tmp_path / "t.gpkg", layer="plots")
    pyogrio.write_dataframe(pandas.DataFrame({"qml": ["..."]}), tmp_path / "t.gpkg", layer="layer_styles")
    assert read_rois("t.gpkg", str(tmp_path)).spatials == [BBox(1, 2, 3, 4)]


@pytest.mark.parametrize(
    "of",
    [
        lambda d: d.isoformat(),
        lambda d: d,
        lambda d: dt.datetime(d.year, d.month, d.day),
        lambda d: pandas.Timestamp(d),
        lambda d: pandas.Timestamp(d, tz="Europe/Berlin"),
        lambda d: np.datetime64(d),
    ],
    ids=["text", "date", "datetime", "Timestamp", "zone", "numpy"],
)
@pytest.mark.filterwarnings("ignore:Non-conformant content")  # GDAL warns so for any time zone in a GeoPackage
def test_days_in_any_spelling(tmp_path, of):
    start, end = ([of(dt.date.fromisoformat(t)), None] for t in (JUNE.start, JUNE.end))
    cells = {"buffer_m": [5.0, 5.0], "start": start, "end": end}
    plain = pandas.DataFrame({"lon": [1.0, 2.0], "lat": [1.0, 2.0], **cells})
    for table in [read_rois(plain, "."), *every_way(frame([Point(1, 1), Point(2, 2)], **cells), tmp_path)]:
        assert table.windows == [JUNE, None]


def test_every_kind_of_nothing_is_an_empty_cell():
    nothing = [math.nan, None, pandas.NaT, pandas.NA]
    rows = {"lon": [1.0] * 4, "lat": [2.0] * 4, "buffer_m": [3.0] * 4}
    made = pandas.DataFrame(
        rows | {c: pandas.Series(nothing, dtype=object) for c in ("name", "minlon", "start", "end")}
    )
    assert read_rois(made, ".") == ([PointBuffer(1, 2, 3)] * 4, None, None)
    assert read_rois(made.convert_dtypes(), ".") == ([PointBuffer(1, 2, 3)] * 4, None, None)


def test_names_that_are_numbers(tmp_path):
    for table in every_way(frame([box(1, 2, 3, 4), box(5, 6, 7, 8)], name=[7, 8]), tmp_path):
        assert table.names == ["7", "8"]


def test_names_that_look_like_times_are_left_alone():
    assert read_rois(frame([box(1, 2, 3, 4)], name=["20220601T000000"]), ".").names == ["20220601T000000"]


# windows ----------------------------------------------------------------------------------------

CONFIG = {
    "rois": [
        {"name": "a", "lon": 1.0, "lat": 2.0, "buffer_m": 10.0, "start": "2022-06-01", "end": "2022-09-01"},
        {"name": "b", "minlon": 1.0, "minlat": 2.0, "maxlon": 3.0, "maxlat": 4.0},
    ],
    "temporal": {"year": 2022},
    "models": ["mosaiks"],
    "target": {"layout": "combined", "path": "out/run"},
}
SCHEMA = Draft202012Validator(config_schema())


def test_inline_rows_may_have_windows():
    assert SCHEMA.is_valid(CONFIG)
    request = read_config(CONFIG)
    assert [request.window(i) for i in (0, 1)] == [JUNE, TemporalSpec.year(2022)]
    # without quotes YAML reads them as dates
    dates = yaml.safe_load("[{lon: 1, lat: 2, buffer_m: 3, start: 2022-06-01, end: 2022-09-01}]")
    assert read_config(CONFIG | {"rois": dates}).windows == (JUNE,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"start": "2022-06-01"}, "end"),
        ({"end": "2022-06-01"}, "start"),
        ({"start": "", "end": ""}, "start: ''"),
        ({"start": "June", "end": "2022-06-01"}, "'June'"),
        ({"start": 2022, "end": 2023}, "2022"),
    ],
)
def test_half_a_window_and_no_window_are_refused_inline_by_code_and_schema(change, words):
    config = CONFIG | {"rois": [{"lon": 1.0, "lat": 2.0, "buffer_m": 10.0} | change]}
    with pytest.raises(SpecError) as refused:
        read_config(config)
    assert_refusal(refused.value, "rois[0]", words)
    assert not SCHEMA.is_valid(config)


def windowed(n: int, *own: TemporalSpec | None) -> list[dict]:
    """Rows on the sample scene, the first ones with windows of their own."""
    rows = [{"name": f"r{i}", "lon": p.lon, "lat": p.lat, "buffer_m": p.buffer_m} for i, p in enumerate(places(n))]
    for row, window in zip(rows, own):
        row |= {"start": window.start, "end": window.end} if window else {}
    return rows


def run(target: ExportTarget, rows: list[dict], **keywords):
    return export(target, None, rois=pandas.DataFrame(rows), keep_work="all", **keywords)


@pytest.mark.heavy
def test_manifests_contain_each_window_and_a_changed_one_costs_only_its_roi(tmp_path):
    target = combined(tmp_path / "run")
    manifest = run(target, windowed(3, JULY), temporal=JUNE)
    assert manifest["temporal"] == JUNE.to_dict()
    assert manifest["windows"] == [JULY.to_dict(), None, None]
    assert manifest["names"] == ["r0", "r1", "r2"]
    result = load_export(tmp_path / "run.npz")
    assert result.windows == [JULY.to_dict(), JUNE.to_dict(), JUNE.to_dict()]
    before = times(tmp_path / ".rs_embed" / "store")
    assert len(before) == 6

    again = TemporalSpec.range("2022-07-10", "2022-08-01")
    run(target, windowed(3, JULY, again), temporal=JUNE)
    after = times(tmp_path / ".rs_embed" / "store")
    assert {k: after[k] for k in before} == before
    assert len(after) == len(before) + 2, "a chip and an embedding of one ROI"
    assert load_export(tmp_path / "run").windows[1] == again.to_dict()

    # the same windows written otherwise: nothing is embedded, and the manifest has them as written
    run(target, windowed(3, JULY, again, JUNE), temporal=None)
    assert times(tmp_path / ".rs_embed" / "store") == after
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert manifest["temporal"] is None
    assert manifest["windows"] == [w.to_dict() for w in (JULY, again, JUNE)]

    items = run(ExportTarget.per_item(str(tmp_path / "items")), windowed(3, JULY, again), temporal=JUNE)
    assert [m["temporal"] for m in items] == [w.to_dict() for w in (JULY, again, JUNE)]
    assert times(tmp_path / ".rs_embed" / "store") == after
    assert load_export(tmp_path / "items").windows == [m["temporal"] for m in items]


def test_without_own_windows_the_manifest_has_no_such_key(finished):
    assert "windows" not in json.loads((finished / "run.json").read_text())
    assert load_export(finished / "run").windows == [JUNE.to_dict()] * 9


def test_a_model_that_needs_a_window_takes_those_of_the_rois():
    from ..support.factories import plan

    own = {"temporal": None, "spatials": places(2), "names": ["a", "b"]}
    given = Request.build(models=["alpha"], target=ExportTarget.combined("x"), windows=[JUNE, JULY], **own)
    assert plan(given).units
    lacking = Request.build(models=["alpha"], target=ExportTarget.combined("x"), windows=[JUNE, None], **own)
    with pytest.raises(SpecError) as refused:
        plan(lacking)
    assert_refusal(refused.value, "temporal", "alpha", "'b'")


# rois= of export_batch, and the same table from the command line --------------------------------


def test_rois_or_spatials_and_names_once(tmp_path):
    arguments = {"temporal": JUNE, "models": ["mosaiks"], "target": combined(tmp_path / "x"), "backend": "sample"}
    for both in ({}, {"rois": frame(ONE), "spatials": places(1)}):
        with pytest.raises(ModelError) as refused:
            export_batch(**arguments, **both)
        assert_refusal(refused.value, "spatials", "rois")
    arguments["target"] = ExportTarget.combined(str(tmp_path / "x"), names=["b"])
    with pytest.raises(ModelError) as refused:
        export_batch(rois=frame(ONE, name=["a"]), **arguments)
    assert_refusal(refused.value, "target.names", "name")
    assert list(tmp_path.iterdir()) == [], "nothing was written"


@pytest.mark.heavy
def test_a_geojson_exports_the_same_from_python_and_from_snakemake(tmp_path, monkeypatch):
    rows = windowed(3, JULY)
    table = pandas.DataFrame(rows)
    made = frame(geopandas.points_from_xy(table.lon, table.lat), **table.drop(columns=["lon", "lat"]).to_dict("list"))
    made.to_crs(32633).to_file(tmp_path / "plots.geojson")
    monkeypatch.chdir(tmp_path)
    export(combined(Path("python/run")), None, rois=Path("plots.geojson"), temporal=JUNE)
    config = {
        "rois": "plots.geojson",
        "temporal": {"start": JUNE.start, "end": JUNE.end},
        "models": ["mosaiks"],
        "target": {"layout": "combined", "path": "snakemake/run"},
        "backend": "sample",
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    done = snakemake("--cores", "2", "--configfile", "c.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    one, two = load_export("python/run"), load_export("snakemake/run")
    assert one.spatials == two.spatials
    assert one.windows == two.windows == [w.to_dict() for w in (JULY, JUNE, JUNE)]
    assert one.names == ["r0", "r1", "r2"]
    assert np.array_equal(one.embedding("mosaiks"), two.embedding("mosaiks"))
