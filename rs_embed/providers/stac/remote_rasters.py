"""Raster files behind HTTP, read by GDAL: its settings, which failures can pass, and nothing secret in a message.

GDAL asks for the header of a file and for the blocks that a grid touches, and no more. It remembers what it could not get, too; so a
file that failed is asked for under another fragment (``#1``), which no server sees and GDAL's memory does not know.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ...errors import ProviderError
from ...request.geometry import Grid
from ..rasters import raster_io
from .search import PASSING
from .signing import Signer

if TYPE_CHECKING:
    import numpy as np

#: GDAL's settings (gdal.org, "Configuration options" and "/vsicurl/"). A request that fails for a reason that can pass is
#: repeated twice after a moment, where one chip is made of hundreds; whatever lasts longer is the fetch stage's business.
ENVIRONMENT = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no sidecars are looked for: no request for what is seldom there
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_MAX_RETRY": "2",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "VSI_CACHE": "FALSE",  # beside the cache of ranges, which is 16 MB for the whole process
}
_failures: dict[str, int] = {}
_lock = threading.Lock()
_QUERY = re.compile(r"\?[^\s'\",]*")


class _NoQueries(logging.Filter):
    """Takes the queries of URLs, which can hold signatures, out of what GDAL says to the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _QUERY.sub("", record.getMessage()), ()
        return True


def read(
    href: str, indexes: Sequence[int], grid: Grid, signer: Signer | None, collection: str
) -> tuple[np.ndarray, np.ndarray, list[float | None]]:
    """:func:`rasters.pixels` of a file behind a URL.

    Args:
        href: without a query. signer: adds one where the file needs it. collection: the file's, for the signer.

    Raises:
        ProviderError: the file cannot be read, with whether that can pass.
    """
    token = signer.token(href, collection) if signer else None
    try:
        return _read(href, indexes, grid, token)
    except ProviderError as error:
        if token is None or not any(f"HTTP {code}" in str(error) for code in (401, 403, 409)):
            raise
        # refused although the token was still good by its own word
        return _read(href, indexes, grid, signer.token(href, collection, instead_of=token))


def _read(
    href: str, indexes: Sequence[int], grid: Grid, token: str | None
) -> tuple[np.ndarray, np.ndarray, list[float | None]]:
    import rasterio
    from rasterio.errors import RasterioError

    _keep_queries_out_of_logs()
    path = _path(href, token)
    suffix = os.path.splitext(urlsplit(href).path)[1]
    only = {"CPL_VSIL_CURL_ALLOWED_EXTENSIONS": f"{suffix},{suffix}#{path.rpartition('#')[2]}"} if suffix else {}
    try:
        with rasterio.Env(**ENVIRONMENT, **only), rasterio.open(path) as dataset:
            if dataset.crs is None:
                raise ProviderError(f"raster {href} has no CRS; allowed: georeferenced rasters on a map grid")
            return raster_io.pixels(dataset, indexes, grid)
    except (RasterioError, OSError, IndexError) as error:
        with _lock:
            _failures[href] = _failures.get(href, 0) + 1
        raise _explained(href, token, error) from None


def _keep_queries_out_of_logs() -> None:
    for name in [n for n in list(logging.root.manager.loggerDict) if n.startswith("rasterio")]:
        log = logging.getLogger(name)
        if not any(isinstance(f, _NoQueries) for f in log.filters):
            log.addFilter(_NoQueries())


def _path(href: str, token: str | None) -> str:
    """How GDAL calls the file."""
    parts = urlsplit(href)
    if parts.scheme == "s3":
        return f"/vsis3/{parts.netloc}{parts.path}"
    failed = _failures.get(href, 0)
    return f"/vsicurl/{href}{'?' + token if token else ''}{f'#{failed}' if failed else ''}"


def _explained(href: str, token: str | None, error: BaseException) -> ProviderError:
    """What a failure means. GDAL says the status of a file that it could not open, and only that something is missing of one
    that it could; so one byte is asked for to see."""
    said, seen = [], error
    while seen is not None:
        said.append(_QUERY.sub("", " ".join(str(seen).split())))
        seen = seen.__cause__ or seen.__context__
    status = re.search(r"HTTP response code: (\d+)", " ".join(said))
    if isinstance(error, IndexError):
        return ProviderError(f"raster {href} has fewer bands than its catalogue says")
    silent = not status and "CURL error" not in " ".join(said)
    code = int(status.group(1)) if status else _status(href, token) if silent else None
    if code is not None and code >= 400 and code not in PASSING:
        why = {403: "no permission", 404: "there is no such file", 410: "there is no such file"}.get(code, "refused")
        return ProviderError(f"raster {href} cannot be read: HTTP {code} ({why})")
    what = f"HTTP {code}" if code is not None and code >= 400 else said[-1][:200]
    return ProviderError(f"raster {href} cannot be read: {what}", retryable=True)


def _status(href: str, token: str | None) -> int | None:
    """HTTP status of the first byte of a file, or None where there is no answer."""
    import requests

    if not href.startswith("http"):
        return None
    try:
        url = f"{href}?{token}" if token else href
        with requests.get(url, headers={"Range": "bytes=0-0"}, timeout=10, stream=True) as answer:
            return answer.status_code
    except requests.RequestException:
        return None
