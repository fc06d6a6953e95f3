"""Files of scenes with their metadata: filters of a request, groups by scene, and the JSON form
that a run stores."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar

from ...products import COLLECTION_UNITS
from ...request.identity import digest
from . import catalogue, raster_io

if TYPE_CHECKING:
    import numpy as np

    from ...planning.units import Source
    from ...request.specs import TemporalSpec


class SceneFile(Protocol):
    """A file of a scene, as far as the selection and combination of files needs it."""

    @property
    def row(self) -> catalogue.Row:
        """Collection, time, scene, cloud cover, orbit."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) of its outline, degrees."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Names in file order."""

    @property
    def dtype(self) -> str:
        """Of its values."""

    @property
    def order(self) -> tuple:
        """Sort key: later files cover earlier ones."""

    @property
    def extra_provenance(self) -> dict:
        """Fields of the scene's provenance beyond those of the row."""


F = TypeVar("F", bound=SceneFile)


@dataclass(frozen=True)
class CatalogueFile:
    """A row of the catalogue with the file's metadata: everything that decides what is read from
    it."""

    row: catalogue.Row
    stamps: raster_io.Stamps
    header: raster_io.Header

    @cached_property
    def alpha_as_data(self) -> tuple[int, ...]:
        """Positions of the bands that GDAL takes for alpha and that the catalogue names: they are
        data."""
        return self.header.alpha if len(self.row.bands) == len(self.header.bands) else ()

    @cached_property
    def bands(self) -> tuple[str, ...]:
        """Band names in file order: the catalogue's, or the file's own descriptions. Alpha bands
        are not counted, unless they are data."""
        return self.row.bands or tuple(map(str, self.header.without_alpha))

    @cached_property
    def nodata(self) -> tuple[float | None, ...]:
        """Nodata value of each band: the catalogue's, or the file's."""
        given = self.row.nodata
        alpha = () if self.alpha_as_data else self.header.alpha
        in_file = tuple(v for i, v in enumerate(self.header.nodata) if i not in alpha)
        return in_file if given is None else (float(given),) * len(in_file)

    @cached_property
    def digest(self) -> str:
        """Digest of everything that changes its pixels: not cloud cover and orbit, which only
        select the file."""
        r = self.row
        fields: list = [
            r.path,
            r.collection,
            r.datetime,
            r.scene,
            self.bands,
            r.scale,
            r.offset,
            list(map(str, self.nodata)),
            *([r.subtract] if r.subtract else []),
        ]
        return digest([*fields, self.header.pieces, self.header.parts, self.stamps])

    @property
    def order(self) -> tuple:
        """By time, scene and path: the order in which files cover each other, whatever their order
        in the table."""
        return self.row.datetime, self.row.scene, self.row.path

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Outline, degrees."""
        return self.header.box

    @property
    def dtype(self) -> str:
        """Of its values."""
        return self.header.dtype

    @property
    def extra_provenance(self) -> dict:
        """What was subtracted, and the catalogue's note."""
        return ({"subtracted": self.row.subtract} if self.row.subtract else {}) | (
            {"note": self.row.note} if self.row.note else {}
        )


def file_to_json(file: CatalogueFile) -> dict:
    """A file as JSON values."""
    fields = asdict(file)  # except NaN, which JSON does not have
    fields["header"]["nodata"] = [None if v is None else str(v) for v in file.header.nodata]
    del fields["header"]["tags"]
    return fields


def files_from_json(known: dict) -> dict[tuple[str, str], CatalogueFile]:
    """The files of :func:`file_to_json` by path and collection."""
    files = {}
    for fields in known["files"]:
        row = catalogue.Row(**(fields["row"] | {"bands": tuple(fields["row"]["bands"])}))
        header: dict = {k: tuple(v) if isinstance(v, list) else v for k, v in fields["header"].items()}
        header["alpha"] = tuple(header["alpha"])  # missing in files of earlier versions
        header["nodata"] = tuple(None if v is None else float(v) for v in header["nodata"])
        stamps = tuple(None if s is None else tuple(s) for s in fields["stamps"])
        files[row.path, row.collection] = CatalogueFile(row, stamps, raster_io.Header(**header, tags={}))
    return files


def group_by_scene(files: Sequence[F]) -> list[list[F]]:
    """Files by scene, scenes by the time of their first file."""
    scenes: dict[tuple[str, str], list[F]] = {}
    for file in sorted(files, key=lambda f: f.order):
        scenes.setdefault((file.row.collection, file.row.scene), []).append(file)
    return list(scenes.values())


def date_filter(windows: Iterable[TemporalSpec | None]) -> Callable[[str], bool]:
    """A predicate of dates: the date is in one of many windows."""
    given = set(windows)
    if None in given:
        return lambda date: True
    ordered = sorted((w for w in given if w), key=lambda w: w.start)
    starts = [w.start for w in ordered]
    ends = list(itertools.accumulate((w.end for w in ordered), max))  # of windows up to each

    def is_inside(date: str) -> bool:
        started = bisect.bisect_right(starts, date)
        return started > 0 and ends[started - 1] > date

    return is_inside


def is_in_window(row: catalogue.Row, window: TemporalSpec | None) -> bool:
    """The date of a row is in a window."""
    return window is None or window.start <= row.date < window.end


def requested_orbit(source: Source) -> str | None:
    """The orbit pass of the request, or None."""
    return source.identity.get("s1", {}).get("orbit")


def passes_filters(row: catalogue.Row, source: Source) -> bool:
    """The row is within the cloud limit, where its cloud cover is known, and of the requested
    orbit, if there is one."""
    cloudy = row.cloud_cover is not None and row.cloud_cover > source.identity["cloudy_pct"]
    return not cloudy and requested_orbit(source) in (None, row.orbit)


def overlaps_box(outlines: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """(R,) bool: which outlines (R, 4) overlap a box, on the circle of longitudes; an outline or a
    box with west > east crosses the antimeridian."""
    west, south, east, north = outlines.T
    width, box_width = east - west + 360.0 * (east < west), box[2] - box[0] + 360.0 * (box[2] < box[0])
    around = ((box[0] - west) % 360 <= width) | ((west - box[0]) % 360 <= box_width)
    return around & (south <= box[3]) & (north >= box[1])


def scene_provenance(scene: Sequence[SceneFile]) -> dict:
    """Provenance of a scene."""
    first = scene[0].row
    fields: dict = {"scene": first.scene, "datetime": first.datetime, "collection": first.collection}
    if first.cloud_cover is not None:
        fields["cloud_cover"] = first.cloud_cover
    if first.collection in COLLECTION_UNITS:
        fields["units"] = COLLECTION_UNITS[first.collection]
    for file in reversed(scene):  # the first one counts; files of quality bands have fewer fields
        fields |= file.extra_provenance
    return fields | {"files": list(dict.fromkeys(f.row.path for f in scene))}
