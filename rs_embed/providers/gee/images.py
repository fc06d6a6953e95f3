"""What is asked of Earth Engine, as expressions of its client library: which images, their composite, and what is known of them."""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...planning.model_info import UNITS
from ...planning.units import Source
from ...request.geometry import Grid

if TYPE_CHECKING:
    import numpy as np

#: Bands by common names. Sentinel-2: as rs-embed 0.3.1 has them; Landsat, collection 2 level 2: Earth Engine's descriptions.
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
#: Property with the cloud cover of an image, percent. Other collections have none, and a filter on it would leave nothing.
_CLOUD = (
    (r"COPERNICUS/S2(_SR)?(_HARMONIZED)?", "CLOUDY_PIXEL_PERCENTAGE"),
    (r"LANDSAT/L[A-Z]\d\d/C0[12]/T[12](_RT)?(_L2|_SR|_TOA)?", "CLOUD_COVER"),
    (r"NASA/HLS/HLS[LS]30/v002", "CLOUD_COVERAGE"),
)
_SENTINEL_1 = tuple(UNITS)
#: Types of pixels that an image can be cast to, by what numpy calls them.
TYPES = {
    "uint8": "toUint8", "int8": "toInt8", "uint16": "toUint16", "int16": "toInt16", "uint32": "toUint32",
    "int32": "toInt32", "int64": "toInt64", "float32": "toFloat", "float64": "toDouble",
}  # fmt: skip
#: Bands whose validity one band of bits can hold.
BITS = 32
#: Most bands of values in one image: with their bits, they stay below Earth Engine's 1,024 bands.
MAX_PLANES = 31 * BITS


def alias(collection: str, band: str) -> str:
    """The collection's name of a band that may be given by a common one (``RED``)."""
    return next((names.get(band.upper(), band) for kind, names in _ALIASES if re.fullmatch(kind, collection)), band)


def cloud_property(collection: str) -> str | None:
    """The property that a cloud limit applies to, or None."""
    return next((name for kind, name in _CLOUD if re.fullmatch(kind, collection)), None)


@dataclass(frozen=True)
class Scene:
    """An image of the collection: its id in it, its time (UTC), its cloud cover (percent) and instrument mode where known."""

    id: str
    datetime: str
    cloud_cover: float | None = None
    mode: str | None = None

    @property
    def date(self) -> str:
        """ISO date."""
        return self.datetime[:10]


@dataclass(frozen=True)
class Look:
    """The images of a place.

    Attributes:
        scenes: by time. counts: how many images are left after each filter, in words.
        iw: only images in Sentinel-1's IW mode are used. relaxed: they should be, and there is none, so others are used.
    """

    scenes: tuple[Scene, ...]
    counts: Mapping[str, int]
    iw: bool = False
    relaxed: bool = False


Window = tuple[str, str] | None
Filter = tuple[str, Callable[[Any, Any], Any]]


def filters(source: Source, window: Window) -> list[Filter]:
    """How the images of a source are chosen beside their place, one step after the other: (in words, what is done)."""
    name, limit = source.identity["collection"], source.identity["cloudy_pct"]
    steps: list[Filter] = [(f"images of {name}", lambda ee, images: images)]
    if window is not None:
        steps = [(f"images of {name} in {window[0]}..{window[1]}", lambda ee, images: images.filterDate(*window))]
    if (cloud := cloud_property(name)) and limit < 100:
        steps.append((f"with {cloud} <= {limit:g}", lambda ee, images: images.filter(ee.Filter.lte(cloud, limit))))
    if name in _SENTINEL_1:
        pair = polarisations(source.bands)
        steps.append((f"with the polarisations {' and '.join(pair)}", lambda ee, images: polarised(ee, images, pair)))
        if orbit := source.identity.get("s1", {}).get("orbit"):
            of_pass = lambda ee, images: images.filter(ee.Filter.eq("orbitProperties_pass", orbit))  # noqa: E731
            steps.append((f"of the orbit {orbit}", of_pass))
    return steps


def polarisations(bands: Sequence[str]) -> tuple[str, str]:
    """The pair of polarisations that an image of Sentinel-1 must have: it sends one, and receives both."""
    return ("HH", "HV") if {"HH", "HV"} & set(bands) else ("VV", "VH")


def polarised(ee: Any, images: Any, pair: Sequence[str]) -> Any:
    """Images that have both polarisations."""
    for polarisation in pair:
        images = images.filter(ee.Filter.listContains("transmitterReceiverPolarisation", polarisation))
    return images


def _chosen(ee: Any, source: Source, window: Window, grid: Grid) -> Iterator[Any]:
    """The images that touch a grid, after each filter."""
    left, bottom, right, top = grid.bounds
    place = ee.Geometry.Rectangle([left, bottom, right, top], proj=grid.crs, geodesic=False)
    images = ee.ImageCollection(source.identity["collection"]).filterBounds(place)
    for _, step in filters(source, window):
        images = step(ee, images)
        yield images


