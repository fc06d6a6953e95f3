"""STAC items as files of scenes: their assets and outlines, and the JSON form that a run
stores."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from ...errors import ProviderError
from ...request.identity import canonical, digest
from ..rasters import catalogue, raster_io
from .services import CollectionMapping, sentinel_2_offset

Ring = tuple[tuple[float, float], ...]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Asset:
    """The file of one band.

    Attributes:
        band: name in the request. index: position in the file, from 0.
        href: URL without query, or path relative to the catalogue's folder.
        nodata: nodata value of the item; None for that of the file.
        sum: digest of the item's fields about the file's content (``file:checksum``,
            ``file:size``), or of the size and time of a file on disk.
    """

    band: str
    index: int
    href: str
    nodata: float | None
    sum: str


@dataclass(frozen=True)
class Item:
    """An image of a STAC catalogue, or one file of it.

    Attributes:
        row: collection of the request, time, id, cloud cover, orbit; scale and offset of its
            values.
        source: collection in the catalogue.
        box: west, south, east, north, degrees; west > east across the antimeridian.
        rings: outer rings (lon, lat) of its outline; () where only the box is known.
        assets: a file for each band. dark: subtracted from integer values, with a minimum of 0.
        updated: time of its last change in the catalogue, or "".
        mode: of a radar image (IW, ...), or None. note: remark on the pixels for the manifest.
    """

    row: catalogue.Row
    source: str
    box: Box
    rings: tuple[Ring, ...]
    assets: tuple[Asset, ...]
    dark: int = 0
    updated: str = ""
    mode: str | None = None
    note: str = ""

    @cached_property
    def bands(self) -> tuple[str, ...]:
        """Names of its bands in the request."""
        return tuple(a.band for a in self.assets)

    @property
    def dtype(self) -> str:
        """For the estimate of memory; the dtype of a file is known when it is read."""
        return "uint16"

    @property
    def order(self) -> tuple:
        """By time and id: the order in which images cover each other."""
        return self.row.datetime, self.row.scene, self.assets[0].href

    @property
    def extra_provenance(self) -> dict:
        """Fields of the scene's provenance beyond those of the row."""
        fields: dict = {"stac_collection": self.source}
        if self.dark:
            fields["subtracted"] = self.dark
        return fields | ({"note": self.note} if self.note else {})

    @cached_property
    def digest(self) -> str:
        """Digest of everything that changes its pixels. It includes all bands of the collection,
        so a request for more bands changes no name of an object."""
        r = self.row
        return digest(
            [self.source, r.collection, r.scene, r.datetime, self.updated, r.scale, r.offset, r.nodata, self.dark]
            + [[a.band, a.index, a.href, a.nodata, a.sum] for a in self.assets]
        )

    def split_by_file(self, bands: Sequence[str]) -> list[Item]:
        """One item for each file, with the bands among ``bands`` that it contains."""
        by_file: dict[str, list[Asset]] = {}
        for asset in self.assets:
            if asset.band in bands:
                by_file.setdefault(asset.href, []).append(asset)
        return [replace(self, assets=tuple(assets)) for assets in by_file.values()]


def parse_item(feature: Mapping, collection: str, mapping: CollectionMapping, folder: str | None) -> Item | None:
    """An item of a catalogue (a GeoJSON feature with absolute links) as an image of a collection;
    None where it does not belong to the collection, or has none of its bands.

    Args:
        folder: of a static catalogue on disk; the paths of its files are stored relative to it.

    Raises:
        ProviderError: the item lacks required information, or does not follow the specification.
    """
    try:
        item = _parse_item(feature, collection, mapping, folder)
        canonical(asdict(item) if item else None)  # its frozen form must be JSON
        return item
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        name = str(feature.get("id"))[:100] if isinstance(feature, Mapping) else "?"
        reason = f"{type(error).__name__}: {str(error)[:100]}"
        raise ProviderError(f"STAC item {name!r} is not valid ({reason}); allowed: items of STAC 1.0") from None


def _parse_item(feature: Mapping, collection: str, mapping: CollectionMapping, folder: str | None) -> Item | None:
    properties, assets = feature.get("properties") or {}, feature.get("assets") or {}
    if feature.get("collection", mapping.collection) != mapping.collection:
        return None
    if any(properties.get(key) != value for key, value in mapping.required.items()):
        return None
    names = mapping.assets or {name: name for name, a in assets.items() if _is_raster(a)}
    parsed = [_parse_asset(band, name, assets, mapping, folder) for band, name in names.items()]
    present = tuple(a for a in parsed if a)
    if not present or (mapping.complete and len(present) < len(parsed)):
        return None
    where = f"STAC item {feature.get('id')!r}"
    orbit = properties.get("sat:orbit_state")
    rings, box = _parse_outline(feature)
    if box is None:
        raise ProviderError(f"{where} has no location (bbox, geometry); allowed: items with one")
    row = catalogue.Row(
        line=0,
        path=f"{mapping.collection}/{feature['id']}",
        collection=collection,
        datetime=catalogue.parse_utc(str(properties.get("datetime") or properties.get("start_datetime")), where),
        scene=str(feature["id"]),
        cloud_cover=_parse_number(properties.get("eo:cloud_cover")),
        scale=mapping.scale,
        offset=mapping.offset,
        nodata=mapping.nodata,
        orbit=orbit.upper() if isinstance(orbit, str) else None,
    )
    asset_names = [name for name, _ in map(_split_asset_name, names.values()) if name in assets]
    return Item(
        row,
        mapping.collection,
        box,
        rings,
        present,
        sentinel_2_offset(mapping.offset_rule, feature, asset_names),
        str(properties.get("updated") or ""),
        properties.get("sar:instrument_mode"),
        mapping.note,
    )


