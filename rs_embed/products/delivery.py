"""Products in folders as they are delivered: what names and the metadata beside them say about a
raster. Standard library only.

A family module has a function ``recognise(path, files)`` for its folders and file names, and
``DATES``, the patterns of names that contain a time of acquisition.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from .base import Band

#: Bytes of a metadata file that are read; those of the known products have less than 2 MB.
_LIMIT = 16 << 20


@dataclass(frozen=True)
class Delivered:
    """A raster of a known product.

    Attributes:
        collection: Earth Engine's id.
        scene: id of the product.
        band: Earth Engine's name; "" where the names of bands are the file's descriptions.
        datetime: of acquisition, UTC, ISO 8601; "" where it is not known.
        source: where the time was found.
        cloud_cover: percent, or None.
        orbit: pass of a radar image, or None.
        scale, offset: from the numbers to the collection's values.
        subtract: subtracted from the integers before that, with a minimum of 0.
        nodata: nodata value by convention, or None.
        copy: sort key among copies of one band in several pixel sizes; the lowest is the band as
            it was acquired.
        acquisition, processing: products of one acquisition, and which one is the latest; "" where
            all are used.
        integers: the product has integers, so a file of floats is not the delivered one.
        note: remark on the values, for manifests.
        remark: a doubt, for the user.
        find_band: from a description of a band to the band of the collection, or None.
    """

    collection: str
    scene: str
    band: str
    datetime: str
    source: str = "name of the product"
    cloud_cover: float | None = None
    orbit: str | None = None
    scale: float = 1.0
    offset: float = 0.0
    subtract: int = 0
    nodata: float | None = None
    copy: tuple[int, ...] = ()
    acquisition: str = ""
    processing: tuple[str, ...] = ()
    integers: bool = True
    note: str = ""
    remark: str = ""
    find_band: Callable[[str], Band | None] | None = None


@dataclass(frozen=True)
class Unused:
    """A raster of a product that is not used.

    Attributes:
        product: what the files that one sentence is about have in common.
        reason: why, as the end of a sentence.
        refused: it contains imagery that cannot be read; otherwise it is no image.
    """

    product: str
    reason: str
    refused: bool = False


class ProductFiles:
    """Names and texts of the files around rasters; each is read once."""

    def __init__(self) -> None:
        self._known: dict[tuple, Any] = {}

    def once(self, function: Callable, *arguments: Any) -> Any:
        """The result of ``function(*arguments, self)``, computed once."""
        key = (function, *arguments)
        if key not in self._known:
            self._known[key] = function(*arguments, self)
        return self._known[key]

    def names(self, folder: str) -> tuple[str, ...]:
        """Names of the entries of a folder, sorted; () where it cannot be listed."""
        return self.once(_list_names, folder)

    def find(self, folder: str, pattern: str) -> str | None:
        """Path of the first file of a folder whose whole name matches, whatever its case."""
        return self.once(_find_name, folder, pattern)

    def entry(self, folder: str, name: str) -> str | None:
        """Path of the file of a name in a folder, whatever its case."""
        found = self.once(_names_by_lower, folder).get(name.lower())
        return None if found is None else f"{folder}/{found}"

    def text(self, path: str) -> str | None:
        """Content of a metadata file; None where it is missing, unreadable or not a text."""
        return self.once(_read_text, path)


def _list_names(folder: str, files: ProductFiles) -> tuple[str, ...]:
    try:
        return tuple(sorted(os.listdir(folder)))
    except OSError:
        return ()


def _find_name(folder: str, pattern: str, files: ProductFiles) -> str | None:
    name = next((n for n in files.names(folder) if re.fullmatch(pattern, n, re.IGNORECASE)), None)
    return None if name is None else f"{folder}/{name}"


def _names_by_lower(folder: str, files: ProductFiles) -> dict[str, str]:
    return {name.lower(): name for name in files.names(folder)}


def _read_text(path: str, files: ProductFiles) -> str | None:
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > _LIMIT:
            return None
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except (OSError, ValueError):
        return None


def parents(path: str, most: int = 6) -> Iterator[str]:
    """The folders that contain a path, innermost first."""
    for _ in range(most):
        path = path.rpartition("/")[0]
        if not path:
            return
        yield path


def base_name(path: str) -> str:
    """The last part of a path with ``/``."""
    return path.rpartition("/")[2]


def raster_stem(path: str) -> str:
    """The name of a raster without its suffix."""
    return re.sub(r"\.(tiff?|jp2|vrt)$", "", base_name(path), flags=re.IGNORECASE)


def parse_xml(text: str | None) -> ElementTree.Element | None:
    """The root of an XML document; None where it is damaged or declares entities, which no
    product does."""
    if text is None or "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return None


def xml_fields(root: ElementTree.Element | None) -> dict[str, str]:
    """Text of the elements by name without namespace; the first of several."""
    fields: dict[str, str] = {}
    for element in root.iter() if root is not None else ():
        if element.text and element.text.strip():
            fields.setdefault(_local_name(element.tag), element.text.strip())
    return fields


def xml_elements(root: ElementTree.Element | None, name: str) -> list[ElementTree.Element]:
    """The elements of a name, whatever their namespace."""
    return [e for e in root.iter() if _local_name(e.tag) == name] if root is not None else []


def _local_name(tag: Any) -> str:
    return str(tag).rpartition("}")[2]


def metadata_fields(text: str | None) -> dict[str, str]:
    """Fields of a metadata file in XML, JSON, or lines ``KEY = "value"`` (ODL), by name; the first
    of several."""
    if text is None:
        return {}
    start = text.lstrip()[:1]
    if start == "<":
        return xml_fields(parse_xml(text))
    fields: dict[str, str] = {}
    if start in ("{", "["):
        try:
            _flatten(json.loads(text), fields)
        except (ValueError, RecursionError):
            return {}
        return fields
    for name, value in re.findall(r'^[ \t]*(\w+)[ \t]*=[ \t]*"?([^"\r\n]*?)"?[ \t]*\r?$', text, re.MULTILINE):
        fields.setdefault(name, value)
    return fields


def _flatten(value: Any, fields: dict[str, str]) -> None:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in entries:
        if isinstance(inner, (dict, list)):
            _flatten(inner, fields)
        elif isinstance(inner, (str, int, float)) and not isinstance(inner, bool):
            fields.setdefault(str(name), str(inner))


def percent(text: str | None) -> float | None:
    """A cloud cover; None where it is missing or not 0 to 100 (Landsat has -1 for unknown)."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value <= 100 else None


