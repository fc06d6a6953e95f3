"""Google Earth Engine: composites that the service computes on the request's grid, one request for
the pixels of a ROI.

The images of all ROIs of a fetch job are looked up in one request before any pixels. So ROIs and
time bins without imagery are known, and are never mistaken for a failed request. See docs/gee.md.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from ...errors import ProviderError
from ...products import COLLECTION_UNITS, find_product
from ...request.gee_settings import GEE_URLS, GeeSettings
from ...request.geometry import Grid
from ...request.identity import digest
from .. import composite
from ..base import Chip, FetchCost, Roi
from ..composite import Masked
from ..limits.quota import Quota
from ..limits.slots import RequestSlots
from ..mask_record import MaskCount, mask_warnings
from . import band_types, composites, images, masks, parts
from .client import Client, RequestTooLarge
from .images import FoundImages, Scene, Window
from .known_bands import KnownBands

if TYPE_CHECKING:
    import numpy as np

    from ...planning.units import Source

#: Increased by hand when the pixels of a request can change. 2: types and bands of the images that
#: are used, dates of acquisition.
VERSION = 2


class GeeProvider:
    """Gets chips from Earth Engine."""

    name = "gee"
    shared = True
    cores = 0
    lookups = 1

    def __init__(
        self,
        argument: str,
        base: str,
        known: dict | None = None,
        *,
        job: bool = False,
        settings: GeeSettings | None = None,
    ) -> None:
        self.settings = settings or GeeSettings(project=argument or None)
        quota = Quota(os.path.join(base, "quota"), self.settings.concurrency, self.settings.requests_per_second)
        self._quota = quota if job else None
        self._client = Client(self.settings, self._quota)
        self._known = KnownBands(self._client, known)
        self._found: dict[tuple[str, str], FoundImages | ProviderError] = {}  # by source and ROI

    def identity(self) -> dict:
        """The name, and the endpoint unless it is one of Earth Engine's. Project and account
        change no pixel."""
        return {"name": self.name, "version": VERSION} | (
            {} if self.settings.endpoint in GEE_URLS else {"url": self.settings.endpoint}
        )

    def backend(self, folder: str) -> str:
        return self.name

    def freeze(self) -> dict:
        """What was looked up about the collections of this request."""
        return self._known.freeze()

    def request_slots(self, workers: int) -> AbstractContextManager:
        """Requests that the run may have in flight."""
        return RequestSlots(self._quota, workers) if self._quota else threading.BoundedSemaphore(workers)

    # before anything runs ------------------------------------------------------------------------

    def resolve(self, source: Source, rois: Sequence[Roi], grids: Sequence[Grid], *, strict: bool) -> None:
        """Refuse a collection or bands that do not exist (:meth:`KnownBands.check`). The requests
        also need credentials and a project. Whether a ROI has imagery is known when it is
        fetched."""
        self._known.check(source, rois, grids)

    # which images --------------------------------------------------------------------------------

    def look_up(
        self, source: Source, wanted: Sequence[tuple[Roi, Grid]], slots: AbstractContextManager = nullcontext()
    ) -> None:
        """Look up the images of all ROIs that are about to be fetched, in one request if the
        service can answer it."""
        missing = [(roi, grid) for roi, grid in wanted if (source.id, roi.id) not in self._found]
        if not missing:
            return
        ee = self._client.connect()
        try:
            expression = ee.List([images.search_expression(ee, source, _window(roi), grid) for roi, grid in missing])
            with slots:
                answers = self._client.compute_value(expression)
        except RequestTooLarge as error:
            if len(missing) == 1:
                self._found[source.id, missing[0][0].id] = error
                return
            self.look_up(source, missing[: len(missing) // 2], slots)
            self.look_up(source, missing[len(missing) // 2 :], slots)
        except ProviderError as error:
            if error.retryable:
                raise
            self._found |= {(source.id, roi.id): error for roi, _ in missing}
        else:
            for (roi, _), answer in zip(missing, answers, strict=True):
                self._found[source.id, roi.id] = images.parse_search(source, _window(roi), answer)

    def _find_images(self, source: Source, roi: Roi, grid: Grid) -> FoundImages:
        self.look_up(source, [(roi, grid)])
        found = self._found[source.id, roi.id]
        if isinstance(found, ProviderError):
            raise found
        return found

    # pixels --------------------------------------------------------------------------------------

    def fetch_cost(self, source: Source, bands: Sequence[str], height: int, width: int) -> FetchCost:
        """The cost if every time bin has several images. All images of a known product have the
        types of its first ones; in another collection any image can have the widest type."""
        import numpy as np

        is_product = find_product(source.identity["collection"]) is not None
        types = self._known.types(source) if is_product else {}
        dtypes = [np.dtype(types.get(n, "float64")) for n in dict.fromkeys(_names(source, bands))]
        how, fill = source.identity["composite"], source.identity["fill_value"]
        stored, sent = (composite.composite_dtype(dtypes, 2, how, value) for value in (fill, 0))
        counted = "mask" in source.identity
        planes = len(dtypes) * source.frames.count
        requests = list(parts.split_request(planes, height, width, sent, counted=counted))
        pixel_bytes = sum(parts.request_bytes(end - start, sent, counted and start == 0) for start, end, _ in requests)
        return FetchCost(sum(len(pieces) for *_, pieces in requests), stored.itemsize, height * width * pixel_bytes)

    def fetch(self, source: Source, bands: Sequence[str], roi: Roi, grid: Grid) -> Chip:
        """Composite of the ROI's images, or one of each time bin."""
        found, window = self._find_images(source, roi, grid), _window(roi)
        provenance = _provenance(source, bands, found, window, grid)
        if not found.scenes:
            return _empty_chip(bands, provenance, found)
        bins = composite.time_bins(roi.temporal, source.frames) if roi.temporal else []
        count, empty = MaskCount(), []
        warnings: tuple[tuple[str, ...], ...] = ()
        if source.frames.mode == "composite":
            ((pixels, valid),) = self._composites(source, bands, found, [window], grid, count, window)
            covered = composite.band_coverage(valid)
        else:
            pixels, covered, provenance["frames"], warnings = self._frames(source, bands, found, bins, roi, grid, count)
            empty = ["empty" in frame for frame in provenance["frames"]]
        about = _band_warnings(source, bands, found)
        if mask := source.identity.get("mask"):
            provenance["mask"] = count.record(mask)
            removed = mask_warnings(provenance["mask"], any(covered))
            about = [(*sentences, *removed) for sentences in about]
        if any(about):
            warnings = tuple((*w, *more) for w, more in zip(warnings or ((),) * len(bands), about))
        days = [s.date for s in found.scenes if s.date is not None]
        dates, date_is = composite.frame_dates(window, bins, days if len(days) == len(found.scenes) else [], empty)
        return Chip(pixels, covered, dates, provenance, warnings, date_is)

    def _frames(
        self,
        source: Source,
        bands: Sequence[str],
        found: FoundImages,
        bins: list[tuple[str, str]],
        roi: Roi,
        grid: Grid,
        count: MaskCount,
    ) -> tuple[np.ndarray, tuple[float, ...], list[dict], tuple[tuple[str, ...], ...]]:
        """:func:`composite.composite_frames` with the composites of all bins, and of the window
        where a bin has no images, in one request."""
        window = _window(roi)
        scenes = [[s.id for s in found.scenes_in(dates)] for dates in bins]
        windows: list[Window] = [dates for dates, ids in zip(bins, scenes) if ids]
        if len(windows) < len(bins):
            windows.append(window)
        # images after the last bin are in no frame
        count_window = (bins[0][0], bins[-1][1])
        composed = self._composites(source, bands, found, windows, grid, count, count_window)
        composites_of = dict(zip(windows, composed))

        def of_window() -> Masked:
            if window not in composites_of:  # a bin has images, but no valid pixel of a band
                (composites_of[window],) = self._composites(source, bands, found, [window], grid)
            return composites_of[window]

        return composite.composite_frames(bins, scenes, lambda i: composites_of[bins[i]], of_window, len(bands))

    def _composites(
        self,
        source: Source,
        bands: Sequence[str],
        found: FoundImages,
        windows: Sequence[Window],
        grid: Grid,
        count: MaskCount | None = None,
        count_window: Window = None,
    ) -> list[Masked]:
        """(values (C, H, W) with the fill value, valid (C, H, W)) of each window that has images;
        in one request unless the answer exceeds the service's limits. ``count`` is increased by
        what the source's mask removes from the images of ``count_window``."""
        import numpy as np

        how, fill, names = source.identity["composite"], source.identity["fill_value"], _names(source, bands)
        scenes = [found.scenes_in(w) for w in windows]
        dtypes = [_dtypes(inside, names) for inside in scenes]
        sent = np.result_type(
            *(composite.composite_dtype(types, len(inside), how, 0) for types, inside in zip(dtypes, scenes))
        )
        planes = [(w, n) for w in windows for n in dict.fromkeys(names)]
        values, valid = self._fetch_planes(source, planes, found, grid, sent, count, count_window)
        frames = []
        for window, inside, types in zip(windows, scenes, dtypes):
            indices = [planes.index((window, n)) for n in names]
            frame_valid = valid[indices]
            frame = values[indices].astype(composite.composite_dtype(types, len(inside), how, fill))
            frame[~frame_valid] = fill
            frames.append((frame, frame_valid))
        return frames

    def _fetch_planes(
        self,
        source: Source,
        planes: Sequence[tuple[Window, str]],
        found: FoundImages,
        grid: Grid,
        sent: np.dtype,
        count: MaskCount | None,
        count_window: Window,
    ) -> Masked:
        """Values (P, H, W) and validity (P, H, W) of composites of (window, band), joined from as
        many requests as needed."""
        import numpy as np

        ee = self._client.connect()
        values = np.empty((len(planes), grid.height, grid.width), sent)
        valid = np.empty(values.shape, bool)
        seen = found.scenes_in(count_window) if count is not None and "mask" in source.identity else []
        if count is not None:
            count.without += [s.id for s in seen if s.id in found.without]
        for start, end, pieces in parts.split_request(len(planes), grid.height, grid.width, sent, counted=bool(seen)):
            image, value_names, bit_names = composites.composite_expression(
                ee, source, planes[start:end], found, grid, sent
            )
            counts: list[str] = []
            if seen and start == 0:
                counts = list(masks.COUNTS)
                image = image.addBands(composites.masked_counts(ee, source, count_window, found, grid))
            for rows, columns in pieces:
                subgrid = parts.subgrid(grid, rows, columns)
                answer = self._client.compute_pixels(image, subgrid, value_names + bit_names + counts)
                for i, name in enumerate(value_names, start):
                    values[i, rows, columns] = answer[name]
                    band, bit = divmod(i - start, composites.BITS)
                    valid[i, rows, columns] = answer[bit_names[band]] & (1 << bit) != 0
                if count is not None and counts:
                    count.observed += int(answer["observed"].sum(dtype=np.int64))
                    count.masked += int(answer["masked"].sum(dtype=np.int64))
        if sent.kind == "f":
            valid &= ~np.isnan(values)
        return values, valid


