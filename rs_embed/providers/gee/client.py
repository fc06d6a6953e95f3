"""The process's connection to Earth Engine, with the official client: credentials, requests, and
which failures are retryable."""

from __future__ import annotations

import email.utils
import functools
import io
import json
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import ProviderError
from ...request.gee_settings import GeeSettings
from ..limits.quota import Quota

if TYPE_CHECKING:
    import numpy as np

    from ...request.geometry import Grid

#: Seconds to connect, and to wait for an answer: Earth Engine ends a computation after five
#: minutes.
TIMEOUT_S = (30.0, 330.0)
#: HTTP statuses after which the same request can succeed.
RETRYABLE_STATUSES = (429, 500, 502, 503, 504)
#: Messages of deterministic failures, whatever the status: the repeated request costs as much and
#: fails again.
_FATAL = re.compile(r"memory limit|too many pixels|must be less than or equal to|computation timed out", re.IGNORECASE)
#: Longest part of the service's message in an error, characters.
_MAX_MESSAGE = 300
#: Connections kept open at a time.
_CONNECTIONS = 64

_lock = threading.Lock()
#: Settings of the connection: the client has one state for the whole process.
_connected: tuple | None = None


class RequestTooLarge(ProviderError):
    """The request exceeds a limit of the service; a smaller one may not."""


