"""Expressions of Earth Engine's client library for images, their metadata and composites, and
parsers of the answers."""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...planning.model_info import COLLECTION_UNITS
from ...planning.units import Source
from ...request.geometry import Grid

if TYPE_CHECKING:
    import numpy as np

#: Bands by common names. Sentinel-2: as in rs-embed 0.3.1; Landsat, collection 2 level 2: Earth
#: Engine's descriptions.
_SENTINEL_2 = {
    "BLUE": "B2", "GREEN": "B3", "RED": "B4", "RE1": "B5", "RE2": "B6", "RE3": "B7", "NIR": "B8", "NIR_BROAD": "B8",
    "NIR_NARROW": "B8A", "RE4": "B8A", "SWIR1": "B11", "SWIR_1": "B11", "SWIR2": "B12", "SWIR_2": "B12",
}  # fmt: skip
_LANDSAT_8 = {"BLUE": 2, "GREEN": 3, "RED": 4, "NIR": 5, "SWIR1": 6, "SWIR_1": 6, "SWIR2": 7, "SWIR_2": 7}
_LANDSAT_7 = {"BLUE": 1, "GREEN": 2, "RED": 3, "NIR": 4, "SWIR1": 5, "SWIR_1": 5, "SWIR2": 7, "SWIR_2": 7}
_ALIASES = (
    (r"COPERNICUS/S2(_SR)?(_HARMONIZED)?", _SENTINEL_2),
    (r"LANDSAT/LC0[89]/C02/T._L2", {k: f"SR_B{v}" for k, v in _LANDSAT_8.items()}),
    (r"LANDSAT/L[ET]0[457]/C02/T._L2", {k: f"SR_B{v}" for k, v in _LANDSAT_7.items()}),
)
#: Property with the cloud cover of an image, percent. Other collections do not have it, so a
#: filter on it would remove all images.
_CLOUD = (
    (r"COPERNICUS/S2(_SR)?(_HARMONIZED)?", "CLOUDY_PIXEL_PERCENTAGE"),
    (r"LANDSAT/L[A-Z]\d\d/C0[12]/T[12](_RT)?(_L2|_SR|_TOA)?", "CLOUD_COVER"),
    (r"NASA/HLS/HLS[LS]30/v002", "CLOUD_COVERAGE"),
)
_SENTINEL_1 = tuple(COLLECTION_UNITS)
#: Methods that cast an image, by the name of the numpy dtype.
TYPES = {
    "uint8": "toUint8", "int8": "toInt8", "uint16": "toUint16", "int16": "toInt16", "uint32": "toUint32",
    "int32": "toInt32", "int64": "toInt64", "float32": "toFloat", "float64": "toDouble",
}  # fmt: skip
#: Number of bands whose validity one band of bits stores.
BITS = 32
#: Most bands of values in one image: with their bands of bits, fewer than Earth Engine's limit of
#: 1,024.
MAX_PLANES = 31 * BITS


def resolve_alias(collection: str, band: str) -> str:
    """The name in the collection of a band that may be given by its common name (``RED``)."""
    return next((names.get(band.upper(), band) for kind, names in _ALIASES if re.fullmatch(kind, collection)), band)


def cloud_property(collection: str) -> str | None:
    """The image property with the cloud cover, or None."""
    return next((name for kind, name in _CLOUD if re.fullmatch(kind, collection)), None)


@dataclass(frozen=True)
class Scene:
    """An image of a collection: its id, its time (UTC), and its cloud cover (percent) and
    instrument mode where known."""

    id: str
    datetime: str
    cloud_cover: float | None = None
    mode: str | None = None

    @property
    def date(self) -> str:
        """ISO date."""
        return self.datetime[:10]


@dataclass(frozen=True)
class FoundImages:
    """The images of a ROI.

    Attributes:
        scenes: by time. counts: number of images after each filter, by a description of the
            filter.
        iw: only images in Sentinel-1's IW mode are used. relaxed: IW is required but not
            available, so other modes are used.
    """

    scenes: tuple[Scene, ...]
    counts: Mapping[str, int]
    iw: bool = False
    relaxed: bool = False


