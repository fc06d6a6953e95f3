"""STAC items as files of scenes: their assets and outlines, and the JSON form that a run
stores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from ...errors import ProviderError
from ...products import find_product
from ...products.sentinel2 import BASELINE_OFFSET
from ...request.identity import canonical, digest
from ..rasters import catalogue, raster_io
from . import assets as asset_fields
from . import mappings, outlines, sentinel_2
from .assets import Asset
from .mappings import CollectionMapping
from .outlines import Box, Ring

#: What an item that does not follow the specification raises.
PARSE_ERRORS = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Item:
    """An image of a STAC catalogue, or one file of it.

    Attributes:
        row: collection of the request, time, id, cloud cover, orbit; scale and offset of its
            values.
        source: collection in the catalogue.
        box: west, south, east, north, degrees; west > east across the antimeridian.
        rings: outer rings (lon, lat) of its outline, with continuous longitudes; () where only the
            box is known.
        assets: a file for each band.
        updated: time of its last change in the catalogue, or "".
        mode: of a radar image (IW, ...), or None. note: remark on the pixels for the manifest.
        side_files: masks and nodata values can be in files beside its files.
    """

    row: catalogue.Row
    source: str
    box: Box
    rings: tuple[Ring, ...]
    assets: tuple[Asset, ...]
    updated: str = ""
    mode: str | None = None
    note: str = ""
    side_files: bool = True

    @cached_property
    def bands(self) -> tuple[str, ...]:
        """Names of its bands in the request."""
        return tuple(a.band for a in self.assets)

    @cached_property
    def dtype(self) -> str:
        """For the estimate of memory: the type that its numbers have according to the item, the
        widest of its files; that of a file is known when it is read."""
        import numpy as np

        product = find_product(self.row.collection)
        # numbers of classes are read by themselves
        spectral = [a for a in self.assets if product is None or not product.is_quality(a.band)]
        stated = [np.dtype(a.dtype) for a in spectral if a.dtype]
        return np.result_type(*stated).name if stated else "uint16"

    @property
    def order(self) -> tuple:
        """By time and id: the order in which images cover each other."""
        return self.row.datetime, self.row.scene, self.assets[0].href

    @property
    def dark(self) -> int:
        """The constant that is subtracted from its values."""
        return max(a.dark for a in self.assets)

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
            [self.source, r.collection, r.scene, r.datetime, self.updated, self.side_files]
            + [[a.band, a.index, a.href, list(a.nodata), a.sum, a.scale, a.offset, a.dark] for a in self.assets]
        )

    def split_by_file(self, bands: Sequence[str]) -> list[Item]:
        """One item for each file, and for each way to decode its bands, with the bands among
        ``bands`` that it contains."""
        by_file: dict[tuple, list[Asset]] = {}
        for asset in self.assets:
            if asset.band in bands:
                by_file.setdefault((asset.href, asset.scale, asset.offset, asset.dark), []).append(asset)
        return [
            replace(self, row=replace(self.row, scale=scale, offset=offset), assets=tuple(found))
            for (_, scale, offset, _), found in by_file.items()
        ]

    def stamped(self, folder: str) -> Item:
        """The item with the state of its files on disk in the digests of their content.

        Raises:
            ProviderError: a file does not exist.
        """
        assets = tuple(a if "://" in a.href else replace(a, sum=asset_fields.stamp(a, folder)) for a in self.assets)
        return replace(self, assets=assets)


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
    except PARSE_ERRORS as error:
        name = str(feature.get("id"))[:100] if isinstance(feature, Mapping) else "?"
        reason = f"{type(error).__name__}: {str(error)[:100]}"
        raise ProviderError(f"STAC item {name!r} is not valid ({reason}); allowed: items of STAC 1.0 and 1.1") from None


def belongs_to(feature: Mapping, mapping: CollectionMapping) -> bool:
    """Whether an item is of a collection of the service; one that names none may be."""
    properties = feature.get("properties") or {}
    return feature.get("collection") in (None, mapping.collection) and all(
        properties.get(key) == value for key, value in mapping.required.items()
    )


def parse_time(feature: Mapping, where: str) -> str:
    """The time of an item, UTC: its own, or the start of its interval.

    Raises:
        ProviderError: it has none.
    """
    properties = feature.get("properties") or {}
    given = properties.get("datetime") or properties.get("start_datetime")
    return catalogue.parse_utc(str(given).upper(), where)  # RFC 3339 allows "t" and "z"


def parse_number(value: Any) -> float | None:
    """A number other than NaN, or None."""
    return float(value) if isinstance(value, (int, float)) and value == value else None


def _parse_item(feature: Mapping, collection: str, mapping: CollectionMapping, folder: str | None) -> Item | None:
    if not belongs_to(feature, mapping):
        return None
    properties, assets = feature.get("properties") or {}, asset_fields.list_assets(feature)
    names = mapping.assets or {name: name for name, a in assets.items() if asset_fields.is_raster(a)}
    parsed = _parse_assets(names, feature, collection, mapping, folder)
    present = tuple(a for a in parsed if a)
    if not present or (mapping.complete and len(present) < len(parsed)):
        return None
    where = f"STAC item {feature.get('id')!r}"
    orbit = properties.get("sat:orbit_state")
    when = parse_time(feature, where)
    rings, box = outlines.parse_outline(feature)
    box = box or outlines.located_by_projection(feature) or _located_by_file(present, folder)
    if box is None:
        raise ProviderError(f"{where} has no location (bbox, geometry); allowed: items with one")
    scalings = {(a.scale, a.offset) for a in present if (a.scale, a.offset) != (1.0, 0.0)}
    scale, offset = min(scalings, default=(1.0, 0.0))
    row = catalogue.Row(
        line=0,
        path=f"{mapping.collection}/{feature['id']}",
        collection=collection,
        datetime=when,
        scene=str(feature["id"]),
        cloud_cover=parse_number(properties.get("eo:cloud_cover")),
        scale=scale,
        offset=offset,
        orbit=orbit.upper() if isinstance(orbit, str) else None,
    )
    return Item(
        row,
        mapping.collection,
        box,
        rings,
        present,
        str(properties.get("updated") or ""),
        properties.get("sar:instrument_mode"),
        mapping.note,
        mapping.side_files,
    )


def _located_by_file(assets: Sequence[Asset], folder: str | None) -> Box | None:
    """The box of the first file on disk."""
    if folder is None or "://" in assets[0].href:
        return None
    return raster_io.read_header(os.path.join(folder, assets[0].href)).box


def _parse_assets(
    names: Mapping[str, str], feature: Mapping, collection: str, mapping: CollectionMapping, folder: str | None
) -> list[Asset | None]:
    """The assets of the bands, in the order of ``names`` (band -> asset); None for a missing
    one."""
    properties, assets = feature.get("properties") or {}, asset_fields.list_assets(feature)
    found: dict[str, tuple[int, Mapping]] = {}
    for band, given in names.items():
        name, index = asset_fields.split_asset_name(given)
        if (asset := assets.get(name)) and asset.get("href"):
            found[band] = index, asset
    stated = {band: asset_fields.stated_scaling(a, index, properties) for band, (index, a) in found.items()}
    offsets = {band: asset_fields.stated_offset(a, index, properties) for band, (index, a) in found.items()}
    constants = [offsets[b] for b in found if sentinel_2.has_constant(b)]
    return [
        _parse_asset(band, *found[band], stated[band], offsets[band], constants, feature, collection, mapping, folder)
        if band in found
        else None
        for band in names
    ]


def _parse_asset(
    band: str,
    index: int,
    asset: Mapping,
    stated: tuple[float, float] | None,
    constant: tuple[float, float] | None,
    constants: Sequence[tuple[float, float] | None],
    feature: Mapping,
    collection: str,
    mapping: CollectionMapping,
    folder: str | None,
) -> Asset | None:
    file = asset_fields.describe_file(asset, folder)
    if file is None:
        return None  # a service must not name files of this machine
    properties = feature.get("properties") or {}
    known = mappings.product_nodata(mapping, collection, band)
    values: list[float | str] = [v for v in (mapping.nodata, known) if v is not None]
    values += asset_fields.parse_nodata(asset_fields.find_stated(asset, index, properties, "nodata"))
    scale, offset = mappings.choose_scaling(mapping, collection, band, stated)
    rule = mapping.offset_rule if sentinel_2.has_constant(band) else ""
    href, removed, checks = file
    return Asset(
        band,
        index,
        href,
        tuple(dict.fromkeys(values)),
        checks,
        scale,
        offset,
        sentinel_2.sentinel_2_offset(rule, feature, constant, constants),
        asset_fields.parse_dtype(asset, index, properties),
        removed,
        tuple(_remarks(band, stated, constants, feature, collection, mapping)),
    )


def _remarks(
    band: str,
    stated: tuple[float, float] | None,
    constants: Sequence[tuple[float, float] | None],
    feature: Mapping,
    collection: str,
    mapping: CollectionMapping,
) -> list[str]:
    """Sentences about numbers that may not be what the item says."""
    where, found = f"stac.collections.{collection}", []
    if stated is not None and mappings.is_stated_in_vain(mapping, collection, band, stated):
        found.append(
            f"the items state scale {stated[0]:g} and offset {stated[1]:g}, which are not applied; allowed: {where}.scale: item, or a number"
        )
    if mapping.offset_rule == "stated" and sentinel_2.has_constant(band):
        baseline = sentinel_2.unexplained_baseline(feature, constants)
        if baseline:
            found.append(
                f"the items are of processing baseline {baseline}, whose numbers contain a constant of {BASELINE_OFFSET}, and do not say "
                f"whether it was removed; nothing is subtracted; allowed: {where}.offset: -{BASELINE_OFFSET} or 0"
            )
    return found


def overlapping_items(items: Sequence[Item], box: Sequence[float]) -> list[Item]:
    """The items whose outline overlaps a box (west, south, east, north; west > east across the
    antimeridian). So the items of a ROI depend on nothing but the ROI."""
    overlaps: dict[tuple[Ring, ...], bool] = {(): True}  # images of one tile have the same outline
    for item in items:
        if item.rings not in overlaps:
            overlaps[item.rings] = any(outlines.ring_overlaps(ring, box) for ring in item.rings)
    return [item for item in items if overlaps[item.rings]]


def item_to_json(item: Item) -> dict:
    """An item as JSON values."""
    return asdict(item)


def item_from_json(fields: dict) -> Item:
    """The item of :func:`item_to_json`."""
    row = catalogue.Row(**(fields["row"] | {"bands": tuple(fields["row"]["bands"])}))
    rings = tuple(tuple((p[0], p[1]) for p in ring) for ring in fields["rings"])
    assets = tuple(Asset(**(a | {k: tuple(a[k]) for k in ("nodata", "removed", "remarks")})) for a in fields["assets"])
    return Item(**(fields | {"row": row, "box": tuple(fields["box"]), "rings": rings, "assets": assets}))