class Client:
    """Sends requests to Earth Engine, one per call; may be used from several threads."""

    def __init__(self, settings: GeeSettings, quota: Quota | None = None) -> None:
        self.settings = settings
        self.quota = quota

    def compute_pixels(self, image: Any, grid: Grid, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Bands of an image expression on a grid, (H, W) each in the dtype of the image.

        Raises:
            ProviderError: the request was refused or failed, or the answer is incomplete.
        """
        import numpy as np

        a, b, c, d, e, f = grid.affine
        affine = {"scaleX": a, "shearX": b, "translateX": c, "shearY": d, "scaleY": e, "translateY": f}
        dimensions = {"width": grid.width, "height": grid.height}
        pixel_grid = {"crsCode": grid.crs, "affineTransform": affine, "dimensions": dimensions}
        request = {"expression": image, "fileFormat": "NPY", "grid": pixel_grid}
        data = self._send(lambda ee: ee.data.computePixels(request))
        try:
            table = np.load(io.BytesIO(data), allow_pickle=False)
            bands = {name: table[name] for name in names}
            if table.shape != (grid.height, grid.width):
                raise ValueError(f"{table.shape} pixels")
        except (ValueError, EOFError, OSError, IndexError, KeyError, TypeError) as error:
            raise ProviderError(
                f"Earth Engine's answer of {len(data)} bytes is not the requested image ({error})",
                retryable=True,
            ) from None
        return bands

    def compute_value(self, expression: Any) -> Any:
        """The value of an expression, as JSON values."""
        return self._send(lambda ee: ee.data.computeValue(expression))

    def connect(self) -> Any:
        """Connect the client library with these settings, once per process, and return it."""
        global _connected
        try:
            import ee
        except ImportError:
            raise ProviderError(
                "backend: 'gee' needs the Earth Engine client, which is not installed; allowed: pip install earthengine-api"
            ) from None
        wanted = (self.settings.project, self.settings.endpoint, self.settings.service_account)
        with _lock:
            if _connected != wanted:
                _connected = None
                self._call(lambda: self._initialize(ee))
                _connected = wanted
        return ee

    def _initialize(self, ee: Any) -> None:
        settings = self.settings
        if ee.data.is_initialized():
            ee.Reset()
        # an empty list of deprecated collections: else the client reads it from another host,
        # without a time limit
        ee.deprecation.deprecated_assets = {"": None}
        ee.data.setMaxRetries(0)  # retries.py alone decides about retries
        credentials = self._credentials(ee)
        ee.Initialize(
            credentials=credentials,
            project=settings.project or getattr(credentials, "project_id", None),
            url=settings.endpoint,
            http_transport=_transport(),
        )

    def _credentials(self, ee: Any) -> Any:
        import google.auth
        from google.auth.credentials import AnonymousCredentials
        from google.auth.exceptions import DefaultCredentialsError

        account = self.settings.service_account
        if self.settings.loopback:
            return AnonymousCredentials()
        try:
            if account is not None:
                return ee.ServiceAccountCredentials(key_file=account)
            if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
                return google.auth.default(scopes=ee.oauth.SCOPES)[0]
        except (OSError, ValueError, DefaultCredentialsError) as error:
            name = account or os.environ["GOOGLE_APPLICATION_CREDENTIALS"]
            why = getattr(error, "strerror", None) or "it is not the key of a service account"
            raise ProviderError(
                f"gee.service_account: {name!r} cannot be used ({why}); allowed: the path of a service account's key file"
            ) from None
        try:
            return ee.data.get_persistent_credentials()
        except ee.EEException:
            raise ProviderError(_setup_hint("no credentials were found")) from None

    def _send(self, call: Callable[[Any], Any]) -> Any:
        ee = self.connect()
        if self.quota is not None:
            self.quota.throttle()
        return self._call(lambda: call(ee))

    def _call(self, call: Callable[[], Any]) -> Any:
        """Call the client and translate its exceptions into a :class:`ProviderError` without
        private data."""
        import ee
        from google.auth.exceptions import GoogleAuthError, TransportError
        from googleapiclient.errors import Error, HttpError, InvalidJsonError  # type: ignore[import-untyped]

        try:
            return call()
        except (OSError, TransportError, InvalidJsonError, json.JSONDecodeError) as error:
            # time-outs, dropped connections, incomplete answers
            raise ProviderError(
                f"Earth Engine cannot be reached, or did not answer in full ({type(error).__name__})", retryable=True
            ) from None
        except GoogleAuthError as error:
            raise ProviderError(_setup_hint("the credentials were not accepted"), retryable=error.retryable) from None
        except (ee.EEException, Error) as error:
            http = error if isinstance(error, HttpError) else error.__context__
            if isinstance(http, HttpError):
                raise _response_error(http) from None
            if "no project found" in str(error):
                raise ProviderError(_setup_hint("no project is set")) from None
            raise ProviderError(f"Earth Engine's client refuses the request: {_shorten(str(error))}") from None


def _setup_hint(reason: str) -> str:
    return (
        f"Earth Engine cannot be used, {reason}; allowed: run `earthengine authenticate`, and then "
        "`earthengine set_project <project>` (or set EE_PROJECT=<project>, or gee.project)"
    )


def _response_error(http: Any) -> ProviderError:
    """The error of an answer whose status is not 200."""
    message, status = _shorten(http.reason or ""), int(http.resp.status)
    retryable = status in RETRYABLE_STATUSES and not _FATAL.search(message)
    if not retryable and status == 401:
        return ProviderError(_setup_hint("the credentials were not accepted"))
    text = f"Earth Engine answers {status}: {message or 'no reason given'}"
    if _FATAL.search(message):
        return RequestTooLarge(f"{text}; allowed: a shorter window, a larger scale_m, fewer bands or a smaller ROI")
    if not retryable and status == 403:
        text += "; allowed: a project of yours that is registered for Earth Engine (gee.project, EE_PROJECT)"
    pause = _parse_retry_after(http.resp.get("retry-after")) if retryable else None
    return ProviderError(text, retryable=retryable, retry_after=pause)


def _shorten(message: str) -> str:
    """The beginning of the service's message, on one line."""
    message = " ".join(message.split()).rstrip(".")
    return message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}..."


def _parse_retry_after(header: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header: a number, or a date (RFC 9110, 10.2.3); None where it
    is neither."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


@functools.cache
def _transport() -> Any:
    """The transport of the client's requests: one pool of connections for all threads, with time
    limits."""
    import httplib2  # type: ignore[import-untyped]
    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=_CONNECTIONS))

    class Transport:
        """A requests session as the client library calls it (the interface of httplib2)."""

        def request(
            self, uri: str, method: str = "GET", body: Any = None, headers: dict | None = None, **_: Any
        ) -> tuple:
            answer = session.request(method, uri, data=body, headers=headers, timeout=TIMEOUT_S)
            return httplib2.Response({**answer.headers, "status": str(answer.status_code)}), answer.content

    return Transport()
