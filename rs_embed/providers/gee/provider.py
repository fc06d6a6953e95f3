"""Google Earth Engine: composites that the service makes on the request's grid, one request for the pixels of a ROI.

Which images a ROI has is looked up for all ROIs of a fetch job in one request, before any pixels: so places and time bins without imagery
are known, and are never mistaken for a request that failed. See docs/gee.md.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from ...errors import ProviderError
from ...planning.model_info import UNITS
from ...request.fields import nearest
from ...request.gee_settings import GEE_URLS, GeeSettings
from ...request.geometry import Grid
from ...request.identity import digest
from .. import composite
from ..base import Asked, Chip, Roi
from ..limits.quota import Quota
from ..limits.slots import Turns
from ..retries import attempts
from . import images
from .client import Client, TooMuch

if TYPE_CHECKING:
    import numpy as np

    from ...planning.units import Source

#: Largest answer of one request, bytes without compression, all bands counted ("Total request size must be less than or
#: equal to 50331648 bytes").
MAX_BYTES = 48 << 20
#: How often a start asks again.
_RETRIES, _BACKOFF_S = 3, 1.0


def _checked(known: object) -> dict[str, dict[str, str]]:
    """The types of bands that an earlier start has found, as far as they are ones; others are asked for again."""
    said = known.get("types") if isinstance(known, dict) else None
    return {
        str(collection): dict(types)
        for collection, types in (said.items() if isinstance(said, dict) else ())
        if isinstance(types, dict) and types and all(t in images.TYPES for t in types.values())
    }


class GeeProvider:
    """Asks Earth Engine for pixels."""

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
        self._types = _checked(known)
        self._looks: dict[tuple[str, str], images.Look | ProviderError] = {}

    def identity(self) -> dict:
        """The name, and an endpoint that is not Earth Engine's own. Who asks changes no pixel."""
        return {"name": self.name} | ({} if self.settings.endpoint in GEE_URLS else {"url": self.settings.endpoint})

    def backend(self, folder: str) -> str:
        return self.name

    def freeze(self) -> dict:
        """The types of the bands of the collections of this request."""
        return {"types": self._types}

    def turns(self, workers: int) -> AbstractContextManager:
        """Requests that the run may have in flight."""
        return Turns(self._quota, workers) if self._quota else threading.BoundedSemaphore(workers)

    # before anything runs --------------------------------------------------------------------------------------

    def resolve(self, source: Source, rois: Sequence[Roi], grids: Sequence[Grid], *, strict: bool) -> None:
        """Refuse a collection or bands that are not there; one small request, which also needs credentials and a project,
        where no earlier start of the run has made it. Whether a ROI has imagery is known when it is fetched."""
        collection = source.identity["collection"]
        held = self._held(source)
        for band in source.bands:
            if images.alias(collection, band) not in held:
                raise ProviderError(
                    f"sensor.bands: {band!r} is not in the collection {collection!r}{nearest(band, held)}; "
                    f"allowed: {', '.join(held)}"
                )

    def _held(self, source: Source) -> dict[str, str]:
        """Bands of the source's collection, and the numpy name of their types."""
        collection = source.identity["collection"]
        key = f"{collection} {images.polarisations(source.bands)[0]}" if collection in UNITS else collection
        if key not in self._types:
            ask = lambda: self._client.value(images.types(self._client.ee(), collection, source.bands))  # noqa: E731
            try:
                self._types[key] = images.dtypes(attempts(_RETRIES, _BACKOFF_S)(ask))
            except ProviderError as error:
                if "may not be null" not in str(error):
                    raise
                raise ProviderError(
                    f"sensor.collection: {collection!r} has no images; allowed: an image collection that you can read"
                ) from None
        return self._types[key]

    # which images ----------------------------------------------------------------------------------------------

    def expect(
        self, source: Source, wanted: Sequence[tuple[Roi, Grid]], turns: AbstractContextManager = nullcontext()
    ) -> None:
        """Look up the images of all places that are about to be fetched, in one request if the service can."""
        lacking = [(roi, grid) for roi, grid in wanted if (source.id, roi.id) not in self._looks]
        if not lacking:
            return
        ee = self._client.ee()
        try:
            asked = ee.List([images.look(ee, source, _window(roi), grid) for roi, grid in lacking])
            with turns:
                answers = self._client.value(asked)
        except TooMuch as error:
            if len(lacking) == 1:
                self._looks[source.id, lacking[0][0].id] = error
                return
            self.expect(source, lacking[: len(lacking) // 2], turns)
            self.expect(source, lacking[len(lacking) // 2 :], turns)
        except ProviderError as error:
            if error.retryable:
                raise
            self._looks |= {(source.id, roi.id): error for roi, _ in lacking}
        else:
            for (roi, _), answer in zip(lacking, answers, strict=True):
                self._looks[source.id, roi.id] = images.seen(source, _window(roi), answer)

    def _look(self, source: Source, roi: Roi, grid: Grid) -> images.Look:
        self.expect(source, [(roi, grid)])
        found = self._looks[source.id, roi.id]
        if isinstance(found, ProviderError):
            raise found
        return found

    # pixels ----------------------------------------------------------------------------------------------------

    def asked(self, source: Source, bands: Sequence[str], height: int, width: int) -> Asked:
        """As if every time bin had images of its own, and several of them."""
        import numpy as np

        held, collection = self._held(source), source.identity["collection"]
        names = list(dict.fromkeys(images.alias(collection, b) for b in bands))
        how, fill = source.identity["composite"], source.identity["fill_value"]
        own = [np.dtype(held[n]) for n in names]
        stored, sent = (composite.stored_dtype(own, 2, how, value) for value in (fill, 0))
        asked = list(requests(len(names) * source.frames.count, height, width, sent))
        a_pixel = sum(images.bytes_per_pixel(end - start, sent) for start, end, _ in asked)
        return Asked(sum(len(parts) for *_, parts in asked), stored.itemsize, height * width * a_pixel)

    def fetch(self, source: Source, bands: Sequence[str], roi: Roi, grid: Grid) -> Chip:
        """Composite of the ROI's images, or one of each time bin."""
        found, window = self._look(source, roi, grid), _window(roi)
        provenance = _provenance(source, bands, found, window, grid)
        if not found.scenes:
            return _nothing(bands, provenance, found)
        spans = composite.bins(roi.temporal, source.frames) if roi.temporal else []
        dates = tuple(composite.midpoint(*span) for span in spans)
        if source.frames.mode == "composite":
            ((pixels, valid),) = self._composites(source, bands, found, [window], grid)
            return Chip(pixels, composite.coverage(valid), dates, provenance)
        inside = [[s.id for s in found.scenes if start <= s.date < end] for start, end in spans]
        asked = [span for span, scenes in zip(spans, inside) if scenes]
        if len(asked) < len(spans):
            asked.append(window)
        made = dict(zip(asked, self._composites(source, bands, found, asked, grid)))

        def whole() -> tuple[np.ndarray, np.ndarray]:
            if window not in made:  # a bin has images, and not one valid pixel of a band
                (made[window],) = self._composites(source, bands, found, [window], grid)
            return made[window]

        pixels, covered, provenance["frames"], said = composite.frames(
            spans, inside, lambda number: made[spans[number]], whole, len(bands)
        )
        return Chip(pixels, covered, dates, provenance, said)

    def _composites(
        self, source: Source, bands: Sequence[str], found: images.Look, windows: Sequence[images.Window], grid: Grid
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """(values (C, H, W) with the fill value, valid (C, H, W)) of each window that has images; in one request unless that
        would be more than the service answers."""
        import numpy as np

        how, fill = source.identity["composite"], source.identity["fill_value"]
        held, collection = self._held(source), source.identity["collection"]
        names = [images.alias(collection, b) for b in bands]
        own = [np.dtype(held[n]) for n in dict.fromkeys(names)]
        counts = [sum(w is None or w[0] <= s.date < w[1] for s in found.scenes) for w in windows]
        sent = np.result_type(*(composite.stored_dtype(own, n, how, 0) for n in counts))
        planes = [(w, n) for w in windows for n in dict.fromkeys(names)]
        values = np.empty((len(planes), grid.height, grid.width), sent)
        valid = np.empty(values.shape, bool)
        for start, end, parts in requests(len(planes), grid.height, grid.width, sent):
            some = planes[start:end]
            image, value_names, bit_names = images.composites(self._client.ee(), source, some, found, grid, sent)
            for rows, columns in parts:
                answer = self._client.pixels(image, _part(grid, rows, columns), value_names + bit_names)
                for i, name in enumerate(value_names, start):
                    values[i, rows, columns] = answer[name]
                    at, bit = divmod(i - start, images.BITS)
                    valid[i, rows, columns] = answer[bit_names[at]] & (1 << bit) != 0
        if sent.kind == "f":
            valid &= ~np.isnan(values)
        made = []
        for k, count in enumerate(counts):
            which = [planes.index((windows[k], n)) for n in names]
            stored = composite.stored_dtype(own, count, how, fill)
            good = valid[which]
            frame = values[which].astype(stored)
            frame[~good] = fill
            made.append((frame, good))
        return made


def requests(
    planes: int, height: int, width: int, sent: np.dtype
) -> Iterator[tuple[int, int, list[tuple[slice, slice]]]]:
    """How a chip of so many planes (bands x windows) is asked for: planes ``start .. end-1`` of it, and the rows and columns of
    each request for them."""
    for start in range(0, planes, images.MAX_PLANES):
        end = min(start + images.MAX_PLANES, planes)
        area = max(1, MAX_BYTES // images.bytes_per_pixel(end - start, sent))
        yield start, end, pieces(height, width, area)


def pieces(height: int, width: int, area: int) -> list[tuple[slice, slice]]:
    """Rows and columns of the parts of an image, none of more than ``area`` pixels: it is halved across its longer side."""

    def halved(top: int, bottom: int, left: int, right: int) -> list[tuple[slice, slice]]:
        if (bottom - top) * (right - left) <= area:
            return [(slice(top, bottom), slice(left, right))]
        if bottom - top >= right - left:
            middle = (top + bottom) // 2
            return halved(top, middle, left, right) + halved(middle, bottom, left, right)
        middle = (left + right) // 2
        return halved(top, bottom, left, middle) + halved(top, bottom, middle, right)

    return halved(0, height, 0, width)


def _part(grid: Grid, rows: slice, columns: slice) -> Grid:
    """The grid of some rows and columns."""
    a, b, c, d, e, f = grid.affine
    affine = (a, b, c + a * columns.start, d, e, f + e * rows.start)
    return Grid(grid.crs, affine, columns.stop - columns.start, rows.stop - rows.start)


def _window(roi: Roi) -> images.Window:
    return None if roi.temporal is None else (roi.temporal.start, roi.temporal.end)


def _provenance(source: Source, bands: Sequence[str], found: images.Look, window: images.Window, grid: Grid) -> dict:
    collection = source.identity["collection"]
    scenes = []
    for scene in found.scenes:
        said: dict = {"scene": scene.id, "datetime": scene.datetime, "collection": collection}
        if scene.cloud_cover is not None:
            said["cloud_cover"] = scene.cloud_cover
        if scene.mode is not None:
            said["mode"] = scene.mode
        if collection in UNITS:
            said["units"] = UNITS[collection]
        scenes.append(said)
    asked = [source.identity, list(bands), window, [grid.crs, list(grid.affine), grid.width, grid.height]]
    said = {"scenes": scenes, "counts": dict(found.counts), "request": digest(asked)}
    return said | ({"relaxed": "there is no image in IW mode, those of other modes are used"} if found.relaxed else {})


def _nothing(bands: Sequence[str], provenance: dict, found: images.Look) -> Chip:
    """The chip of a place without imagery, which says how far the search got."""
    import numpy as np

    sentence = "there is no imagery: " + ", ".join(f"{count} {words}" for words, count in found.counts.items())
    return Chip(
        np.zeros((len(bands), 0, 0), np.uint8), (0.0,) * len(bands), (), provenance, ((sentence,),) * len(bands)
    )
