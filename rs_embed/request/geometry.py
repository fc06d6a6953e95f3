"""From a ROI to its pixel grid: CRS, affine and size.

There are two projections. ``"utm"``: pixels are ground metres in the UTM zone of the ROI's centre
(UPS beyond 84 N / 80 S). ``"web_mercator"``: the lattice of Earth Engine's ``EPSG:3857`` at a
scale, which the reference library uses; its metres shrink with the cosine of the latitude. In
both, pixel edges are multiples of the scale from the origin of the projection, so neighbouring
grids share one lattice, and a 10 m UTM grid coincides with the pixels of Sentinel-2.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import SpecError
from .specs import EARTH_RADIUS_M, BBox, PointBuffer, SpatialSpec

if TYPE_CHECKING:
    import numpy as np
    from pyproj import Transformer

#: |lat| of the edge of the square extent of EPSG:3857, degrees: atan(sinh(pi)).
MERCATOR_MAX_LAT = math.degrees(math.atan(math.sinh(math.pi)))
#: Largest side of a chip, pixels: Earth Engine's limit for one request, and a guard against a
#: wrong scale.
MAX_SIDE = 32768
#: Most values of one chip, over all bands and frames: 2 GB of 16 bits. Memory contains a few
#: copies of a whole chip.
MAX_VALUES = 2**30
#: UPS north and south.
POLAR = ("EPSG:5041", "EPSG:5042")
_EPS = 1e-9


@dataclass(frozen=True)
class Grid:
    """A north-up pixel grid.

    Attributes:
        crs: for example ``"EPSG:32633"``.
        affine: (a, b, c, d, e, f): x = a*col + b*row + c, y = d*col + e*row + f at the upper left
            pixel corner, metres.
        width, height: columns and rows.
    """

    crs: str
    affine: tuple[float, float, float, float, float, float]
    width: int
    height: int

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) in the grid's CRS, metres."""
        a, _, c, _, e, f = self.affine
        return c, f + e * self.height, c + a * self.width, f

    def rows(self, start: int, stop: int) -> Grid:
        """The grid of its rows ``start .. stop-1``."""
        a, b, c, d, e, f = self.affine
        return Grid(self.crs, (a, b, c, d, e, f + e * start), self.width, stop - start)

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """x of every column's centre (width,) and y of every row's centre (height,), float64,
        metres."""
        import numpy as np

        a, _, c, _, e, f = self.affine
        return c + a * (np.arange(self.width) + 0.5), f + e * (np.arange(self.height) + 0.5)


