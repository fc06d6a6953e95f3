"""The catalogue of a folder of rasters: a CSV table that describes each file. Standard library
only.

One row for each file: ``path`` (relative to the catalogue), ``collection``, ``datetime``; and
optionally ``bands`` (in file order; default: the band descriptions of the file), ``scene`` (rows
with one scene id form one image), ``cloud_cover`` (percent), ``scale`` and ``offset`` (value =
number * scale + offset, in the collection's units of measure), ``nodata``, ``orbit``, ``subtract``
(from the numbers before that, with a minimum of 0), ``note`` (for manifests).
"""

from __future__ import annotations

import csv
import datetime as dt
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import ProviderError
from ...request.fields import describe_bad_column

#: Name of the catalogue in a folder.
FILE_NAME = "catalogue.csv"
REQUIRED = ("path", "collection", "datetime")
COLUMNS = (*REQUIRED, "bands", "scene", "cloud_cover", "scale", "offset", "nodata", "orbit", "subtract", "note")
ORBITS = ("ASCENDING", "DESCENDING")


@dataclass(frozen=True)
class Row:
    """One file.

    Attributes:
        line: line of the table, for messages.
        path: as in the table.
        collection: collection id.
        datetime: UTC, ``YYYY-MM-DDTHH:MM:SSZ``.
        bands: names in file order; () where the table has none.
        scene: id of the image the file belongs to; its path where the table has none.
        cloud_cover: percent, or None where it is not known (then no cloud limit excludes the
            file).
        scale, offset: from the file's numbers to the collection's units of measure.
        nodata: nodata value, "nan", or None for that of the file.
        orbit: pass of a radar image, or None.
        subtract: subtracted from the numbers of the file before scale and offset, with a minimum
            of 0; integers stay integers, and bands of classes are left as they are.
        note: remark on the pixels for the manifest.
    """

    line: int
    path: str
    collection: str
    datetime: str
    bands: tuple[str, ...] = ()
    scene: str = ""
    cloud_cover: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | str | None = None
    orbit: str | None = None
    subtract: int = 0
    note: str = ""

    @property
    def date(self) -> str:
        """ISO date."""
        return self.datetime[:10]


def find_catalogue(path: str) -> str:
    """The catalogue at a path: the file, or ``catalogue.csv`` of the folder.

    Raises:
        ProviderError: the catalogue does not exist.
    """
    found = os.path.join(path, FILE_NAME) if os.path.isdir(path) else path
    what = _describe(found)
    if what:
        raise ProviderError(
            f"backend: 'local:{path}' is {what} and not a catalogue; allowed: a folder with a {FILE_NAME}, which "
            "`rs-embed catalogue <folder>` writes"
        )
    if not os.path.isfile(found):
        raise ProviderError(
            f"backend: 'local:{path}' has no catalogue (looked for {found}); allowed: a catalogue file, or a folder with a "
            f"{FILE_NAME}, which `rs-embed catalogue {path}` writes"
        )
    return found


#: Beginnings of files that are taken for catalogues by mistake.
_OTHER_FILES = {
    b"II*\x00": "a raster (TIFF)",
    b"MM\x00*": "a raster (TIFF)",
    b"II+\x00": "a raster (TIFF)",
    b"MM\x00+": "a raster (TIFF)",
    b"\x00\x00\x00\x0cjP": "a raster (JPEG 2000)",
    b"\xffO\xffQ": "a raster (JPEG 2000)",
    b"<VRTDataset": "a raster (VRT)",
    b"\x89PNG": "an image (PNG)",
    b"\xff\xd8\xff": "an image (JPEG)",
    b"\x89HDF": "an HDF5 or netCDF file",
    b"CDF": "a netCDF file",
    b"\x0e\x03\x13\x01": "an HDF4 file",
    b"PK\x03\x04": "a ZIP archive or an office document",
    b"\x1f\x8b": "a gzip archive",
    b"SQLite format 3": "a database (GeoPackage)",
}


def _describe(path: str) -> str:
    """What a file is that is no table; "" for everything else."""
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError:
        return ""
    if start[257:262] == b"ustar":
        return "a tar archive"
    return next((what for magic, what in _OTHER_FILES.items() if start.startswith(magic)), "")


