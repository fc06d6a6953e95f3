"""Rasters that leave the longitudes -180..180: 0..360, or across the antimeridian.

A warp asks a raster for longitudes of -180..180 and for nothing else. Such a raster is therefore
read once for each full turn by which it has to be moved to cover them; moving it by a full turn
changes no place on earth.
"""

from __future__ import annotations

import functools
import math
import re
from typing import Any

#: Projections in which a full turn of longitude is a shift along x (names of EPSG and PROJ).
_CYLINDRICAL = re.compile(
    r"Mercator|Popular Visualisation Pseudo|(Lambert |Equidistant |Miller )?(Cylindrical|Plate)", re.I
)
#: Rounding of bounds, as a share of a turn: 0.04 mm of longitude.
_EPS = 1e-12
#: More turns than this are no place on earth.
_MOST = 3


def full_turns(dataset: Any) -> list[float]:
    """Shifts along x, in units of the CRS, that move a raster onto longitudes -180..180 of the
    projection: [0.0] for most rasters.

    Args:
        dataset: an open rasterio dataset with a CRS.
    """
    domain = _domain(dataset.crs.to_wkt()) if dataset.crs else None
    if domain is None:
        return [0.0]
    start, turn = domain
    west, east = sorted((dataset.bounds.left, dataset.bounds.right))
    first = math.ceil((start - east) / turn + _EPS)
    last = math.floor((start + turn - west) / turn - _EPS)
    shifts = [number * turn for number in range(first, last + 1)]
    return shifts if 0 < len(shifts) <= _MOST and abs(first) <= _MOST and abs(last) <= _MOST else [0.0]


@functools.lru_cache(maxsize=256)
def _domain(wkt: str) -> tuple[float, float] | None:
    """x of the western edge of a CRS, and the length of a full turn, in its units; None where
    longitude is not along x."""
    from pyproj import CRS, Transformer
    from pyproj.exceptions import ProjError

    try:
        crs = CRS.from_wkt(wkt)
        if crs.is_geographic:
            turn = 2 * math.pi / crs.axis_info[0].unit_conversion_factor
            return -turn / 2, turn
        operation = crs.coordinate_operation
        if operation is None or not _CYLINDRICAL.match(operation.method_name):
            return None
        middle = next((p.value for p in operation.params if p.name.startswith("Longitude of")), 0.0)
        to = Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True)
        x0, x1 = (to.transform(float(middle) + lon, 0.0)[0] for lon in (-90.0, 90.0))
    except (ProjError, ValueError, TypeError, IndexError):
        return None
    turn = 2 * (x1 - x0)
    return ((x0 + x1 - turn) / 2, turn) if math.isfinite(turn) and turn > 0 else None


def outline_box(dataset: Any) -> tuple[float, float, float, float]:
    """(west, south, east, north) of a raster in WGS 84, degrees, longitudes -180..180; west > east
    across the antimeridian.

    Raises:
        ValueError, rasterio's CRSError or CPLE_BaseError: its CRS cannot be used.
    """
    from rasterio.warp import transform_bounds

    x0, y0, x1, y1 = dataset.bounds  # in the wrong order for south-up or mirrored files
    west, south, east, north = min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
    shifts, domain = full_turns(dataset), _domain(dataset.crs.to_wkt())
    if domain is None or shifts == [0.0]:
        return transform_bounds(dataset.crs, "EPSG:4326", west, south, east, north)
    start, turn = domain
    parts = []
    for shift in shifts:
        left, right = max(west + shift, start), min(east + shift, start + turn)
        parts.append(transform_bounds(dataset.crs, "EPSG:4326", left, south, right, north))
    low, high = min(p[1] for p in parts), max(p[3] for p in parts)
    parts.sort()
    if east - west >= turn * (1 - _EPS) or len(parts) > 2:
        return -180.0, low, 180.0, high
    if len(parts) == 1:
        return parts[0][0], low, parts[0][2], high
    # the two parts meet at the antimeridian, or at the edge of the projection
    first, second = parts
    if abs(first[0] + 180) < 1e-6 and abs(second[2] - 180) < 1e-6:
        return second[0], low, first[2], high
    return first[0], low, second[2], high
