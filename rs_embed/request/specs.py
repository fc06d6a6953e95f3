"""Specifications of ROIs, windows, imagery and outputs: frozen, validated value objects.

Every class validates its fields on creation and raises :class:`~rs_embed.errors.SpecError`.
Longitudes and latitudes are WGS 84 degrees (EPSG:4326); lengths are metres; windows are half-open,
``[start, end)``.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import dataclass
from typing import Any

from ..errors import SpecError
from .fields import check_fields, option
from .mask_spec import CLOUD_SCORE, CLOUDS, MaskSpec, normalise_mask

WGS84 = "EPSG:4326"
#: Semi-major axis of WGS 84 in metres (NGA.STND.0036, table 3.1).
EARTH_RADIUS_M = 6378137.0


class _Validated:
    """A dataclass that validates its fields on creation."""

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Check every field; raise :class:`SpecError`."""
        check_fields(self, type(self).__name__, SpecError)


@dataclass(frozen=True)
class PointBuffer(_Validated):
    """A square around a point.

    Attributes:
        lon, lat: centre, degrees.
        buffer_m: half the side, metres: ground metres with ``projection="utm"``, Mercator metres
            with ``"web_mercator"``.
        crs: CRS of ``lon`` and ``lat``; only ``EPSG:4326``.

    Raises:
        SpecError: the point is outside +-180 / +-90 degrees, ``buffer_m <= 0``, or the square
            crosses the antimeridian or contains a pole.
    """

    lon: float = option(doc="centre longitude, degrees east (WGS 84)", minimum=-180, maximum=180)
    lat: float = option(doc="centre latitude, degrees north (WGS 84)", minimum=-90, maximum=90)
    buffer_m: float = option(doc="half the side of the square, metres", above=0)
    crs: str = option(WGS84, doc="CRS of lon and lat", choices=(WGS84,))

    def validate(self) -> None:
        """Check every field; raise :class:`SpecError`."""
        super().validate()
        reach_lat = math.degrees(self.buffer_m / EARTH_RADIUS_M)
        if abs(self.lat) + reach_lat >= 90:
            raise SpecError(
                f"PointBuffer.lat: {self.lat:g} with buffer_m={self.buffer_m:g} reaches a pole; allowed: footprints that do not"
            )
        reach_lon = math.degrees(self.buffer_m / (EARTH_RADIUS_M * math.cos(math.radians(abs(self.lat) + reach_lat))))
        if abs(self.lon) + reach_lon > 180:
            raise SpecError(
                f"PointBuffer.lon: {self.lon:g} with buffer_m={self.buffer_m:g} crosses the antimeridian; "
                "allowed: footprints within -180..180 degrees"
            )

    @property
    def centre(self) -> tuple[float, float]:
        """Centre as (lon, lat), degrees."""
        return self.lon, self.lat


@dataclass(frozen=True)
class BBox(_Validated):
    """A box in longitude and latitude.

    Attributes:
        minlon, minlat, maxlon, maxlat: bounds, degrees, strictly increasing.
        crs: CRS of the bounds; only ``EPSG:4326``.

    Raises:
        SpecError: the bounds are outside +-180 / +-90 degrees or not increasing (a box across the
            antimeridian has ``minlon > maxlon``: split it at 180 degrees).
    """

    minlon: float = option(doc="western bound, degrees east (WGS 84)", minimum=-180, maximum=180)
    minlat: float = option(doc="southern bound, degrees north (WGS 84)", minimum=-90, maximum=90)
    maxlon: float = option(doc="eastern bound, degrees east (WGS 84)", minimum=-180, maximum=180)
    maxlat: float = option(doc="northern bound, degrees north (WGS 84)", minimum=-90, maximum=90)
    crs: str = option(WGS84, doc="CRS of the bounds", choices=(WGS84,))

    def validate(self) -> None:
        """Check every field; raise :class:`SpecError`."""
        super().validate()
        if self.minlon >= self.maxlon:
            raise SpecError(
                f"BBox.minlon: {self.minlon:g} is not below maxlon={self.maxlon:g}; "
                "a box across the antimeridian must be split at 180 degrees"
            )
        if self.minlat >= self.maxlat:
            raise SpecError(f"BBox.minlat: {self.minlat:g} is not valid; allowed: below maxlat={self.maxlat:g}")

    @property
    def centre(self) -> tuple[float, float]:
        """Centre as (lon, lat), degrees: the arithmetic mean of the bounds."""
        return (self.minlon + self.maxlon) / 2, (self.minlat + self.maxlat) / 2