def utm_crs(lon: float, lat: float) -> str:
    """EPSG code of the UTM zone of a point, with the exceptions for Norway and Svalbard (as in the
    Sentinel-2 tiling), or of UPS beyond 84 N and 80 S.

    Source: NGA.SIG.0012, "The Universal Grids", chapter 2 and 3.
    """
    if lat >= 84:
        return POLAR[0]
    if lat < -80:
        return POLAR[1]
    zone = min(int((lon + 180) // 6) + 1, 60)
    if 56 <= lat < 64 and 3 <= lon < 12:
        zone = 32
    elif 72 <= lat < 84 and 0 <= lon < 42:
        zone = 31 if lon < 9 else 33 if lon < 21 else 35 if lon < 33 else 37
    return f"EPSG:{(32600 if lat >= 0 else 32700) + zone}"


@functools.lru_cache(maxsize=256)
def get_transformer(source: str, target: str) -> Transformer:
    """A cached pyproj transformer with x, y (lon, lat) axis order."""
    from pyproj import Transformer

    return Transformer.from_crs(source, target, always_xy=True)


def to_mercator(lon: float, lat: float) -> tuple[float, float]:
    """Spherical Mercator (EPSG:3857), metres. Source: EPSG Guidance Note 7-2, method 1024."""
    return EARTH_RADIUS_M * math.radians(lon), EARTH_RADIUS_M * math.log(math.tan(math.pi / 4 + math.radians(lat) / 2))


def make_grid(spatial: SpatialSpec, projection: str, scale_m: float, *, square: bool = False) -> Grid:
    """The pixel grid of a ROI.

    UTM: the square of a point has ``ceil(2*buffer_m/scale_m)`` pixels a side everywhere, and its
    corner is moved to the nearest lattice line (by half a pixel at most); a box becomes the bounds
    of its outline in the zone, snapped outward. Web Mercator: the bounds are snapped outward as by
    ``ee.Projection('EPSG:3857').atScale(s)``, so the sizes of points can differ by a pixel.

    Args:
        square: enlarge a box to the centred square on its longer side, unless that would leave the
            extent of Web Mercator.

    Raises:
        SpecError: the ROI is outside the domain of the projection, or has more than 32,768 pixels
            a side.
    """
    if projection == "web_mercator":
        crs, bounds = "EPSG:3857", _mercator_bounds(spatial)
    else:
        crs = utm_crs(*spatial.centre)
        bounds = _projected_bounds(spatial, crs)
    square = square and isinstance(spatial, BBox)
    if projection == "web_mercator":
        bounds = _fetched_mercator_bounds(bounds, square=square)
    elif square:
        bounds = _enlarge_to_square(bounds)
    left, bottom, right, top = bounds
    # before the divisions, which overflow for tiny scales
    if max(right - left, top - bottom) > 2 * MAX_SIDE * scale_m:
        raise SpecError(f"ROI: {spatial} at {scale_m:g} m is too large; allowed: {MAX_SIDE} pixels a side")
    if projection == "utm" and isinstance(spatial, PointBuffer):
        width = height = max(1, math.ceil(2 * spatial.buffer_m / scale_m - _EPS))
        col0, row0 = round(left / scale_m), round(-top / scale_m)
    else:
        col0, col1 = math.floor(left / scale_m + _EPS), math.ceil(right / scale_m - _EPS)
        row0, row1 = math.floor(-top / scale_m + _EPS), math.ceil(-bottom / scale_m - _EPS)
        width, height = max(1, col1 - col0), max(1, row1 - row0)
        # snapping can add a pixel to one side; the reference library keeps it
        if square and projection == "utm":
            width = height = max(width, height)
    if max(width, height) > MAX_SIDE:
        raise SpecError(f"ROI: {width} x {height} pixels at {scale_m:g} m are too many; allowed: {MAX_SIDE} a side")
    return Grid(crs, (scale_m, 0.0, col0 * scale_m, 0.0, -scale_m, -row0 * scale_m), width, height)


def grid_shape(spatial: SpatialSpec, projection: str, scale_m: float, *, square: bool = False) -> tuple[int, int]:
    """(height, width) of :func:`make_grid`; fast where the size of the ROI determines it."""
    if projection == "utm" and isinstance(spatial, PointBuffer):
        side = max(1, math.ceil(2 * spatial.buffer_m / scale_m - _EPS))
        return side, side
    grid = make_grid(spatial, projection, scale_m, square=square)
    return grid.height, grid.width


def refuse_too_large(grid: Grid, planes: int, where: str) -> None:
    """Raise :class:`SpecError` for a chip that does not fit into memory, before anything runs.

    Args:
        planes: bands times frames.

    Raises:
        SpecError: the chip has more than :data:`MAX_VALUES` values.
    """
    if grid.width * grid.height * planes > MAX_VALUES:
        raise SpecError(
            f"{where}: {grid.width} x {grid.height} pixels with {planes} bands and frames are "
            f"{grid.width * grid.height * planes:,} numbers, too many for one chip; allowed: {MAX_VALUES:,}, "
            "so smaller ROIs, or a larger scale_m"
        )


def roi_in_square(spatial: SpatialSpec, projection: str, grid: Grid) -> tuple[float, float, float, float] | None:
    """Position of a box in the square that it was enlarged to: (y0, y1, x0, x1) as shares of the
    grid, from its upper left corner; None if the grid was not enlarged.

    With ``web_mercator`` the shares are those of the reference library (``tools/spatial.py``): of
    the bounds before they are snapped to pixels, rounded to six decimals.
    """
    if isinstance(spatial, PointBuffer):
        return None
    if projection == "web_mercator":
        inner = _mercator_bounds(spatial)
        outer, digits = _fetched_mercator_bounds(inner, square=True), 6
    else:
        inner, outer, digits = make_grid(spatial, projection, grid.affine[0]).bounds, grid.bounds, 15
    if inner == outer:
        return None
    left, bottom, right, top = inner
    west, south, east, north = outer
    high, wide = north - south, east - west
    shares = ((north - top) / high, (north - bottom) / high, (left - west) / wide, (right - west) / wide)
    return tuple(round(min(max(s, 0.0), 1.0), digits) for s in shares)  # type: ignore[return-value]


def crop_slices(shape: tuple[int, int], window: tuple[float, float, float, float]) -> tuple[slice, slice]:
    """Rows and columns of an (h, w) grid of cells that a window (y0, y1, x0, x1) of shares
    touches; at least one of each."""
    spans = []
    for n, low, high in ((shape[0], *window[:2]), (shape[1], *window[2:])):
        start = min(math.floor(low * n + _EPS), n - 1)
        spans.append(slice(start, max(math.ceil(high * n - _EPS), start + 1)))
    return spans[0], spans[1]


def _mercator_bounds(spatial: SpatialSpec) -> tuple[float, float, float, float]:
    lats = (spatial.lat, spatial.lat) if isinstance(spatial, PointBuffer) else (spatial.minlat, spatial.maxlat)
    if max(map(abs, lats)) >= MERCATOR_MAX_LAT:
        raise SpecError(
            f"ROI: latitude {max(lats, key=abs):g} is outside web_mercator; allowed: within {MERCATOR_MAX_LAT:.4f} degrees, or projection 'utm'"
        )
    if isinstance(spatial, PointBuffer):
        x, y = to_mercator(spatial.lon, spatial.lat)
        bounds = x - spatial.buffer_m, y - spatial.buffer_m, x + spatial.buffer_m, y + spatial.buffer_m
    else:
        bounds = (*to_mercator(spatial.minlon, spatial.minlat), *to_mercator(spatial.maxlon, spatial.maxlat))
    edge = math.pi * EARTH_RADIUS_M * (1 + 1e-12)
    if max(map(abs, bounds)) > edge:
        raise SpecError(
            "ROI: the footprint leaves the extent of web_mercator; allowed: footprints within 180 degrees and 85.05 degrees"
        )
    return bounds


def _projected_bounds(spatial: SpatialSpec, crs: str) -> tuple[float, float, float, float]:
    to = get_transformer("EPSG:4326", crs)
    if isinstance(spatial, PointBuffer):
        x, y = to.transform(spatial.lon, spatial.lat)
        r = spatial.buffer_m
        bounds = x - r, y - r, x + r, y + r
    else:
        bounds = _outline_bounds(spatial, to)
    if not all(map(math.isfinite, bounds)) or (crs not in POLAR and not -1e6 < bounds[0] < bounds[2] < 2e6):
        raise SpecError(
            f"ROI: {spatial} is too far from the central meridian of {crs}; allowed: smaller ROIs, or projection 'web_mercator'"
        )
    return bounds


def _outline_bounds(box: BBox, to: Transformer) -> tuple[float, float, float, float]:
    """Bounds of the outline of a box in a projection; densified, because parallels are circles
    near a pole."""
    import numpy as np

    steps = np.linspace(0, 1, 21 + math.ceil(5 * max(box.maxlon - box.minlon, box.maxlat - box.minlat)))
    lons, lats = box.minlon + (box.maxlon - box.minlon) * steps, box.minlat + (box.maxlat - box.minlat) * steps
    x, y = to.transform(
        np.concatenate([lons, lons, np.full_like(lats, box.minlon), np.full_like(lats, box.maxlon)]),
        np.concatenate([np.full_like(lons, box.minlat), np.full_like(lons, box.maxlat), lats, lats]),
    )
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def _enlarge_to_square(bounds: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, bottom, right, top = bounds
    width, height = right - left, top - bottom
    side = max(width, height)
    if side - min(width, height) <= 1e-4 * side:
        return bounds
    x, y = (left + right) / 2, (bottom + top) / 2
    return x - side / 2, y - side / 2, x + side / 2, y + side / 2


def _fetched_mercator_bounds(
    bounds: tuple[float, float, float, float], *, square: bool
) -> tuple[float, float, float, float]:
    """Bounds on Web Mercator, enlarged to a square unless that would leave its extent, where no
    pixels exist."""
    squared = _enlarge_to_square(bounds) if square else bounds
    return bounds if max(map(abs, squared)) > math.pi * EARTH_RADIUS_M * (1 + 1e-12) else squared


def lonlat_boxes(grids: Sequence[Grid], *, fold: bool = False) -> np.ndarray:
    """Boxes that contain the grids: (N, 4) float64, west, south, east, north, degrees; slightly
    too large, never too small.

    The box of a grid that contains a pole or touches the antimeridian spans all longitudes.

    Args:
        fold: the box of a grid that crosses the antimeridian, without a pole, has west > east
            instead.
    """
    import numpy as np

    boxes = np.empty((len(grids), 4))
    by_crs: dict[str, list[int]] = {}
    for i, grid in enumerate(grids):
        by_crs.setdefault(grid.crs, []).append(i)
    along, up = (a.ravel() for a in np.meshgrid((0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.25, 0.5, 0.75, 1.0)))
    for crs, members in by_crs.items():
        left, bottom, right, top = np.array([grids[i].bounds for i in members]).T[..., None]
        x, y = left + (right - left) * along, bottom + (top - bottom) * up
        lon, lat = get_transformer(crs, "EPSG:4326").transform(x, y)
        west, south, east, north = lon.min(1), lat.min(1), lon.max(1), lat.max(1)
        pole = np.zeros(len(members), bool)
        if crs in POLAR:  # 2e6: false origin of UPS
            pole = ((left <= 2e6) & (right >= 2e6) & (bottom <= 2e6) & (top >= 2e6)).ravel()
        if fold:  # longitudes of a grid that crosses are continuous around its centre
            crosses = (east - west > 180) & ~pole
            turned = lon - 360 * np.round((lon - lon[:, 12:13]) / 360)
            west, east = np.where(crosses, turned.min(1), west), np.where(crosses, turned.max(1), east)
        # edges are curved between the sampled points, by less than this share of the box
        wide, high = 0.02 * (east - west), 0.02 * (north - south)
        west, south, east, north = west - wide, south - high, east + wide, north + high
        if crs in POLAR:
            north = np.where(pole & (crs == POLAR[0]), 90, north)
            south = np.where(pole & (crs == POLAR[1]), -90, south)
        around = (east - west > 180) | pole
        if fold:
            west, east = (np.where(~around & (abs(v) > 180), v - 360 * np.sign(v), v) for v in (west, east))
        boxes[members] = np.stack([np.where(around, -180, west), south, np.where(around, 180, east), north], axis=1)
    return boxes


def lonlat_bounds(spatials: Sequence[SpatialSpec], projection: str) -> np.ndarray:
    """Bounds of ROIs, (N, 4) float64, west, south, east, north, degrees; the bounds of a point are
    those of its square.

    Raises:
        SpecError: a ROI is outside the domain of the projection.
    """
    import numpy as np

    bounds = np.empty((len(spatials), 4))
    squares: dict[str, list[tuple[int, PointBuffer]]] = {}
    for i, spatial in enumerate(spatials):
        if isinstance(spatial, BBox):
            bounds[i] = spatial.minlon, spatial.minlat, spatial.maxlon, spatial.maxlat
        else:
            crs = "EPSG:3857" if projection == "web_mercator" else utm_crs(*spatial.centre)
            squares.setdefault(crs, []).append((i, spatial))
    steps, low, high = np.linspace(-1, 1, 33), np.full(33, -1.0), np.full(33, 1.0)
    along, up = np.concatenate([steps, steps, low, high]), np.concatenate([low, high, steps, steps])
    for crs, members in squares.items():
        lon, lat, r = np.array([[p.lon, p.lat, p.buffer_m] for _, p in members]).T
        x, y = get_transformer("EPSG:4326", crs).transform(lon, lat)
        x, y = x[:, None] + r[:, None] * along, y[:, None] + r[:, None] * up
        lons, lats = get_transformer(crs, "EPSG:4326").transform(x, y)
        bounds[[i for i, _ in members]] = np.stack([lons.min(1), lats.min(1), lons.max(1), lats.max(1)], axis=1)
    return bounds


def centre_lonlat(grid: Grid) -> tuple[float, float]:
    """Centre of a grid as (lon, lat), degrees."""
    return centre_of_window(grid, (0.0, 1.0, 0.0, 1.0))


def centre_of_window(grid: Grid, shares: tuple[float, float, float, float]) -> tuple[float, float]:
    """Centre of a window of a grid, (y0, y1, x0, x1) as shares from the upper left corner, as
    (lon, lat), degrees."""
    left, bottom, right, top = grid.bounds
    y0, y1, x0, x1 = shares
    x, y = left + (right - left) * (x0 + x1) / 2, top - (top - bottom) * (y0 + y1) / 2
    return get_transformer(grid.crs, "EPSG:4326").transform(x, y)


def model_location(spatial: SpatialSpec, projection: str, grid: Grid) -> tuple[float, float]:
    """The location that is passed to models, (lon, lat), degrees: the point, or the centre of the
    image of a box.

    With ``web_mercator`` the centre is that of the reference library: the mean of the bounds of
    the image in degrees, before they are snapped to pixels.
    """
    if isinstance(spatial, PointBuffer):
        return spatial.lon, spatial.lat
    if projection != "web_mercator":
        return centre_lonlat(grid)
    west, south, east, north = _fetched_mercator_bounds(_mercator_bounds(spatial), square=True)
    to = get_transformer("EPSG:3857", "EPSG:4326")
    (lon0, lat0), (lon1, lat1) = to.transform(west, south), to.transform(east, north)
    return (lon0 + lon1) / 2, (lat0 + lat1) / 2
