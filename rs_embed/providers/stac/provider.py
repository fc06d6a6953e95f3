"""Imagery of STAC catalogues: items found at the start of a run; their files are read remotely and
composited by the base class that also reads the user's own rasters (``scenes.py``).

``stac`` is Earth Search; the alternatives are ``stac:planetary-computer``, ``stac:<url of an
API>`` and ``stac:<catalog.json or item collection>``. An item is one scene. It is used for a ROI
when it belongs to the collection (or to another form of the same product), is in the window and
within the cloud limit, and its outline overlaps the ROI. The name of the ROI's chip in the store
depends on these items.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...errors import ModelError, ProviderError, SpecError, StoreError
from ...request.geometry import Grid, lonlat_boxes
from ...request.identity import digest
from ..base import Chip, Roi
from ..composite import Masked
from ..rasters import raster_io, scene_files, scene_masks
from ..rasters.product_units import other_form
from ..rasters.scenes import SceneProvider, decode
from . import assets as asset_fields
from . import items, left_out, links, mappings, remote_rasters, search, services, static_catalogue
from .items import Item
from .left_out import LeftOut
from .mappings import CollectionMapping, Service
from .signing import Signer

if TYPE_CHECKING:
    import numpy as np

    from ...planning.units import Source

#: Increased by hand when the pixels of a request can change. 2: nodata values, links and outlines
#: as STAC defines them, dates of acquisition.
VERSION = 2
#: Files read at a time by one job, over all of its ROIs.
READERS = 16


class StacProvider(SceneProvider[Item]):
    """Reads chips from the files of a STAC catalogue's items."""

    name = "stac"
    shared = False
    cores = 0
    #: One strip for a year of Sentinel-2 (70 scenes of 12 bands, 224 x 224 pixels): blocks between
    #: strips are fetched twice.
    strip_bytes = 256 << 20

    def __init__(
        self, argument: str, base: str, known: dict | None = None, *, job: bool = False, settings: Mapping | None = None
    ) -> None:
        super().__init__()
        services.refuse_secrets(argument)
        api = services.find_service(argument)
        self.path = None if api else search.resolve_catalogue_path(argument.strip(), base)
        self.where = f"{api.name} ({api.url})" if api else f"the catalogue {self.path}"
        self._service = api or Service(self.where, "")
        self._mappings = mappings.map_collections(self._service, (settings or {}).get("collections", {}))
        self._method: str | None = (settings or {}).get("search_method")
        if not self._mappings:
            raise ModelError(
                f"backend: 'stac:{argument}' is not a service with known collections; allowed: stac.collections in the config, with "
                "their ids there (docs/stac.md)"
            )
        if job and known is None:
            raise StoreError("imagery.json is missing, which lists the items that the run found; start the run again")
        self._items: dict[str, dict[str, Item]] = {}  # by collection and id
        self._searched: dict[str, set[search.Search]] = {}  # by collection
        self._used: dict[tuple[str, str, str], Item] = {}  # by collection, id and digest
        self._left_out: dict[tuple[str, str], LeftOut] = {}  # by collection and name
        self._concerns: set[tuple[str, str]] = set()  # those of them that concern a ROI
        self._remarks: dict[tuple[str, str], str] = {}  # by link and band; found while reading
        if job and known is not None:
            for fields in known["items"]:
                self._add_item(items.item_from_json(fields))
            found = map(left_out.from_json, known.get("left_out", ()))
            self._left_out = {(f.collection, f.name): f for f in found}

    @property
    def folder(self) -> str | None:
        """The folder of a static catalogue on disk, or None."""
        return static_catalogue.folder_of(self.path)

    def identity(self) -> dict:
        """The name and the service; the items of a chip and their files are part of the name of
        each object."""
        return {"name": self.name, "version": VERSION} | ({} if self.path else {"endpoint": self._service.url})

    def backend(self, folder: str) -> str:
        if not self.path:
            return f"stac:{self._service.url}"
        return f"stac:{os.path.relpath(self.path, folder) if self.folder else self.path}"

    def freeze(self) -> dict:
        """The items of the ROIs of this request, without tokens, and those that are left out."""
        return {
            "items": [items.item_to_json(self._used[k]) for k in sorted(self._used)],
            "left_out": [left_out.to_json(self._left_out[k]) for k in sorted(self._concerns)],
        }

    # before anything runs ------------------------------------------------------------------------

    def resolve(
        self, source: Source, rois: Sequence[Roi], grids: Sequence[Grid], *, strict: bool
    ) -> Sequence[str] | None:
        """Refuse a collection, bands or a ROI that the catalogue does not have; returns digests of
        the items of each ROI."""
        wanted = source.identity["collection"]
        forms = [c for c in (wanted, other_form(wanted)) if c]
        known = mappings.select_collections(self._service, self._mappings, forms)
        for collection, mapping in known.items():
            self._check_bands(source, collection, mapping)
        boxes = lonlat_boxes(grids, fold=True)
        searches = search.plan_searches([r.temporal for r in rois], boxes)
        for collection, mapping in known.items():
            self._search_items(collection, mapping, searches)
        self._check_assets(source, known)
        scene_masks.check_quality_band(source, (i for c in known for i in self._items[c].values()), self.where)
        digests, without = [], []
        for roi, box in zip(rois, boxes):
            found = [self._stamp(i, strict=strict) for i in self._find_files(source, roi, box)]
            unusable = self._find_left_out(source, roi, box)
            certain = [f for f in unusable if f.is_certain]
            if certain and strict:
                raise ProviderError(f"ROI {roi.name!r}: an item that it needs cannot be used: {certain[0].reason}")
            self._concerns.update((f.collection, f.name) for f in unusable)
            self._used.update(((i.row.collection, i.row.scene, i.digest), i) for i in found)
            if not found:
                without.append((roi, box))
            digests.append(digest([i.digest for i in found]))
        if without and strict:
            raise SpecError(self._no_imagery_message(source, without, known))
        return digests

    def _stamp(self, item: Item, *, strict: bool) -> Item:
        """An item with the state of its files on disk; a file that is missing fails here, or where
        the ROI is fetched."""
        if self.folder is None:
            return item
        try:
            return item.stamped(self.folder)
        except ProviderError:
            if strict:
                raise
            return item

    def _search_items(self, collection: str, mapping: CollectionMapping, searches: Sequence[search.Search]) -> None:
        """Get the items of a collection; searches of an earlier source of the request are not
        repeated."""
        done = self._searched.setdefault(collection, set())
        features: list = []
        if self.path and not done:
            found = static_catalogue.read_static_catalogue(self.path, mapping.collection)
            features = found.features
            for href, reason in found.unreadable.items():
                name = links.shown(href)
                self._leave_out(LeftOut(collection, name, f"the document {name} cannot be read: {reason}"))
        elif not self.path and (new := [s for s in searches if s not in done]):
            features = search.search_api(self._service.url, mapping.collection, new, self._method)
        done.update(searches)
        for feature in features:
            self._parse_feature(feature, collection, mapping)
        self._items.setdefault(collection, {})
        self._selected.clear()

    def _parse_feature(self, feature: Any, collection: str, mapping: CollectionMapping) -> None:
        """Keep an item of the catalogue, or why it cannot be used."""
        try:
            item = items.parse_item(feature, collection, mapping, self.folder)
        except ProviderError as error:
            self._leave_out(left_out.describe_item(feature, collection, mapping, str(error)))
            return
        if item is not None:
            self._add_item(item)
        elif self.folder is None and links.has_relative_assets(feature):
            reason = (
                f"STAC item {feature.get('id')!r} has relative links and no self link, to which they would be relative"
            )
            self._leave_out(left_out.describe_item(feature, collection, mapping, reason))

    def _leave_out(self, found: LeftOut | None) -> None:
        if found is not None:
            self._left_out[found.collection, found.name] = found

    def _add_item(self, item: Item) -> None:
        """Keep an item by its id. Ids are unique in a collection of an API only; two items of a
        static catalogue do not hide each other."""
        known = self._items.setdefault(item.row.collection, {})
        name = item.row.scene
        if self.path and name in known and known[name].digest != item.digest:
            name = f"{name} {item.digest}"
        known[name] = item

    def _find_left_out(self, source: Source, roi: Roi, box: Sequence[float]) -> list[LeftOut]:
        """The items that a ROI may need and that cannot be used."""
        wanted = source.identity["collection"]
        return [
            f
            for f in self._left_out.values()
            if f.collection in (wanted, other_form(wanted))
            and f.may_concern(box, roi.temporal, source.identity["cloudy_pct"])
        ]

    def _check_bands(self, source: Source, collection: str, mapping: CollectionMapping) -> None:
        missing = [b for b in source.bands if mapping.assets and b not in mapping.assets]
        if missing:
            raise ProviderError(
                f"sensor.bands: {missing[0]!r} of {collection} is not known in {mapping.collection} of {self.where}; allowed: "
                f"{', '.join(mapping.assets)}, or stac.collections in the config with its asset"
            )

    def _check_assets(self, source: Source, collections: Iterable[str]) -> None:
        """Refuse a band that no item has: its name is wrong, rather than imagery missing."""
        found = [i for c in collections for i in self._items[c].values()]
        bands = {b for i in found for b in i.bands}
        missing = [b for b in source.bands if b not in bands] if found else []
        if missing:
            raise ProviderError(
                f"sensor.bands: {missing[0]!r} is in none of the {len(found)} items found in {self.where}; allowed: the bands they have "
                f"({', '.join(sorted(bands))})"
            )

    def _no_imagery_message(
        self, source: Source, without: Sequence[tuple], known: Mapping[str, CollectionMapping]
    ) -> str:
        """The message about ROIs without imagery: what was searched, and the number of items after
        each filter."""
        (roi, box), more = without[0], f" and {len(without) - 1} more" if len(without) > 1 else ""
        window = f"{roi.temporal.start}..{roi.temporal.end}" if roi.temporal else "any time"
        kinds = " and ".join(m.collection for m in known.values())
        found = [i for c in known for i in self._items[c].values() if scene_files.is_in_window(i.row, roi.temporal)]
        in_box = [i for i in found if scene_files.overlaps_box(_array([i.box]), box)[0]]
        overlapping = items.overlapping_items(in_box, box)
        clear = [i for i in overlapping if scene_files.passes_filters(i.row, source)]
        orbit = f" and orbit {scene_files.requested_orbit(source)}" if scene_files.requested_orbit(source) else ""
        odd = left_out.sentence(self._find_left_out(source, roi, box))
        more_about = f"{source.identity['cloudy_pct']:g} % cloud{orbit}{'; ' + odd if odd else ''}"
        return (
            f"ROI {roi.name!r}{more}: {roi.spatial} has no imagery in {self.where} ({len(found)} items of {kinds} found near the ROIs in "
            f"{window}, {len(overlapping)} of them touch it, {len(clear)} of those with at most {more_about}); "
            "allowed: ROIs and windows with imagery, or continue_on_error, which records them as no_data"
        )

    # which items ---------------------------------------------------------------------------------

    def _files_of(self, collection: str | None) -> Iterable[Item]:
        return self._items.get(collection, {}).values() if collection else ()

    def _find_files_of(self, source: Source, collection: str | None, roi: Roi, box: Sequence[float]) -> list[Item]:
        found = items.overlapping_items(super()._find_files_of(source, collection, roi, box), box)
        radar = source.identity.get("s1", {})
        if radar.get("s1_require_iw"):  # other modes only where IW is missing, as for gee
            best = [i for i in found if i.mode in (None, "IW")]
            return best or (found if radar.get("s1_relax_iw_on_empty") else [])
        return found

    # pixels --------------------------------------------------------------------------------------

    def fetch(self, source: Source, bands: Sequence[str], roi: Roi, grid: Grid) -> Chip:
        """As in the base class, with what the items and files contradict or leave open."""
        chip = super().fetch(source, bands, roi, grid)
        box = lonlat_boxes([grid], fold=True)[0]
        odd = left_out.sentence(self._find_left_out(source, roi, box))
        about: dict[str, dict[str, None]] = {band: dict.fromkeys([odd] if odd else []) for band in bands}
        for item in self._find_files(source, roi, box):
            for asset in item.assets:
                if asset.band in about:
                    found = self._remarks.get((asset.href, asset.band))
                    about[asset.band].update(dict.fromkeys([*asset.remarks, *([found] if found else [])]))
        if not any(about.values()):
            return chip
        known = chip.band_warnings or ((),) * len(bands)
        more = tuple((*sentences, *about[band]) for sentences, band in zip(known, bands))
        return dataclasses.replace(chip, band_warnings=more)

    def _find_scenes(self, source: Source, bands: Sequence[str], roi: Roi, box: Sequence[float]) -> list[list[Item]]:
        return [files for item in self._find_files(source, roi, box) if (files := item.split_by_file(bands))]

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(READERS, thread_name_prefix="read")

    def _map_reads(self, read: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]:
        return self._pool.map(read, items)

    @cached_property
    def _signer(self) -> Signer | None:
        service = self._service
        return Signer(service.name, service.token_url, service.storage) if service.token_url else None

    def _read_bands(self, file: Item, bands: Sequence[str], grid: Grid, collection: str) -> Masked:
        assets = [next(a for a in file.assets if a.band == b) for b in bands]
        href, indexes = assets[0].href, [a.index for a in assets]
        if "://" in href:
            values, inside, in_file = remote_rasters.read_remote_file(
                href,
                indexes,
                grid,
                self._signer,
                file.source,
                removed=sorted({name for a in assets for name in a.removed}),
                with_side_files=file.side_files,
            )
        else:
            values, inside, in_file = raster_io.read_file(os.path.join(self.folder or "", href), indexes, grid)
        decoded, valid = decode(values, inside, in_file, file.row, collection, file.dark, bands)
        for i, (asset, number) in enumerate(zip(assets, in_file)):
            stated = asset_fields.nodata_numbers(asset.nodata)
            for value in stated:
                valid[i] &= values[i] != value
            if stated and number is not None and not math.isnan(number) and number not in stated:
                self._remarks[asset.href, asset.band] = (
                    f"nodata is {' and '.join(f'{v:g}' for v in stated)} for the item and {number:g} in its file; pixels of all of them are no data"
                )
        return decoded, valid


def _array(rows: list) -> np.ndarray:
    import numpy as np

    return np.array(rows, float)