SpatialSpec = BBox | PointBuffer

#: Words of the masks.
MASKS = (CLOUDS, CLOUD_SCORE)


_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def _iso_date(value: object, where: str) -> str:
    # YAML turns 2022-06-01 into a date
    text = value.isoformat() if isinstance(value, dt.date) else str(value)
    if isinstance(value, dt.datetime):
        text = text.removesuffix("T00:00:00")  # other times of day are refused, not rounded
    try:
        if not _DATE.fullmatch(text):  # fromisoformat also parses week dates
            raise ValueError
        return dt.date.fromisoformat(text).isoformat()
    except ValueError:
        raise SpecError(f"{where}: {value!r} is not valid; allowed: a date YYYY-MM-DD") from None


@dataclass(frozen=True)
class TemporalSpec(_Validated):
    """A half-open window ``[start, end)`` of dates; created with :meth:`year` or :meth:`range`.

    Attributes:
        mode: ``"range"`` or ``"year"``: how the window was written; it has no other meaning.
        start, end: ISO dates; ``end`` is excluded.

    Raises:
        SpecError: an invalid date, ``start >= end``, or year mode with other bounds than 1 January
            to 1 January.
    """

    mode: str
    start: str
    end: str

    def validate(self) -> None:
        """Check every field; raise :class:`SpecError`."""
        if self.mode not in ("year", "range"):
            raise SpecError(f"TemporalSpec.mode: {self.mode!r} is not valid; allowed: one of 'year', 'range'")
        object.__setattr__(self, "start", _iso_date(self.start, "TemporalSpec.start"))
        object.__setattr__(self, "end", _iso_date(self.end, "TemporalSpec.end"))
        if self.start >= self.end:
            raise SpecError(
                f"TemporalSpec.start: {self.start!r} is not valid; allowed: a date before end={self.end!r} (the end is excluded)"
            )
        year = int(self.start[:4])
        if self.mode == "year" and (self.start, self.end) != (f"{year:04d}-01-01", f"{year + 1:04d}-01-01"):
            raise SpecError(
                f"TemporalSpec.mode: 'year' is not valid for {self.start}..{self.end}; allowed: 1 January to 1 January, or mode 'range'"
            )

    @staticmethod
    def year(year: int) -> TemporalSpec:
        """The window of one calendar year: 1 January to the next 1 January, end excluded."""
        if isinstance(year, bool) or not isinstance(year, int) or not 1 <= year <= 9998:
            raise SpecError(f"TemporalSpec.year: {year!r} is not valid; allowed: an integer such as 2022")
        return TemporalSpec("year", f"{year:04d}-01-01", f"{year + 1:04d}-01-01")

    @staticmethod
    def range(start: str, end: str) -> TemporalSpec:
        """The window from ``start`` to ``end`` (ISO dates), ``end`` excluded."""
        return TemporalSpec("range", start, end)

    def to_dict(self) -> dict[str, Any]:
        """``{mode, year, start, end}`` with ``year`` null in range mode, as in manifests."""
        return {
            "mode": self.mode,
            "year": int(self.start[:4]) if self.mode == "year" else None,
            "start": self.start,
            "end": self.end,
        }

    @staticmethod
    def from_dict(given: dict[str, Any]) -> TemporalSpec:
        """From ``{year: 2022}`` or ``{start: ..., end: ...}`` (a config file), or the output of
        :meth:`to_dict`."""
        if not isinstance(given, dict) or not given or set(given) - {"mode", "year", "start", "end"}:
            raise SpecError(
                f"temporal: {given!r} is not valid; allowed: {{year: 2022}}, {{start: 2022-06-01, end: 2022-09-01}} or null"
            )
        if given.get("mode") not in (None, "year", "range"):
            raise SpecError(f"temporal.mode: {given['mode']!r} is not valid; allowed: one of 'year', 'range'")
        if given.get("mode") != "range" and given.get("year") is not None:
            window = TemporalSpec.year(given["year"])
            if any(given.get(k) not in (None, getattr(window, k)) for k in ("start", "end")):
                raise SpecError(
                    f"temporal.year: {given['year']!r} contradicts start and end; allowed: a year, or start and end"
                )
            return window
        for key in ("start", "end"):
            if given.get(key) is None:
                raise SpecError(
                    f"temporal: the key {key!r} is missing; allowed: {{start: 2022-06-01, end: 2022-09-01}}"
                )
        return TemporalSpec.range(given["start"], given["end"])


