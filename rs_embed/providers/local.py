"""The user's own rasters: files that a catalogue lists, read with rasterio, composited on the request's grid.

An image is one scene of the catalogue. It is used for a ROI when it is of the collection (or of another form of the same
product), in the window, within the cloud limit, and its outline touches the ROI; those scenes, with size and
modification time of their files, are part of what the ROI's chip is filed under.
"""

from __future__ import annotations

import bisect
import itertools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ..errors import ModelError, ProviderError, SpecError
from ..geometry import Grid, lonlat_boxes
from ..identity import digest
from . import catalogue, composite, rasters
from .base import Chip, Roi
from .forms import UNITS, convert, other_form

if TYPE_CHECKING:
    import numpy as np

    from ..specs import TemporalSpec
    from ..units import Source

#: Memory for the pixels of all scenes of a chip at once; a larger chip is made in strips of rows.
_STRIP_BYTES = 64 << 20
#: Headers read at a time.
_OPENERS = 8


@dataclass(frozen=True)
class File:
    """A row of the catalogue with what its file says: everything that decides what is read from it."""

    row: catalogue.Row
    size: int
    mtime_ns: int
    header: rasters.Header

    @cached_property
    def bands(self) -> tuple[str, ...]:
        """Band names in file order: the catalogue's, or the file's own descriptions."""
        return self.row.bands or tuple(map(str, self.header.bands))

    @cached_property
    def nodata(self) -> tuple[float | None, ...]:
        """Number of each band that means no data: the catalogue's, or the file's."""
        said = self.row.nodata
        return self.header.nodata if said is None else (float(said),) * len(self.header.bands)

    @cached_property
    def digest(self) -> str:
        """Digest of what changes pixels: not cloud cover and orbit, which only choose the file."""
        r = self.row
        how = [r.path, r.collection, r.datetime, r.scene, self.bands, r.scale, r.offset, list(map(str, self.nodata))]
        return digest([*how, self.size, self.mtime_ns])

    @property
    def order(self) -> tuple:
        """By time, scene and path: the order in which files cover each other, whatever their order in the table."""
        return self.row.datetime, self.row.scene, self.row.path


