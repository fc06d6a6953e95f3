"""STAC items as files of scenes: what of an item decides its pixels, where it lies, and how a run remembers it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from ...errors import ProviderError
from ...request.identity import canonical, digest
from ..rasters import catalogue, raster_io
from .services import Mapped, dark

Ring = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Asset:
    """The file of one band.

    Attributes:
        band: our name. index: position in the file, from 0.
        href: URL without query, or path relative to the catalogue's folder.
        nodata: number that means no data, as the item says; None: the file's.
        sum: what the item says of the file's content (``file:checksum``, ``file:size``), or the size and time of a file on disk.
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
        row: collection (ours), time, id, cloud cover, orbit; scale and offset of its numbers.
        source: collection in the catalogue.
        box: west, south, east, north, degrees; west > east across the antimeridian.
        rings: outer rings (lon, lat) of its outline; () where only the box is known.
        assets: a file for each band. dark: subtracted from integer numbers, not below 0.
        updated: when its catalogue changed it last, or "".
        mode: of a radar image (IW, ...), or None. note: what the manifest says of the pixels.
    """

    row: catalogue.Row
    source: str
    box: tuple[float, float, float, float]
    rings: tuple[Ring, ...]
    assets: tuple[Asset, ...]
    dark: int = 0
    updated: str = ""
    mode: str | None = None
    note: str = ""

    @cached_property
    def bands(self) -> tuple[str, ...]:
        """Our names of its bands."""
        return tuple(a.band for a in self.assets)

    @property
    def dtype(self) -> str:
        """What memory is planned with; a file's own is known when it is read."""
        return "uint16"

    @property
    def order(self) -> tuple:
        """By time and id: the order in which images cover each other."""
        return self.row.datetime, self.row.scene, self.assets[0].href

    @property
    def about(self) -> dict:
        """What else the manifest says."""
        said = {"stac_collection": self.source}
        if self.dark:
            said["subtracted"] = self.dark
        return said | ({"note": self.note} if self.note else {})

    @cached_property
    def digest(self) -> str:
        """Digest of what changes pixels. All bands of the collection are in it, so that asking for more of them changes no name."""
        r = self.row
        return digest(
            [self.source, r.collection, r.scene, r.datetime, self.updated, r.scale, r.offset, r.nodata, self.dark]
            + [[a.band, a.index, a.href, a.nodata, a.sum] for a in self.assets]
        )

    def files(self, bands: Sequence[str]) -> list[Item]:
        """The item as one item a file, with those of the bands that it has."""
        by_file: dict[str, list[Asset]] = {}
        for asset in self.assets:
            if asset.band in bands:
                by_file.setdefault(asset.href, []).append(asset)
        return [replace(self, assets=tuple(assets)) for assets in by_file.values()]


def read(said: Mapping, ours: str, mapped: Mapped, folder: str | None) -> Item | None:
    """An item of a catalogue (a GeoJSON feature with absolute links) as an image of one of our collections; None where it is
    none of it, or has none of its bands.

    Args:
        folder: of a static catalogue on disk; the paths of its files are remembered relative to it.

    Raises:
        ProviderError: the item lacks what its numbers cannot be understood without, or is none as the specification has them.
    """
    try:
        item = _read(said, ours, mapped, folder)
        canonical(asdict(item) if item else None)  # what is remembered of it is JSON
        return item
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        name = str(said.get("id"))[:100] if isinstance(said, Mapping) else "?"
        why = f"{type(error).__name__}: {str(error)[:100]}"
        raise ProviderError(f"STAC item {name!r} is not valid ({why}); allowed: items as STAC 1.0 has them") from None


def _read(said: Mapping, ours: str, mapped: Mapped, folder: str | None) -> Item | None:
    about, assets = said.get("properties") or {}, said.get("assets") or {}
    if said.get("collection", mapped.collection) != mapped.collection:
        return None
    if any(about.get(key) != value for key, value in mapped.only.items()):
        return None
    names = mapped.assets or {name: name for name, a in assets.items() if _is_raster(a)}
    found = [_asset(band, name, assets, mapped, folder) for band, name in names.items()]
    have = tuple(a for a in found if a)
    if not have or (mapped.complete and len(have) < len(found)):
        return None
    where = f"STAC item {said.get('id')!r}"
    orbit = about.get("sat:orbit_state")
    rings, box = _outline(said)
    if box is None:
        raise ProviderError(f"{where} has no place (bbox, geometry); allowed: items with one")
    row = catalogue.Row(
        line=0,
        path=f"{mapped.collection}/{said['id']}",
        collection=ours,
        datetime=catalogue.utc(str(about.get("datetime") or about.get("start_datetime")), where),
        scene=str(said["id"]),
        cloud_cover=_number(about.get("eo:cloud_cover")),
        scale=mapped.scale,
        offset=mapped.offset,
        nodata=mapped.nodata,
        orbit=orbit.upper() if isinstance(orbit, str) else None,
    )
    return Item(
        row,
        mapped.collection,
        box,
        rings,
        have,
        dark(mapped.rule, said, [_split(n)[0] for n in names.values() if _split(n)[0] in assets]),
        str(about.get("updated") or ""),
        about.get("sar:instrument_mode"),
        mapped.about,
    )


