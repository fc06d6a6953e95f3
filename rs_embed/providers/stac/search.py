"""Which items of a STAC catalogue a request needs: few searches of an API, or a walk through a static catalogue."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ...errors import ProviderError
from ...request.specs import TemporalSpec

#: Side of the squares in which ROIs share a search, degrees: about two Sentinel-2 tiles.
CELL = 2.0
#: Items a page. Earth Search's items are 30 kB each, and its gateway passes no answer above 6 MB.
PAGE = 100
#: Searches under way at a time.
SEARCHERS = 4
#: Seconds until a connection, and until an answer begins.
TIMEOUT = (10.0, 60.0)
#: Longest pause that a service may ask for (Retry-After), seconds.
LONGEST = 60.0
#: Statuses after which the same request can succeed.
PASSING = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Search:
    """What one search asks for.

    Attributes:
        box: west, south, east, north, degrees, on a lattice of tenths of a degree, so that a ROI that is added seldom makes another.
        window: start and end date, the end excluded, or None.
    """

    box: tuple[float, float, float, float]
    window: tuple[str, str] | None

    @property
    def datetime(self) -> str | None:
        """As the API has it: closed at both ends, so the end itself is left out afterwards."""
        return self.window and f"{self.window[0]}T00:00:00Z/{self.window[1]}T00:00:00Z"


def searches(windows: Sequence[TemporalSpec | None], boxes: Sequence[Sequence[float]]) -> list[Search]:
    """Few searches that find everything for many ROIs: those of one square of :data:`CELL` degrees share one for each group
    of windows that overlap or adjoin."""
    cells: dict[tuple[int, int], list[tuple]] = {}
    for window, box in zip(windows, boxes):
        west, south, east, north = map(float, box)
        cell = math.floor((west + east) / 2 / CELL), math.floor((south + north) / 2 / CELL)
        cells.setdefault(cell, []).append((window.start, window.end, box) if window else ("", "9999-12-31", box))
    found = []
    for members in cells.values():
        members.sort(key=lambda m: m[:2])
        groups: list[list] = []
        for start, end, box in members:
            if groups and start <= groups[-1][1]:
                groups[-1][1] = max(groups[-1][1], end)
                groups[-1][2].append(box)
            else:
                groups.append([start, end, [box]])
        for start, end, inside in groups:
            west, south = (math.floor(min(b[i] for b in inside) * 10) / 10 for i in (0, 1))
            east, north = (math.ceil(max(b[i] for b in inside) * 10) / 10 for i in (2, 3))
            box = max(west, -180.0), max(south, -90.0), min(east, 180.0), min(north, 90.0)
            found.append(Search(box, (start, end) if start else None))
    return found


def from_api(url: str, collection: str, wanted: Sequence[Search]) -> list[dict]:
    """Items that any of the searches finds, each once.

    Raises:
        ProviderError: the API cannot be searched, with whether that can pass.
    """
    from tqdm import tqdm

    client = _client(url)

    def one(search: Search) -> list[dict]:
        with _explained(url):
            asked = client.search(
                collections=[collection], bbox=search.box, datetime=search.datetime, limit=PAGE, max_items=None
            )
            items = list(asked.items_as_dicts())
            if not all(isinstance(item, Mapping) and isinstance(item.get("id"), str) for item in items):
                raise ValueError("it answers with items that have no id")
            return items

    found: dict[str, dict] = {}
    with ThreadPoolExecutor(SEARCHERS, thread_name_prefix="search") as pool:
        pages = tqdm(pool.map(one, wanted), "searches", len(wanted), delay=2, disable=None, leave=False)
        for items in pages:
            found.update((item["id"], item) for item in items)
    return list(found.values())


def _client(url: str) -> Any:
    from pystac_client import Client
    from pystac_client.stac_api_io import StacApiIO
    from urllib3 import Retry

    class Patient(Retry):
        def get_retry_after(self, response: Any) -> float | None:
            asked = super().get_retry_after(response)
            return asked and min(asked, LONGEST)

    # pauses of 0, 2, 4, 8 s and up to a second more, or what the service asks for
    again = Patient(
        total=4,
        backoff_factor=1,
        backoff_jitter=1,
        status_forcelist=PASSING,
        allowed_methods=None,
        raise_on_status=False,
    )
    with _explained(url):
        return Client.open(url, stac_io=StacApiIO(timeout=TIMEOUT, max_retries=again))


class _explained:
    """Errors of a search in our words."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, ProviderError) or not isinstance(error, Exception):
            return
        status = getattr(error, "status_code", None)
        said = " ".join(str(error).split())[:300]
        if status is not None and status not in PASSING:
            raise ProviderError(
                f"STAC API {self.url} refused the search (HTTP {status}): {said}; allowed: a backend whose URL is that of a "
                "STAC API, and collections that it has"
            ) from None
        passing = status is not None or _dropped(error)
        what = f"HTTP {status}" if status is not None else said
        raise ProviderError(
            f"STAC API {self.url} cannot be searched: {what}{'; try again later' if passing else ''}", retryable=passing
        ) from None


def _dropped(error: BaseException) -> bool:
    """A failed connection or a cut answer, rather than a wrong one. pystac-client tells both by their text alone."""
    from requests import RequestException

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (RequestException, json.JSONDecodeError, OSError)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def from_file(path: str, collection: str) -> list[dict]:
    """Items of a static catalogue (a catalog, collection, item or item collection; a path or URL), links absolute.

    Raises:
        ProviderError: it cannot be read, or is none.
    """
    import pystac

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about versions of the specification
            said = json.loads(pystac.StacIO.default().read_text(path))
            if said.get("type") == "FeatureCollection":
                return [_absolute(item, path) for item in said["features"]]
            root = pystac.read_dict(said, href=path)
            items = [root] if isinstance(root, pystac.Item) else _walk(root, collection)
            return [i.make_asset_hrefs_absolute().to_dict(include_self_link=False) for i in items]
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError),
        *(pystac.STACError, pystac.STACTypeError),
    ) as error:
        said = " ".join(str(error).split())[:300]
        raise ProviderError(
            f"STAC catalogue {path} cannot be read: {said}; allowed: a catalog.json, collection.json, or an item collection"
        ) from None


def _walk(root: Any, collection: str) -> Iterator[Any]:
    """Items below a catalogue, without opening those of other collections."""
    import pystac

    if isinstance(root, pystac.Collection) and root.id != collection:
        return
    yield from root.get_items()
    for child in root.get_children():
        yield from _walk(child, collection)


def _absolute(item: Mapping, path: str) -> dict:
    from pystac.utils import make_absolute_href

    base = next((k["href"] for k in item.get("links") or [] if k.get("rel") == "self"), None) or path
    assets = {
        name: dict(a) | {"href": make_absolute_href(a["href"], base)} for name, a in (item.get("assets") or {}).items()
    }
    return dict(item) | {"assets": assets}


def is_file(argument: str, base: str) -> str:
    """The static catalogue that ``stac:<argument>`` means: an absolute path, or a URL.

    Raises:
        ProviderError: there is none.
    """
    if argument.lower().startswith(("http://", "https://")):
        return argument
    path = os.path.realpath(os.path.join(base, os.path.expanduser(argument)))
    if not os.path.isfile(path):
        raise ProviderError(
            f"backend: 'stac:{argument}' is no service, URL or file (looked for {path}); allowed: 'stac' (Earth Search), "
            "'stac:planetary-computer', 'stac:<url of a STAC API>', 'stac:<catalog.json or item collection>'"
        )
    return path
