"""The config section ``stac``: names of the collections and assets in a STAC API, the scaling of
their values, and how the API is searched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import ModelError
from .fields import refuse_unknown

_KEYS = ("collection", "assets", "scale", "offset", "side_files")
#: Word of ``scale``: as each item says.
_FROM_ITEM = "item"
_METHODS = ("GET", "POST")
_TEXT = {"type": "string", "minLength": 1}


def read_stac_settings(given: Any) -> dict[str, Any]:
    """The validated section; ``{}`` if it is empty.

    Raises:
        ModelError: an invalid value; the message has key, value and what is allowed.
    """
    if given is None:
        return {}
    _check_mapping(given, "stac", ("collections", "search_method"))
    out: dict[str, Any] = {}
    method = given.get("search_method")
    if method is not None:
        if not isinstance(method, str) or method.upper() not in _METHODS:
            raise ModelError(
                f"stac.search_method: {method!r} is not valid; allowed: GET, POST, or null (POST, else GET)"
            )
        out["search_method"] = method.upper()
    collections = given.get("collections")
    if collections is not None:
        _check_mapping(collections, "stac.collections", None)
        entries = {str(name): _read_entry(entry, f"stac.collections.{name}") for name, entry in collections.items()}
        out |= {"collections": entries} if entries else {}
    return out


def _read_entry(entry: Any, where: str) -> dict[str, Any]:
    _check_mapping(entry, where, _KEYS)
    out: dict[str, Any] = {}
    if entry.get("collection") is not None:
        out["collection"] = _check_text(entry["collection"], f"{where}.collection", "the collection's id in the API")
    if entry.get("assets") is not None:
        _check_mapping(entry["assets"], f"{where}.assets", None)
        what = "an asset, or asset#2 for the second band of its file"
        out["assets"] = {str(b): _check_text(a, f"{where}.assets.{b}", what) for b, a in entry["assets"].items()}
    from_item = isinstance(entry.get("scale"), str) and entry["scale"].strip().lower() == _FROM_ITEM
    if from_item:
        if entry.get("offset") is not None:
            raise ModelError(f"{where}.offset: {entry['offset']!r} is not valid beside scale: item; allowed: null")
        out["scale"] = _FROM_ITEM
    if entry.get("side_files") is not None:
        if not isinstance(entry["side_files"], bool):
            raise ModelError(f"{where}.side_files: {entry['side_files']!r} is not valid; allowed: true or false")
        out["side_files"] = entry["side_files"]
    for key in ("scale", "offset"):
        if entry.get(key) is not None and not from_item:
            out[key] = _check_number(entry[key], f"{where}.{key}", zero=key == "offset")
    if not out:
        raise ModelError(f"{where}: {entry!r} is empty; allowed: a mapping with the keys {', '.join(_KEYS)}")
    return out


def _check_mapping(given: Any, where: str, keys: tuple[str, ...] | None) -> None:
    if not isinstance(given, Mapping):
        allowed = f"a mapping with the keys {', '.join(keys)}" if keys else "a mapping"
        raise ModelError(f"{where}: {given!r} is not valid; allowed: {allowed}")
    if keys:
        refuse_unknown(given, keys, where, ModelError)


def _check_text(given: Any, where: str, allowed: str) -> str:
    if not isinstance(given, str) or not given.strip():
        raise ModelError(f"{where}: {given!r} is not valid; allowed: {allowed}")
    return given.strip()


def _check_number(given: Any, where: str, *, zero: bool) -> float:
    is_number = isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given)
    if not is_number or not (zero or given):
        allowed = "" if zero else " other than 0, or 'item'"
        raise ModelError(f"{where}: {given!r} is not valid; allowed: a number{allowed}")
    return float(given)


def stac_schema() -> dict[str, Any]:
    """JSON schema (2020-12) of the section."""
    entry = {
        "type": "object",
        "additionalProperties": False,
        "minProperties": 1,
        "properties": {
            "collection": {"description": "id of the collection in the API", **_TEXT},
            "assets": {
                "description": "asset of each band; name#2 is the second band of its file",
                "type": "object",
                "additionalProperties": _TEXT,
            },
            "scale": {
                "description": "value = number * scale + offset; item: as each item says",
                "anyOf": [{"type": "number", "not": {"const": 0}}, {"const": _FROM_ITEM}],
            },
            "offset": {"description": "value = number * scale + offset", "type": "number"},
            "side_files": {
                "description": "look for masks and nodata values in files beside the rasters",
                "type": "boolean",
            },
        },
    }
    return {
        "description": "names of the collections in a STAC API (backend stac:...)",
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {
            "collections": {"type": ["object", "null"], "additionalProperties": entry},
            "search_method": {"description": "of searches; null: POST, else GET", "enum": ["GET", "POST", None]},
        },
    }