def _is_raster(asset: Mapping) -> bool:
    return str(asset.get("type") or "image/tiff").startswith(("image/tiff", "image/jp2", "image/vnd.stac.geotiff"))


def _split(name: str) -> tuple[str, int]:
    """``name#2`` as (name, 1)."""
    stem, sep, number = name.rpartition("#")
    return (stem, int(number) - 1) if sep and number.isdigit() and int(number) > 0 else (name, 0)


def _asset(band: str, name: str, assets: Mapping, mapped: Mapped, folder: str | None) -> Asset | None:
    name, index = _split(name)
    said = assets.get(name)
    if not said or not said.get("href"):
        return None
    href = said["href"].removeprefix("file://")
    checks = [said.get("file:checksum"), said.get("file:size")]
    if urlsplit(href).scheme:
        href = urlsplit(href)._replace(query="", fragment="").geturl()  # a signature is no part of what a file is
    else:
        if folder is None:
            return None  # a service has no say over the files of this machine
        checks += raster_io.stamps(href, ())[0]
        href = os.path.relpath(href, folder)
    bands = said.get("raster:bands") or said.get("bands") or []
    nodata = (bands[index] if index < len(bands) else said).get("nodata")
    return Asset(band, index, href, _number(nodata) if mapped.nodata is None else mapped.nodata, digest(checks, 16))


def _number(said: Any) -> float | None:
    """A nodata value, which can be a text ("nan"); NaN means no data in any case."""
    return float(said) if isinstance(said, (int, float)) and said == said else None


def _outline(said: Mapping) -> tuple[tuple[Ring, ...], tuple[float, float, float, float] | None]:
    """Outer rings and box of an item; no rings where they cannot be trusted (across the antimeridian in one piece)."""
    geometry = said.get("geometry") or {}
    polygons = {"Polygon": lambda c: [c], "MultiPolygon": lambda c: c}.get(geometry.get("type"), lambda c: [])(
        geometry.get("coordinates") or []
    )
    rings = tuple(tuple((round(p[0], 6), round(p[1], 6)) for p in polygon[0]) for polygon in polygons)
    box = said.get("bbox")
    if box:
        middle = len(box) // 2  # with heights, six numbers
        box = (box[0], box[1], box[middle], box[middle + 1])
    elif rings:
        x, y = [p[0] for r in rings for p in r], [p[1] for r in rings for p in r]
        box = (min(x), min(y), max(x), max(y))
    else:
        return (), None
    if any(abs(a[0] - b[0]) > 180 for r in rings for a, b in itertools.pairwise(r)):
        rings = ()
    if not all(-1e4 < float(v) < 1e4 for v in (*box, *(v for ring in rings for p in ring for v in p))):
        raise ValueError("its place is not on the earth")
    return rings, tuple(round(float(v), 6) for v in box)


def over(items: Sequence[Item], box: Sequence[float]) -> list[Item]:
    """Those whose outline overlaps a box (west, south, east, north), edges straight in longitude and latitude, as the services
    search. So which items a ROI has depends on nothing but the ROI."""
    known: dict[tuple[Ring, ...], bool] = {(): True}  # images of one tile have one outline
    for item in items:
        if item.rings not in known:
            known[item.rings] = any(_ring_over(ring, box) for ring in item.rings)
    return [item for item in items if known[item.rings]]


def _ring_over(ring: Ring, box: Sequence[float]) -> bool:
    """A ring overlaps a box: what is left of it after cutting it with the box's four sides (Sutherland and Hodgman, 1974)."""
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
    # edges that run along the box on both sides enclose nothing
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, [*points[1:], points[0]]))) > 1e-14


def frozen(item: Item) -> dict:
    """An item as JSON values."""
    return asdict(item)


def thawed(said: dict) -> Item:
    """:func:`frozen` back."""
    row = catalogue.Row(**(said["row"] | {"bands": tuple(said["row"]["bands"])}))
    rings = tuple(tuple((p[0], p[1]) for p in ring) for ring in said["rings"])
    assets = tuple(Asset(**a) for a in said["assets"])
    return Item(**(said | {"row": row, "box": tuple(said["box"]), "rings": rings, "assets": assets}))