def compact_time(text: str) -> str:
    """``YYYYMMDD``, ``YYYYDDD`` or either with ``THHMMSS`` as ISO 8601, UTC.

    Raises:
        ValueError: it is no time, or of a day in the future.
    """
    day, sep, time = text.upper().rstrip("Z").partition("T")
    form = "%Y%j" if len(day) == 7 else "%Y%m%d"
    found = dt.datetime.strptime(day + time, form + ("%H%M%S" if sep else ""))
    if found.year != int(day[:4]):  # day 366 of a year of 365
        raise ValueError(f"{text!r} is not in the calendar")
    return _write_time(found, bool(sep))


def metadata_time(text: str) -> str:
    """A date or time of metadata (``2022-07-01``, ``2022-07-01T10:40:31.024Z``) as ISO 8601, UTC,
    whole seconds.

    Raises:
        ValueError: it is no time, or of a day in the future.
    """
    found = re.match(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d)?", text, re.ASCII)
    if found is None:
        raise ValueError(f"{text!r} is no date")
    return _write_time(dt.datetime.fromisoformat(found[0]), found[1] is not None)


def _write_time(time: dt.datetime, with_time: bool) -> str:
    if time.date() > dt.datetime.now(dt.UTC).date():  # nothing was acquired then
        raise ValueError(f"{time.date()} is in the future")
    return time.isoformat() + "Z" if with_time else time.date().isoformat()


def time_or_unknown(read: Callable[[str], str], text: str | None) -> str:
    """A time by :func:`compact_time` or :func:`metadata_time`; "" where it is none, which the
    user is asked for."""
    try:
        return read(text or "")
    except ValueError:
        return ""
