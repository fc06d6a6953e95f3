"""Outlines of STAC items on the circle of longitudes, and whether they overlap a box.

Sources: RFC 7946, sections 3.1.9 and 5.2 (geometries are cut at the antimeridian, and the box of
one that crosses it has west > east). Services also write rings that jump from 179 to -179, and
longitudes beyond 180, which are read as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

#: Points (lon, lat), degrees; longitudes are continuous, so those of a ring that crosses the
#: antimeridian exceed 180.
Ring = tuple[tuple[float, float], ...]
#: west, south, east, north, degrees; west > east across the antimeridian.
Box = tuple[float, float, float, float]
#: A ring with a jump in longitude and more degrees of latitude than this is a grid of the whole
#: world; an image that crosses the antimeridian is never so high.
_WORLD_HEIGHT = 90.0


def parse_outline(feature: Mapping) -> tuple[tuple[Ring, ...], Box | None]:
    """Outer rings of an item, and its box. The box is that of the rings where there are any:
    services write the box of a geometry that crosses the antimeridian in several ways.

    Raises:
        ValueError, TypeError, KeyError, IndexError: not a geometry, or not on the earth.
    """
    geometry = feature.get("geometry") or {}
    list_polygons: dict[Any, Callable[[Any], list]] = {"Polygon": lambda c: [c], "MultiPolygon": lambda c: c}
    polygons = list_polygons.get(geometry.get("type"), lambda c: [])(geometry.get("coordinates") or [])
    points = [[(round(p[0], 6), round(p[1], 6)) for p in polygon[0]] for polygon in polygons]
    rings = tuple(unwrap_ring(ring, partial(_is_wide, ring, feature)) for ring in points)
    bbox = feature.get("bbox")
    if rings:
        spans = [(min(x for x, _ in ring), max(x for x, _ in ring)) for ring in rings]
        lats = [lat for ring in rings for _, lat in ring]
        south, north = min(lats), max(lats)
    elif bbox:
        middle = len(bbox) // 2  # with heights, it has six numbers
        west, south, east, north = (float(v) for v in (bbox[0], bbox[1], bbox[middle], bbox[middle + 1]))
        spans = [(west, east + 360 if west > east else east)]
    else:
        return (), None
    if not all(-1e4 < float(v) < 1e4 for v in (south, north, *itertools.chain(*spans))):
        raise ValueError("its location is not on the earth")
    west, east = fold_spans(spans)
    return rings, (round(west, 6), round(south, 6), round(east, 6), round(north, 6))


def unwrap_ring(points: Sequence[tuple[float, float]], is_wide: Callable[[], bool] = lambda: False) -> Ring:
    """A ring with continuous longitudes that starts within -180..180. A step of more than 180
    degrees crosses the antimeridian, except in a grid of the whole world. A ring around a pole is
    closed along it.

    Args:
        is_wide: whether a ring with such a step is as wide as it is written.
    """
    closed = points if points[0] == points[-1] else [*points, points[0]]
    out, turn = [closed[0]], 0.0
    for a, b in itertools.pairwise(closed):
        step = b[0] - a[0]
        if abs(step) > 180:
            turn -= 360 * round(step / 360)
        out.append((b[0] + turn, b[1]))
    width, height = _extent(out, 0), _extent(out, 1)
    if _extent(points, 0) > 180 and (width < 1e-6 or height > _WORLD_HEIGHT):
        out = list(closed)
    turns = out[-1][0] - out[0][0]
    if abs(turns) > 180:
        pole = 90.0 if sum(lat for _, lat in points) > 0 else -90.0
        out += [(out[-1][0], pole), (out[0][0], pole)]
    elif out != list(closed) and is_wide():
        out = list(closed)
    shift = -360 * ((min(x for x, _ in out) + 180) // 360)
    return tuple((round(x + shift, 6), lat) for x, lat in out)


def _is_wide(points: Sequence[tuple[float, float]], feature: Mapping) -> bool:
    """Whether a ring with a step of more than 180 degrees is as wide as it is written, rather than
    an image that crosses the antimeridian: by the item's projection, else by its box and by the
    shape that an image across the antimeridian would have. The box alone does not tell: services
    write that of the numbers in either case."""
    x, y = [p[0] for p in points], [p[1] for p in points]
    written = min(x), min(y), max(x), max(y)
    if written[2] - written[0] <= 180:
        return False
    if projected := _projected_box(feature):
        west, east = projected[0], projected[2]
        if west > east or east - west <= 180:
            return False
        # the box of a scene over a pole spans all longitudes as well, and reaches the pole
        if max(abs(projected[1] - written[1]), abs(projected[3] - written[3])) < 1:
            return True
    bbox = feature.get("bbox")
    if bbox:
        west, east = float(bbox[0]), float(bbox[len(bbox) // 2])
        if west > written[0] + 1e-3 or east < written[2] - 1e-3:
            return False
    return not _could_be_image(points)


def _could_be_image(points: Sequence[tuple[float, float]]) -> bool:
    """Whether a ring, taken across the antimeridian, has the shape of a satellite's image: swaths
    are up to 30 degrees wide (VIIRS, 3060 km), and long ones are inclined. Grids follow meridians
    and parallels; tiles of those are small."""
    width, height = _extent([(lon % 360, lat) for lon, lat in points], 0), _extent(points, 1)
    middle = (min(lat for _, lat in points) + max(lat for _, lat in points)) / 2
    width_at_equator = width * math.cos(math.radians(middle))
    if len({lon for lon, _ in points}) == len({lat for _, lat in points}) == 2:
        return width_at_equator <= 6 and height <= 10 and height <= 10 * max(width_at_equator, 0.1)
    return width_at_equator <= 30 and not (height > 30 and height > 3 * width_at_equator)


def _projected_box(feature: Mapping) -> Box | None:
    """:func:`located_by_projection`, or None where its fields are not valid."""
    try:
        return located_by_projection(feature)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None


def _extent(points: Sequence[tuple[float, float]], axis: int) -> float:
    values = [p[axis] for p in points]
    return max(values) - min(values)


def fold_spans(spans: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The shortest arc (west, east) of longitudes that contains several (west, east >= west); west
    > east across the antimeridian, (-180, 180) for the whole circle."""
    folded = []
    for west, east in spans:
        shift = -360 * ((west + 180) // 360)
        folded.append((west + shift, east + shift))
    folded.sort()
    end = max(e for _, e in folded) - 360  # what reaches over the antimeridian from the east
    gaps = []
    for start, stop in folded:
        gaps.append((start - end, start, end))
        end = max(end, stop)
    gap, west, east = max(gaps)
    if gap <= 0:
        return -180.0, 180.0
    east += 360 if east < west else 0
    return west, east - 360 if east > 180 else east


def box_ring(box: Box) -> Ring:
    """A box as a ring."""
    west, south, east, north = box
    east += 360 if west > east else 0
    return (west, south), (east, south), (east, north), (west, north), (west, south)


def ring_overlaps(ring: Ring, box: Sequence[float]) -> bool:
    """A ring overlaps a box on the circle of longitudes; edges are straight in longitude and
    latitude, as in the services' searches."""
    west, south, east, north = map(float, box)
    if west > east:
        east += 360
    low, high = min(x for x, _ in ring), max(x for x, _ in ring)
    return any(
        west + turn <= high and east + turn >= low and _clip_leaves_area(ring, (west + turn, south, east + turn, north))
        for turn in (-360, 0, 360)
    )


def _clip_leaves_area(ring: Ring, box: Sequence[float]) -> bool:
    """Cutting a ring with the four sides of a box leaves an area (Sutherland and Hodgman,
    1974)."""
    points: list[tuple[float, float]] = list(ring)
    for axis, limit, sign in ((0, box[0], 1), (0, box[2], -1), (1, box[1], 1), (1, box[3], -1)):
        kept = []
        for a, b in zip(points, [*points[1:], *points[:1]]):
            inside_a, inside_b = sign * (a[axis] - limit) >= 0, sign * (b[axis] - limit) >= 0
            if inside_a:
                kept.append(a)
            if inside_a != inside_b:
                t = (limit - a[axis]) / (b[axis] - a[axis])
                kept.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])))
        if not kept:
            return False
        points = kept
    # edges along the same side of the box enclose no area
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, [*points[1:], points[0]]))) > 1e-14