def types(ee: Any, collection: str, bands: Sequence[str]) -> Any:
    """Expression of the types of the bands of a collection; see :func:`dtypes`."""
    images = ee.ImageCollection(collection)
    if collection in _SENTINEL_1:  # its images do not all have the same bands
        images = polarised(ee, images, polarisations(bands))
    return images.first().bandTypes()


def dtypes(answer: Mapping[str, Mapping]) -> dict[str, str]:
    """Names of numpy's types for Earth Engine's: integers have limits, ``float`` has 32 and ``double`` 64 bits."""
    import numpy as np

    found = {}
    for band, kind in answer.items():
        if kind["precision"] in ("float", "double"):
            found[band] = "float32" if kind["precision"] == "float" else "float64"
            continue
        low, high = kind.get("min", -(2**31)), kind.get("max", 2**31 - 1)
        fits = (t for t in TYPES if "int" in t and np.iinfo(t).min <= low and high <= np.iinfo(t).max)
        found[band] = next(fits, "float64")
    return found


def look(ee: Any, source: Source, window: Window, grid: Grid) -> Any:
    """Expression of what :func:`seen` reads: sizes after each filter, and ids, times and one property of what is left."""
    *_, left = steps = list(_chosen(ee, source, window, grid))
    arrays = [left.aggregate_array(key) for key in ("system:index", "system:time_start", _property(source)) if key]
    return ee.List([ee.List([images.size() for images in steps]), *arrays])


def _property(source: Source) -> str | None:
    """What is looked up of each image beside id and time."""
    name = source.identity["collection"]
    return "instrumentMode" if name in _SENTINEL_1 else cloud_property(name)


def seen(source: Source, window: Window, answer: Sequence) -> Look:
    """The answer to :func:`look`."""
    sizes, ids, times, *more = answer
    # images without the property are missing from its list, which then says nothing of single ones
    extra = more[0] if more and len(more[0]) == len(ids) else [None] * len(ids)
    radar = source.identity["collection"] in _SENTINEL_1
    found = [Scene(i, _utc(t), mode=x) if radar else Scene(i, _utc(t), x) for i, t, x in zip(ids, times, extra)]
    scenes = tuple(sorted(found, key=lambda s: (s.datetime, s.id)))
    counts = dict(zip([words for words, _ in filters(source, window)], sizes, strict=True))
    s1 = source.identity.get("s1", {})
    if not radar or not s1.get("s1_require_iw", True):
        return Look(scenes, counts)
    wide = tuple(s for s in scenes if s.mode == "IW")
    counts["in IW mode"] = len(wide)
    relaxed = not wide and bool(scenes) and s1.get("s1_relax_iw_on_empty", True)
    return Look(scenes if relaxed else wide, counts, relaxed=relaxed, iw=not relaxed)


def _utc(milliseconds: float) -> str:
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def composites(
    ee: Any, source: Source, planes: Sequence[tuple[Window, str]], found: Look, grid: Grid, dtype: np.dtype
) -> tuple[Any, list[str], list[str]]:
    """One image with a composite of each of some bands and windows, and bits that say where they are valid.

    Args:
        planes: (window, band of the collection) of every band of the image, at most ``MAX_PLANES``.
        grid: where; its footprint chooses the images.
        dtype: of the values; masked ones are 0.

    Returns:
        (expression, names of the values' bands, names of the bands of bits: bit i of band k is plane 32 * k + i).
    """
    names = [f"p{i}" for i in range(len(planes))]
    stack = None
    for window, group in itertools.groupby(enumerate(planes), key=lambda p: p[1][0]):
        group = list(group)
        *_, images = _chosen(ee, source, window, grid)
        if found.iw:
            images = images.filter(ee.Filter.eq("instrumentMode", "IW"))
        if source.identity["composite"] == "mosaic":
            images = images.sort("system:time_start")  # the last one is on top
        images = images.select([band for _, (_, band) in group])
        one = images.mosaic() if source.identity["composite"] == "mosaic" else images.median()
        one = one.rename([names[i] for i, _ in group])
        stack = one if stack is None else stack.addBands(one)
    image = getattr(stack.unmask(0, False), TYPES[dtype.name])()
    bits = []
    for start in range(0, len(names), BITS):
        some = names[start : start + BITS]
        weights = ee.Image.constant([2**i for i in range(len(some))])
        kind = "toUint8" if len(some) <= 8 else "toUint16" if len(some) <= 16 else "toUint32"
        valid = stack.select(some).mask().gt(0).multiply(weights).reduce(ee.Reducer.sum())
        bits.append(f"v{start // BITS}")
        image = image.addBands(getattr(valid, kind)().rename([bits[-1]]))
    return image, names, bits


def bytes_per_pixel(planes: int, dtype: np.dtype) -> int:
    """Uncompressed bytes of a pixel of :func:`composites`."""
    whole, rest = divmod(planes, BITS)
    return planes * dtype.itemsize + 4 * whole + (1 if 0 < rest <= 8 else 2 if 0 < rest <= 16 else 4 * bool(rest))
