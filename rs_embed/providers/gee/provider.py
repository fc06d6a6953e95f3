"""Google Earth Engine: composites that the service computes on the request's grid, one request for
the pixels of a ROI.

The images of all ROIs of a fetch job are looked up in one request before any pixels. So ROIs and
time bins without imagery are known, and are never mistaken for a failed request. See docs/gee.md.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from ...errors import ProviderError
from ...planning.model_info import COLLECTION_UNITS
from ...request.fields import suggest_nearest
from ...request.gee_settings import GEE_URLS, GeeSettings
from ...request.geometry import Grid
from ...request.identity import digest
from .. import composite
from ..base import Chip, FetchCost, Roi
from ..composite import Masked
from ..limits.quota import Quota
from ..limits.slots import RequestSlots
from ..retries import retrying
from . import images
from .client import Client, RequestTooLarge
from .images import FoundImages, Window

if TYPE_CHECKING:
    import numpy as np

    from ...planning.units import Source

#: Largest answer of one request, bytes without compression, all bands counted ("Total request size
#: must be less than or equal to 50331648 bytes").
MAX_BYTES = 48 << 20
#: Retries of the request at the start of a run, and the upper end of the first pause, seconds.
_RETRIES, _BACKOFF_S = 3, 1.0


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
        self._types = _valid_types(known)
        self._found: dict[tuple[str, str], FoundImages | ProviderError] = {}  # by source and ROI

    def identity(self) -> dict:
        """The name, and the endpoint unless it is one of Earth Engine's. Project and account
        change no pixel."""
        return {"name": self.name} | ({} if self.settings.endpoint in GEE_URLS else {"url": self.settings.endpoint})

    def backend(self, folder: str) -> str:
        return self.name

    def freeze(self) -> dict:
        """The types of the bands of the collections of this request."""
        return {"types": self._types}

    def request_slots(self, workers: int) -> AbstractContextManager:
        """Requests that the run may have in flight."""
        return RequestSlots(self._quota, workers) if self._quota else threading.BoundedSemaphore(workers)

    # before anything runs ------------------------------------------------------------------------

    def resolve(self, source: Source, rois: Sequence[Roi], grids: Sequence[Grid], *, strict: bool) -> None:
        """Refuse a collection or bands that do not exist. This costs one small request, which also
        needs credentials and a project, unless an earlier start of the run has made it. Whether a
        ROI has imagery is known when it is fetched."""
        collection = source.identity["collection"]
        dtypes = self._band_dtypes(source)
        for band in source.bands:
            if images.resolve_alias(collection, band) not in dtypes:
                raise ProviderError(
                    f"sensor.bands: {band!r} is not in the collection {collection!r}{suggest_nearest(band, dtypes)}; "
                    f"allowed: {', '.join(dtypes)}"
                )

    def _band_dtypes(self, source: Source) -> dict[str, str]:
        """Names of numpy dtypes by band of the source's collection."""
        collection = source.identity["collection"]
        key = f"{collection} {images.polarisations(source.bands)[0]}" if collection in COLLECTION_UNITS else collection
        if key not in self._types:

            def request() -> dict:
                expression = images.band_types_expression(self._client.connect(), collection, source.bands)
                return self._client.compute_value(expression)

            try:
                self._types[key] = images.parse_band_types(retrying(_RETRIES, _BACKOFF_S)(request))
            except ProviderError as error:
                if "may not be null" not in str(error):
                    raise
                raise ProviderError(
                    f"sensor.collection: {collection!r} has no images; allowed: an image collection that you can read"
                ) from None
        return self._types[key]

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
        """The cost if every time bin has several images."""

        names, dtypes = self._names_and_dtypes(source, bands)
        how, fill = source.identity["composite"], source.identity["fill_value"]
        stored, sent = (composite.composite_dtype(dtypes, 2, how, value) for value in (fill, 0))
        requests = list(split_request(len(set(names)) * source.frames.count, height, width, sent))
        pixel_bytes = sum(images.bytes_per_pixel(end - start, sent) for start, end, _ in requests)
        return FetchCost(sum(len(parts) for *_, parts in requests), stored.itemsize, height * width * pixel_bytes)

    def fetch(self, source: Source, bands: Sequence[str], roi: Roi, grid: Grid) -> Chip:
        """Composite of the ROI's images, or one of each time bin."""
        found, window = self._find_images(source, roi, grid), _window(roi)
        provenance = _provenance(source, bands, found, window, grid)
        if not found.scenes:
            return _empty_chip(bands, provenance, found)
        bins = composite.time_bins(roi.temporal, source.frames) if roi.temporal else []
        dates = tuple(composite.midpoint(*dates) for dates in bins)
        if source.frames.mode == "composite":
            ((pixels, valid),) = self._composites(source, bands, found, [window], grid)
            return Chip(pixels, composite.band_coverage(valid), dates, provenance)
        pixels, covered, provenance["frames"], warnings = self._frames(source, bands, found, bins, roi, grid)
        return Chip(pixels, covered, dates, provenance, warnings)

    def _frames(
        self,
        source: Source,
        bands: Sequence[str],
        found: FoundImages,
        bins: list[tuple[str, str]],
        roi: Roi,
        grid: Grid,
    ) -> tuple[np.ndarray, tuple[float, ...], list[dict], tuple[tuple[str, ...], ...]]:
        """:func:`composite.composite_frames` with the composites of all bins, and of the window
        where a bin has no images, in one request."""
        window = _window(roi)
        scenes = [[s.id for s in found.scenes if start <= s.date < end] for start, end in bins]
        windows: list[Window] = [dates for dates, ids in zip(bins, scenes) if ids]
        if len(windows) < len(bins):
            windows.append(window)
        composites = dict(zip(windows, self._composites(source, bands, found, windows, grid)))

        def of_window() -> Masked:
            if window not in composites:  # a bin has images, but no valid pixel of a band
                (composites[window],) = self._composites(source, bands, found, [window], grid)
            return composites[window]

        return composite.composite_frames(bins, scenes, lambda i: composites[bins[i]], of_window, len(bands))

    def _names_and_dtypes(self, source: Source, bands: Sequence[str]) -> tuple[list[str], list[np.dtype]]:
        """The collection's names of bands, and the dtypes of its different bands among them."""
        import numpy as np

        stored = self._band_dtypes(source)
        names = [images.resolve_alias(source.identity["collection"], b) for b in bands]
        return names, [np.dtype(stored[n]) for n in dict.fromkeys(names)]

    def _composites(
        self, source: Source, bands: Sequence[str], found: FoundImages, windows: Sequence[Window], grid: Grid
    ) -> list[Masked]:
        """(values (C, H, W) with the fill value, valid (C, H, W)) of each window that has images;
        in one request unless the answer exceeds the service's limits."""
        import numpy as np

        how, fill = source.identity["composite"], source.identity["fill_value"]
        names, dtypes = self._names_and_dtypes(source, bands)
        counts = [sum(w is None or w[0] <= s.date < w[1] for s in found.scenes) for w in windows]
        sent = np.result_type(*(composite.composite_dtype(dtypes, n, how, 0) for n in counts))
        planes = [(w, n) for w in windows for n in dict.fromkeys(names)]
        values, valid = self._fetch_planes(source, planes, found, grid, sent)
        frames = []
        for window, count in zip(windows, counts):
            indices = [planes.index((window, n)) for n in names]
            frame_valid = valid[indices]
            frame = values[indices].astype(composite.composite_dtype(dtypes, count, how, fill))
            frame[~frame_valid] = fill
            frames.append((frame, frame_valid))
        return frames

    def _fetch_planes(
        self, source: Source, planes: Sequence[tuple[Window, str]], found: FoundImages, grid: Grid, sent: np.dtype
    ) -> Masked:
        """Values (P, H, W) and validity (P, H, W) of composites of (window, band), joined from as
        many requests as needed."""
        import numpy as np

        values = np.empty((len(planes), grid.height, grid.width), sent)
        valid = np.empty(values.shape, bool)
        for start, end, parts in split_request(len(planes), grid.height, grid.width, sent):
            image, value_names, bit_names = images.composite_expression(
                self._client.connect(), source, planes[start:end], found, grid, sent
            )
            for rows, columns in parts:
                answer = self._client.compute_pixels(image, _subgrid(grid, rows, columns), value_names + bit_names)
                for i, name in enumerate(value_names, start):
                    values[i, rows, columns] = answer[name]
                    band, bit = divmod(i - start, images.BITS)
                    valid[i, rows, columns] = answer[bit_names[band]] & (1 << bit) != 0
        if sent.kind == "f":
            valid &= ~np.isnan(values)
        return values, valid