Window = tuple[str, str] | None
Filter = tuple[str, Callable[[Any, Any], Any]]


def collection_filters(source: Source, window: Window) -> list[Filter]:
    """The filters that select the images of a source, except for the footprint, in order:
    (description, filter)."""
    name, limit = source.identity["collection"], source.identity["cloudy_pct"]
    steps: list[Filter] = [(f"images of {name}", lambda ee, images: images)]
    if window is not None:
        steps = [(f"images of {name} in {window[0]}..{window[1]}", lambda ee, images: images.filterDate(*window))]
    if (cloud := cloud_property(name)) and limit < 100:
        steps.append((f"with {cloud} <= {limit:g}", lambda ee, images: images.filter(ee.Filter.lte(cloud, limit))))
    if name in _SENTINEL_1:
        pair = polarisations(source.bands)
        text = f"with the polarisations {' and '.join(pair)}"
        steps.append((text, lambda ee, images: filter_polarised(ee, images, pair)))
        if orbit := source.identity.get("s1", {}).get("orbit"):
            of_pass = lambda ee, images: images.filter(ee.Filter.eq("orbitProperties_pass", orbit))  # noqa: E731
            steps.append((f"of the orbit {orbit}", of_pass))
    return steps


def polarisations(bands: Sequence[str]) -> tuple[str, str]:
    """The pair of polarisations that an image of Sentinel-1 must have: one is transmitted, both
    are received."""
    return ("HH", "HV") if {"HH", "HV"} & set(bands) else ("VV", "VH")


def filter_polarised(ee: Any, images: Any, pair: Sequence[str]) -> Any:
    """Images that have both polarisations."""
    for polarisation in pair:
        images = images.filter(ee.Filter.listContains("transmitterReceiverPolarisation", polarisation))
    return images


def _filtered_collections(ee: Any, source: Source, window: Window, grid: Grid) -> Iterator[Any]:
    """The images that intersect a grid, after each filter."""
    left, bottom, right, top = grid.bounds
    footprint = ee.Geometry.Rectangle([left, bottom, right, top], proj=grid.crs, geodesic=False)
    images = ee.ImageCollection(source.identity["collection"]).filterBounds(footprint)
    for _, step in collection_filters(source, window):
        images = step(ee, images)
        yield images


def band_types_expression(ee: Any, collection: str, bands: Sequence[str]) -> Any:
    """Expression for the types of the bands of a collection, to be read by
    :func:`parse_band_types`."""
    images = ee.ImageCollection(collection)
    if collection in _SENTINEL_1:  # its images do not all have the same bands
        images = filter_polarised(ee, images, polarisations(bands))
    return images.first().bandTypes()


def parse_band_types(answer: Mapping[str, Mapping]) -> dict[str, str]:
    """Names of numpy dtypes for Earth Engine's types: integers have limits, ``float`` has 32 and
    ``double`` 64 bits."""
    import numpy as np

    found = {}
    for band, type_ in answer.items():
        if type_["precision"] in ("float", "double"):
            found[band] = "float32" if type_["precision"] == "float" else "float64"
            continue
        low, high = type_.get("min", -(2**31)), type_.get("max", 2**31 - 1)
        fits = (t for t in TYPES if "int" in t and np.iinfo(t).min <= low and high <= np.iinfo(t).max)
        found[band] = next(fits, "float64")
    return found


def search_expression(ee: Any, source: Source, window: Window, grid: Grid) -> Any:
    """Expression for the images of a grid: the number after each filter, and ids, times and one
    property of the remaining images, to be read by :func:`parse_search`."""
    *_, selected = steps = list(_filtered_collections(ee, source, window, grid))
    keys = ("system:index", "system:time_start", _extra_property(source))
    arrays = [selected.aggregate_array(key) for key in keys if key]
    return ee.List([ee.List([images.size() for images in steps]), *arrays])


