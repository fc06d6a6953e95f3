"""From the raster files of a request to its chips: what every provider that reads files shares.

A provider says which files there are and reads one of them; which of them a ROI is made of, in which order they cover each
other, and how they become one image or the frames of several is done here.
"""

from __future__ import annotations

import bisect
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ...request.geometry import Grid, lonlat_boxes
from .. import composite
from ..base import Asked, Chip, Roi
from . import scene_files
from .product_units import convert, other_form

if TYPE_CHECKING:
    import numpy as np

    from ...planning.units import Source

#: Memory for the pixels of all scenes of a chip at once; a larger chip is made in strips of rows.
STRIP_BYTES = 64 << 20


class SceneProvider:
    """Base of the providers that read raster files.

    Attributes:
        strip_bytes: replaces :data:`STRIP_BYTES` where reading a block twice is dear.
    """

    strip_bytes: int | None = None
    #: requests for a chip; None where files are read through a service, as many ranges as their blocks need
    requests: int | None = None
    lookups = 0

    def __init__(self) -> None:
        self._used: dict[
            tuple, tuple[list[scene_files.SceneFile], list[str], np.ndarray]
        ] = {}  # by source and collection

    # what a provider of files says ---------------------------------------------------------------------------------

    def _known(self, collection: str | None) -> Iterable[scene_files.SceneFile]:
        """The files of a collection that this run may read."""
        raise NotImplementedError

    def _read(
        self, file: scene_files.SceneFile, bands: Sequence[str], grid: Grid, collection: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """(values, valid) (C, H, W) of some bands of a file on a grid, in the units of ``collection``. May be called from
        several threads at once."""
        raise NotImplementedError

    def _map(self, read: Callable[[Any], Any], things: Sequence[Any]) -> Iterable[Any]:
        """``read`` of everything, in order; one after the other unless a provider does better."""
        return map(read, things)

    def turns(self, workers: int) -> AbstractContextManager:
        return threading.BoundedSemaphore(workers)

    def expect(self, source: Source, wanted: Sequence[tuple[Roi, Grid]], turns: AbstractContextManager) -> None:
        """Nothing: everything was looked up when the run was started."""

    def asked(self, source: Source, bands: Sequence[str], height: int, width: int) -> Asked:
        """As if every chip were a composite of several images, of the widest numbers that the files have."""
        import numpy as np

        wanted = source.identity["collection"]
        files = list(self._known(wanted)) or list(self._known(other_form(wanted)))
        dtypes = list(dict.fromkeys(np.dtype(f.dtype) for f in files)) or [np.dtype(np.float32)]
        if any(f.row.collection != wanted or (f.row.scale, f.row.offset) != (1, 0) for f in files):
            dtypes.append(np.dtype(np.float32))
        how, fill = source.identity["composite"], source.identity["fill_value"]
        return Asked(self.requests, composite.stored_dtype(dtypes, 2, how, fill).itemsize, self.requests)

    # which files ---------------------------------------------------------------------------------------------------

    def _touching(self, source: Source, roi: Roi, box: Sequence[float]) -> list[scene_files.SceneFile]:
        """The files of a ROI, in the order in which they cover each other: those of the collection; where none touches the
        ROI, those of another form of it."""
        wanted = source.identity["collection"]
        return self._of_form(source, wanted, roi, box) or self._of_form(source, other_form(wanted), roi, box)

    def _of_form(
        self, source: Source, collection: str | None, roi: Roi, box: Sequence[float]
    ) -> list[scene_files.SceneFile]:
        import numpy as np

        key = source.id, collection
        if key not in self._used:  # sorted by time: a window is a slice
            files = [f for f in self._known(collection) if scene_files.within(f.row, source)]
            files.sort(key=lambda f: f.order)
            outlines = np.array([f.box for f in files]).reshape(-1, 4)
            self._used[key] = files, [f.row.date for f in files], outlines
        files, dates, outlines = self._used[key]
        window = roi.temporal
        first = bisect.bisect_left(dates, window.start) if window else 0
        last = bisect.bisect_left(dates, window.end) if window else len(files)
        return [files[first + i] for i in np.flatnonzero(scene_files.touch(outlines[first:last], box))]

    def _scenes(
        self, source: Source, bands: Sequence[str], roi: Roi, box: Sequence[float]
    ) -> list[list[scene_files.SceneFile]]:
        """The files of a ROI by scene, scenes by time; ``bands`` are those that will be read."""
        return scene_files.scenes(self._touching(source, roi, box))

    # pixels ----------------------------------------------------------------------------------------------------------

    def fetch(self, source: Source, bands: Sequence[str], roi: Roi, grid: Grid) -> Chip:
        """Composite of the ROI's scenes, or one of each time bin."""
        import numpy as np

        scenes = self._scenes(source, bands, roi, lonlat_boxes([grid])[0])
        provenance: dict = {"scenes": [scene_files.provenance(s) for s in scenes]}
        if not scenes:
            return Chip(np.zeros((len(bands), 0, 0), np.uint8), (0.0,) * len(bands), (), provenance)
        spans = composite.bins(roi.temporal, source.frames) if roi.temporal else []
        dates = tuple(composite.midpoint(*span) for span in spans)
        if source.frames.mode == "composite":
            pixels, valid = self._composite(scenes, bands, grid, source)
            return Chip(pixels, composite.coverage(valid), dates, provenance)
        inside = [[s for s in scenes if start <= s[0].row.date < end] for start, end in spans]
        pixels, covered, provenance["frames"], said = composite.frames(
            spans,
            [[s[0].row.scene for s in bin_] for bin_ in inside],
            lambda number: self._composite(inside[number], bands, grid, source),
            lambda: self._composite(scenes, bands, grid, source),
            len(bands),
        )
        return Chip(pixels, covered, dates, provenance, said)

    def _composite(
        self, scenes: Sequence[Sequence[scene_files.SceneFile]], bands: Sequence[str], grid: Grid, source: Source
    ) -> tuple[np.ndarray, np.ndarray]:
        """(values (C, H, W), valid (C, H, W)) of several scenes; the same numbers in one strip or many."""
        import numpy as np

        row_bytes = sum(len(bands) * grid.width * np.dtype(s[0].dtype).itemsize for s in scenes)
        step = min(grid.height, max(1, (self.strip_bytes or STRIP_BYTES) // row_bytes))
        how, fill = source.identity["composite"], source.identity["fill_value"]
        strips = []
        for top in range(0, grid.height, step):
            strip = grid.rows(top, min(top + step, grid.height))
            strips.append(composite.combine(self._images(scenes, bands, strip, source), how, fill))
        if len(strips) == 1:
            return strips[0]
        return np.concatenate([v for v, _ in strips], axis=1), np.concatenate([m for _, m in strips], axis=1)

    def _images(
        self, scenes: Sequence[Sequence[scene_files.SceneFile]], bands: Sequence[str], grid: Grid, source: Source
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """(values, valid) (C, H, W) of every scene, in the request's units."""
        wanted = []
        for number, files in enumerate(scenes):
            for file in files:
                held = [b for b in bands if b in file.bands]
                if held:
                    wanted.append((number, file, held))
        collection = source.identity["collection"]
        done = self._map(lambda w: self._read(w[1], w[2], grid, collection), wanted)
        parts: list[list] = [[] for _ in scenes]
        for (number, _, held), (values, valid) in zip(wanted, done):
            parts[number].append((held, values, valid))
        return [_joined(p, bands, grid, files[0].dtype) for p, files in zip(parts, scenes)]


def _joined(parts: Sequence[tuple], bands: Sequence[str], grid: Grid, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """One scene of its files' (bands, values, valid); where files overlap, the last one's."""
    import numpy as np

    if len(parts) == 1 and parts[0][0] == list(bands):
        return parts[0][1:]
    if not parts:  # the files of the scene that touch the ROI hold other bands
        shape = (len(bands), grid.height, grid.width)
        return np.zeros(shape, dtype), np.zeros(shape, bool)
    values = np.zeros((len(bands), grid.height, grid.width), np.result_type(*(v.dtype for _, v, _ in parts)))
    valid = np.zeros(values.shape, bool)
    for held, pixels, good in parts:
        for i, band in enumerate(held):
            at = bands.index(band)
            np.copyto(values[at], pixels[i], where=good[i], casting="same_kind")
            valid[at] |= good[i]
    return values, valid


def decoded(
    values: np.ndarray,
    inside: np.ndarray,
    nodata: Sequence[float | None],
    *,
    scale: float = 1.0,
    offset: float = 0.0,
    dark: int = 0,
    held: str,
    wanted: str,
) -> tuple[np.ndarray, np.ndarray]:
    """A file's numbers in the units of a collection, and where they mean something.

    Args:
        values: (C, H, W) as read. inside: (H, W) bool, where the file has pixels.
        nodata: number of each band that means no data, or None.
        scale, offset: value = number * scale + offset.
        dark: subtracted from the numbers before that, not below 0; the dtype stays.
        held: collection of the file. wanted: collection of the request, maybe another form of it.

    Returns:
        (values, valid (C, H, W) bool).
    """
    import numpy as np

    valid = np.repeat(inside[None], len(values), axis=0)
    for i, number in enumerate(nodata):
        if number is not None and not math.isnan(number):
            valid[i] &= values[i] != number
    if values.dtype.kind == "f":
        valid &= ~np.isnan(values)
    if dark:
        values = np.maximum(values, values.dtype.type(dark)) - values.dtype.type(dark)
    if (scale, offset) != (1.0, 0.0):
        kind = np.promote_types(values.dtype, np.float32)
        values = values.astype(kind) * kind.type(scale) + kind.type(offset)
    if held != wanted:
        values, defined = convert(values, wanted)
        valid &= defined
    return values, valid
