"""The base of providers that read raster files: from the files of a request to its chips.

A provider lists files and reads one of them. This module selects the files of a ROI, orders them,
and combines them into one image or into frames.
"""

from __future__ import annotations

import bisect
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic

from ...errors import ProviderError
from ...products import find_product
from ...request.geometry import Grid, lonlat_boxes
from .. import composite
from ..base import Chip, FetchCost, Roi
from ..composite import Masked
from ..mask_record import MaskCount, mask_warnings
from . import catalogue, scene_files, scene_masks
from .product_units import convert_units, other_form
from .scene_files import F

if TYPE_CHECKING:
    import numpy as np

    from ...planning.units import Source

#: Memory for the pixels of all scenes of a chip at once, bytes; a larger chip is composited in
#: strips of rows.
STRIP_BYTES = 64 << 20


class SceneProvider(Generic[F]):
    """Base of the providers that read raster files of one class.

    Attributes:
        strip_bytes: replaces :data:`STRIP_BYTES` where reading a block twice is expensive.
        requests: for a chip; None where files are read through a service, as many ranges as their
            blocks need.
    """

    strip_bytes: int | None = None
    requests: int | None = None
    lookups = 0

    def __init__(self) -> None:
        # files that pass the source's filters, by time, with their dates and outlines; by source
        # and collection
        self._selected: dict[tuple, tuple[list[F], list[str], np.ndarray]] = {}

    # to be implemented by a provider of files ----------------------------------------------------

    def _files_of(self, collection: str | None) -> Iterable[F]:
        """The files of a collection that this run may read."""
        raise NotImplementedError

    def _read_bands(self, file: F, bands: Sequence[str], grid: Grid, collection: str) -> Masked:
        """(values, valid) (C, H, W) of some bands of a file on a grid, in the units of measure of
        ``collection``. May be called from several threads at once."""
        raise NotImplementedError

    def _map_reads(self, read: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]:
        """``read`` of every item, in order; one after the other unless a provider overrides it."""
        return map(read, items)

    def request_slots(self, workers: int) -> AbstractContextManager:
        return threading.BoundedSemaphore(workers)

    def look_up(self, source: Source, wanted: Sequence[tuple[Roi, Grid]], slots: AbstractContextManager) -> None:
        """Do nothing: everything was looked up at the start of the run."""

    def fetch_cost(self, source: Source, bands: Sequence[str], height: int, width: int) -> FetchCost:
        """The cost if every chip is a composite of several images, with the widest dtype of the
        files."""
        import numpy as np

        wanted = source.identity["collection"]
        files = list(self._files_of(wanted)) or list(self._files_of(other_form(wanted)))
        files = [f for f in files if set(f.bands) & set(bands)] or files
        dtypes = list(dict.fromkeys(np.dtype(f.dtype) for f in files)) or [np.dtype(np.float32)]
        if any(f.row.collection != wanted or (f.row.scale, f.row.offset) != (1, 0) for f in files):
            dtypes.append(np.dtype(np.float32))
        how, fill = source.identity["composite"], source.identity["fill_value"]
        return FetchCost(self.requests, composite.composite_dtype(dtypes, 2, how, fill).itemsize, self.requests)

    # which files ---------------------------------------------------------------------------------

    def _find_files(self, source: Source, roi: Roi, box: Sequence[float]) -> list[F]:
        """The files of a ROI, in the order in which they cover each other: those of the
        collection; if none of them overlaps the ROI, those of its other form."""
        wanted = source.identity["collection"]
        return self._find_files_of(source, wanted, roi, box) or self._find_files_of(
            source, other_form(wanted), roi, box
        )

    def _find_files_of(self, source: Source, collection: str | None, roi: Roi, box: Sequence[float]) -> list[F]:
        import numpy as np

        key = source.id, collection
        if key not in self._selected:  # sorted by time: a window is a slice
            files = [f for f in self._files_of(collection) if scene_files.passes_filters(f.row, source)]
            files.sort(key=lambda f: f.order)
            outlines = np.array([f.box for f in files]).reshape(-1, 4)
            self._selected[key] = files, [f.row.date for f in files], outlines
        files, dates, outlines = self._selected[key]
        window = roi.temporal
        first = bisect.bisect_left(dates, window.start) if window else 0
        last = bisect.bisect_left(dates, window.end) if window else len(files)
        return [files[first + i] for i in np.flatnonzero(scene_files.overlaps_box(outlines[first:last], box))]

    def _find_scenes(self, source: Source, bands: Sequence[str], roi: Roi, box: Sequence[float]) -> list[list[F]]:
        """The files of a ROI by scene, scenes by time; ``bands`` are those that will be read."""
        return scene_files.group_by_scene(self._find_files(source, roi, box))

    # pixels --------------------------------------------------------------------------------------

    def fetch(self, source: Source, bands: Sequence[str], roi: Roi, grid: Grid) -> Chip:
        """Composite of the ROI's scenes, or one of each time bin."""
        import numpy as np

        quality = scene_masks.quality_band(source)
        wanted = [*bands, quality] if quality and quality not in bands else list(bands)
        scenes = self._find_scenes(source, wanted, roi, lonlat_boxes([grid], fold=True)[0])
        provenance: dict = {"scenes": [scene_files.scene_provenance(s) for s in scenes]}
        if not scenes:
            return Chip(np.zeros((len(bands), 0, 0), np.uint8), (0.0,) * len(bands), (), provenance)
        window = (roi.temporal.start, roi.temporal.end) if roi.temporal else None
        bins = composite.time_bins(roi.temporal, source.frames) if roi.temporal else []
        days = [s[0].row.date for s in scenes]
        count, empty = MaskCount(), []
        warnings: tuple[tuple[str, ...], ...] = ()
        if source.frames.mode == "composite":
            pixels, valid = self._composite(scenes, bands, grid, source, count)
            covered = composite.band_coverage(valid)
        else:
            by_bin = [[s for s in scenes if start <= s[0].row.date < end] for start, end in bins]
            pixels, covered, provenance["frames"], warnings = composite.composite_frames(
                bins,
                [[s[0].row.scene for s in inside] for inside in by_bin],
                lambda number: self._composite(by_bin[number], bands, grid, source, count),
                # its scenes are counted in their own bins
                lambda: self._composite(scenes, bands, grid, source, MaskCount()),
                len(bands),
            )
            empty = ["empty" in frame for frame in provenance["frames"]]
        if quality:
            provenance["mask"] = count.record(source.identity["mask"])
            about = mask_warnings(provenance["mask"], any(covered))
            warnings = tuple((*known, *about) for known in warnings or ((),) * len(bands))
        dates, date_is = composite.frame_dates(window, bins, days, empty)
        return Chip(pixels, covered, dates, provenance, warnings, date_is)

    def _composite(
        self,
        scenes: Sequence[Sequence[F]],
        bands: Sequence[str],
        grid: Grid,
        source: Source,
        count: MaskCount,
    ) -> Masked:
        """(values (C, H, W), valid (C, H, W)) of several scenes; the result does not depend on the
        number of strips. ``count`` is increased by what the source's mask removes."""
        import numpy as np

        row_bytes = sum(len(bands) * grid.width * np.dtype(s[0].dtype).itemsize for s in scenes)
        step = min(grid.height, max(1, (self.strip_bytes or STRIP_BYTES) // row_bytes))
        how, fill = source.identity["composite"], source.identity["fill_value"]
        strips = []
        for top in range(0, grid.height, step):
            strip = grid.rows(top, min(top + step, grid.height))
            strips.append(composite.combine(self._read_scenes(scenes, bands, strip, source, count), how, fill))
        if len(strips) == 1:
            return strips[0]
        return np.concatenate([v for v, _ in strips], axis=1), np.concatenate([m for _, m in strips], axis=1)

    def _read_scenes(
        self,
        scenes: Sequence[Sequence[F]],
        bands: Sequence[str],
        grid: Grid,
        source: Source,
        count: MaskCount,
    ) -> list[Masked]:
        """(values, valid) (C, H, W) of every scene, in the request's units of measure, without
        masked pixels."""
        quality = scene_masks.quality_band(source)
        reads = []
        for number, files in enumerate(scenes):
            for file in files:
                if in_file := [b for b in bands if b in file.bands]:
                    reads.append((number, False, file, in_file))
                if quality and quality in file.bands:  # by itself, because it has another dtype
                    reads.append((number, True, file, [quality]))
        collection = source.identity["collection"]
        done = self._map_reads(lambda r: self._read_bands(r[2], r[3], grid, collection), reads)
        parts: list[list] = [[] for _ in scenes]
        masks: list[list] = [[] for _ in scenes]
        for (number, is_quality, _, in_file), (values, valid) in zip(reads, done):
            (masks if is_quality else parts)[number].append((in_file, values, valid))
        images = [_merge_files(p, bands, grid, files[0].dtype) for p, files in zip(parts, scenes)]
        if quality is None:
            return images
        return [
            scene_masks.apply_mask(
                image,
                _merge_files(found, [quality], grid, "uint8") if found else None,
                source.identity["mask"],
                files[0].row.scene,
                count,
            )
            for image, found, files in zip(images, masks, scenes)
        ]


def _merge_files(parts: Sequence[tuple], bands: Sequence[str], grid: Grid, dtype: str) -> Masked:
    """One scene from the (bands, values, valid) of its files; where files overlap, the last one
    covers the others."""
    import numpy as np

    if len(parts) == 1 and parts[0][0] == list(bands):
        return parts[0][1:]
    if not parts:  # the files of the scene that overlap the ROI have other bands
        shape = (len(bands), grid.height, grid.width)
        return np.zeros(shape, dtype), np.zeros(shape, bool)
    values = np.zeros((len(bands), grid.height, grid.width), np.result_type(*(v.dtype for _, v, _ in parts)))
    valid = np.zeros(values.shape, bool)
    for in_file, pixels, pixels_valid in parts:
        for i, band in enumerate(in_file):
            at = bands.index(band)
            np.copyto(values[at], pixels[i], where=pixels_valid[i], casting="same_kind")
            valid[at] |= pixels_valid[i]
    return values, valid


def decode(
    values: np.ndarray,
    inside: np.ndarray,
    nodata: Sequence[float | None],
    row: catalogue.Row,
    collection: str,
    subtract: int = 0,
    bands: Sequence[str] = (),
) -> Masked:
    """The values of a file in the units of measure of a collection, and where they are valid.

    Args:
        values: (C, H, W) as read. inside: (H, W) bool, where the file has pixels.
        nodata: nodata value of each band, or None.
        row: of the file: its collection, and scale and offset: value = number * scale + offset.
        collection: of the request, which may be another form of the file's.
        subtract: subtracted from the numbers before that, with a minimum of 0; the dtype stays.
        bands: names of the bands: those of classes and bits keep their numbers.

    Returns:
        (values, valid (C, H, W) bool).

    Raises:
        ProviderError: the dtype of the file cannot represent ``subtract``.
    """
    import numpy as np

    valid = np.repeat(inside[None], len(values), axis=0)
    for i, number in enumerate(nodata):
        if number is not None and not math.isnan(number):
            valid[i] &= values[i] != number
    if values.dtype.kind == "f":
        valid &= ~np.isnan(values)
    product = find_product(collection)
    quality = [product is not None and product.is_quality(band) for band in bands]
    if any(quality):
        numbers = values[quality]
        if all(quality):
            return values, valid
    if subtract:
        if values.dtype.kind in "iu" and subtract > np.iinfo(values.dtype).max:
            raise ProviderError(
                f"raster {row.path}: {subtract} cannot be subtracted from numbers of the dtype {values.dtype}; "
                "allowed: the product's own files, not previews"
            )
        values = np.maximum(values, values.dtype.type(subtract)) - values.dtype.type(subtract)
    if (row.scale, row.offset) != (1.0, 0.0):
        dtype = np.promote_types(values.dtype, np.float32)
        values = values.astype(dtype) * dtype.type(row.scale) + dtype.type(row.offset)
    if row.collection != collection:
        values, defined = convert_units(values, collection)
        valid &= defined
    if any(quality):
        values[quality] = numbers
    return values, valid
