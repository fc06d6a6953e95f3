"""The user's own rasters: files that a catalogue lists, read with rasterio, composited on the request's grid.

An image is one scene of the catalogue. It is used for a ROI when it is of the collection (or of another form of the same
product), in the window, within the cloud limit, and its outline touches the ROI; those scenes, with size and
modification time of their files, are part of what the ROI's chip is filed under.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ...errors import ModelError, ProviderError, SpecError, StoreError
from ...request.geometry import Grid, lonlat_boxes
from ...request.identity import digest
from ..base import Roi
from . import catalogue, raster_io, scene_files
from .product_units import other_form
from .scene_files import File
from .scenes import SceneProvider, decoded

if TYPE_CHECKING:
    import numpy as np

    from ...planning.units import Source

#: Headers read at a time.
_OPENERS = 8


class LocalProvider(SceneProvider):
    """Reads chips out of the files of a catalogue."""

    name = "local"
    shared = False
    cores = 1
    requests = 0

    def __init__(self, argument: str, base: str, known: dict | None = None, *, job: bool = False) -> None:
        super().__init__()
        if not argument.strip():
            raise ModelError("backend: 'local:' names no folder; allowed: 'local:<folder or catalogue file>'")
        path = os.path.realpath(os.path.join(base, os.path.expanduser(argument)))
        self.path = path if job else os.path.realpath(catalogue.find(path))
        self.folder = os.path.dirname(self.path)
        if job and known is None:
            raise StoreError(
                "imagery.json is missing, which says what the run found in its catalogue; start the run again"
            )
        # headers of an earlier start, where the catalogue is the same file; its rows are not believed
        self._earlier = scene_files.thawed(known) if known and (job or known.get("catalogue") == self.path) else {}
        self._files = dict(self._earlier) if job else {}
        self._rows = [f.row for f in self._files.values()] if job else catalogue.read(self.path)

    def identity(self) -> dict:
        """The name alone: which files a chip was made of is said for each ROI."""
        return {"name": self.name}

    def backend(self, folder: str) -> str:
        return f"local:{os.path.relpath(self.path, folder)}"

    def freeze(self) -> dict:
        """Rows and headers of the files that this request may read."""
        return {"catalogue": self.path, "files": [scene_files.frozen(f) for f in self._files.values()]}

    # before anything runs --------------------------------------------------------------------------------------

    def resolve(
        self, source: Source, rois: Sequence[Roi], grids: Sequence[Grid], *, strict: bool
    ) -> Sequence[str] | None:
        """Refuse a collection, bands or a ROI that the catalogue has not; digests of the files each ROI is made of."""
        rows = self._collection(source)
        if not rows:
            have = ", ".join(map(repr, dict.fromkeys(r.collection for r in self._rows)))
            collection = source.identity["collection"]
            raise ProviderError(
                f"sensor.collection: {collection!r} is not in the catalogue {self.path}; allowed: {have}"
            )
        wanted = scene_files.in_any({r.temporal for r in rois})
        files = self._open_all([r for r in rows if wanted(r.date)])
        self._check_orbit(source, files)
        self._check_bands(source, [f for f in files if scene_files.within(f.row, source)])
        found, without = [], []
        for roi, box in zip(rois, lonlat_boxes(grids)):
            touching = self._touching(source, roi, box)
            if not touching:
                without.append(roi)
            found.append(digest([f.digest for f in touching]))
        if without and strict:
            raise SpecError(self._nothing(source, without, rows, files))
        return found

    def _collection(self, source: Source) -> list[catalogue.Row]:
        """Rows of the source's collection, and of another form of it."""
        wanted = source.identity["collection"]
        return [r for r in self._rows if r.collection in (wanted, other_form(wanted))]

    def _open_all(self, rows: Sequence[catalogue.Row]) -> list[File]:
        """Rows with their files' headers; several at a time, because on shared storage each one waits."""
        from tqdm import tqdm

        with ThreadPoolExecutor(_OPENERS, thread_name_prefix="header") as pool:
            opened = pool.map(self._open, rows)
            return list(tqdm(opened, "catalogue", len(rows), unit="file", delay=2, disable=None, leave=False))

    def _open(self, row: catalogue.Row) -> File:
        """A row with its file's header, which is read again only where the file is another than it was."""
        path, key = os.path.join(self.folder, row.path), (row.path, row.collection)
        known = self._files.get(key) or self._earlier.get(key)
        if known is not None and raster_io.stamps(path, known.header.parts) == known.stamps:
            header, stamps = known.header, known.stamps
        else:
            header = raster_io.header(path)
            stamps = raster_io.stamps(path, header.parts)
        where = f"catalogue {self.path} line {row.line}: bands"
        if row.bands and len(row.bands) != len(header.bands):
            raise ProviderError(
                f"{where}: {' '.join(row.bands)!r} is {len(row.bands)} names for the {len(header.bands)} bands of {row.path}; "
                "allowed: one name a band, in file order"
            )
        if not row.bands and not (all(header.bands) and len(set(header.bands)) == len(header.bands)):
            raise ProviderError(
                f"{where} is missing, and the band descriptions of {row.path} do not name them all differently; "
                "allowed: band names in file order, separated by spaces"
            )
        self._files[key] = File(row, stamps, header)
        return self._files[key]

    def _check_bands(self, source: Source, files: Sequence[File]) -> None:
        for scene in scene_files.scenes(files):
            have = list(dict.fromkeys(b for f in scene for b in f.bands))
            missing = [b for b in source.bands if b not in have]
            if missing:
                row = scene[0].row
                raise ProviderError(
                    f"sensor.bands: {missing[0]!r} is not in the scene {row.scene!r} of {row.collection} (line {row.line} of "
                    f"{self.path}); allowed: the bands it has ({', '.join(have)})"
                )

    def _check_orbit(self, source: Source, files: Sequence[File]) -> None:
        wanted = scene_files.orbit(source)
        unknown = [f.row for f in files if f.row.orbit is None]
        if wanted and unknown:
            raise ProviderError(
                f"sensor.orbit: {wanted!r} cannot be chosen, line {unknown[0].line} of the catalogue {self.path} has no orbit; "
                "allowed: null, or an orbit column in the catalogue"
            )

    def _known(self, collection: str | None) -> Iterator[File]:
        found = (self._files.get((r.path, r.collection)) for r in self._rows if r.collection == collection)
        return (f for f in found if f)

    def _nothing(self, source: Source, without: Sequence[Roi], rows: Sequence, files: Sequence[File]) -> str:
        """The sentence about ROIs without imagery: what was searched, and how far it got."""
        roi, more = without[0], f" and {len(without) - 1} more" if len(without) > 1 else ""
        window = f"{roi.temporal.start}..{roi.temporal.end}" if roi.temporal else "any time"
        in_window = [f for f in files if scene_files.in_window(f.row, roi.temporal)]
        clear = [f for f in in_window if scene_files.within(f.row, source)]
        days = sorted(r.date for r in rows)
        kinds = " and ".join(dict.fromkeys(r.collection for r in rows))
        counts = f"{len(rows)} files of {kinds}, {days[0]} to {days[-1]}, {len(in_window)} of them in {window}"
        if len(clear) < len(in_window):
            orbit = f" and orbit {scene_files.orbit(source)}" if scene_files.orbit(source) else ""
            counts += f", {len(clear)} of those with at most {source.identity['cloudy_pct']:g} % cloud{orbit}"
        if clear:
            boxes = [f.header.box for f in clear]
            west, south = min(b[0] for b in boxes), min(b[1] for b in boxes)
            east, north = max(b[2] for b in boxes), max(b[3] for b in boxes)
            counts += f", within lon {west:.4f}..{east:.4f}, lat {south:.4f}..{north:.4f}"
        return (
            f"ROI {roi.name!r}{more}: {roi.spatial} has no imagery in the catalogue {self.path} ({counts}); "
            "allowed: ROIs and windows with imagery, or continue_on_error, which records them as no_data"
        )

    # pixels ----------------------------------------------------------------------------------------------------

    def _read(self, file: File, bands: Sequence[str], grid: Grid, collection: str) -> tuple[np.ndarray, np.ndarray]:
        row, path = file.row, os.path.join(self.folder, file.row.path)
        indexes = [file.bands.index(b) for b in bands]
        values, inside, _ = raster_io.read(path, indexes, grid)
        if (
            raster_io.stamps(path, file.header.parts) != file.stamps
        ):  # looked at after reading: what was read may be new
            raise ProviderError(f"raster {path} has changed since this run was started; start it again")
        nodata = [file.nodata[i] for i in indexes]
        return decoded(
            values, inside, nodata, scale=row.scale, offset=row.offset, held=row.collection, wanted=collection
        )