def _is_raster(asset: Mapping) -> bool:
    return str(asset.get("type") or "image/tiff").startswith(("image/tiff", "image/jp2", "image/vnd.stac.geotiff"))


def _split_asset_name(name: str) -> tuple[str, int]:
    """``name#2`` as (name, 1)."""
    stem, sep, number = name.rpartition("#")
    return (stem, int(number) - 1) if sep and number.isdigit() and int(number) > 0 else (name, 0)


def _parse_asset(band: str, name: str, assets: Mapping, mapping: CollectionMapping, folder: str | None) -> Asset | None:
    name, index = _split_asset_name(name)
    asset = assets.get(name)
    if not asset or not asset.get("href"):
        return None
    href = asset["href"].removeprefix("file://")
    checks = [asset.get("file:checksum"), asset.get("file:size")]
    if urlsplit(href).scheme:
        href = urlsplit(href)._replace(query="", fragment="").geturl()  # no signature
    else:
        if folder is None:
            return None  # a service must not name files of this machine
        checks += raster_io.read_stamps(href, ())[0] or ()
        href = os.path.relpath(href, folder)
    bands = asset.get("raster:bands") or asset.get("bands") or []
    nodata = (bands[index] if index < len(bands) else asset).get("nodata")
    number = _parse_number(nodata) if mapping.nodata is None else mapping.nodata
    return Asset(band, index, href, number, digest(checks, 16))


def _parse_number(value: Any) -> float | None:
    """A number other than NaN, or None: a nodata value can be a text ("nan"), and NaN means no
    data in any case."""
    return float(value) if isinstance(value, (int, float)) and value == value else None


def _parse_outline(feature: Mapping) -> tuple[tuple[Ring, ...], Box | None]:
    """Outer rings and box of an item; no rings where they cross the antimeridian in one piece."""
    geometry = feature.get("geometry") or {}
    list_polygons: dict[Any, Callable[[Any], list]] = {"Polygon": lambda c: [c], "MultiPolygon": lambda c: c}
    polygons = list_polygons.get(geometry.get("type"), lambda c: [])(geometry.get("coordinates") or [])
    rings = tuple(tuple((round(p[0], 6), round(p[1], 6)) for p in polygon[0]) for polygon in polygons)
    bbox = feature.get("bbox")
    if bbox:
        middle = len(bbox) // 2  # with heights, it has six numbers
        box = bbox[0], bbox[1], bbox[middle], bbox[middle + 1]
    elif rings:
        x, y = [p[0] for r in rings for p in r], [p[1] for r in rings for p in r]
        box = min(x), min(y), max(x), max(y)
    else:
        return (), None
    if any(abs(a[0] - b[0]) > 180 for r in rings for a, b in itertools.pairwise(r)):
        rings = ()
    if not all(-1e4 < float(v) < 1e4 for v in (*box, *(v for ring in rings for p in ring for v in p))):
        raise ValueError("its location is not on the earth")
    west, south, east, north = (round(float(v), 6) for v in box)
    return rings, (west, south, east, north)


def overlapping_items(items: Sequence[Item], box: Sequence[float]) -> list[Item]:
    """The items whose outline overlaps a box (west, south, east, north), with edges straight in
    longitude and latitude, as in the services' searches. So the items of a ROI depend on nothing
    but the ROI."""
    overlaps: dict[tuple[Ring, ...], bool] = {(): True}  # images of one tile have the same outline
    for item in items:
        if item.rings not in overlaps:
            overlaps[item.rings] = any(_ring_overlaps(ring, box) for ring in item.rings)
    return [item for item in items if overlaps[item.rings]]


def _ring_overlaps(ring: Ring, box: Sequence[float]) -> bool:
    """A ring overlaps a box: cutting it with the four sides of the box leaves an area (Sutherland
    and Hodgman, 1974)."""
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


def item_to_json(item: Item) -> dict:
    """An item as JSON values."""
    return asdict(item)


def item_from_json(fields: dict) -> Item:
    """The item of :func:`item_to_json`."""
    row = catalogue.Row(**(fields["row"] | {"bands": tuple(fields["row"]["bands"])}))
    rings = tuple(tuple((p[0], p[1]) for p in ring) for ring in fields["rings"])
    assets = tuple(Asset(**a) for a in fields["assets"])
    return Item(**(fields | {"row": row, "box": tuple(fields["box"]), "rings": rings, "assets": assets}))
