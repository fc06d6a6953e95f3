"""Files of a catalogue with what they say about themselves: which of them a request uses, and how a run remembers them."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from ...request.identity import digest
from . import catalogue, raster_io
from .product_units import UNITS

if TYPE_CHECKING:
    import numpy as np

    from ...planning.units import Source
    from ...request.specs import TemporalSpec


class SceneFile(Protocol):
    """A file of a scene, as far as choosing and joining files goes.

    Attributes:
        row: what is said about it: collection, time, scene, cloud cover, orbit.
        box: (west, south, east, north) of its outline, degrees.
        bands: names in file order. dtype: of its numbers.
        order: sorts files in the order in which they cover each other.
        about: what else the manifest says of its scene.
    """

    row: catalogue.Row
    box: tuple[float, float, float, float]
    bands: tuple[str, ...]
    dtype: str
    order: tuple
    about: dict


@dataclass(frozen=True)
class File:
    """A row of the catalogue with what its file says: everything that decides what is read from it."""

    row: catalogue.Row
    stamps: raster_io.Stamps
    header: raster_io.Header

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
        return digest([*how, self.header.pieces, self.header.parts, self.stamps])

    @property
    def order(self) -> tuple:
        """By time, scene and path: the order in which files cover each other, whatever their order in the table."""
        return self.row.datetime, self.row.scene, self.row.path

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Outline, degrees."""
        return self.header.box

    @property
    def dtype(self) -> str:
        """Of its numbers."""
        return self.header.dtype

    @property
    def about(self) -> dict:
        """Nothing but the row."""
        return {}


def frozen(file: File) -> dict:
    """A file as JSON values."""
    said = asdict(file)
    said["header"]["nodata"] = [None if v is None else str(v) for v in file.header.nodata]  # JSON has no NaN
    del said["header"]["tags"]
    return said


def thawed(known: dict) -> dict[tuple[str, str], File]:
    """Frozen files by path and collection."""
    files = {}
    for said in known["files"]:
        row = catalogue.Row(**(said["row"] | {"bands": tuple(said["row"]["bands"])}))
        header = {k: tuple(v) if isinstance(v, list) else v for k, v in said["header"].items()}
        header["nodata"] = tuple(None if v is None else float(v) for v in header["nodata"])
        stamps = tuple(None if s is None else tuple(s) for s in said["stamps"])
        files[row.path, row.collection] = File(row, stamps, raster_io.Header(**header, tags={}))
    return files


def scenes(files: Sequence[SceneFile]) -> list[list[SceneFile]]:
    """Files by scene, scenes by the time of their first file."""
    found: dict[tuple[str, str], list[SceneFile]] = {}
    for file in sorted(files, key=lambda f: f.order):
        found.setdefault((file.row.collection, file.row.scene), []).append(file)
    return list(found.values())


def in_any(windows: Iterable[TemporalSpec | None]) -> Callable[[str], bool]:
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


def in_window(row: catalogue.Row, window: TemporalSpec | None) -> bool:
    """A row's date lies in a window."""
    return window is None or window.start <= row.date < window.end


def orbit(source: Source) -> str | None:
    """The orbit pass that is asked for, or None."""
    return source.identity.get("s1", {}).get("orbit")


def within(row: catalogue.Row, source: Source) -> bool:
    """Within the cloud limit, where the cloud cover is known, and of the orbit, where one is asked for."""
    cloudy = row.cloud_cover is not None and row.cloud_cover > source.identity["cloudy_pct"]
    return not cloudy and orbit(source) in (None, row.orbit)


def touch(outlines: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Which outlines (R, 4) overlap a box; an outline with west > east lies across the antimeridian."""
    import numpy as np

    west, south, east, north = outlines.T
    over, under = west <= box[2], east >= box[0]
    return np.where(west > east, over | under, over & under) & (south <= box[3]) & (north >= box[1])


def provenance(scene: Sequence[SceneFile]) -> dict:
    """What the manifest says of a scene."""
    first = scene[0].row
    said = {"scene": first.scene, "datetime": first.datetime, "collection": first.collection}
    if first.cloud_cover is not None:
        said["cloud_cover"] = first.cloud_cover
    if first.collection in UNITS:
        said["units"] = UNITS[first.collection]
    return said | scene[0].about | {"files": list(dict.fromkeys(f.row.path for f in scene))}
