"""Which images a request uses: filters of a collection, the expression that asks for the images of
a ROI, and the parser of its answer."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...planning.units import Source
from ...products import COLLECTION_UNITS, find_product
from ...request.geometry import Grid
from ...request.mask_spec import CLOUD_SCORE
from .band_types import filter_polarised, parse_signature, polarisations, signature_expression
from .masks import own_bands

#: Landsat collections that are not described as products; their images have the same property.
_LANDSAT = re.compile(r"LANDSAT/L[A-Z]\d\d/C0[12]/T[12](_RT)?(_L2|_SR|_TOA)?")
_TIME = "system:time_start"

Window = tuple[str, str] | None
Filter = tuple[str, Callable[[Any, Any], Any]]


def resolve_alias(collection: str, band: str) -> str:
    """The name in the collection of a band that may be given by its common name (``RED``)."""
    product = find_product(collection)
    return band if product is None else product.resolve_alias(band)


def cloud_property(collection: str) -> str | None:
    """The image property with the cloud cover, percent, or None. Only Landsat, Sentinel-2 and HLS
    have one."""
    product = find_product(collection)
    if product is not None:
        return product.cloud_property
    return "CLOUD_COVER" if _LANDSAT.fullmatch(collection) else None


def needed_bands(source: Source) -> list[str]:
    """The collection's names of the bands that the images of a source are asked for: those of the
    source, and the quality band of its mask."""
    names = [resolve_alias(source.identity["collection"], band) for band in source.bands]
    return list(dict.fromkeys([*names, *own_bands(source.identity.get("mask"))]))


@dataclass(frozen=True)
class Scene:
    """An image of a collection.

    Attributes:
        id: within the collection.
        datetime: UTC, or None for an image without a time.
        cloud_cover: percent, where known. mode: instrument mode, where known.
        types: names of numpy dtypes of those bands of the source that the image has.
        signature: number of its bands and types among those of the ROI.
    """

    id: str
    datetime: str | None
    cloud_cover: float | None = None
    mode: str | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    signature: int = 0

    @property
    def date(self) -> str | None:
        """ISO date."""
        return None if self.datetime is None else self.datetime[:10]

    def is_in(self, window: Window) -> bool:
        """Whether the image is in a window; an image without a time is in none."""
        return window is None or (self.date is not None and window[0] <= self.date < window[1])


@dataclass(frozen=True)
class FoundImages:
    """The images of a ROI.

    Attributes:
        scenes: by time; images without a time first.
        counts: number of images after each filter, by a description of the filter.
        iw: only images in Sentinel-1's IW mode are used. relaxed: IW is required but not
            available, so other modes are used.
        untimed: number of images at the place that have no time, so that no window contains them.
        without: ids of images without the quality band of the mask.
    """

    scenes: tuple[Scene, ...]
    counts: Mapping[str, int]
    iw: bool = False
    relaxed: bool = False
    untimed: int = 0
    without: frozenset[str] = frozenset()

    def scenes_in(self, window: Window) -> list[Scene]:
        """The images of a window."""
        return [scene for scene in self.scenes if scene.is_in(window)]


def collection_filters(source: Source, window: Window) -> list[Filter]:
    """The filters that select the images of a source, except for the footprint, in order:
    (description, filter)."""
    name, limit = source.identity["collection"], source.identity["cloudy_pct"]
    steps: list[Filter] = [(f"images of {name}", lambda ee, images: images)]
    if window is not None:
        steps = [(f"images of {name} in {window[0]}..{window[1]}", lambda ee, images: images.filterDate(*window))]
    if (cloud := cloud_property(name)) and limit < 100:
        steps.append((f"with {cloud} <= {limit:g}", lambda ee, images: _filter_clouds(ee, images, cloud, limit)))
    if name in COLLECTION_UNITS:
        pair = polarisations(source.bands)
        text = f"with the polarisations {' and '.join(pair)}"
        steps.append((text, lambda ee, images: filter_polarised(ee, images, pair)))
        if orbit := source.identity.get("s1", {}).get("orbit"):
            of_pass = lambda ee, images: images.filter(ee.Filter.eq("orbitProperties_pass", orbit))  # noqa: E731
            steps.append((f"of the orbit {orbit}", of_pass))
    return steps


def _filter_clouds(ee: Any, images: Any, cloud: str, limit: float) -> Any:
    """Images that are not known to exceed the limit: a comparison alone would also remove images
    without the property."""
    unknown = ee.Filter.notNull([cloud]).Not()
    return images.filter(ee.Filter.Or(ee.Filter.lte(cloud, limit), unknown))


def filtered_collections(ee: Any, source: Source, window: Window, grid: Grid) -> Iterator[Any]:
    """The images that intersect a grid, after each filter."""
    images = _images_at(ee, source.identity["collection"], grid)
    for _, step in collection_filters(source, window):
        images = step(ee, images)
        yield images


def _images_at(ee: Any, collection: str, grid: Grid) -> Any:
    """The images of a collection that intersect a grid."""
    left, bottom, right, top = grid.bounds
    footprint = ee.Geometry.Rectangle([left, bottom, right, top], proj=grid.crs, geodesic=False)
    return ee.ImageCollection(collection).filterBounds(footprint)


def search_expression(ee: Any, source: Source, window: Window, grid: Grid) -> Any:
    """Expression for the images of a grid, to be read by :func:`parse_search`: the number after
    each filter, the number without a time, the properties of each remaining image, the number of
    its signature, the different signatures, and ids that have a Cloud Score+ image.

    Properties are taken from each image by itself. Lists of one property each cannot be joined: an
    image without the property is missing from its list.
    """
    *_, selected = steps = list(filtered_collections(ee, source, window, grid))
    needed = needed_bands(source)
    keys = [key for key in ("system:index", _TIME, _extra_property(source)) if key]
    images = selected.toList(selected.size().max(1))
    records = images.map(lambda image: ee.List([ee.Image(image).get(key) for key in keys]))
    signatures = images.map(lambda image: signature_expression(ee, image, needed))
    different = signatures.distinct()
    return ee.List(
        [
            ee.List([one.size() for one in steps]),
            _count_untimed(ee, source, window, grid),
            records,
            signatures.map(lambda signature: different.indexOf(signature)),
            different,
            _scored(ee, source, selected, window, grid),
        ]
    )


def _count_untimed(ee: Any, source: Source, window: Window, grid: Grid) -> Any:
    """The number of images at a place that no window contains, because they have no time. All
    images of the described products have one, and to look for exceptions in their archives would
    cost more than the search."""
    collection = source.identity["collection"]
    if window is None or find_product(collection) is not None:
        return 0
    return _images_at(ee, collection, grid).filter(ee.Filter.notNull([_TIME]).Not()).size()


def _scored(ee: Any, source: Source, selected: Any, window: Window, grid: Grid) -> Any:
    """Ids of the images that have a Cloud Score+ image, if the mask reads it. Both images have the
    same time."""
    mask = source.identity.get("mask")
    if mask is None or mask["kind"] != CLOUD_SCORE:
        return ee.List([])
    same = ee.Filter.inList("system:index", selected.aggregate_array("system:index"))
    scores = _images_at(ee, mask["collection"], grid)
    if window is not None:
        scores = scores.filterDate(*window)  # fewer images to compare ids with
    return scores.filter(same).aggregate_array("system:index")


def _extra_property(source: Source) -> str | None:
    """The property that is looked up for each image in addition to id and time."""
    name = source.identity["collection"]
    return "instrumentMode" if name in COLLECTION_UNITS else cloud_property(name)


def parse_search(source: Source, window: Window, answer: Sequence) -> FoundImages:
    """The images in an answer to :func:`search_expression`."""
    sizes, untimed, records, numbers, signatures, scored = answer
    types = [parse_signature(s) for s in signatures]
    radar = source.identity["collection"] in COLLECTION_UNITS
    found = []
    for (name, time, *more), number in zip(records, numbers, strict=True):
        extra = more[0] if more else None
        cloud, mode = (None, extra) if radar else (extra, None)
        found.append(Scene(name, _format_utc(time), cloud, mode, types[number], number))
    scenes = tuple(sorted(found, key=lambda s: (s.datetime or "", s.id)))
    counts = dict(zip([text for text, _ in collection_filters(source, window)], sizes, strict=True))
    if untimed:
        counts["without a time, which no window contains"] = untimed
    s1, iw, relaxed = source.identity.get("s1", {}), False, False
    if radar and s1.get("s1_require_iw", True):
        wide = tuple(s for s in scenes if s.mode == "IW")
        counts["in IW mode"] = len(wide)
        relaxed = not wide and bool(scenes) and s1.get("s1_relax_iw_on_empty", True)
        iw = not relaxed
        scenes = scenes if relaxed else wide
    return FoundImages(scenes, counts, iw, relaxed, untimed, _without(source, scenes, scored))


def _without(source: Source, scenes: Sequence[Scene], scored: Sequence[str]) -> frozenset[str]:
    """Ids of the images that have no quality band."""
    mask = source.identity.get("mask")
    if mask is None:
        return frozenset()
    if mask["kind"] == CLOUD_SCORE:
        return frozenset(s.id for s in scenes) - set(scored)
    return frozenset(s.id for s in scenes if mask["band"] not in s.types)


def _format_utc(milliseconds: float | None) -> str | None:
    if milliseconds is None:
        return None
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
