"""Vector features as rows of a ROI table: GeoJSON and GeoPackage files, and the geometries of a GeoDataFrame.

A point with ``buffer_m`` is a square around it; of anything else the bounds are the ROI. Bounds are taken in the layer's
own CRS and then turned into longitude and latitude with their edges densified, so that the box holds the whole feature.
"""

from __future__ import annotations

import datetime as dt
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import SpecError
from .fields import mistaken
from .geometry import transformer
from .specs import WGS84

SUFFIXES = (".geojson", ".json", ".gpkg")
#: Attribute columns that are read; others are the user's own business.
COLUMNS = ("name", "buffer_m", "start", "end")
_DRIVERS = ("GeoJSON", "GPKG")
#: Kinds of geometry in WKB, as far as a layer of two dimensions has them.
_KINDS = {1: "Point", 2: "LineString", 3: "Polygon", 4: "MultiPoint", 5: "MultiLineString", 6: "MultiPolygon"}


def read(path: str, shown: str) -> tuple[list[dict], list[str]]:
    """Rows of a vector file, and where each comes from (``rois: <file> feature 3``).

    Raises:
        SpecError: unreadable, several layers, no CRS, a column that nearly is one of ours, or a feature that is no ROI.
    """
    from pyogrio import list_layers, raw, read_bounds, read_info

    said = f"rois: {shown!r}"
    try:
        layers = [name for name, kind in list_layers(path).tolist() if kind is not None]  # QGIS keeps styles in a table
        if len(layers) != 1:
            has = f"has {len(layers)} layers ({', '.join(layers)})" if layers else "has no layer with geometries"
            raise SpecError(f"{said} {has}; allowed: a file with one layer")
        info = read_info(path, layer=layers[0])
        if info["driver"] not in _DRIVERS:
            raise SpecError(f"{said} is read as {info['driver']}; allowed: GeoJSON or GeoPackage")
        refuse_mistaken(info["fields"].tolist(), COLUMNS, said)
        columns = [c for c in COLUMNS if c in info["fields"]]
        meta, _, geometries, values = raw.read(
            path, layer=layers[0], columns=columns, force_2d=True, datetime_as_string=True
        )
        bounds = read_bounds(path, layer=layers[0])[1].T.tolist()
    except SpecError:
        raise
    except (RuntimeError, ValueError) as error:  # the roots of pyogrio's errors
        why = " ".join(str(error).split("; It might")[0].split()).rstrip(".")
        raise SpecError(f"{said} cannot be read ({why}); allowed: a GeoJSON or GeoPackage file") from None
    # GeoJSON is WGS 84 unless it says otherwise (RFC 7946, section 4)
    crs = meta["crs"] or (WGS84 if info["driver"] == "GeoJSON" else None)
    cells = dict(zip(meta["fields"], (v.tolist() for v in values)))
    where = [f"rois: {shown} feature {i + 1}" for i in range(len(bounds))]
    return to_rows([_kind(g) for g in geometries], bounds, crs, cells, said, where), where


def _kind(wkb: bytes | None) -> str | None:
    """The kind of a geometry; None for a missing or empty one, whose bounds GDAL gives as zeros."""
    if not wkb:
        return None
    order = "<" if wkb[0] else ">"
    kind, count = struct.unpack_from(order + "II", wkb, 1)
    name = _KINDS.get(kind, "geometry")
    return name if name == "Point" or count else None


def to_rows(
    kinds: Sequence[str | None],
    bounds: Sequence[Sequence[float]],
    crs: str | None,
    cells: Mapping[str, Sequence[Any]],
    said: str,
    where: Sequence[str],
) -> list[dict]:
    """Rows as :func:`rs_embed.request.rois.spatial` takes them, in degrees.

    Args:
        kinds: of every geometry, None for an empty one. bounds: (minx, miny, maxx, maxy) of every geometry.
        crs: of the bounds, None for none. cells: attribute columns by name.
        said: the layer, for messages. where: every feature, for messages.

    Raises:
        SpecError: no CRS or one that does not lead to EPSG:4326, or a feature that is no ROI.
    """
    to = _to_degrees(crs, said)
    rows = []
    for i, (kind, box, at) in enumerate(zip(kinds, bounds, where)):
        row = {c: cell(c, cells[c][i]) for c in COLUMNS if c in cells}
        if kind is None or any(v != v for v in box):
            raise SpecError(f"{at}: the geometry is empty; allowed: points with buffer_m, or geometries with bounds")
        west, south, east, north = _degrees(box, to, at)
        if kind == "Point" or (kind == "MultiPoint" and box[:2] == box[2:]):
            if row.get("buffer_m") is None:
                raise SpecError(f"{at}: buffer_m is missing for a point; allowed: a column buffer_m with metres")
            row |= {"lon": west, "lat": south}
        else:
            if row.get("buffer_m") is not None:
                raise SpecError(f"{at}: buffer_m: {row['buffer_m']!r} is given for a {kind}; allowed: only for points")
            if east - west > 180:  # as RFC 7946 cuts what lies across, and as those that do not cut it leave it
                raise SpecError(
                    f"{at}: the {kind} spans {west:g}..{east:g} degrees of longitude; "
                    "allowed: at most 180, so what lies across the antimeridian must be two features"
                )
            row |= {"minlon": west, "minlat": south, "maxlon": east, "maxlat": north}
        rows.append(row)
    return rows


def _to_degrees(crs: str | None, said: str) -> Any:
    """The transformer from a CRS to longitude and latitude; None where these are what it has."""
    from pyproj import CRS
    from pyproj.exceptions import ProjError

    if not crs or "Undefined " in crs:  # GeoPackage has numbers for "undefined", which older GDAL gives this name
        raise SpecError(f"{said} has no CRS; allowed: a layer that names its CRS, for example EPSG:4326")
    try:
        same = CRS.from_user_input(crs).equals(CRS.from_user_input(WGS84), ignore_axis_order=True)
        return None if same else transformer(crs, WGS84)
    except ProjError:
        raise SpecError(f"{said}: the CRS {crs[:60]!r} does not lead to {WGS84}; allowed: a CRS on the earth") from None


def _degrees(box: Sequence[float], to: Any, where: str) -> tuple[float, ...]:
    from pyproj.exceptions import ProjError

    try:
        return tuple(box) if to is None else to.transform_bounds(*box, errcheck=True)
    except ProjError:
        raise SpecError(f"{where}: {box} is outside of its CRS; allowed: coordinates in its domain") from None


def refuse_mistaken(columns: Sequence[str], ours: Sequence[str], said: str) -> None:
    """Other columns are nobody's business, but one that looks like a misspelt one of ours is refused."""
    for column in columns:
        meant = mistaken(column, ours)
        if meant:
            raise SpecError(
                f"{said}: unknown column {column!r} (did you mean {meant!r}?); allowed: {', '.join(ours)}, and others unlike these"
            )


def cell(column: str, value: Any) -> Any:
    """A cell as tables have it: None where nothing is in it; of a window, a day for a time at midnight. Other times stay,
    and are refused where a day is wanted: cutting them off would move the window."""
    if value is None or value != value:
        return None
    if column not in ("start", "end"):
        return value
    if isinstance(value, str) and len(value.strip()) > len("2022-06-01"):
        try:
            time = dt.datetime.fromisoformat(value.strip())
        except ValueError:
            return value
    elif isinstance(value, dt.datetime):
        time, value = value, value.isoformat()
    else:
        return value
    return time.date().isoformat() if time.time() == dt.time() else value


def is_vector(path: str) -> bool:
    """The path ends like a vector file."""
    return os.path.splitext(path)[1].lower() in SUFFIXES
