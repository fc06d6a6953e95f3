"""``stac`` in the config: what our collections are called in a STAC API, and in which numbers it holds them. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import ModelError
from .fields import refuse_unknown

_KEYS = ("collection", "assets", "scale", "offset")
_TEXT = {"type": "string", "minLength": 1}


def read(given: Any) -> dict:
    """The validated section, ``{}`` for none.

    Raises:
        ModelError: one sentence with key, value and what is allowed.
    """
    if given is None:
        return {}
    _mapping(given, "stac", ("collections",))
    collections = given.get("collections")
    if collections is None:
        return {}
    _mapping(collections, "stac.collections", None)
    found = {str(ours): _entry(said, f"stac.collections.{ours}") for ours, said in collections.items()}
    return {"collections": found} if found else {}


def _entry(said: Any, where: str) -> dict:
    _mapping(said, where, _KEYS)
    out: dict[str, Any] = {}
    if said.get("collection") is not None:
        out["collection"] = _text(said["collection"], f"{where}.collection", "the collection's id in the API")
    if said.get("assets") is not None:
        _mapping(said["assets"], f"{where}.assets", None)
        what = "an asset, or asset#2 for the second band of its file"
        out["assets"] = {str(b): _text(a, f"{where}.assets.{b}", what) for b, a in said["assets"].items()}
    for key in ("scale", "offset"):
        if said.get(key) is not None:
            out[key] = _number(said[key], f"{where}.{key}", zero=key == "offset")
    if not out:
        raise ModelError(f"{where}: {said!r} says nothing; allowed: a mapping with the keys {', '.join(_KEYS)}")
    return out


def _mapping(given: Any, where: str, keys: tuple[str, ...] | None) -> None:
    if not isinstance(given, Mapping):
        allowed = f"a mapping with the keys {', '.join(keys)}" if keys else "a mapping"
        raise ModelError(f"{where}: {given!r} is not valid; allowed: {allowed}")
    if keys:
        refuse_unknown(given, keys, where, ModelError)


def _text(given: Any, where: str, allowed: str) -> str:
    if not isinstance(given, str) or not given.strip():
        raise ModelError(f"{where}: {given!r} is not valid; allowed: {allowed}")
    return given.strip()


def _number(given: Any, where: str, *, zero: bool) -> float:
    if (
        isinstance(given, bool)
        or not isinstance(given, (int, float))
        or not math.isfinite(given)
        or not (zero or given)
    ):
        raise ModelError(f"{where}: {given!r} is not valid; allowed: a number{'' if zero else ' other than 0'}")
    return float(given)


def schema() -> dict:
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
            "scale": {"description": "value = number * scale + offset", "type": "number", "not": {"const": 0}},
            "offset": {"description": "value = number * scale + offset", "type": "number"},
        },
    }
    return {
        "description": "what collections are called in a STAC API (backend stac:...)",
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {"collections": {"type": ["object", "null"], "additionalProperties": entry}},
    }
