"""Imagery of STAC catalogues: items found at the start of a run, their files read where they are, composited by the engine that
reads the user's own rasters (``scenes.py``).

``stac`` is Earth Search; ``stac:planetary-computer``, ``stac:<url of an API>`` and ``stac:<catalog.json or item collection>`` are others. An item
is one scene. It is used for a ROI when it is of the collection (or of another form of the same product), in the window, within the
cloud limit, and its outline touches the ROI; those items decide what the ROI's chip is filed under.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...errors import ModelError, ProviderError, SpecError, StoreError
from ...request.geometry import Grid, lonlat_boxes
from ...request.identity import digest
from ..base import Roi
from ..rasters import raster_io, scene_files
from ..rasters.product_units import other_form
from ..rasters.scenes import SceneProvider, decoded
from . import items as stac_items
from . import remote_rasters, search, services
from .items import Item
from .services import Mapped
from .signing import Signer

if TYPE_CHECKING:
    import numpy as np

    from ...planning.units import Source

#: Files read at a time by one job, over all of its ROIs.
READERS = 16


class StacProvider(SceneProvider):
    """Reads chips out of the files of a STAC catalogue's items."""

    name = "stac"
    shared = False
    cores = 0
    #: A year of Sentinel-2 (70 scenes of 12 bands, 224 pixels a side) in one strip: blocks on a seam would be fetched twice.
    strip_bytes = 256 << 20

    def __init__(
        self, argument: str, base: str, known: dict | None = None, *, job: bool = False, settings: Mapping | None = None
    ) -> None:
        super().__init__()
        services.refuse_secrets(argument)
        self.service = services.find(argument)
        self.path = None if self.service else search.is_file(argument.strip(), base)
        self.where = f"{self.service.name} ({self.service.url})" if self.service else f"the catalogue {self.path}"
        service = self.service or services.Service(self.where, "")
        self._collections = services.mapped(service, (settings or {}).get("collections", {}))
        if not self._collections:
            raise ModelError(
                f"backend: 'stac:{argument}' is no service whose collections are known; allowed: stac.collections in the config, which "
                "says what they are called there (docs/stac.md)"
            )
        if job and known is None:
            raise StoreError("imagery.json is missing, which says what the run found; start the run again")
        self._service = service
        self._items: dict[str, dict[str, Item]] = {}  # by collection and id
        self._asked: dict[str, set[search.Search]] = {}
        self._wanted: dict[tuple[str, str], Item] = {}
        if job:
            for said in known["items"]:
                item = stac_items.thawed(said)
                self._items.setdefault(item.row.collection, {})[item.row.scene] = item

    @property
    def folder(self) -> str | None:
        """Of a static catalogue on disk."""
        return os.path.dirname(self.path) if self.path and "://" not in self.path else None

    def identity(self) -> dict:
        """The service; which items a chip was made of, and from which files, is said for each ROI."""
        return {"name": self.name} | ({"endpoint": self.service.url} if self.service else {})

    def backend(self, folder: str) -> str:
        if self.service:
            return f"stac:{self.service.url}"
        return f"stac:{os.path.relpath(self.path, folder) if self.folder else self.path}"

    def freeze(self) -> dict:
        """The items that some ROI of this request is made of; no token is among it."""
        return {"items": [stac_items.frozen(self._wanted[k]) for k in sorted(self._wanted)]}

    # before anything runs --------------------------------------------------------------------------------------------

    def resolve(
        self, source: Source, rois: Sequence[Roi], grids: Sequence[Grid], *, strict: bool
    ) -> Sequence[str] | None:
        """Refuse a collection, bands or a ROI that the catalogue has not; digests of the items each ROI is made of."""
        wanted = source.identity["collection"]
        forms = [c for c in (wanted, other_form(wanted)) if c]
        have = services.chosen(self._service, self._collections, forms)
        for ours, mapped in have.items():
            self._check_bands(source, ours, mapped)
        boxes = lonlat_boxes(grids)
        asked = search.searches([r.temporal for r in rois], boxes)
        for ours, mapped in have.items():
            self._find(ours, mapped, asked)
        self._check_assets(source, have)
        found, without = [], []
        for roi, box in zip(rois, boxes):
            touching = self._touching(source, roi, box)
            self._wanted.update(((i.row.collection, i.row.scene), i) for i in touching)
            if not touching:
                without.append((roi, box))
            found.append(digest([i.digest for i in touching]))
        if without and strict:
            raise SpecError(self._nothing(source, without, have))
        return found

    def _find(self, ours: str, mapped: Mapped, wanted: Sequence[search.Search]) -> None:
        """Items of a collection; what an earlier source of the request has asked for is not asked again."""
        known, done = self._items.setdefault(ours, {}), self._asked.setdefault(ours, set())
        if self.path:
            found = [] if done else search.from_file(self.path, mapped.collection)
        else:
            new = [s for s in wanted if s not in done]
            found = search.from_api(self.service.url, mapped.collection, new) if new else []
        done.update(wanted)
        for said in found:
            item = stac_items.read(said, ours, mapped, self.folder)
            if item is not None:
                known[item.row.scene] = item
        self._used.clear()

    def _check_bands(self, source: Source, ours: str, mapped: Mapped) -> None:
        missing = [b for b in source.bands if mapped.assets and b not in mapped.assets]
        if missing:
            raise ProviderError(
                f"sensor.bands: {missing[0]!r} of {ours} is not known in {mapped.collection} of {self.where}; allowed: "
                f"{', '.join(mapped.assets)}, or stac.collections in the config with its asset"
            )

    def _check_assets(self, source: Source, have: Mapping[str, Mapped]) -> None:
        """A band that no item has is a wrong name, rather than a gap in the imagery."""
        items = [i for ours in have for i in self._items[ours].values()]
        bands = {b for i in items for b in i.bands}
        missing = [b for b in source.bands if b not in bands] if items else []
        if missing:
            raise ProviderError(
                f"sensor.bands: {missing[0]!r} is in none of the {len(items)} items found in {self.where}; allowed: the bands they have "
                f"({', '.join(sorted(bands))})"
            )

    def _nothing(self, source: Source, without: Sequence[tuple], have: Mapping[str, Mapped]) -> str:
        """The sentence about ROIs without imagery: what was searched, and how far it got."""
        (roi, box), more = without[0], f" and {len(without) - 1} more" if len(without) > 1 else ""
        window = f"{roi.temporal.start}..{roi.temporal.end}" if roi.temporal else "any time"
        kinds = " and ".join(m.collection for m in have.values())
        items = [i for ours in have for i in self._items[ours].values() if scene_files.in_window(i.row, roi.temporal)]
        over = stac_items.over([i for i in items if scene_files.touch(_array([i.box]), box)[0]], box)
        clear = [i for i in over if scene_files.within(i.row, source)]
        orbit = f" and orbit {scene_files.orbit(source)}" if scene_files.orbit(source) else ""
        return (
            f"ROI {roi.name!r}{more}: {roi.spatial} has no imagery in {self.where} ({len(items)} items of {kinds} found near the ROIs in "
            f"{window}, {len(over)} of them touch it, {len(clear)} of those with at most {source.identity['cloudy_pct']:g} % cloud{orbit}); "
            "allowed: ROIs and windows with imagery, or continue_on_error, which records them as no_data"
        )

    # which items -----------------------------------------------------------------------------------------------------

    def _known(self, collection: str | None) -> Iterable[Item]:
        return self._items.get(collection, {}).values() if collection else ()

    def _of_form(self, source: Source, collection: str | None, roi: Roi, box: Sequence[float]) -> list[Item]:
        items = stac_items.over(super()._of_form(source, collection, roi, box), box)
        radar = source.identity.get("s1", {})
        if radar.get("s1_require_iw"):  # as Earth Engine's collections are asked for: IW, others where there is none
            best = [i for i in items if i.mode in (None, "IW")]
            return best or (items if radar.get("s1_relax_iw_on_empty") else [])
        return items

    # pixels ----------------------------------------------------------------------------------------------------------

    def _scenes(self, source: Source, bands: Sequence[str], roi: Roi, box: Sequence[float]) -> list[list[Item]]:
        return [files for item in self._touching(source, roi, box) if (files := item.files(bands))]

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(READERS, thread_name_prefix="read")

    def _map(self, read: Callable[[Any], Any], things: Sequence[Any]) -> Iterable[Any]:
        return self._pool.map(read, things)

    @cached_property
    def _signer(self) -> Signer | None:
        service = self._service
        return Signer(service.name, service.token_url, service.storage) if service.token_url else None

    def _read(self, file: Item, bands: Sequence[str], grid: Grid, collection: str) -> tuple[np.ndarray, np.ndarray]:
        assets = [next(a for a in file.assets if a.band == b) for b in bands]
        href, indexes = assets[0].href, [a.index for a in assets]
        if "://" in href:
            values, inside, own = remote_rasters.read(href, indexes, grid, self._signer, file.source)
        else:
            values, inside, own = raster_io.read(os.path.join(self.folder or "", href), indexes, grid)
        nodata = [n if a.nodata is None else a.nodata for a, n in zip(assets, own)]
        row = file.row
        units = {"held": row.collection, "wanted": collection}
        return decoded(values, inside, nodata, scale=row.scale, offset=row.offset, dark=file.dark, **units)


def _array(rows: list) -> np.ndarray:
    import numpy as np

    return np.array(rows, float)