def _names(source: Source, bands: Sequence[str]) -> list[str]:
    """The collection's names of bands."""
    return [images.resolve_alias(source.identity["collection"], band) for band in bands]


def _dtypes(scenes: Sequence[Scene], names: Sequence[str]) -> list[np.dtype]:
    """The dtypes that represent some bands of images, those of bands that an image has."""
    import numpy as np

    types = band_types.merge_types(*({n: s.types[n] for n in names if n in s.types} for s in scenes))
    return [np.dtype(name) for name in types.values()] or [np.dtype(np.uint8)]


def _band_warnings(source: Source, bands: Sequence[str], found: FoundImages) -> list[tuple[str, ...]]:
    """Sentences about each band: no image has it, or images are in no window."""
    untimed: tuple[str, ...] = ()
    if found.untimed:
        verb = "image has" if found.untimed == 1 else "images have"
        what = f"{found.untimed} {verb} no time (system:time_start), so no window contains them"
        untimed = (f"{source.identity['collection']}: {what}",)
    return [
        (*(() if any(name in s.types for s in found.scenes) else (f"no image here has the band {name}",)), *untimed)
        for name in _names(source, bands)
    ]


def _window(roi: Roi) -> Window:
    return None if roi.temporal is None else (roi.temporal.start, roi.temporal.end)


