"""Static STAC catalogues: documents that link to each other, on disk or behind HTTP.

A document is read by this module and not by pystac, which refuses a whole catalogue for one item
that does not follow the specification.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ...errors import ProviderError
from . import links
from .search import RETRYABLE_STATUSES, TIMEOUT_S, is_page, make_session

#: Documents read at a time.
_READERS = 8
#: Beginnings of rasters: TIFF, BigTIFF, JPEG 2000.
RASTER_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  ")
_ALLOWED = "allowed: a catalog.json, collection.json, or an item collection"


class _UnreadableError(Exception):
    """A document that does not exist or is no JSON object: another attempt gives the same."""


@dataclass
class StaticItems:
    """The items of a static catalogue.

    Attributes:
        features: items with absolute links. unreadable: link of an item -> why it is not one.
    """

    features: list[dict] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


def read_static_catalogue(path: str, collection: str) -> StaticItems:
    """Items of a static catalogue (a catalog, collection, item or item collection; a path or URL),
    links absolute. Collections with another id are not opened.

    Raises:
        ProviderError: it, or a catalogue below it, cannot be read or is not a STAC document; the
            error tells whether a retry can help.
    """
    found = StaticItems()
    reader = _Reader()
    try:
        document = reader.read(path)
        if document.get("type") == "FeatureCollection":
            members = document.get("features") or []
            found.features = [
                links.resolve_assets(m, path) if isinstance(m, Mapping) and _has_assets(m) else m for m in members
            ]
        elif document.get("type") == "Feature":
            found.features = [links.resolve_assets(document, path, beside=not links.is_url(path))]
        elif document.get("type") in ("Catalog", "Collection") or document.get("stac_version"):
            with ThreadPoolExecutor(_READERS, thread_name_prefix="stac") as pool:
                _walk(reader, pool, path, document, collection, found)
        else:
            raise _UnreadableError(f"its type is {document.get('type')!r}")
    except _UnreadableError as error:
        raise ProviderError(f"STAC catalogue {path} cannot be read: {error}; {_ALLOWED}") from None
    return found


def _has_assets(item: Mapping) -> bool:
    return isinstance(item.get("assets") or {}, Mapping) and isinstance(item.get("links") or [], list)


def _walk(
    reader: _Reader, pool: ThreadPoolExecutor, path: str, root: Mapping, collection: str, found: StaticItems
) -> None:
    todo, seen = [(path, root)], {path}
    while todo:
        path, document = todo.pop(0)
        if document.get("type") == "Collection" and document.get("id") != collection:
            continue
        read = partial(reader.try_read, linked_from=path)
        members = [href for href in _linked(document, path, "item") if href not in seen]
        seen.update(members)
        for href, answer in zip(members, pool.map(read, members)):
            if isinstance(answer, str):
                found.unreadable[href] = answer
            elif _has_assets(answer):
                found.features.append(links.resolve_assets(answer, href, beside=not links.is_url(href)))
            else:
                found.features.append(answer)
        for href in _linked(document, path, "child"):
            if href not in seen:
                seen.add(href)
                todo.append((href, reader.read(href, linked_from=path)))


def _linked(document: Mapping, path: str, rel: str) -> Iterator[str]:
    """Absolute links of a kind. Documents on disk are looked for beside each other, whatever their
    ``self`` links are."""
    base = path if not links.is_url(path) else links.self_link(document, path) or path
    for link in document.get("links") or []:
        if isinstance(link, Mapping) and link.get("rel") == rel and isinstance(link.get("href"), str):
            try:
                yield links.make_absolute(link["href"], base)
            except ValueError:
                yield link["href"]  # reading it says what is wrong


class _Reader:
    """Reads JSON documents; repeats a request that failed for a reason that can pass."""

    def __init__(self) -> None:
        self._session: Any = None

    def try_read(self, href: str, linked_from: str) -> dict | str:
        """A document, or why it cannot be read."""
        try:
            return self.read(href, linked_from)
        except _UnreadableError as error:
            return str(error)

    def read(self, href: str, linked_from: str | None = None) -> dict:
        """A document.

        Args:
            linked_from: URL or path of the document that links to it, or None.

        Raises:
            _UnreadableError: it does not exist, is no JSON object, or is a file of this machine
                that a remote document links to.
            ProviderError: a failure that can pass.
        """
        if linked_from and links.is_url(linked_from) and not links.is_url(href):
            raise _UnreadableError("a remote document links to a file of this machine; allowed: http, https")
        data = self._get(href) if links.is_url(href) else _read_file(href)
        if data.startswith(RASTER_MAGIC):
            raise _UnreadableError("it is a raster, not a STAC document")
        if is_page(data[:200].decode("utf-8", "replace")):
            raise _UnreadableError("it is a web page instead of JSON, perhaps one to log in")
        try:
            document = json.loads(data.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise _UnreadableError(f"it is not JSON ({str(error)[:100]})") from None
        if not isinstance(document, dict):
            raise _UnreadableError("it is not a JSON object")
        return document

    def _get(self, url: str) -> bytes:
        import requests

        if url.partition("://")[0].lower() not in ("http", "https"):
            raise _UnreadableError(f"its scheme {url.partition('://')[0]!r} is not read; allowed: http, https")
        if self._session is None:
            self._session = make_session()
        try:
            answer = self._session.get(url, timeout=TIMEOUT_S)
        except requests.RequestException as error:
            if isinstance(error, ValueError):
                raise _UnreadableError("its link is no URL") from None
            failure = type(error).__name__
        else:
            failure = f"HTTP {answer.status_code}" if answer.status_code in RETRYABLE_STATUSES else ""
        if failure:
            raise ProviderError(
                f"STAC document {links.shown(url)} cannot be read: {failure}; try again later", retryable=True
            )
        if answer.status_code != 200:
            raise _UnreadableError(f"HTTP {answer.status_code}")
        content: bytes = answer.content
        return content


def _read_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise _UnreadableError(getattr(error, "strerror", None) or str(error)) from None


def folder_of(path: str | None) -> str | None:
    """The folder of a catalogue on disk; None for one behind HTTP."""
    return os.path.dirname(path) if path and not links.is_url(path) else None
