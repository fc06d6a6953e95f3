"""Files beside a remote raster that GDAL would use if it lay on disk: its mask (``.msk``), and
nodata values (``.aux.xml``).

GDAL itself does not look for them behind HTTP here: it would open whatever a server calls
``.msk`` with any of its drivers, and it appends the suffix to the query of a link. A request for
each of the two files of a raster, once per process, is the price for the pixels that the same
files have on disk.

Source: gdal.org, "Raster data model" (mask bands) and "PAM, Persistent Auxiliary Metadata".
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

from ...errors import ProviderError
from ...request.geometry import Grid
from ..rasters.longitudes import full_turns
from . import links
from .search import RETRYABLE_STATUSES, TIMEOUT_S, make_session
from .static_catalogue import RASTER_MAGIC

if TYPE_CHECKING:
    import numpy as np

#: Longest ``.aux.xml`` that is read, bytes; those with statistics and histograms have some 10 kB.
_MAX_XML = 1 << 20
#: Suffixes of rasters that can have side files.
_RASTERS = (".tif", ".tiff", ".jp2", ".j2k")
_local = threading.local()
_known: dict[str, SideFiles] = {}
_warnings_lock = threading.Lock()


@dataclass(frozen=True)
class SideFiles:
    """What lies beside a raster.

    Attributes:
        mask: it has a mask file. nodata: nodata value by band, from 1.
    """

    mask: bool = False
    nodata: tuple[tuple[int, float], ...] = ()


def find_side_files(href: str, query: str | None) -> SideFiles:
    """The side files of a raster behind HTTP, requested once per process.

    Args:
        query: signature of the link, or None.

    Raises:
        ProviderError: a request failed for a reason that can pass.
    """
    path = urlsplit(href).path
    if not href.lower().startswith(("http://", "https://")) or os.path.splitext(path)[1].lower() not in _RASTERS:
        return SideFiles()
    if href not in _known:
        mask = _get(href, ".msk", query, 12).startswith(RASTER_MAGIC[:4])
        _known[href] = SideFiles(mask, _parse_nodata(_get(href, ".aux.xml", query, _MAX_XML)))
    return _known[href]


def _get(href: str, suffix: str, query: str | None, size: int) -> bytes:
    """The first bytes of a side file; b"" where the server has none, or does not allow it."""
    import requests

    if not hasattr(_local, "session"):
        _local.session = make_session(2, 0.25)
    url = links.add_query(links.add_suffix(href, suffix), query)
    failure = f"raster {href} cannot be read: its side file {suffix}: "
    allowed = "; allowed: side_files: false in stac.collections, where rasters have no side files"
    try:
        headers = {"Range": f"bytes=0-{size - 1}"}
        with _local.session.get(url, headers=headers, timeout=TIMEOUT_S, stream=True) as answer:
            if answer.status_code in RETRYABLE_STATUSES:
                raise ProviderError(f"{failure}HTTP {answer.status_code}{allowed}", retryable=True)
            if answer.status_code not in (200, 206):
                return b""
            found = b""
            for piece in answer.iter_content(8192):
                found += piece
                if len(found) >= size:
                    break
            return found[:size]
    except requests.RequestException as error:
        raise ProviderError(f"{failure}{type(error).__name__}{allowed}", retryable=True) from None


def _parse_nodata(data: bytes) -> tuple[tuple[int, float], ...]:
    """Nodata values by band of an ``.aux.xml``; () for anything else that a server answers."""
    if b"<PAMDataset" not in data[:1000]:
        return ()
    try:
        root = ElementTree.fromstring(data)
        bands = [(band.get("band", "1"), band.findtext("NoDataValue")) for band in root.iter("PAMRasterBand")]
        return tuple((int(number), float(value)) for number, value in bands if value is not None)
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"its side file .aux.xml is not valid ({error})") from None


def read_mask(path: str, dataset: Any, grid: Grid) -> np.ndarray | None:
    """Where the mask file of a raster marks pixels as data, on a grid.

    Args:
        path: GDAL's name of the mask file. dataset: the open raster.

    Returns:
        (H, W) bool; None where the size of the mask is another one, so that GDAL would not use it.
    """
    import numpy as np
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.vrt import WarpedVRT

    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # it lies where its raster does
        mask = rasterio.open(path, driver="GTiff")
    with mask:
        if (mask.width, mask.height) != (dataset.width, dataset.height):
            return None
        options = {
            "src_crs": dataset.crs,
            "crs": grid.crs,
            "transform": rasterio.Affine(*grid.affine),
            "width": grid.width,
            "height": grid.height,
            "resampling": Resampling.nearest,
        }
        marked = np.zeros((grid.height, grid.width), bool)
        for shift in full_turns(dataset):
            moved = rasterio.Affine.translation(shift, 0) @ dataset.transform
            with WarpedVRT(mask, src_transform=moved, **options) as warped:
                marked |= warped.read(1) > 0
        return marked


def replace_nodata(
    in_file: Sequence[float | None], indexes: Sequence[int], side: Sequence[tuple[int, float]]
) -> list[float | None]:
    """Nodata values of bands, with those of the ``.aux.xml``, which GDAL prefers.

    Args:
        indexes: positions of the bands, from 0.
    """
    known = dict(side)
    return [known.get(index + 1, value) for index, value in zip(indexes, in_file)]