def located_by_projection(feature: Mapping) -> Box | None:
    """The box of an item without location from the projection extension (``proj:bbox``, or
    ``proj:shape`` and ``proj:transform``, with ``proj:code``, ``proj:epsg`` or ``proj:wkt2``), in
    the item or its assets; None where it does not tell.

    Raises:
        ValueError, TypeError: the fields are not valid.
    """
    properties = feature.get("properties") or {}
    assets = [a for a in (feature.get("assets") or {}).values() if isinstance(a, Mapping)]
    for fields in (properties, *({**properties, **a} for a in assets)):
        crs = fields.get("proj:code") or fields.get("proj:epsg") or fields.get("proj:wkt2")
        bounds = _projected_bounds(fields)
        if crs and bounds:
            return _to_lonlat(f"EPSG:{crs}" if isinstance(crs, int) else str(crs), bounds)
    return None


def _projected_bounds(fields: Mapping) -> Box | None:
    if box := fields.get("proj:bbox"):
        middle = len(box) // 2
        return float(box[0]), float(box[1]), float(box[middle]), float(box[middle + 1])
    shape, affine = fields.get("proj:shape"), fields.get("proj:transform")
    if not shape or not affine:
        return None
    a, b, c, d, e, f = (float(v) for v in affine[:6])
    corners = [(0, 0), (0, shape[0]), (shape[1], 0), (shape[1], shape[0])]
    x, y = [a * col + b * row + c for col, row in corners], [d * col + e * row + f for col, row in corners]
    return min(x), min(y), max(x), max(y)


def _to_lonlat(crs: str, bounds: Box) -> Box:
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import CRSError
    from rasterio.warp import transform_bounds

    try:
        west, south, east, north = transform_bounds(crs, "EPSG:4326", *bounds)
    except (CRSError, CPLE_BaseError) as error:
        raise ValueError(str(error)) from None
    west, east = fold_spans([(west, east + 360 if west > east else east)])
    return round(west, 6), round(south, 6), round(east, 6), round(north, 6)
