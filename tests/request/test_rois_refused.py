"""Invalid ROI tables: the message has the file, the feature or row, and what is allowed."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from pathlib import Path

import geopandas
import numpy as np
import pandas
import pytest
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from rs_embed import SpecError
from rs_embed.request.fields import find_misspelled
from rs_embed.request.rois import read_rois

from ..support.factories import assert_refusal
from .test_rois import FORMATS, ONE, frame

#: A frame, and words of the sentence. Files of it are refused alike, with "feature n" for
#: "rois.iloc[n-1]".
BROKEN_FRAMES = {
    "point without size": (frame([Point(1, 2)]), "{0}", "buffer_m"),
    "one point without size": (frame([Point(1, 2)] * 2, buffer_m=[1, None]), "{1}", "buffer_m"),
    "polygon with size": (frame([Point(1, 2), *ONE], buffer_m=[1.0, 9.0]), "{1}", "buffer_m", "9.0", "Polygon"),
    "size zero": (frame([Point(1, 2)], buffer_m=[0.0]), "{0}", "buffer_m", "0"),
    "size a text": (frame([Point(1, 2)], buffer_m=["wide"]), "{0}", "buffer_m", "'wide'"),
    "nothing": (frame([*ONE, None]), "{1}", "empty"),
    "empty polygon": (frame([*ONE, Polygon()]), "{1}", "empty"),
    "empty point": (frame([*ONE, Point()]), "{1}", "empty"),
    "empty collection": (frame([*ONE, MultiPolygon()]), "{1}", "empty"),
    "flat": (frame([LineString([(1, 2), (3, 2)])]), "{0}", "minlat", "2"),
    "half a window": (frame(ONE, start=["2022-06-01"], end=[None]), "{0}", "end", "missing"),
    "only an end": (frame(ONE, end=["2022-06-01"]), "{0}", "start", "missing"),
    "window reversed": (frame(ONE, start=["2022-06-01"], end=["2022-05-01"]), "{0}", "'2022-06-01'"),
    "no day": (frame(ONE, start=["June"], end=["2022-09-01"]), "{0}", "start", "'June'"),
    "a year": (frame(ONE, start=[2022], end=[2023]), "{0}", "2022"),
    "a time of day": (
        frame(ONE, start=[pandas.Timestamp("2022-06-01T12:00")], end=[pandas.Timestamp("2022-09-01")]),
        "{0}",
        "start",
        "2022-06-01T12:00:00",
    ),
    "a name missing": (frame(ONE * 2, name=["a", None]), "{1}", "name"),
    "misspelt column": (frame(ONE, strat=["2022-06-01"]), "'strat'", "did you mean 'start'"),
    "longer column": (frame(ONE, buffer=[5]), "'buffer'", "did you mean 'buffer_m'"),
    "column in capitals": (frame(ONE, END=["2022-06-01"]), "'END'", "did you mean 'end'"),
    "across the antimeridian": (frame([box(179, 0, 181, 1)]), "{0}", "maxlon", "181"),
    "cut at the antimeridian": (
        frame([MultiPolygon([box(179, 0, 180, 1), box(-180, 0, -179, 1)])]),
        "{0}",
        "antimeridian",
        "MultiPolygon",
    ),
    "the long way round": (frame([box(-179, 0, 179, 1)]), "{0}", "antimeridian"),
    "across in metres": (frame([box(100000, 10000, 300000, 20000)], 32601), "{0}", "antimeridian"),
    "around the pole": (frame([box(-1e5, -1e5, 1e5, 1e5)], 3413), "{0}", "antimeridian"),
    "point across": (frame([Point(180, 0)], buffer_m=[10.0]), "{0}", "antimeridian"),
    "off the earth": (frame([box(1e9, 1e9, 2e9, 2e9)], 32633), "{0}", "outside"),
    "beyond the pole": (frame([Point(1, 91)], buffer_m=[10.0]), "{0}", "lat", "91"),
}


@pytest.mark.parametrize("form", ["frame", *FORMATS])
@pytest.mark.parametrize("case", BROKEN_FRAMES)
def test_a_broken_feature_is_refused_with_its_number(tmp_path, case, form):
    made, *words = BROKEN_FRAMES[case]
    given, at = made, "rois.iloc[{}]"
    if form != "frame":
        given, at = f"t.{form}", f"t.{form} feature {{}}"
        made.to_file(tmp_path / given)
    with pytest.raises(SpecError) as refused:
        read_rois(given, str(tmp_path))
    words = [at.format(int(w[1]) + (form != "frame")) if w[0] == "{" else w for w in words]
    assert_refusal(refused.value, "rois", *words)


def two_layers(path: Path) -> None:
    frame(ONE).to_file(path, layer="plots")
    frame(ONE).to_file(path, layer="fields")


def only_a_table(path: Path) -> None:
    import pyogrio

    pyogrio.write_dataframe(pandas.DataFrame({"x": [1]}), path)


def undefined_crs(path: Path) -> None:
    """The code of the GeoPackage standard for an undefined CRS."""
    frame(ONE).to_file(path)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE gpkg_geometry_columns SET srs_id = 0")
        db.execute("UPDATE gpkg_contents SET srs_id = 0")


BROKEN_FILES = {
    "missing": ("t.gpkg", lambda path: None, "'t.gpkg'", "does not exist"),
    "a folder": ("t.geojson", Path.mkdir, "'t.geojson'"),
    "shapefile": ("t.shp", lambda path: frame(ONE).to_file(path), "'t.shp'", ".gpkg"),
    "no JSON": ("t.geojson", lambda path: path.write_text("{nope"), "cannot be read"),
    "no bytes": ("t.geojson", lambda path: path.write_text(""), "cannot be read"),
    "cut off": ("t.json", lambda path: path.write_text('{"type": "FeatureCollection", "features": [{'), "be read"),
    "other JSON": ("t.json", lambda path: path.write_text('{"rois": [1, 2]}'), "cannot be read"),
    "no database": ("t.gpkg", lambda path: path.write_bytes(b"SQLite format 3\0..."), "cannot be read"),
    "lines of JSON": (
        "t.geojson",
        lambda path: path.write_text('{"type":"Feature","properties":{},"geometry":null}\n' * 2),
        "GeoJSONSeq",
        "allowed: GeoJSON",
    ),
    "no feature": (
        "t.geojson",
        lambda path: path.write_text('{"type": "FeatureCollection", "features": []}'),
        "'t.geojson' is empty",
    ),
    "no row": ("t.gpkg", lambda path: frame([]).to_file(path), "'t.gpkg' is empty"),
    "two layers": ("t.gpkg", two_layers, "2 layers", "plots, fields"),
    "no geometry": ("t.gpkg", only_a_table, "no layer with geometries"),
    "undefined CRS": ("t.gpkg", undefined_crs, "no CRS"),
    "no CRS": ("t.gpkg", lambda path: frame(ONE, None).to_file(path), "no CRS"),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
@pytest.mark.filterwarnings("ignore")  # of geopandas, about the written files
def test_a_broken_file_is_refused(tmp_path, case):
    name, make, *words = BROKEN_FILES[case]
    make(tmp_path / name)
    with pytest.raises(SpecError) as refused:
        read_rois(name, str(tmp_path))
    assert_refusal(refused.value, "rois", *words)


def points_frame(**changes) -> pandas.DataFrame:
    return pandas.DataFrame(
        {"name": ["a", "b"], "lon": [1.0, 2.0], "lat": [1.0, 2.0], "buffer_m": [5.0, 5.0]} | changes
    )


BROKEN_TABLES = {
    "no row": (points_frame().iloc[:0], "empty"),
    "no column": (pandas.DataFrame({"x": [1]}), "x", "lon, lat, buffer_m"),
    "column twice": (pandas.concat([points_frame(), points_frame()[["lat"]]], axis=1), "'lat'", "twice"),
    "no number": (points_frame(lat=[1.0, "north"]), "rois.iloc[1]", "lat", "'north'"),
    "a truth value": (points_frame(lat=[True, False]), "rois.iloc[0]", "lat", "True"),
    "a size missing": (points_frame(buffer_m=[5.0, math.nan]), "rois.iloc[1]", "buffer_m"),
    "half a window": (points_frame(start=["2022-06-01", None]), "rois.iloc[0]", "end"),
    "misspelt": (points_frame(edn=["2022-06-01", None], sart=1), "'sart'", "did you mean 'start'"),
    "longer": (points_frame(start_date="2022-06-01"), "'start_date'", "did you mean 'start'"),
    "no CRS": (frame(ONE, None), "GeoDataFrame", "CRS"),
    "CRS of no place": (frame(ONE, 'LOCAL_CS["here",UNIT["metre",1]]'), "CRS", "here"),
    "no geometry": (geopandas.GeoDataFrame({"name": ["a"]}), "active geometry"),
    "a series": (frame(ONE).geometry, "GeoSeries"),
    "an array": (np.zeros((2, 3)), "ndarray"),
    "bytes": (b"rois.csv", "bytes"),
}


@pytest.mark.parametrize("case", BROKEN_TABLES)
def test_a_broken_frame_is_refused(case):
    given, *words = BROKEN_TABLES[case]
    with pytest.raises(SpecError) as refused:
        read_rois(given, ".")
    assert_refusal(refused.value, "rois", *words)


def test_other_columns_are_not_misspelled():
    known = ("name", "lon", "lat", "buffer_m", "start", "end")
    for column in (
        "state",
        "status",
        "alt",
        "trend",
        "name_en",
        "area",
        "kind",
        "id",
        "fid",
        "date",
        "geometry",
        "lon",
    ):
        assert find_misspelled(column, known) is None, column
    for column, meant in {"strat": "start", "Start": "start", "end_date": "end", "buffer-m": "buffer_m"}.items():
        assert find_misspelled(column, known) == meant
