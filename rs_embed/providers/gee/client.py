"""One connection of this process to Earth Engine, with the official client: credentials, requests, and which failures can pass."""

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

#: Seconds to connect, and to wait for an answer: Earth Engine ends a computation after five minutes.
TIMEOUT_S = (30.0, 330.0)
#: Answers that can be others the next time (HTTP status).
PASSING = (429, 500, 502, 503, 504)
#: Deterministic whatever the status: asking again costs as much and fails again.
_FINAL = re.compile(r"memory limit|too many pixels|must be less than or equal to|computation timed out", re.IGNORECASE)
#: Longest part of the service's own words in an error, characters.
_WORDS = 300
#: Connections kept open at a time.
_CONNECTIONS = 64

_lock = threading.Lock()
_connected: tuple | None = None  # settings of the process's connection: the client has one state for the whole process


class TooMuch(ProviderError):
    """More than the service does in one request, which a smaller one may not be."""


class Client:
    """Asks Earth Engine, one request per call; may be used from several threads."""

    def __init__(self, settings: GeeSettings, quota: Quota | None = None) -> None:
        self.settings = settings
        self.quota = quota

    def pixels(self, image: Any, grid: Grid, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Bands of an image expression on a grid, (H, W) each in the image's own dtype.

        Raises:
            ProviderError: refused, failed, or an answer that is not whole.
        """
        import numpy as np

        a, b, c, d, e, f = grid.affine
        affine = {"scaleX": a, "shearX": b, "translateX": c, "shearY": d, "scaleY": e, "translateY": f}
        dimensions = {"width": grid.width, "height": grid.height}
        where = {"crsCode": grid.crs, "affineTransform": affine, "dimensions": dimensions}
        data = self._ask(lambda ee: ee.data.computePixels({"expression": image, "fileFormat": "NPY", "grid": where}))
        try:
            table = np.load(io.BytesIO(data), allow_pickle=False)
            bands = {name: table[name] for name in names}
            if table.shape != (grid.height, grid.width):
                raise ValueError(f"{table.shape} pixels")
        except (ValueError, EOFError, OSError, IndexError, KeyError, TypeError) as error:
            raise ProviderError(
                f"Earth Engine's answer of {len(data)} bytes is not the image that was asked for ({error})",
                retryable=True,
            ) from None
        return bands

    def value(self, expression: Any) -> Any:
        """The value of an expression, as JSON values."""
        return self._ask(lambda ee: ee.data.computeValue(expression))

    def ee(self) -> Any:
        """The client library, connected with these settings; once per process."""
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
                self._translated(lambda: self._connect(ee))
                _connected = wanted
        return ee

    def _connect(self, ee: Any) -> None:
        settings = self.settings
        if ee.data.is_initialized():
            ee.Reset()
        # the client would read a list of deprecated collections from another host, without a time limit, unless it has one
        ee.deprecation.deprecated_assets = {"": None}
        ee.data.setMaxRetries(0)  # what is asked again, and when, is decided in one place: retries.py
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
            why = getattr(error, "strerror", None) or "it is no key of a service account"
            raise ProviderError(
                f"gee.service_account: {name!r} cannot be used ({why}); allowed: the path of a service account's key file"
            ) from None
        try:
            return ee.data.get_persistent_credentials()
        except ee.EEException:
            raise ProviderError(_missing("no credentials were found")) from None

    def _ask(self, call: Callable[[Any], Any]) -> Any:
        ee = self.ee()
        if self.quota is not None:
            self.quota.pace()
        return self._translated(lambda: call(ee))

    def _translated(self, call: Callable[[], Any]) -> Any:
        """Call the client; its exceptions become ours, without what is private in them."""
        import ee
        from google.auth.exceptions import GoogleAuthError, TransportError
        from googleapiclient.errors import Error, HttpError, InvalidJsonError

        try:
            return call()
        except (OSError, TransportError, InvalidJsonError, json.JSONDecodeError) as error:
            # time-outs, dropped connections, answers that end too early
            raise ProviderError(
                f"Earth Engine cannot be reached, or did not answer in full ({type(error).__name__})", retryable=True
            ) from None
        except GoogleAuthError as error:
            raise ProviderError(_missing("the credentials were not accepted"), retryable=error.retryable) from None
        except (ee.EEException, Error) as error:
            http = error if isinstance(error, HttpError) else error.__context__
            if isinstance(http, HttpError):
                raise _refusal(http) from None
            if "no project found" in str(error):
                raise ProviderError(_missing("no project is set")) from None
            raise ProviderError(f"Earth Engine's client refuses the request: {_shortened(str(error))}") from None


def _missing(what: str) -> str:
    return (
        f"Earth Engine cannot be used, {what}; allowed: run `earthengine authenticate`, and then "
        "`earthengine set_project <project>` (or set EE_PROJECT=<project>, or gee.project)"
    )


def _refusal(http: Any) -> ProviderError:
    """The error of an answer that is no success."""
    words, status = _shortened(http.reason or ""), int(http.resp.status)
    can_pass = status in PASSING and not _FINAL.search(words)
    if not can_pass and status == 401:
        return ProviderError(_missing("the credentials were not accepted"))
    text = f"Earth Engine answers {status}: {words or 'no reason given'}"
    if _FINAL.search(words):
        return TooMuch(f"{text}; allowed: a shorter window, a larger scale_m, fewer bands or a smaller ROI")
    if not can_pass and status == 403:
        text += "; allowed: a project of yours that is registered for Earth Engine (gee.project, EE_PROJECT)"
    return ProviderError(
        text, retryable=can_pass, retry_after=_seconds(http.resp.get("retry-after")) if can_pass else None
    )


def _shortened(words: str) -> str:
    """The service's words on one line, not more than a few."""
    words = " ".join(words.split()).rstrip(".")
    return words if len(words) <= _WORDS else f"{words[:_WORDS]}..."


def _seconds(told: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header: a number, or a date (RFC 9110, 10.2.3); None where it is neither."""
    if told is None:
        return None
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


@functools.cache
def _transport() -> Any:
    """What carries the client's requests: one pool of connections for all threads, with time limits."""
    import httplib2
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
