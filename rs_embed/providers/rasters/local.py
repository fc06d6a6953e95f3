"""The user's own rasters: files that a catalogue lists, read with rasterio, composited on the
request's grid.

An image is one scene of the catalogue. It is used for a ROI when it belongs to the collection (or
to another form of the same product), is in the window and within the cloud limit, and its outline
overlaps the ROI. The name of the ROI's chip in the store depends on these scenes, with size and
modification time of their files. The filters are in ``scene_files.py``.
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
from ..composite import Masked
from . import catalogue, raster_io, scene_files, scene_masks
from .product_units import other_form
from .scene_files import CatalogueFile
from .scenes import SceneProvider, decode

if TYPE_CHECKING:
    from ...planning.units import Source

#: Increased by hand when the pixels of a request can change. 2: dates of acquisition.
VERSION = 2
#: Headers read at a time.
_OPENERS = 8


class LocalProvider(SceneProvider[CatalogueFile]):
    """Reads chips from the files of a catalogue."""

    name = "local"
    shared = False
    cores = 1
    requests = 0

    def __init__(self, argument: str, base: str, known: dict | None = None, *, job: bool = False) -> None:
        super().__init__()
        if not argument.strip():
            raise ModelError("backend: 'local:' names no folder; allowed: 'local:<folder or catalogue file>'")
        path = os.path.realpath(os.path.join(base, os.path.expanduser(argument)))
        self.path = path if job else os.path.realpath(catalogue.find_catalogue(path))
        self.folder = os.path.dirname(self.path)
        if job and known is None:
            raise StoreError(
                "imagery.json is missing, which lists the files that the run found in its catalogue; start the run again"
            )
        # headers of an earlier start, if the catalogue is the same file; its rows are read again
        self._earlier = (
            scene_files.files_from_json(known) if known and (job or known.get("catalogue") == self.path) else {}
        )
        self._files = dict(self._earlier) if job else {}
        self._rows = [f.row for f in self._files.values()] if job else catalogue.read_catalogue(self.path)

    def identity(self) -> dict:
        """The name and version: the files of a chip are part of the name of each object."""
        return {"name": self.name, "version": VERSION}

    def backend(self, folder: str) -> str:
        return f"local:{os.path.relpath(self.path, folder)}"

    def freeze(self) -> dict:
        """Rows and headers of the files that this request may read."""
        return {"catalogue": self.path, "files": [scene_files.file_to_json(f) for f in self._files.values()]}

    # before anything runs ------------------------------------------------------------------------

    def resolve(
        self, source: Source, rois: Sequence[Roi], grids: Sequence[Grid], *, strict: bool
    ) -> Sequence[str] | None:
        """Refuse a collection, bands or a ROI that the catalogue does not have; returns digests of
        the files of each ROI."""
        rows = self._rows_of(source)
        if not rows:
            allowed = ", ".join(map(repr, dict.fromkeys(r.collection for r in self._rows)))
            collection = source.identity["collection"]
            raise ProviderError(
                f"sensor.collection: {collection!r} is not in the catalogue {self.path}; allowed: {allowed}"
            )
        is_wanted = scene_files.date_filter({r.temporal for r in rois})
        files = self._open_all([r for r in rows if is_wanted(r.date)])
        self._check_orbit(source, files)
        scene_masks.check_quality_band(source, files, f"the catalogue {self.path}")
        self._check_bands(source, [f for f in files if scene_files.passes_filters(f.row, source)])
        digests, without = [], []
        for roi, box in zip(rois, lonlat_boxes(grids, fold=True)):
            found = self._find_files(source, roi, box)
            if not found:
                without.append(roi)
            digests.append(digest([f.digest for f in found]))
        if without and strict:
            raise SpecError(self._no_imagery_message(source, without, rows, files))
        return digests

    def _rows_of(self, source: Source) -> list[catalogue.Row]:
        """Rows of the source's collection, and of its other form."""
        wanted = source.identity["collection"]
        return [r for r in self._rows if r.collection in (wanted, other_form(wanted))]

    def _open_all(self, rows: Sequence[catalogue.Row]) -> list[CatalogueFile]:
        """Rows with the metadata of their files; several at a time, because shared storage has a
        latency for each."""
        from tqdm import tqdm

        with ThreadPoolExecutor(_OPENERS, thread_name_prefix="header") as pool:
            opened = pool.map(self._open, rows)
            return list(tqdm(opened, "catalogue", len(rows), unit="file", delay=2, disable=None, leave=False))

    def _open(self, row: catalogue.Row) -> CatalogueFile:
        """A row with the metadata of its file, which is read again only if the file has
        changed."""
        path, key = os.path.join(self.folder, row.path), (row.path, row.collection)
        known = self._files.get(key) or self._earlier.get(key)
        if known is not None and raster_io.read_stamps(path, known.header.parts) == known.stamps:
            header, stamps = known.header, known.stamps
        else:
            header = raster_io.read_header(path)
            stamps = raster_io.read_stamps(path, header.parts)
        where = f"catalogue {self.path} line {row.line}: bands"
        described = header.without_alpha
        if row.bands and len(row.bands) not in (len(header.bands), len(described)):
            raise ProviderError(
                f"{where}: {' '.join(row.bands)!r} is {len(row.bands)} names for the {len(header.bands)} bands of {row.path}"
                f"{_describe_alpha(header)}; allowed: one name for each band, in file order"
            )
        if header.alpha_is_image and len(row.bands) != len(header.bands):
            raise ProviderError(
                f"{where}: {row.path} has {len(header.bands)} bands{_describe_alpha(header)}, but its values are those of an image, so "
                f"it must not hide pixels; allowed: {len(header.bands)} names, which make it a band of data"
            )
        if not row.bands and not (all(described) and len(set(described)) == len(described)):
            raise ProviderError(
                f"{where} is missing, and the band descriptions of {row.path} do not name them all differently; "
                "allowed: band names in file order, separated by spaces"
            )
        if row.subtract > raster_io.highest_number(header.dtype):
            raise ProviderError(
                f"catalogue {self.path} line {row.line}: subtract: {row.subtract} is more than {header.dtype} numbers of {row.path} "
                "can have; allowed: the constant that was added to them"
            )
        self._files[key] = CatalogueFile(row, stamps, header)
        return self._files[key]

    def _check_bands(self, source: Source, files: Sequence[CatalogueFile]) -> None:
        for scene in scene_files.group_by_scene(files):
            present = list(dict.fromkeys(b for f in scene for b in f.bands))
            missing = [b for b in source.bands if b not in present]
            if missing:
                row = scene[0].row
                raise ProviderError(
                    f"sensor.bands: {missing[0]!r} is not in the scene {row.scene!r} of {row.collection} (line {row.line} of "
                    f"{self.path}); allowed: the bands it has ({', '.join(present)})"
                )

    def _check_orbit(self, source: Source, files: Sequence[CatalogueFile]) -> None:
        wanted = scene_files.requested_orbit(source)
        unknown = [f.row for f in files if f.row.orbit is None]
        if wanted and unknown:
            raise ProviderError(
                f"sensor.orbit: {wanted!r} cannot be chosen, line {unknown[0].line} of the catalogue {self.path} has no orbit; "
                "allowed: null, or an orbit column in the catalogue"
            )

    def _files_of(self, collection: str | None) -> Iterator[CatalogueFile]:
        found = (self._files.get((r.path, r.collection)) for r in self._rows if r.collection == collection)
        return (f for f in found if f)

    def _no_imagery_message(
        self, source: Source, without: Sequence[Roi], rows: Sequence, files: Sequence[CatalogueFile]
    ) -> str:
        """The message about ROIs without imagery: what was searched, and the number of files after
        each filter."""
        roi, more = without[0], f" and {len(without) - 1} more" if len(without) > 1 else ""
        window = f"{roi.temporal.start}..{roi.temporal.end}" if roi.temporal else "any time"
        in_window = [f for f in files if scene_files.is_in_window(f.row, roi.temporal)]
        clear = [f for f in in_window if scene_files.passes_filters(f.row, source)]
        days = sorted(r.date for r in rows)
        kinds = " and ".join(dict.fromkeys(r.collection for r in rows))
        counts = f"{len(rows)} files of {kinds}, {days[0]} to {days[-1]}, {len(in_window)} of them in {window}"
        if len(clear) < len(in_window):
            orbit = f" and orbit {scene_files.requested_orbit(source)}" if scene_files.requested_orbit(source) else ""
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

    # pixels --------------------------------------------------------------------------------------

    def _read_bands(self, file: CatalogueFile, bands: Sequence[str], grid: Grid, collection: str) -> Masked:
        path, indexes = os.path.join(self.folder, file.row.path), [file.bands.index(b) for b in bands]
        values, inside, _ = raster_io.read_file(path, indexes, grid, alpha=file.alpha_as_data)
        # after reading, because a file may change meanwhile
        if raster_io.read_stamps(path, file.header.parts) != file.stamps:
            raise ProviderError(f"raster {path} has changed since this run was started; start it again")
        nodata = [file.nodata[i] for i in indexes]
        return decode(values, inside, nodata, file.row, collection, file.row.subtract, bands)


def _describe_alpha(header: raster_io.Header) -> str:
    """The part of a message about bands that GDAL takes for alpha."""
    bands = " and ".join(str(i + 1) for i in header.alpha)
    return f" (band {bands} is marked as alpha, which is transparency)" if bands else ""
