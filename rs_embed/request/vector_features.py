"""Vector features as rows of a ROI table: GeoJSON and GeoPackage files, and the geometries of a
GeoDataFrame.

A point with ``buffer_m`` becomes a square around it; other geometries become their bounds. Bounds
are computed in the CRS of the layer and then transformed to longitude and latitude with densified
edges, so that the box contains the whole feature.
"""

from __future__ import annotations

import datetime as dt
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import SpecError
from .fields import find_misspelled
from .geometry import get_transformer
from .specs import WGS84

SUFFIXES = (".geojson", ".json", ".gpkg")
#: Attribute columns that are read; other columns are ignored.
COLUMNS = ("name", "buffer_m", "start", "end")
_DRIVERS = ("GeoJSON", "GPKG")
#: Geometry types in two-dimensional WKB.
_KINDS = {1: "Point", 2: "LineString", 3: "Polygon", 4: "MultiPoint", 5: "MultiLineString", 6: "MultiPolygon"}


def read_vector_file(path: str, shown: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of a vector file, and the location of each row for messages (``rois: <file> feature
    3``).

    Raises:
        SpecError: the file is unreadable, has several layers, no CRS or a misspelled column name,
            or a feature is not a ROI.
    """
    from pyogrio import list_layers, raw, read_bounds, read_info

    layer = f"rois: {shown!r}"
    try:
        # QGIS stores styles in a table
        layers = [name for name, kind in list_layers(path).tolist() if kind is not None]
        if len(layers) != 1:
            has = f"has {len(layers)} layers ({', '.join(layers)})" if layers else "has no layer with geometries"
            raise SpecError(f"{layer} {has}; allowed: a file with one layer")
        info = read_info(path, layer=layers[0])
        if info["driver"] not in _DRIVERS:
            raise SpecError(f"{layer} is read as {info['driver']}; allowed: GeoJSON or GeoPackage")
        refuse_misspelled(info["fields"].tolist(), COLUMNS, layer)
        columns = [c for c in COLUMNS if c in info["fields"]]
        meta, _, geometries, values = raw.read(
            path, layer=layers[0], columns=columns, force_2d=True, datetime_as_string=True
        )
        bounds = read_bounds(path, layer=layers[0])[1].T.tolist()
    except SpecError:
        raise
    except (RuntimeError, ValueError) as error:  # base classes of pyogrio's errors
        why = " ".join(str(error).split("; It might")[0].split()).rstrip(".")
        raise SpecError(f"{layer} cannot be read ({why}); allowed: a GeoJSON or GeoPackage file") from None
    # GeoJSON without a CRS is WGS 84 (RFC 7946, section 4)
    crs = meta["crs"] or (WGS84 if info["driver"] == "GeoJSON" else None)
    cells = dict(zip(meta["fields"], (v.tolist() for v in values)))
    where = [f"rois: {shown} feature {i + 1}" for i in range(len(bounds))]
    return to_rows([_geometry_type(g) for g in geometries], bounds, crs, cells, layer, where), where


def _geometry_type(wkb: bytes | None) -> str | None:
    """The type of a geometry; None for a missing or empty geometry, whose bounds are zeros in
    GDAL."""
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
    layer: str,
    where: Sequence[str],
) -> list[dict[str, Any]]:
    """Rows for :func:`rs_embed.request.rois.parse_spatial`, in degrees.

    Args:
        kinds: type of every geometry, None for an empty one.
        bounds: (minx, miny, maxx, maxy) of every geometry.
        crs: CRS of the bounds, or None.
        cells: attribute columns by name.
        layer: name of the layer, for messages.
        where: location of every feature, for messages.

    Raises:
        SpecError: no CRS, a CRS without a transformation to EPSG:4326, or a feature that is not a
            ROI.
    """
    to = _to_degrees(crs, layer)
    rows = []
    for i, (kind, box, at) in enumerate(zip(kinds, bounds, where)):
        row = {c: normalise_cell(c, cells[c][i]) for c in COLUMNS if c in cells}
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
            # RFC 7946 cuts features at the antimeridian; files that do not have bounds like this
            if east - west > 180:
                raise SpecError(
                    f"{at}: the {kind} spans {west:g}..{east:g} degrees of longitude; "
                    "allowed: at most 180, so a feature across the antimeridian must be split into two"
                )
            row |= {"minlon": west, "minlat": south, "maxlon": east, "maxlat": north}
        rows.append(row)
    return rows


def _to_degrees(crs: str | None, layer: str) -> Any:
    """The transformer from a CRS to longitude and latitude; None if its coordinates are these
    already."""
    from pyproj import CRS
    from pyproj.exceptions import ProjError

    # GeoPackage has codes for undefined CRS; older GDAL names them so
    if not crs or "Undefined " in crs:
        raise SpecError(f"{layer} has no CRS; allowed: a layer that names its CRS, for example EPSG:4326")
    try:
        same = CRS.from_user_input(crs).equals(CRS.from_user_input(WGS84), ignore_axis_order=True)
        return None if same else get_transformer(crs, WGS84)
    except ProjError:
        raise SpecError(
            f"{layer}: the CRS {crs[:60]!r} does not lead to {WGS84}; allowed: a CRS on the earth"
        ) from None


def _degrees(box: Sequence[float], to: Any, where: str) -> tuple[float, ...]:
    from pyproj.exceptions import ProjError

    try:
        return tuple(box) if to is None else to.transform_bounds(*box, errcheck=True)
    except ProjError:
        raise SpecError(f"{where}: {box} is outside of its CRS; allowed: coordinates in its domain") from None


def refuse_misspelled(columns: Sequence[str], known: Sequence[str], where: str) -> None:
    """Raise :class:`SpecError` for a column that is a misspelled name of a known column; other
    columns are ignored."""
    for column in columns:
        meant = find_misspelled(column, known)
        if meant:
            raise SpecError(
                f"{where}: unknown column {column!r} (did you mean {meant!r}?); allowed: {', '.join(known)}, and names unlike these"
            )


def normalise_cell(column: str, value: Any) -> Any:
    """The value of a cell: None for an empty cell; in ``start`` and ``end``, a date for a time at
    midnight.

    Other times are returned unchanged and refused later: rounding them to a date would change the
    window.
    """
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
    """Whether the suffix of a path is that of a vector file."""
    return os.path.splitext(path)[1].lower() in SUFFIXES
