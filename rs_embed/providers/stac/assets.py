"""Assets of STAC items: which files they are, and what an item says about their numbers.

Source of the order in which a field is looked for: STAC 1.1, ``commons/common-metadata.md`` and
``commons/assets.md`` (a band inherits from its asset, an asset from the item), with the lists
``raster:bands`` and ``eo:bands`` of STAC 1.0.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ...request.identity import digest
from ..rasters import raster_io
from . import links

#: Schemes of links that are read.
SCHEMES = ("http", "https", "s3")
#: Media types of rasters that are read, and the suffixes of such files.
_RASTER_TYPES = ("tif", "jp2", "jpeg2000", "jpx", "geotiff")
_RASTER_SUFFIXES = (".tif", ".tiff", ".gtiff", ".jp2", ".j2k")
#: Beginnings of media types that are no rasters on a map grid.
_OTHER_TYPES = ("application/json", "application/geo+json", "application/xml", "text/", "image/png", "image/jpeg")
#: Types of numbers in STAC that numpy has.
_DTYPES = {*(f"{k}{n}" for k in ("int", "uint") for n in (8, 16, 32, 64)), "float16", "float32", "float64"}


@dataclass(frozen=True)
class Asset:
    """The file of one band.

    Attributes:
        band: name in the request. index: position in the file, from 0.
        href: URL without signature, or path relative to the catalogue's folder.
        nodata: nodata values of mapping, product and item; "inf" and "-inf" are texts, because
            JSON has no infinity. That of the file counts as well.
        sum: digest of the item's fields about the file's content (``file:checksum``,
            ``file:size``), or of the size and time of a file on disk.
        scale, offset: value = number * scale + offset. dark: subtracted from integer values before
            that, with a minimum of 0.
        dtype: as the item says, or "".
        removed: names of the parameters that were removed from its link.
        remarks: on its numbers, for the quality record.
    """

    band: str
    index: int
    href: str
    nodata: tuple[float | str, ...]
    sum: str
    scale: float = 1.0
    offset: float = 0.0
    dark: int = 0
    dtype: str = ""
    removed: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def split_asset_name(name: str) -> tuple[str, int]:
    """``name#2`` as (name, 1)."""
    stem, sep, number = name.rpartition("#")
    return (stem, int(number) - 1) if sep and number.isdigit() and int(number) > 0 else (name, 0)


def is_raster(asset: Mapping) -> bool:
    """Whether an asset is a raster: by its media type, or by its name where the media type is
    missing or means nothing (``application/octet-stream``)."""
    media = str(asset.get("type") or "").lower()
    if any(word in media for word in _RASTER_TYPES):
        return True
    if media.startswith(_OTHER_TYPES):
        return False
    suffix = os.path.splitext(urlsplit(str(asset.get("href") or "")).path)[1].lower()
    return suffix in _RASTER_SUFFIXES or not (suffix or media)


def find_stated(asset: Mapping, index: int, properties: Mapping, key: str) -> Any:
    """What an item says about a band of an asset: in the entry of the band, else for the asset,
    else for all assets; None where it says nothing.

    Args:
        key: ``nodata``, ``data_type``, ``scale``, ``offset`` or ``unit``.
    """
    entries = []
    for name in ("bands", "raster:bands", "eo:bands"):
        found = asset.get(name)
        if isinstance(found, Sequence) and index < len(found) and isinstance(found[index], Mapping):
            entries.append(found[index])
    for fields in (*entries, asset):
        for word in (key, f"raster:{key}"):
            if fields.get(word) is not None:
                return fields[word]
    value = properties.get(f"raster:{key}")
    # a bare "scale" of an item can be another scale, for example that of a map
    return properties.get(key) if value is None and key not in ("scale", "offset") else value


def stated_scaling(asset: Mapping, index: int, properties: Mapping) -> tuple[float, float] | None:
    """(scale, offset) of a band as the item says, or None.

    Raises:
        ValueError: not numbers, or a scale of 0.
    """
    given = [find_stated(asset, index, properties, key) for key in ("scale", "offset")]
    if given == [None, None]:
        return None
    scale, offset = (default if v is None else _finite(v) for v, default in zip(given, (1.0, 0.0)))
    if scale == 0:
        raise ValueError("its scale is 0")
    return scale, offset


def stated_offset(asset: Mapping, index: int, properties: Mapping) -> tuple[float, float] | None:
    """:func:`stated_scaling` where the item states the offset itself; a scale alone says nothing
    about it."""
    given = find_stated(asset, index, properties, "offset")
    return None if given is None else stated_scaling(asset, index, properties)


def list_assets(item: Mapping) -> dict[str, Mapping]:
    """The assets of an item by name, without entries that are none (null)."""
    return {name: asset for name, asset in (item.get("assets") or {}).items() if isinstance(asset, Mapping)}


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def parse_nodata(value: Any) -> tuple[float | str, ...]:
    """A nodata value of an item: a number or a text ("nan", "inf", "-inf"). NaN means no data in
    any case.

    Raises:
        ValueError: something else.
    """
    if value is None:
        return ()
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"nodata {value!r} is not a number")
    number = float(value)
    if math.isnan(number):
        return ()
    return (number,) if math.isfinite(number) else ("inf" if number > 0 else "-inf",)


def parse_dtype(asset: Mapping, index: int, properties: Mapping) -> str:
    """The type of an asset's numbers as the item says, or ""."""
    stated = find_stated(asset, index, properties, "data_type")
    return stated if isinstance(stated, str) and stated in _DTYPES else ""


def describe_file(asset: Mapping, folder: str | None) -> tuple[str, tuple[str, ...], str] | None:
    """The file of an asset: (link without secrets, names of what was removed from it, digest of
    what the item says about its content); None where a service names a file of this machine.

    Args:
        folder: of a static catalogue on disk; paths are stored relative to it.

    Raises:
        ValueError: the link has another scheme, or is an ``s3://`` link with a query.
    """
    href: str = asset["href"]
    checks = digest([asset.get("file:checksum"), asset.get("file:size")], 16)
    if links.is_url(href):
        scheme = href.partition("://")[0].lower()
        if scheme not in SCHEMES:
            raise ValueError(f"links of the scheme {scheme!r} are not read; allowed: {', '.join(SCHEMES)}")
        clean, removed = links.remove_secrets(links.quote_url(href))
        if scheme == "s3" and (query := urlsplit(clean).query):  # GDAL reads keys without versions
            raise ValueError(f"links of the scheme 's3' with a query ({query[:40]}) are not read; allowed: without one")
        return clean, removed, checks
    return (os.path.relpath(href, folder), (), checks) if folder is not None else None


def stamp(asset: Asset, folder: str) -> str:
    """``Asset.sum`` of a file on disk, with the size and time of the file and of its side files.

    Raises:
        ProviderError: the file does not exist.
    """
    path = os.path.join(folder, asset.href)
    side = [os.path.basename(path) + suffix for suffix in (".aux.xml", ".msk")]
    return digest([asset.sum, list(raster_io.read_stamps(path, side))], 16)


def nodata_numbers(values: Sequence[float | str]) -> list[float]:
    """``Asset.nodata`` as numbers."""
    return [float(v) for v in values]
