"""Raster files behind HTTP, read by GDAL: its settings, which failures are retryable, and no
secrets in messages.

GDAL requests the header of a file and the blocks that a grid intersects, and no more. It also
caches failures. So a file that failed is requested with another fragment (``#1``), which is not
sent to the server and is not in GDAL's cache.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ...errors import ProviderError
from ...request.geometry import Grid
from ..rasters import raster_io
from . import links, side_files
from .search import RETRYABLE_STATUSES, is_page
from .signing import Signer

if TYPE_CHECKING:
    import numpy as np

#: GDAL's settings (gdal.org, "Configuration options" and "/vsicurl/"). GDAL repeats a request
#: that failed for a retryable reason twice after a short pause, because one chip needs hundreds of
#: requests. The fetch stage handles longer failures.
ENVIRONMENT = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # side files are looked for by side_files.py
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_MAX_RETRY": "2",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "VSI_CACHE": "FALSE",  # the cache of ranges (16 MB for the whole process) is enough
}
_failures: dict[str, int] = {}
_lock = threading.Lock()
_QUERY = re.compile(r"\?[^\s'\",]*")


class _QueryFilter(logging.Filter):
    """Removes the queries of URLs, which can contain signatures, from GDAL's log messages."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _QUERY.sub("", record.getMessage()), ()
        return True


def read_remote_file(
    href: str,
    indexes: Sequence[int],
    grid: Grid,
    signer: Signer | None,
    collection: str,
    *,
    removed: Sequence[str] = (),
    with_side_files: bool = True,
) -> tuple[np.ndarray, np.ndarray, list[float | None]]:
    """:func:`raster_io.read_dataset` of a file behind a URL.

    Args:
        href: without signature. signer: adds one where the file needs it. collection: of the file,
            for the signer.
        removed: names of the parameters that were removed from the link, for messages.
        with_side_files: look for masks and nodata values beside the file.

    Raises:
        ProviderError: the file cannot be read; the error tells whether a retry can help.
    """
    token = signer.get_token(href, collection) if signer else None
    try:
        return _read(href, indexes, grid, token, with_side_files)
    except ProviderError as error:
        refused = any(f"HTTP {code}" in str(error) for code in (401, 403, 409))
        if signer is not None and token is not None and refused:
            # the token was refused before its time of expiry
            token = signer.get_token(href, collection, refused=token)
            return _read(href, indexes, grid, token, with_side_files)
        if removed and token is None and not error.retryable:
            raise ProviderError(
                f"{error}; its link had {', '.join(removed)}, which are not stored, because they give access; "
                "allowed: public links, or credentials in the environment of the jobs"
            ) from None
        raise


def _read(
    href: str, indexes: Sequence[int], grid: Grid, token: str | None, with_side_files: bool
) -> tuple[np.ndarray, np.ndarray, list[float | None]]:
    import rasterio
    from rasterio.errors import RasterioError

    _filter_logs()
    path = _gdal_path(href, token)
    suffix = os.path.splitext(urlsplit(href).path)[1]
    allowed = [suffix, f"{suffix}.msk"] if suffix else []
    fragment = path.rpartition("#")[2]
    only = (
        {"CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ",".join([*allowed, *(f"{s}#{fragment}" for s in allowed)])}
        if allowed
        else {}
    )
    try:
        with rasterio.Env(**ENVIRONMENT, **only), rasterio.open(path) as dataset:
            if dataset.crs is None and dataset.gcps[0]:
                raise ProviderError(
                    f"raster {href} is located by ground control points; allowed: warped rasters (gdalwarp)"
                )
            if dataset.crs is None:
                raise ProviderError(f"raster {href} has no CRS; allowed: georeferenced rasters on a map grid")
            side = side_files.find_side_files(href, token) if with_side_files else side_files.SideFiles()
            values, inside, nodata = raster_io.read_dataset(dataset, indexes, grid)
            if side.mask and _uses_mask_file(dataset):
                marked = side_files.read_mask(_gdal_path(links.add_suffix(href, ".msk"), token), dataset, grid)
                inside = inside if marked is None else inside & marked
            return values, inside, side_files.replace_nodata(nodata, indexes, side.nodata)
    except (RasterioError, OSError, IndexError) as error:
        with _lock:
            _failures[href] = _failures.get(href, 0) + 1
        raise _translate_error(href, token, error) from None
    except ValueError as error:
        raise ProviderError(f"raster {href} cannot be read: {error}") from None


def _uses_mask_file(dataset: Any) -> bool:
    """Whether GDAL would use a mask file: a mask inside the file or an alpha band comes first."""
    from rasterio.enums import MaskFlags

    return not any(
        flag in (MaskFlags.per_dataset, MaskFlags.alpha) for flags in dataset.mask_flag_enums for flag in flags
    )


def _filter_logs() -> None:
    for name in [n for n in list(logging.root.manager.loggerDict) if n.startswith("rasterio")]:
        log = logging.getLogger(name)
        if not any(isinstance(f, _QueryFilter) for f in log.filters):
            log.addFilter(_QueryFilter())


def _gdal_path(href: str, token: str | None) -> str:
    """GDAL's name of the file."""
    parts = urlsplit(href)
    if parts.scheme == "s3":
        return f"/vsis3/{parts.netloc}{unquote(parts.path)}"  # GDAL encodes keys itself
    failed = _failures.get(href, 0)
    return f"/vsicurl/{links.add_query(href, token)}{f'#{failed}' if failed else ''}"


def _translate_error(href: str, token: str | None, error: BaseException) -> ProviderError:
    """The error of a failed read. GDAL reports the HTTP status only for a file that it could not
    open; for failures after that, one byte is requested to get the status."""
    messages: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        messages.append(_QUERY.sub("", " ".join(str(cause).split())))
        cause = cause.__cause__ or cause.__context__
    status = re.search(r"HTTP response code: (\d+)", " ".join(messages))
    if isinstance(error, IndexError):
        return ProviderError(f"raster {href} has fewer bands than its catalogue lists")
    no_reason = not status and "CURL error" not in " ".join(messages)
    code, is_web_page = int(status.group(1)) if status else None, False
    if no_reason:
        code, is_web_page = _request_status(href, token)
    if is_web_page:
        return ProviderError(
            f"raster {href} cannot be read: the server answers with a web page (HTTP {code}), perhaps one to log in; "
            "allowed: links of files that need no login"
        )
    if code is not None and code >= 400 and code not in RETRYABLE_STATUSES:
        missing = "the file does not exist"
        reason = {403: "no permission", 404: missing, 410: missing}.get(code, "refused")
        return ProviderError(f"raster {href} cannot be read: HTTP {code} ({reason})")
    reason = f"HTTP {code}" if code is not None and code >= 400 else messages[-1][:200]
    return ProviderError(f"raster {href} cannot be read: {reason}", retryable=True)


def _request_status(href: str, token: str | None) -> tuple[int | None, bool]:
    """HTTP status of a request for the first bytes of a file (None without an answer), and whether
    the answer is a web page."""
    import requests

    if not href.startswith("http"):
        return None, False
    try:
        url = links.add_query(href, token)
        with requests.get(url, headers={"Range": "bytes=0-199"}, timeout=10, stream=True) as answer:
            start = next(answer.iter_content(200), b"")
            is_web_page = answer.status_code in (200, 206) and is_page(start.decode("utf-8", "replace"))
            return answer.status_code, is_web_page
    except requests.RequestException:
        return None, False