def _extra_property(source: Source) -> str | None:
    """The property that is looked up for each image in addition to id and time."""
    name = source.identity["collection"]
    return "instrumentMode" if name in _SENTINEL_1 else cloud_property(name)


def parse_search(source: Source, window: Window, answer: Sequence) -> FoundImages:
    """The images in an answer to :func:`search_expression`."""
    sizes, ids, times, *more = answer
    # images without the property are missing from its list, which then cannot be assigned to
    # images
    extra = more[0] if more and len(more[0]) == len(ids) else [None] * len(ids)
    radar = source.identity["collection"] in _SENTINEL_1
    found = [
        Scene(i, _format_utc(t), mode=x) if radar else Scene(i, _format_utc(t), x) for i, t, x in zip(ids, times, extra)
    ]
    scenes = tuple(sorted(found, key=lambda s: (s.datetime, s.id)))
    counts = dict(zip([text for text, _ in collection_filters(source, window)], sizes, strict=True))
    s1 = source.identity.get("s1", {})
    if not radar or not s1.get("s1_require_iw", True):
        return FoundImages(scenes, counts)
    wide = tuple(s for s in scenes if s.mode == "IW")
    counts["in IW mode"] = len(wide)
    relaxed = not wide and bool(scenes) and s1.get("s1_relax_iw_on_empty", True)
    return FoundImages(scenes if relaxed else wide, counts, relaxed=relaxed, iw=not relaxed)


def _format_utc(milliseconds: float) -> str:
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def composite_expression(
    ee: Any, source: Source, planes: Sequence[tuple[Window, str]], found: FoundImages, grid: Grid, dtype: np.dtype
) -> tuple[Any, list[str], list[str]]:
    """One image with the composites of several bands and windows, and bits that mark where they
    are valid.

    Args:
        planes: (window, band of the collection) of every band of the image, at most
            ``MAX_PLANES``.
        grid: its footprint selects the images.
        dtype: of the values; masked values are 0.

    Returns:
        (expression, names of the values' bands, names of the bands of bits: bit i of band k is
        plane 32 * k + i).
    """
    names = [f"p{i}" for i in range(len(planes))]
    stack = None
    for window, group in itertools.groupby(enumerate(planes), key=lambda p: p[1][0]):
        numbers, bands = zip(*((i, band) for i, (_, band) in group))
        one = _composite_of_window(ee, source, window, bands, found, grid).rename([names[i] for i in numbers])
        stack = one if stack is None else stack.addBands(one)
    assert stack is not None, "planes is not empty"
    image, bits = getattr(stack.unmask(0, False), TYPES[dtype.name])(), []
    for start in range(0, len(names), BITS):
        group_names = names[start : start + BITS]
        weights = ee.Image.constant([2**i for i in range(len(group_names))])
        cast = "toUint8" if len(group_names) <= 8 else "toUint16" if len(group_names) <= 16 else "toUint32"
        valid = stack.select(group_names).mask().gt(0).multiply(weights).reduce(ee.Reducer.sum())
        bits.append(f"v{start // BITS}")
        image = image.addBands(getattr(valid, cast)().rename([bits[-1]]))
    return image, names, bits


def _composite_of_window(
    ee: Any, source: Source, window: Window, bands: Sequence[str], found: FoundImages, grid: Grid
) -> Any:
    """Expression for the composite of some bands over one window."""
    *_, images = _filtered_collections(ee, source, window, grid)
    if found.iw:
        images = images.filter(ee.Filter.eq("instrumentMode", "IW"))
    if source.identity["composite"] == "mosaic":  # the last image is on top
        return images.sort("system:time_start").select(list(bands)).mosaic()
    return images.select(list(bands)).median()


def bytes_per_pixel(planes: int, dtype: np.dtype) -> int:
    """Uncompressed bytes of a pixel of :func:`composite_expression`."""
    full, last = divmod(planes, BITS)
    return planes * dtype.itemsize + 4 * full + (1 if 0 < last <= 8 else 2 if 0 < last <= 16 else 4 * bool(last))
