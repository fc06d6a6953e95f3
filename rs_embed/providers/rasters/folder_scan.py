"""The metadata of the rasters of a folder, for the first draft of its catalogue."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import ProviderError
from . import raster_io

SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt")
#: Tags with the time of acquisition, as several tools write them. ``_FILE_TIME`` is the time of
#: the file and only used where no other tag exists (TIFF 6.0: "date and time of image creation").
_TAGS = ("datetime", "acquisition_datetime", "ACQUISITIONDATETIME", "ACQUISITION_DATE", "SENSING_TIME", "DATE_ACQUIRED")
_FILE_TIME = "TIFFTAG_DATETIME"
_BAND = r"(?:^|[_.-])((?:[Bb](?:0?[1-9]|1[0-2]|8[Aa]))|VV|VH|HH|HV|vv|vh|hh|hv)(?=[_.-]|$)"
_SIZE = r"_(\d{2})m$"
_DAY = r"(?<!\d)((?:19|20)\d\d)[-_]?(0[1-9]|1[0-2])[-_]?(0[1-9]|[12]\d|3[01])(?:[T_]?([01]\d|2[0-3])[-:]?([0-5]\d)[-:]?([0-5]\d))?(?!\d)"


@dataclass(frozen=True)
class ScannedFile:
    """One raster of a folder.

    Attributes:
        path: relative to the folder, with ``/``.
        bands: names from the file's descriptions; () where they are missing or not unique.
        count: number of bands.
        datetime: ISO text, or None where neither the tags nor the name contain it.
        where: where it was found: ``tag <name>``, ``file name``, or "".
        scene: id of the image that a file of one band belongs to; its path for other files.
        named: the band comes from the file's name.
    """

    path: str
    bands: tuple[str, ...]
    count: int
    datetime: str | None
    where: str
    scene: str
    named: bool = False

    @property
    def kind(self) -> tuple:
        """Files of one kind are in one folder and have the same bands, or each a band in its
        name."""
        return os.path.dirname(self.path), self.count, "named" if self.named else self.bands


def scan_folder(folder: str) -> tuple[list[ScannedFile], list[str]]:
    """Every raster below a folder, by path, and sentences about files that cannot be used.

    Raises:
        ProviderError: the folder does not exist, or contains no raster.
    """
    if not os.path.isdir(folder):
        raise ProviderError(f"catalogue: {folder!r} is not a folder; allowed: a folder of rasters")
    found, refused = [], []
    for path in _list_rasters(folder):
        try:
            header = raster_io.read_header(os.path.join(folder, path))
        except ProviderError as error:
            refused.append(str(error))
            continue
        named = all(header.bands) and len(set(header.bands)) == len(header.bands)
        bands = tuple(map(str, header.bands)) if named and not any(" " in str(b) for b in header.bands) else ()
        when = _acquisition_time(path, header.tags)
        if len(header.bands) == 1 and not bands and (band_and_scene := _parse_name(path)):
            band, scene = band_and_scene
            found.append(ScannedFile(path, (band,), 1, *when, scene, named=True))
        else:
            found.append(ScannedFile(path, bands, len(header.bands), *when, path))
    if not found:
        why = f": {refused[0]}" if refused else f" (looked for {', '.join(SUFFIXES)})"
        raise ProviderError(f"catalogue: {folder!r} has no usable raster{why}")
    return _keep_finest(found, refused), refused


def _parse_name(path: str) -> tuple[str, str] | None:
    """Band and scene in the name of a file with one band: T32VNJ_20220701T104031_B02_10m.jp2 has
    B2."""
    stem = os.path.splitext(os.path.basename(path))[0]
    match = re.search(_BAND, stem)
    if not match:
        return None
    word = match.group(1).upper()
    band = re.sub(r"^B0(?=\d)", "B", word)
    remainder = re.sub(_SIZE, "", stem[: match.start()] + stem[match.end() :]).strip("_.-")
    folders = [f for f in os.path.dirname(path).split("/") if f and not re.fullmatch(r"R\d+m", f)]
    return band, "/".join([*folders, remainder]).rstrip("/") or os.path.dirname(path) or "."


def _keep_finest(found: list[ScannedFile], refused: list[str]) -> list[ScannedFile]:
    """The finest of the copies of one band of a scene in several resolutions (as in Sentinel-2
    products)."""
    best: dict[tuple, ScannedFile] = {}

    def metres(file: ScannedFile) -> int:
        size = re.search(_SIZE, os.path.splitext(file.path)[0])
        return int(size.group(1)) if size else 0

    for file in sorted(found, key=metres):
        kept = best.setdefault((file.scene, file.bands), file)
        if kept is not file:
            refused.append(f"{file.path} is another copy of {kept.path}")
    return sorted(best.values(), key=lambda f: f.path)


def _list_rasters(folder: str) -> Iterator[str]:
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # links can form cycles
            folders[:] = []
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/")


def _acquisition_time(path: str, tags: dict[str, str]) -> tuple[str | None, str]:
    """Time of acquisition, and where it was found."""
    for tag in _TAGS:
        time = _parse_time(tags.get(tag, ""))
        if time:
            return time, f"tag {tag}"
    for part in (os.path.basename(path), path):
        match = re.search(_DAY, part)
        if match and _is_valid_date(match):
            return _format_time(match), "file name"
    time = _parse_time(tags.get(_FILE_TIME, "").replace(":", "-", 2))
    return (time, f"tag {_FILE_TIME}") if time else (None, "")


def _parse_time(text: str) -> str | None:
    match = re.match(r"\s*" + _DAY.replace("(?!\\d)", ""), text.replace(" ", "T", 1))
    return _format_time(match) if match and _is_valid_date(match) else None


def _is_valid_date(match: re.Match) -> bool:
    try:
        return bool(dt.date(*map(int, match.groups()[:3])))
    except ValueError:  # 31 February
        return False


def _format_time(match: re.Match) -> str:
    day, time = "-".join(match.groups()[:3]), match.groups()[3:]
    return f"{day}T{':'.join(time)}Z" if all(time) else day
