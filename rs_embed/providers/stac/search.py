"""The items of a STAC API that a request needs, found with few searches."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ...errors import ProviderError
from ...request.specs import TemporalSpec
from . import links

#: Side of the squares in which ROIs share a search, degrees: about two Sentinel-2 tiles.
CELL = 2.0
#: Items per page. Earth Search's items are 30 kB each, and its gateway refuses answers above 6 MB.
PAGE_SIZE = 100
#: Searches at a time.
SEARCHERS = 4
#: Limits for a connection, and for the start of an answer, seconds.
TIMEOUT_S = (10.0, 60.0)
#: Longest pause that a service may request (Retry-After), seconds.
MAX_RETRY_AFTER_S = 60.0
#: HTTP statuses after which the same request can succeed.
RETRYABLE_STATUSES = (408, 429, 500, 502, 503, 504)
#: HTTP statuses of a service that has no searches by POST.
NO_POST_STATUSES = (404, 405, 501)
#: Searches this near to the antimeridian also look on its other side, degrees: services find an
#: item whose longitudes jump or exceed 180 on one side only.
SEAM = 3.0


@dataclass(frozen=True)
class Search:
    """One search of an API.

    Attributes:
        box: west, south, east, north, degrees, on a lattice of tenths of a degree, so that an
            additional ROI seldom changes it.
        window: start and end date, the end excluded, or None.
    """

    box: tuple[float, float, float, float]
    window: tuple[str, str] | None

    @property
    def datetime(self) -> str | None:
        """The API's form: closed at both ends, so items of the end date are excluded
        afterwards."""
        return self.window and f"{self.window[0]}T00:00:00Z/{self.window[1]}T00:00:00Z"


def plan_searches(windows: Sequence[TemporalSpec | None], boxes: Iterable[Iterable[float]]) -> list[Search]:
    """Few searches that find all items of many ROIs: the ROIs of one square of :data:`CELL`
    degrees share one search for each group of windows that overlap or adjoin."""
    cells: dict[tuple[int, int], list[tuple]] = {}
    for window, box in zip(windows, boxes):
        west, south, east, north = map(float, box)
        east += 360 if west > east else 0  # across the antimeridian
        if (west + east) / 2 >= 180:
            west, east = west - 360, east - 360
        cell = math.floor((west + east) / 2 / CELL), math.floor((south + north) / 2 / CELL)
        start, end = (window.start, window.end) if window else ("", "9999-12-31")
        cells.setdefault(cell, []).append((start, end, (west, south, east, north)))
    return [search for members in cells.values() for search in _searches_of_cell(members)]


def _searches_of_cell(members: list[tuple]) -> Iterator[Search]:
    """A search for each group of (start, end, box) whose windows overlap or adjoin."""
    members.sort(key=lambda m: m[:2])
    groups: list[list] = []
    for start, end, box in members:
        if groups and start <= groups[-1][1]:
            groups[-1][1] = max(groups[-1][1], end)
            groups[-1][2].append(box)
        else:
            groups.append([start, end, [box]])
    for start, end, boxes in groups:
        west, south = (math.floor(min(b[i] for b in boxes) * 10) / 10 for i in (0, 1))
        east, north = (math.ceil(max(b[i] for b in boxes) * 10) / 10 for i in (2, 3))
        south, north = max(south, -90.0), min(north, 90.0)
        for span in _spans_near_seam(west, east):
            yield Search((span[0], south, span[1], north), (start, end) if start else None)


def _spans_near_seam(west: float, east: float) -> list[tuple[float, float]]:
    """Longitudes of searches for west .. east, which may reach beyond -180 or 180."""
    if east - west >= 360 - SEAM:
        return [(-180.0, 180.0)]
    if west < -180 or east > 180:
        first, last = (west + 360, east) if west < -180 else (west, east - 360)
        return [(min(round(first, 1), 180 - SEAM), 180.0), (-180.0, max(round(last, 1), -180 + SEAM))]
    spans = [(west, east)]
    if west <= -180 + SEAM:
        spans.append((180 - SEAM, 180.0))
    if east >= 180 - SEAM:
        spans.append((-180.0, -180 + SEAM))
    return spans


def search_api(url: str, collection: str, wanted: Sequence[Search], method: str | None = None) -> list[dict]:
    """The items that the searches find, without duplicates, with links made absolute by their own
    ``self`` links.

    Args:
        method: GET or POST; None for POST, and GET where the service has no POST.

    Raises:
        ProviderError: the API cannot be searched; the error tells whether a retry can help.
    """
    from tqdm import tqdm

    run = _SearchRunner(url, collection, method)
    found: dict[str, dict] = {}
    with ThreadPoolExecutor(SEARCHERS, thread_name_prefix="search") as pool:
        pages = tqdm(pool.map(run, wanted), "searches", len(wanted), delay=2, disable=None, leave=False)
        for items in pages:
            found.update((item["id"], item) for item in items)
    return [links.resolve_assets(item, None, service=url) if _has_assets(item) else item for item in found.values()]


def _has_assets(item: Mapping) -> bool:
    return isinstance(item.get("assets") or {}, Mapping) and isinstance(item.get("links") or [], list)


class _SearchRunner:
    """Runs searches, with the method that the service has.

    pystac-client's own check of what a service conforms to is not used: many services do not say
    it, and the answer to a search tells.
    """

    def __init__(self, url: str, collection: str, method: str | None) -> None:
        self._url, self._collection, self._fixed = url, collection, method is not None
        self._io = _make_io()
        with _translate_errors(url):
            landing = json.loads(self._io.read_text(url))
            if not isinstance(landing, Mapping) or not isinstance(landing.get("links"), list):
                raise ValueError("it is not the landing page of a STAC API")
        found = [k for k in landing["links"] if isinstance(k, Mapping) and k.get("rel") == "search" and k.get("href")]
        methods = [str(k["method"]).upper() for k in found if k.get("method")]
        self._method = method or ("GET" if methods and "POST" not in methods else "POST")
        href = next((k["href"] for k in found if str(k.get("method", "")).upper() == self._method), None)
        href = href or next((k["href"] for k in found), "search")
        self._search_url = links.make_absolute(str(href), url.rstrip("/") + "/")
        if not links.is_url(self._search_url):  # pystac-client would open it as a file
            raise ProviderError(
                f"STAC API {url} cannot be searched: its search link {str(href)[:100]!r} is no URL; allowed: http, https"
            )

    def __call__(self, search: Search) -> list[dict]:
        """The items of a search."""
        with _translate_errors(self._url):
            method = self._method
            try:
                return self._run(search, method)
            except Exception as error:
                if self._fixed or method == "GET" or _status_of(error) not in NO_POST_STATUSES:
                    raise
            items = self._run(search, "GET")
            self._method = "GET"
            return items

    def _run(self, search: Search, method: str) -> list[dict]:
        from pystac_client import ItemSearch

        result = ItemSearch(
            self._search_url,
            method=method,
            stac_io=self._io,
            collections=[self._collection],
            bbox=search.box,
            datetime=search.datetime,
            limit=PAGE_SIZE,
            max_items=None,
        )
        items = list(result.items_as_dicts())
        if not all(isinstance(item, Mapping) and isinstance(item.get("id"), str) for item in items):
            raise ValueError("it answers with items that have no id")
        return items


def is_page(text: str) -> bool:
    """Whether an answer is HTML or XML, not JSON."""
    return text.lstrip("\ufeff \t\r\n").startswith("<")


class _PageError(ValueError):
    """An answer that is a web page."""


def make_retry(attempts: int = 4, pause_s: float = 1.0) -> Any:
    """urllib3's repetition of requests that failed for a reason that can pass: after pauses of 0,
    2, 4, 8 times ``pause_s`` and up to ``pause_s`` more, or when the service says."""
    from urllib3 import Retry

    class CappedRetry(Retry):
        def get_retry_after(self, response: Any) -> float | None:
            pause = super().get_retry_after(response)
            return pause and min(pause, MAX_RETRY_AFTER_S)

    return CappedRetry(
        total=attempts,
        backoff_factor=pause_s,
        backoff_jitter=pause_s,
        status_forcelist=RETRYABLE_STATUSES,
        allowed_methods=None,
        raise_on_status=False,
    )


def make_session(attempts: int = 4, pause_s: float = 1.0) -> Any:
    """A session of requests with :func:`make_retry`."""
    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=make_retry(attempts, pause_s), pool_maxsize=32))
    return session


def _make_io() -> Any:
    from pystac_client.stac_api_io import StacApiIO

    class JsonIO(StacApiIO):
        def request(self, *args: Any, **kwargs: Any) -> str:
            text: str = super().request(*args, **kwargs)
            if is_page(text):
                raise _PageError("it answers with a web page instead of JSON, perhaps one to log in")
            return text

    return JsonIO(timeout=TIMEOUT_S, max_retries=make_retry())


@contextmanager
def _translate_errors(url: str) -> Iterator[None]:
    """Raise errors of the client as a :class:`ProviderError`."""
    try:
        yield
    except ProviderError:
        raise
    except Exception as error:
        status = _status_of(error)
        message = " ".join(str(error).split())[:300]
        if status is not None and status not in RETRYABLE_STATUSES:
            raise ProviderError(
                f"STAC API {url} refused the search (HTTP {status}): {message}; allowed: a backend whose URL is that of a "
                "STAC API, and collections that it has"
            ) from None
        retryable = not isinstance(error, _PageError) and (status is not None or _is_connection_error(error))
        reason = f"HTTP {status}" if status is not None else message
        raise ProviderError(
            f"STAC API {url} cannot be searched: {reason}{'; try again later' if retryable else ''}",
            retryable=retryable,
        ) from None


def _status_of(error: BaseException) -> int | None:
    status: int | None = getattr(error, "status_code", None)
    return status


def _is_connection_error(error: BaseException) -> bool:
    """A failed connection or an incomplete answer, rather than a wrong one; pystac-client has one
    class for both."""
    from requests import RequestException

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (RequestException, json.JSONDecodeError, OSError)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def resolve_catalogue_path(argument: str, base: str) -> str:
    """The static catalogue of ``stac:<argument>``: an absolute path, or a URL.

    Raises:
        ProviderError: the file does not exist.
    """
    if argument.lower().startswith(("http://", "https://")):
        return argument
    path = os.path.realpath(os.path.join(base, os.path.expanduser(argument)))
    if not os.path.isfile(path):
        raise ProviderError(
            f"backend: 'stac:{argument}' is not a service, URL or file (looked for {path}); allowed: 'stac' (Earth Search), "
            "'stac:planetary-computer', 'stac:<url of a STAC API>', 'stac:<catalog.json or item collection>'"
        )
    return path