def _provenance(source: Source, bands: Sequence[str], found: FoundImages, window: Window, grid: Grid) -> dict:
    collection = source.identity["collection"]
    scenes = []
    for scene in found.scenes:
        fields: dict = {"scene": scene.id, "datetime": scene.datetime, "collection": collection}
        if scene.cloud_cover is not None:
            fields["cloud_cover"] = scene.cloud_cover
        if scene.mode is not None:
            fields["mode"] = scene.mode
        if collection in COLLECTION_UNITS:
            fields["units"] = COLLECTION_UNITS[collection]
        scenes.append(fields)
    request = [source.identity, list(bands), window, [grid.crs, list(grid.affine), grid.width, grid.height]]
    provenance = {"scenes": scenes, "counts": dict(found.counts), "request": digest(request)}
    if found.relaxed:
        provenance["relaxed"] = "there is no image in IW mode, those of other modes are used"
    return provenance


def _empty_chip(bands: Sequence[str], provenance: dict, found: FoundImages) -> Chip:
    """The chip of a ROI without imagery; its warning lists the number of images after each
    filter."""
    import numpy as np

    sentence = "there is no imagery: " + ", ".join(f"{count} {text}" for text, count in found.counts.items())
    warnings = ((sentence,),) * len(bands)
    return Chip(np.zeros((len(bands), 0, 0), np.uint8), (0.0,) * len(bands), (), provenance, warnings)