def _valid_types(known: object) -> dict[str, dict[str, str]]:
    """The types of bands that an earlier start has stored; invalid entries are left out, so they
    are requested again."""
    stored = known.get("types") if isinstance(known, dict) else None
    return {
        str(collection): dict(types)
        for collection, types in (stored.items() if isinstance(stored, dict) else ())
        if isinstance(types, dict) and types and all(t in images.TYPES for t in types.values())
    }


def split_request(
    planes: int, height: int, width: int, sent: np.dtype
) -> Iterator[tuple[int, int, list[tuple[slice, slice]]]]:
    """The requests for a chip of so many planes (bands x windows): planes ``start .. end-1``, and
    the rows and columns of each request for them."""
    for start in range(0, planes, images.MAX_PLANES):
        end = min(start + images.MAX_PLANES, planes)
        area = max(1, MAX_BYTES // images.bytes_per_pixel(end - start, sent))
        yield start, end, split_area(height, width, area)


def split_area(height: int, width: int, area: int) -> list[tuple[slice, slice]]:
    """Rows and columns of the parts of an image, each of at most ``area`` pixels; an image is
    halved across its longer side."""

    def halve(top: int, bottom: int, left: int, right: int) -> list[tuple[slice, slice]]:
        if (bottom - top) * (right - left) <= area:
            return [(slice(top, bottom), slice(left, right))]
        if bottom - top >= right - left:
            middle = (top + bottom) // 2
            return halve(top, middle, left, right) + halve(middle, bottom, left, right)
        middle = (left + right) // 2
        return halve(top, bottom, left, middle) + halve(top, bottom, middle, right)

    return halve(0, height, 0, width)


def _subgrid(grid: Grid, rows: slice, columns: slice) -> Grid:
    """The grid of some rows and columns."""
    a, b, c, d, e, f = grid.affine
    affine = (a, b, c + a * columns.start, d, e, f + e * rows.start)
    return Grid(grid.crs, affine, columns.stop - columns.start, rows.stop - rows.start)


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
