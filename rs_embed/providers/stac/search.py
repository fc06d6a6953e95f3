"""The items of a STAC catalogue that a request needs: few searches of an API, or a walk through a
static catalogue."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ...errors import ProviderError
from ...request.specs import TemporalSpec

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
        box = max(west, -180.0), max(south, -90.0), min(east, 180.0), min(north, 90.0)
        yield Search(box, (start, end) if start else None)


def search_api(url: str, collection: str, wanted: Sequence[Search]) -> list[dict]:
    """The items that the searches find, without duplicates.

    Raises:
        ProviderError: the API cannot be searched; the error tells whether a retry can help.
    """
    from tqdm import tqdm

    client = _open_client(url)

    def run_search(search: Search) -> list[dict]:
        with _translate_errors(url):
            result = client.search(
                collections=[collection], bbox=search.box, datetime=search.datetime, limit=PAGE_SIZE, max_items=None
            )
            items = list(result.items_as_dicts())
            if not all(isinstance(item, Mapping) and isinstance(item.get("id"), str) for item in items):
                raise ValueError("it answers with items that have no id")
            return items

    found: dict[str, dict] = {}
    with ThreadPoolExecutor(SEARCHERS, thread_name_prefix="search") as pool:
        pages = tqdm(pool.map(run_search, wanted), "searches", len(wanted), delay=2, disable=None, leave=False)
        for items in pages:
            found.update((item["id"], item) for item in items)
    return list(found.values())


def _open_client(url: str) -> Any:
    from pystac_client import Client
    from pystac_client.stac_api_io import StacApiIO
    from urllib3 import Retry

    class CappedRetry(Retry):
        def get_retry_after(self, response: Any) -> float | None:
            pause = super().get_retry_after(response)
            return pause and min(pause, MAX_RETRY_AFTER_S)

    # pauses of 0, 2, 4, 8 s and up to a second more, or what the service requests
    retry = CappedRetry(
        total=4,
        backoff_factor=1,
        backoff_jitter=1,
        status_forcelist=RETRYABLE_STATUSES,
        allowed_methods=None,
        raise_on_status=False,
    )
    with _translate_errors(url):
        return Client.open(url, stac_io=StacApiIO(timeout=TIMEOUT_S, max_retries=retry))


@contextmanager
def _translate_errors(url: str) -> Iterator[None]:
    """Raise errors of the client as a :class:`ProviderError`."""
    try:
        yield
    except ProviderError:
        raise
    except Exception as error:
        status = getattr(error, "status_code", None)
        message = " ".join(str(error).split())[:300]
        if status is not None and status not in RETRYABLE_STATUSES:
            raise ProviderError(
                f"STAC API {url} refused the search (HTTP {status}): {message}; allowed: a backend whose URL is that of a "
                "STAC API, and collections that it has"
            ) from None
        retryable = status is not None or _is_connection_error(error)
        reason = f"HTTP {status}" if status is not None else message
        raise ProviderError(
            f"STAC API {url} cannot be searched: {reason}{'; try again later' if retryable else ''}",
            retryable=retryable,
        ) from None


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


def read_static_catalogue(path: str, collection: str) -> list[dict]:
    """Items of a static catalogue (a catalog, collection, item or item collection; a path or URL),
    links absolute.

    Raises:
        ProviderError: it cannot be read, or is not a STAC catalogue.
    """
    import pystac

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about versions of the specification
            document = json.loads(pystac.StacIO.default().read_text(path))
            if document.get("type") == "FeatureCollection":
                return [_make_links_absolute(item, path) for item in document["features"]]
            root = pystac.read_dict(document, href=path)
            items = [root] if isinstance(root, pystac.Item) else list(_walk(root, collection))
            for item in items:
                item.make_asset_hrefs_absolute()
            return [item.to_dict(include_self_link=False) for item in items]
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError),
        *(pystac.STACError, pystac.STACTypeError),
    ) as error:
        message = " ".join(str(error).split())[:300]
        raise ProviderError(
            f"STAC catalogue {path} cannot be read: {message}; allowed: a catalog.json, collection.json, or an item collection"
        ) from None


def _walk(root: Any, collection: str) -> Iterator[Any]:
    """Items below a catalogue, without opening those of other collections."""
    import pystac

    if isinstance(root, pystac.Collection) and root.id != collection:
        return
    yield from root.get_items()
    for child in root.get_children():
        yield from _walk(child, collection)


def _make_links_absolute(item: Mapping, path: str) -> dict:
    from pystac.utils import make_absolute_href

    base = next((k["href"] for k in item.get("links") or [] if k.get("rel") == "self"), None) or path
    assets = {
        name: dict(a) | {"href": make_absolute_href(a["href"], base)} for name, a in (item.get("assets") or {}).items()
    }
    return dict(item) | {"assets": assets}


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