@dataclass(frozen=True)
class SensorSpec(_Validated):
    """A complete imagery request that replaces the default of a model.

    Attributes:
        collection: collection id, for example ``COPERNICUS/S2_SR_HARMONIZED``.
        bands: band names of the collection, in the order the model receives them.
        scale_m: pixel size, metres.
        cloudy_pct: highest scene cloud cover, percent, inclusive (collections that record it).
        fill_value: value of pixels without data.
        composite: ``"median"`` or ``"mosaic"`` over the window.
        modality: modality of the model for this sensor, or None.
        orbit: ``"ASCENDING"``, ``"DESCENDING"`` or None (Sentinel-1).
        use_float_linear: Sentinel-1 as linear power rather than dB.
        mask: which pixels of each image are masked before the composite: None (clouds are in the
            pixels), ``"clouds"``, ``"cloud_score_plus"`` or a
            :class:`~rs_embed.request.mask_spec.MaskSpec`.
        s1_require_iw, s1_relax_iw_on_empty: use images in IW mode, and other modes if no IW image
            exists (Sentinel-1).
        check_input, check_raise, check_save_dir: diagnostics of the reference library; not
            supported (use ``ExportConfig(fail_on_bad_input=True)`` and the ``quality`` record of
            the manifest).
    """

    collection: str = option(doc="collection id, for example COPERNICUS/S2_SR_HARMONIZED")
    bands: tuple[str, ...] = option(doc="band names in the order of the model")
    scale_m: float = option(10.0, doc="pixel size, metres", above=0)
    cloudy_pct: float = option(30.0, doc="highest scene cloud cover, percent (inclusive)", minimum=0, maximum=100)
    fill_value: float = option(0.0, doc="value of pixels without data")
    composite: str = option("median", doc="how the images of the window are combined", choices=("median", "mosaic"))
    modality: str | None = option(None, doc="modality of the model for this sensor")
    orbit: str | None = option(None, doc="Sentinel-1 orbit pass", choices=("ASCENDING", "DESCENDING"))
    use_float_linear: bool = option(True, doc="Sentinel-1: linear power (true) or dB (false)")
    s1_require_iw: bool = option(True, doc="Sentinel-1: prefer interferometric wide swath")
    s1_relax_iw_on_empty: bool = option(True, doc="Sentinel-1: use other modes if no IW image exists")
    mask: str | MaskSpec | None = option(
        None, doc="pixels that are masked before the composite; null: none, clouds stay", choices=MASKS
    )
    check_input: bool = option(False, doc="not supported; see fail_on_bad_input", not_yet=bool)
    check_raise: bool = option(True, doc="not supported; see fail_on_bad_input", not_yet=lambda v: not v)
    check_save_dir: str | None = option(None, doc="not supported", not_yet=bool)

    def validate(self) -> None:
        """Check every field; raise :class:`SpecError`."""
        object.__setattr__(self, "mask", normalise_mask(self.mask, "SensorSpec.mask"))
        super().validate()
        if not self.collection.strip():
            raise SpecError(f"SensorSpec.collection: {self.collection!r} is not valid; allowed: a collection id")
        if not self.bands or len(set(self.bands)) != len(self.bands):
            raise SpecError(
                f"SensorSpec.bands: {list(self.bands)!r} is not valid; allowed: one or more different band names"
            )