class LocalProvider:
    """Reads chips out of the files of a catalogue."""

    name = "local"

    def __init__(self, argument: str, base: str, known: dict | None = None, *, job: bool = False) -> None:
        if not argument.strip():
            raise ModelError("backend: 'local:' names no folder; allowed: 'local:<folder or catalogue file>'")
        path = os.path.realpath(os.path.join(base, os.path.expanduser(argument)))
        self.path = path if job else catalogue.find(path)
        self.folder = os.path.dirname(self.path)
        self._files = {(f.row.path, f.row.collection): f for f in map(_thaw, (known or {}).get("files", ()))}
        self._rows = [f.row for f in self._files.values()] if job else catalogue.read(self.path)
        self._used: dict[str, tuple[list[File], list[str], np.ndarray]] = {}  # by source

    def identity(self) -> dict:
        """The name alone: which files a chip was made of is said for each ROI."""
        return {"name": self.name}

    def backend(self, folder: str) -> str:
        return f"local:{os.path.relpath(self.path, folder)}"

    def freeze(self) -> dict:
        """Rows and headers of the files that this request may read."""
        return {"files": [_frozen(f) for f in self._files.values()]}

    # before anything runs --------------------------------------------------------------------------------------

    def resolve(
        self, source: Source, rois: Sequence[Roi], grids: Sequence[Grid], *, strict: bool
    ) -> Sequence[str] | None:
        """Refuse a collection, bands or a ROI that the catalogue has not; digests of the files each ROI is made of."""
        rows = self._collection(source)
        wanted = _in_any({r.temporal for r in rois})
        files = self._open_all([r for r in rows if wanted(r.date)])
        self._check_orbit(source, files)
        self._check_bands(source, [f for f in files if _within(f.row, source)])
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
        """Rows of the source's collection; where there are none, of another form of it."""
        wanted = source.identity["collection"]
        for collection in (wanted, other_form(wanted)):
            rows = [r for r in self._rows if r.collection == collection]
            if rows:
                return rows
        have = ", ".join(map(repr, dict.fromkeys(r.collection for r in self._rows)))
        raise ProviderError(f"sensor.collection: {wanted!r} is not in the catalogue {self.path}; allowed: {have}")

    def _open_all(self, rows: Sequence[catalogue.Row]) -> list[File]:
        """Rows with their files' headers; several at a time, because on shared storage each one waits."""
        from tqdm import tqdm

        with ThreadPoolExecutor(_OPENERS, thread_name_prefix="header") as pool:
            opened = pool.map(self._open, rows)
            return list(tqdm(opened, "catalogue", len(rows), unit="file", delay=2, disable=None, leave=False))

    def _open(self, row: catalogue.Row) -> File:
        """A row with its file's header, which is read again only where the file is another than it was."""
        path, key = os.path.join(self.folder, row.path), (row.path, row.collection)
        size, mtime_ns = rasters.stamp(path)
        known = self._files.get(key)
        same = known is not None and (known.size, known.mtime_ns) == (size, mtime_ns)
        header = known.header if same else rasters.header(path)
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
        self._files[key] = File(row, size, mtime_ns, header)
        return self._files[key]

    def _check_bands(self, source: Source, files: Sequence[File]) -> None:
        for scene in _scenes(files):
            have = list(dict.fromkeys(b for f in scene for b in f.bands))
            missing = [b for b in source.bands if b not in have]
            if missing:
                row = scene[0].row
                raise ProviderError(
                    f"sensor.bands: {missing[0]!r} is not in the scene {row.scene!r} of {row.collection} (line {row.line} of "
                    f"{self.path}); allowed: the bands it has ({', '.join(have)})"
                )

    def _check_orbit(self, source: Source, files: Sequence[File]) -> None:
        wanted = _orbit(source)
        unknown = [f.row for f in files if f.row.orbit is None]
        if wanted and unknown:
            raise ProviderError(
                f"sensor.orbit: {wanted!r} cannot be chosen, line {unknown[0].line} of the catalogue {self.path} has no orbit; "
                "allowed: null, or an orbit column in the catalogue"
            )

    def _touching(self, source: Source, roi: Roi, box: Sequence[float]) -> list[File]:
        """The files of a ROI, in the order in which they cover each other."""
        import numpy as np

        if source.id not in self._used:  # sorted by time: a window is a slice
            known = (self._files.get((r.path, r.collection)) for r in self._collection(source) if _within(r, source))
            files = sorted((f for f in known if f), key=lambda f: f.order)
            outlines = np.array([f.header.box for f in files]).reshape(-1, 4)
            self._used[source.id] = files, [f.row.date for f in files], outlines
        files, dates, outlines = self._used[source.id]
        window = roi.temporal
        first = bisect.bisect_left(dates, window.start) if window else 0
        last = bisect.bisect_left(dates, window.end) if window else len(files)
        return [files[first + i] for i in np.flatnonzero(_touch(outlines[first:last], box))]

    def _nothing(self, source: Source, without: Sequence[Roi], rows: Sequence, files: Sequence[File]) -> str:
        """The sentence about ROIs without imagery: what was searched, and how far it got."""
        roi, more = without[0], f" and {len(without) - 1} more" if len(without) > 1 else ""
        window = f"{roi.temporal.start}..{roi.temporal.end}" if roi.temporal else "any time"
        in_window = [f for f in files if _in_window(f.row, roi.temporal)]
        clear = [f for f in in_window if _within(f.row, source)]
        days = sorted(r.date for r in rows)
        counts = (
            f"{len(rows)} files of {rows[0].collection}, {days[0]} to {days[-1]}, {len(in_window)} of them in {window}"
        )
        if len(clear) < len(in_window):
            orbit = f" and orbit {_orbit(source)}" if _orbit(source) else ""
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

    def fetch(self, source: Source, bands: Sequence[str], roi: Roi, grid: Grid) -> Chip:
        """Composite of the ROI's scenes, or one of each time bin."""
        import numpy as np

        scenes = _scenes(self._touching(source, roi, lonlat_boxes([grid])[0]))
        provenance: dict = {"scenes": [_provenance(s) for s in scenes]}
        if not scenes:
            return Chip(np.zeros((len(bands), 0, 0), np.uint8), 0.0, (), provenance)
        spans = composite.bins(roi.temporal, source.frames) if roi.temporal else []
        dates = tuple(composite.midpoint(*span) for span in spans)
        if source.frames.mode == "composite":
            pixels, valid = self._composite(scenes, bands, grid, source)
            return Chip(pixels, float(valid.mean()), dates, provenance)
        whole: tuple | None = None
        frames, covered, warnings = [], [], []
        provenance["frames"] = []
        for number, (start, end) in enumerate(spans):
            inside = [s for s in scenes if start <= s[0].row.date < end]
            made = self._composite(inside, bands, grid, source) if inside else None
            empty = made is None or not made[1].any()
            if empty:
                whole = whole or self._composite(scenes, bands, grid, source)
                made = whole
                warnings.append(
                    f"frame {number} ({start}..{end}) has no imagery, the composite of the whole window stands in"
                )
            frames.append(made[0])
            covered.append(made[1].mean())
            names = [s[0].row.scene for s in inside]
            provenance["frames"].append(
                {"start": start, "end": end, "scenes": names, **({"empty": True} if empty else {})}
            )
        kind = np.result_type(*(f.dtype for f in frames))
        pixels = np.stack([f.astype(kind, copy=False) for f in frames])
        return Chip(pixels, float(np.mean(covered)), dates, provenance, tuple(warnings))

    def _composite(
        self, scenes: Sequence[Sequence[File]], bands: Sequence[str], grid: Grid, source: Source
    ) -> tuple[np.ndarray, np.ndarray]:
        """(values (C, H, W), valid (C, H, W)) of several scenes; the same numbers in one strip or many."""
        import numpy as np

        row_bytes = sum(len(bands) * grid.width * np.dtype(s[0].header.dtype).itemsize for s in scenes)
        step = min(grid.height, max(1, _STRIP_BYTES // row_bytes))
        how, fill = source.identity["composite"], source.identity["fill_value"]
        strips = []
        for top in range(0, grid.height, step):
            strip = grid.rows(top, min(top + step, grid.height))
            strips.append(composite.combine([self._image(s, bands, strip, source) for s in scenes], how, fill))
        if len(strips) == 1:
            return strips[0]
        return np.concatenate([v for v, _ in strips], axis=1), np.concatenate([m for _, m in strips], axis=1)

    def _image(
        self, files: Iterable[File], bands: Sequence[str], grid: Grid, source: Source
    ) -> tuple[np.ndarray, np.ndarray]:
        """One scene: (values, valid) (C, H, W) each, in the request's units; where files overlap, the last one's."""
        import numpy as np

        parts = []
        for file in files:
            held = [b for b in bands if b in file.bands]
            if held:
                parts.append((held, *self._read(file, held, grid, source.identity["collection"])))
        if len(parts) == 1 and parts[0][0] == list(bands):
            return parts[0][1:]
        values = np.zeros((len(bands), grid.height, grid.width), np.result_type(*(v.dtype for _, v, _ in parts)))
        valid = np.zeros(values.shape, bool)
        for held, pixels, good in parts:
            for i, band in enumerate(held):
                at = bands.index(band)
                np.copyto(values[at], pixels[i], where=good[i], casting="same_kind")
                valid[at] |= good[i]
        return values, valid

    def _read(self, file: File, bands: Sequence[str], grid: Grid, collection: str) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        row, path = file.row, os.path.join(self.folder, file.row.path)
        if rasters.stamp(path) != (file.size, file.mtime_ns):
            raise ProviderError(f"raster {path} has changed since this run was started; start it again")
        indexes = [file.bands.index(b) for b in bands]
        values, inside = rasters.read(path, indexes, grid)
        valid = np.repeat(inside[None], len(bands), axis=0)
        for i, index in enumerate(indexes):
            nodata = file.nodata[index]
            if nodata is not None and not math.isnan(nodata):
                valid[i] &= values[i] != nodata
        if values.dtype.kind == "f":
            valid &= ~np.isnan(values)
        if (row.scale, row.offset) != (1.0, 0.0):
            kind = np.promote_types(values.dtype, np.float32)
            values = values.astype(kind) * kind.type(row.scale) + kind.type(row.offset)
        if row.collection != collection:
            values, defined = convert(values, row.collection, collection)
            valid &= defined
        return values, valid


def _frozen(file: File) -> dict:
    said = asdict(file)
    said["header"]["nodata"] = [None if v is None else str(v) for v in file.header.nodata]  # JSON has no NaN
    del said["header"]["tags"]
    return said


def _thaw(frozen: dict) -> File:
    row, header = frozen["row"], frozen["header"]
    nodata = tuple(None if v is None else float(v) for v in header["nodata"])
    found = rasters.Header(tuple(header["bands"]), tuple(header["box"]), nodata, header["dtype"], {})
    return File(catalogue.Row(**(row | {"bands": tuple(row["bands"])})), frozen["size"], frozen["mtime_ns"], found)


def _scenes(files: Sequence[File]) -> list[list[File]]:
    """Files by scene, scenes by the time of their first file."""
    scenes: dict[str, list[File]] = {}
    for file in sorted(files, key=lambda f: f.order):
        scenes.setdefault(file.row.scene, []).append(file)
    return list(scenes.values())


def _in_any(windows: Iterable[TemporalSpec | None]) -> Callable[[str], bool]:
    """Whether a date lies in one of many windows."""
    windows = list(windows)
    if None in windows:
        return lambda date: True
    windows.sort(key=lambda w: w.start)
    starts = [w.start for w in windows]
    ends = list(itertools.accumulate((w.end for w in windows), max))  # the latest end of those that began until then

    def inside(date: str) -> bool:
        begun = bisect.bisect_right(starts, date)
        return begun > 0 and ends[begun - 1] > date

    return inside


def _in_window(row: catalogue.Row, window: TemporalSpec | None) -> bool:
    return window is None or window.start <= row.date < window.end


def _orbit(source: Source) -> str | None:
    return source.identity.get("s1", {}).get("orbit")


def _within(row: catalogue.Row, source: Source) -> bool:
    """Within the cloud limit, where the cloud cover is known, and of the orbit, where one is asked for."""
    cloudy = row.cloud_cover is not None and row.cloud_cover > source.identity["cloudy_pct"]
    return not cloudy and _orbit(source) in (None, row.orbit)


def _touch(outlines: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Which outlines (R, 4) overlap a box; an outline with west > east lies across the antimeridian."""
    import numpy as np

    west, south, east, north = outlines.T
    over, under = west <= box[2], east >= box[0]
    return np.where(west > east, over | under, over & under) & (south <= box[3]) & (north >= box[1])


def _provenance(scene: Sequence[File]) -> dict:
    """What the manifest says of a scene."""
    first = scene[0].row
    said = {"scene": first.scene, "datetime": first.datetime, "collection": first.collection}
    if first.cloud_cover is not None:
        said["cloud_cover"] = first.cloud_cover
    if first.collection in UNITS:
        said["units"] = UNITS[first.collection]
    return said | {"files": [f.row.path for f in scene]}
