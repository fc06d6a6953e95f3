"""Records without what repeats: what most rows say is said once, a row has only what it says otherwise.

``default`` is what a row says unless it says something else. In a row, null means that it has no such key. Mappings inside
a record are merged the same way, one level deep. Writer and reader of manifests share these functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

#: Values that are counted for each key at a time: every value that more than one row in nine has is found.
_COUNTERS = 8
#: Keys that are different in every row.
_UNIQUE = ("embedding_sha256", "input_sha256", "affine")


def clean(record: Mapping) -> dict:
    """A record without the keys that are null, on both levels: null is how rows say that they lack a key."""
    return {
        k: {s: w for s, w in v.items() if w is not None} if isinstance(v, Mapping) else v
        for k, v in record.items()
        if v is not None
    }


def differences(record: Mapping, default: Mapping) -> dict:
    """What a (clean) record says that the default does not, and null for what it lacks."""
    out = {}
    for key, value in record.items():
        usual = default.get(key)
        if value == usual:
            continue
        both = isinstance(value, Mapping) and isinstance(usual, Mapping)
        out[key] = _flat_differences(value, usual) if both else value
    return out | {k: None for k in default if k not in record}


def _flat_differences(value: Mapping, usual: Mapping) -> dict:
    out = {k: v for k, v in value.items() if k not in usual or usual[k] != v}
    return out | {k: None for k in usual if k not in value}


def merged(row: Mapping, default: Mapping) -> dict:
    """What a row says, with what it does not say from the default; null for what it lacks."""
    out = dict(default)
    for key, value in row.items():
        both = isinstance(value, Mapping) and isinstance(default.get(key), Mapping)
        out[key] = {**default[key], **value} if both else value
    return out


def whole(row: Mapping, default: Mapping) -> dict:
    """The record that :func:`differences` was made of."""
    return clean(merged(row, default))


class Counts:
    """Counts the values of every key over any number of records, in bounded memory (Misra and Gries 1982)."""

    def __init__(self) -> None:
        self.rows = 0
        self._present: dict[tuple, int] = {}
        self._counts: dict[tuple, dict[str, int]] = {}
        self._last: dict[tuple, tuple[Any, str]] = {}

    def see(self, record: Mapping) -> None:
        """Count one clean record."""
        self.rows += 1
        for key, value in record.items():
            if key in _UNIQUE:
                continue
            if isinstance(value, Mapping):
                self._present[key, None] = self._present.get((key, None), 0) + 1
                for inner, v in value.items():
                    self._count((key, inner), v)
            else:
                self._count((key,), value)

    def _count(self, path: tuple, value: Any) -> None:
        self._present[path] = self._present.get(path, 0) + 1
        last, text = self._last.get(path, (None, ""))
        if last != value or type(last) is not type(value):
            text = json.dumps(value)
            self._last[path] = (value, text)
        counts = self._counts.setdefault(path, {})
        if text in counts or len(counts) < _COUNTERS:
            counts[text] = counts.get(text, 0) + 1
            return
        for known in list(counts):
            counts[known] -= 1
            if not counts[known]:
                del counts[known]

    def default(self) -> dict:
        """What most rows say; empty for a single row."""
        out: dict[str, Any] = {}
        for path, counts in self._counts.items():
            text, often = max(counts.items(), key=lambda c: c[1], default=("null", 0))
            holders = self.rows if len(path) == 1 else self._present[path[0], None]
            if often < 2 or often * 4 < self.rows or often <= holders - self._present[path]:
                continue
            if len(path) == 1:
                if 2 * self._present.get((path[0], None), 0) <= self.rows:
                    out[path[0]] = json.loads(text)
            elif 2 * holders > self.rows:
                out.setdefault(path[0], {})[path[1]] = json.loads(text)
        return out


def refer(value: Any, at: Callable[[Any], int | None]) -> Any:
    """A record with every list ``scenes`` as ``scenes_at``: places in a table of scenes.

    Args:
        at: the place of a scene in the table; None when the table is full, and then the scenes stay where they are.
    """
    if isinstance(value, list):
        return [refer(v, at) for v in value]
    if not isinstance(value, Mapping):
        return value
    out = {}
    for key, inner in value.items():
        if key == "scenes" and isinstance(inner, list):
            places = [at(scene) for scene in inner]
            if None not in places:
                out["scenes_at"] = places
                continue
        out[key] = refer(inner, at)
    return out


def resolve(value: Any, scene: Callable[[int], Any]) -> Any:
    """The record that :func:`refer` was made of."""
    if isinstance(value, list):
        return [resolve(v, scene) for v in value]
    if not isinstance(value, Mapping):
        return value
    return {
        "scenes" if key == "scenes_at" else key: [scene(i) for i in inner]
        if key == "scenes_at"
        else resolve(inner, scene)
        for key, inner in value.items()
    }