def read_catalogue(path: str) -> list[Row]:
    """The rows of a catalogue, in its order.

    Raises:
        ProviderError: unreadable, empty, or contradictory; one sentence with the line.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            header = [c.strip() for c in reader.fieldnames or []]
            _check_header(path, header)
            reader.fieldnames = header
            rows = [_parse_row(cells, f"{path} line {reader.line_num}", reader.line_num) for cells in reader]
    except UnicodeDecodeError as error:
        raise ProviderError(f"catalogue {path} is not UTF-8 ({error.reason} at byte {error.start})") from None
    except csv.Error as error:
        raise ProviderError(f"catalogue {path} is not a CSV table ({error})") from None
    except OSError as error:
        raise ProviderError(f"catalogue {path} cannot be read: {error.strerror}") from None
    if not rows:
        raise ProviderError(f"catalogue {path} is empty; allowed: at least one row")
    _check_scenes(path, rows)
    return rows


def _check_header(path: str, header: Sequence[str]) -> None:
    for sep, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and sep in header[0]:
            raise ProviderError(f"catalogue {path} is separated by {name}; allowed: a table separated by commas")
    missing = [f"the column {c!r} is missing" for c in REQUIRED if c not in header]
    what = describe_bad_column(header, COLUMNS, suggest=True) or next(iter(missing), "")
    if what:
        allowed = f"{', '.join(COLUMNS)} (required: {', '.join(REQUIRED)})"
        raise ProviderError(f"catalogue {path}: {what}; allowed: {allowed}")


def _parse_row(cells: Mapping[Any, Any], where: str, line: int) -> Row:
    where = f"catalogue {where}"
    if None in cells:
        raise ProviderError(
            f"{where}: {cells[None]!r} is beyond the last column; allowed: as many cells as the header has"
        )
    given = {k: v.strip() for k, v in cells.items() if isinstance(v, str) and v.strip()}
    for key in REQUIRED:
        if key not in given:
            raise ProviderError(f"{where}: {key} is missing; allowed: {', '.join(REQUIRED)} in every row")
    bands = tuple(given.get("bands", "").split())
    if len(set(bands)) != len(bands):
        raise ProviderError(
            f"{where}: bands: {given['bands']!r} names a band twice; allowed: different names in file order"
        )
    cloud = _to_float(given, "cloud_cover", where)
    if cloud is not None and not 0 <= cloud <= 100:
        raise ProviderError(f"{where}: cloud_cover: {cloud:g} is not valid; allowed: 0 to 100 percent, or nothing")
    scale = _to_float(given, "scale", where)
    if scale == 0:
        raise ProviderError(f"{where}: scale: 0 is not valid; allowed: a number other than 0")
    nodata: float | str | None = (
        "nan" if given.get("nodata", "").lower() == "nan" else _to_float(given, "nodata", where)
    )
    subtract = _to_float(given, "subtract", where) or 0.0
    if subtract < 0 or subtract != int(subtract):
        raise ProviderError(f"{where}: subtract: {subtract:g} is not valid; allowed: an integer from 0, or nothing")
    orbit = given.get("orbit", "").upper() or None
    if orbit not in (None, *ORBITS):
        raise ProviderError(f"{where}: orbit: {given['orbit']!r} is not valid; allowed: {', '.join(ORBITS)} or nothing")
    return Row(
        line,
        given["path"],
        given["collection"],
        parse_utc(given["datetime"], where),
        bands,
        given.get("scene", given["path"]),
        cloud,
        1.0 if scale is None else scale,
        _to_float(given, "offset", where) or 0.0,
        nodata,
        orbit,
        int(subtract),
        given.get("note", ""),
    )


def _to_float(given: Mapping[str, str], key: str, where: str) -> float | None:
    if key not in given:
        return None
    try:
        number = float(given[key])
        if not math.isfinite(number):
            raise ValueError
    except ValueError:
        raise ProviderError(f"{where}: {key}: {given[key]!r} is not valid; allowed: a number, or nothing") from None
    return number


def parse_utc(text: str, where: str) -> str:
    """A date or date-time as UTC text in one format that sorts by time; a text without an offset
    is UTC."""
    try:
        time = dt.datetime.fromisoformat(text)
        if time.tzinfo is not None:
            time = time.astimezone(dt.UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise ProviderError(
            f"{where}: datetime: {text!r} is not valid; allowed: a date YYYY-MM-DD or a date-time YYYY-MM-DDTHH:MM:SS"
        ) from None
    return time.isoformat(timespec="seconds") + "Z"


def _check_scenes(path: str, rows: Iterable[Row]) -> None:
    """Refuse rows that contradict each other."""
    files: dict[tuple[str, str], Row] = {}
    scenes: dict[tuple[str, str], Row] = {}
    for row in rows:
        known = files.setdefault((os.path.normpath(row.path), row.collection), row)
        if known is not row:
            raise ProviderError(
                f"catalogue {path}: lines {known.line} and {row.line} are the same file {row.path!r}; allowed: one row for each file"
            )
        first = scenes.setdefault((row.collection, row.scene), row)
        for key in ("date", "cloud_cover", "orbit"):
            if getattr(first, key) != getattr(row, key):
                raise ProviderError(
                    f"catalogue {path}: lines {first.line} and {row.line} belong to one scene {row.scene!r} with different "
                    f"{key} ({getattr(first, key)} and {getattr(row, key)}); allowed: one {key} in a scene"
                )


def write_catalogue(path: str, rows: Sequence[Row]) -> None:
    """Write a catalogue for :func:`read_catalogue`; columns with defaults only are left out."""
    cells = [_format_row(row) for row in rows]
    columns = [c for c in COLUMNS if c in REQUIRED or any(c in row for row in cells)]
    with open(path, "x", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(cells)


def _format_row(row: Row) -> dict[str, Any]:
    default = replace(Row(0, row.path, row.collection, row.datetime), scene=row.path)
    cells = {c: getattr(row, c) for c in COLUMNS if c in REQUIRED or getattr(row, c) != getattr(default, c)}
    if row.path != row.path.strip():  # blanks around a cell are not part of it
        cells["path"] = "./" + row.path
    if row.datetime.endswith("T00:00:00Z"):
        cells["datetime"] = row.date
    return cells | ({"bands": " ".join(row.bands)} if row.bands else {})
