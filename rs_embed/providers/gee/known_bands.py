"""What a start of a run looks up about collections: their bands with types, and whether their
images have times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import ProviderError
from ...planning.units import Source
from ...request.fields import suggest_nearest
from ...request.geometry import Grid, lonlat_boxes
from ..base import Roi
from ..retries import retrying
from . import band_types, images, masks
from .client import Client, RequestTooLarge

#: Retries of a request at the start of a run, and the upper end of the first pause, seconds.
_RETRIES, _BACKOFF_S = 3, 1.0


class KnownBands:
    """Bands of the collections of a request. The types are those of a collection's first images
    and serve for the estimate only: a chip uses the types of its own images."""

    def __init__(self, client: Client, known: object) -> None:
        self._client = client
        self._types = _valid_types(known)
        self._timed = _valid_times(known)

    def freeze(self) -> dict:
        """What was looked up, as JSON values."""
        return {"types": self._types, "timed": self._timed}

    def check(self, source: Source, rois: Sequence[Roi], grids: Sequence[Grid]) -> None:
        """Refuse a collection or bands that do not exist, and windows of images without times.

        Costs one small request unless an earlier start has made it, and one more if the first
        images of the collection lack a band.

        Raises:
            ProviderError: as above, or the request failed.
        """
        collection = source.identity["collection"]
        types = self.types(source)
        key = band_types.collection_key(collection, source.bands)
        if not self._timed.get(key, True) and any(roi.temporal for roi in rois):
            raise ProviderError(
                f"temporal: the images of {collection!r} have no time (system:time_start), so no window contains them; "
                "allowed: temporal null, or a collection of images with times"
            )
        missing = [band for band in images.needed_bands(source) if band not in types]
        if missing:
            self._look_for(missing, source, rois, grids)
        for band in source.bands:
            if images.resolve_alias(collection, band) not in types:
                raise ProviderError(
                    f"sensor.bands: {band!r} is not in the collection {collection!r}{suggest_nearest(band, types)}; "
                    f"allowed: {', '.join(types)}"
                )
        for band in masks.own_bands(source.identity.get("mask")):
            if band not in types:
                raise ProviderError(
                    f"fetch.mask: {source.identity['mask']['kind']!r} reads the band {band!r}, which no image of {collection!r} has; "
                    "allowed: null, or a collection with this band"
                )

    def types(self, source: Source) -> dict[str, str]:
        """Names of numpy dtypes by band of the source's collection."""
        collection = source.identity["collection"]
        key = band_types.collection_key(collection, source.bands)
        if key not in self._types:
            connect = self._client.connect
            signatures, timed = self._request(
                lambda: band_types.collection_expression(connect(), collection, source.bands)
            )
            if not signatures:
                raise ProviderError(
                    f"sensor.collection: {collection!r} has no images; allowed: an image collection that you can read"
                )
            self._types[key] = band_types.merge_types(*map(band_types.parse_signature, signatures))
            self._timed[key] = bool(timed)
        return self._types[key]

    def _look_for(self, missing: list[str], source: Source, rois: Sequence[Roi], grids: Sequence[Grid]) -> None:
        """Add the types of bands that only other images than the first ones have."""
        collection, types = source.identity["collection"], self.types(source)
        windows = [roi.temporal for roi in rois]
        dates = [w for w in windows if w is not None]
        window = (min(w.start for w in dates), max(w.end for w in dates)) if len(dates) == len(windows) else None
        boxes = lonlat_boxes(grids)
        (west, south), (east, north) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        box = (max(float(west), -180.0), max(float(south), -90.0), min(float(east), 180.0), min(float(north), 90.0))
        connect = self._client.connect
        try:
            answers = self._request(
                lambda: band_types.optional_bands_expression(connect(), collection, missing, box, window)
            )
        except RequestTooLarge:
            # the service cannot search so many images: the ROIs will tell
            types |= dict.fromkeys(missing, "float64")
            return
        for signatures in answers:
            types |= band_types.merge_types(*map(band_types.parse_signature, signatures))

    def _request(self, expression: Any) -> Any:
        return retrying(_RETRIES, _BACKOFF_S)(lambda: self._client.compute_value(expression()))


def _valid_types(known: object) -> dict[str, dict[str, str]]:
    """The types of bands that an earlier start has stored; invalid entries are left out, so they
    are requested again."""
    return {
        str(collection): dict(types)
        for collection, types in _stored(known, "types").items()
        if isinstance(types, dict) and types and all(t in band_types.CASTS for t in types.values())
    }


def _valid_times(known: object) -> dict[str, bool]:
    return {str(key): value for key, value in _stored(known, "timed").items() if isinstance(value, bool)}


def _stored(known: object, key: str) -> dict:
    stored = known.get(key) if isinstance(known, dict) else None
    return stored if isinstance(stored, dict) else {}