@dataclass(frozen=True)
class FetchSpec(_Validated):
    """Changes to a model's default imagery request; None keeps the default.

    Attributes:
        scale_m: pixel size, metres.
        cloudy_pct: highest scene cloud cover, percent, inclusive.
        fill_value: value of pixels without data.
        composite: ``"median"`` or ``"mosaic"``.
        mask: which pixels of each image are masked before the composite (see :class:`SensorSpec`).

    Example:
        >>> FetchSpec(cloudy_pct=80, mask="clouds").mask
        'clouds'
    """

    scale_m: float | None = option(None, doc="pixel size, metres", above=0)
    cloudy_pct: float | None = option(
        None, doc="highest scene cloud cover, percent (inclusive)", minimum=0, maximum=100
    )
    fill_value: float | None = option(None, doc="value of pixels without data")
    composite: str | None = option(None, doc="how the images of the window are combined", choices=("median", "mosaic"))
    mask: str | MaskSpec | None = option(
        None, doc="pixels that are masked before the composite; null: none, clouds stay", choices=MASKS
    )

    def validate(self) -> None:
        """Check every field; raise :class:`SpecError`."""
        object.__setattr__(self, "mask", normalise_mask(self.mask, "FetchSpec.mask"))
        super().validate()


@dataclass(frozen=True)
class OutputSpec(_Validated):
    """Form of an embedding: one vector, or a grid of vectors; created with :meth:`pooled` or
    :meth:`grid`.

    Attributes:
        mode: ``"pooled"`` gives (D,), ``"grid"`` gives (D, h, w).
        pooling: ``"mean"`` or ``"max"`` over the tokens (docs/models lists models that pool
            differently).
        grid_orientation: grids are always north-up, so both values mean the same.
    """

    mode: str = option("pooled", doc="one vector per ROI, or a grid of vectors", choices=("pooled", "grid"))
    pooling: str = option("mean", doc="how tokens are pooled", choices=("mean", "max"))
    grid_orientation: str = option("north_up", doc="grids are always north-up", choices=("north_up", "native"))

    @staticmethod
    def pooled(pooling: str = "mean") -> OutputSpec:
        """One vector of shape (D,) per ROI."""
        return OutputSpec("pooled", pooling)

    @staticmethod
    def grid(pooling: str = "mean", grid_orientation: str = "north_up", scale_m: float | None = None) -> OutputSpec:
        """A grid of shape (D, h, w) per ROI, north-up. ``scale_m`` raises: it is an option of
        ``FetchSpec``."""
        if scale_m is not None:
            raise SpecError(f"OutputSpec.scale_m: {scale_m!r} is not valid; allowed: FetchSpec(scale_m=...)")
        return OutputSpec("grid", pooling, grid_orientation)


@dataclass(frozen=True)
class InputPrepSpec(_Validated):
    """How an image larger than the model's input is handled.

    Attributes:
        mode: ``"resize"`` (one pass over the whole ROI), ``"tile"`` or ``"auto"``.
        tile_size, tile_stride: pixels; None: the input size of the model. The stride must equal
            the size.
        max_tiles, max_tiles_hard: tiles per image above which a warning is given, or an error is
            raised.
        pad_edges: replicate the edges of images smaller than a tile; models with a fixed input
            size need it.
        tile_snap_frac: largest reduction of an image to whole tiles, as a share of a tile.
    """

    mode: str = option("tile", doc="large-ROI policy", choices=("resize", "tile", "auto"))
    tile_size: int | None = option(None, doc="tile side, pixels", minimum=1)
    tile_stride: int | None = option(None, doc="tile stride, pixels; equals the tile side", minimum=1)
    max_tiles: int = option(64, doc="tiles per image above which a warning is given", minimum=1)
    max_tiles_hard: int = option(1024, doc="tiles per image above which an error is raised", minimum=1)
    pad_edges: bool = option(True, doc="replicate the edges of images smaller than a tile", not_yet=lambda v: not v)
    tile_snap_frac: float = option(
        0.1, doc="largest reduction to whole tiles, as a share of a tile", minimum=0, maximum=0.5
    )

    def validate(self) -> None:
        """Check every field; raise :class:`SpecError`."""
        super().validate()
        if self.tile_stride is not None and self.tile_stride != self.tile_size:
            raise SpecError(
                f"InputPrepSpec.tile_stride: {self.tile_stride!r} is not valid; allowed: the tile size ({self.tile_size!r})"
            )
