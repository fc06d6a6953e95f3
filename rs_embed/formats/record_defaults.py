"""Records without the values that most of them share.

The default has the most common value of each key; a row stores only the differences of a record
from it. null in a row means that the record lacks the key. Mappings inside a record are compared
the same way, one level deep. The writer and the reader of manifests share these functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

#: Values counted at a time for each key; finds every value of more than one record in nine.
_COUNTERS = 8
#: Keys that differ in every record.
_UNIQUE_KEYS = ("embedding_sha256", "input_sha256", "affine")


def drop_nulls(record: Mapping) -> dict:
    """A record without the keys that are null, on both levels; in a row, null means a missing
    key."""
    return {
        k: {s: w for s, w in v.items() if w is not None} if isinstance(v, Mapping) else v
        for k, v in record.items()
        if v is not None
    }


def diff_from_default(record: Mapping, default: Mapping) -> dict:
    """The row of a record (without nulls): values that differ from the default, and null for
    missing keys."""
    out = {}
    for key, value in record.items():
        usual = default.get(key)
        if value == usual:
            continue
        if isinstance(value, Mapping) and isinstance(usual, Mapping):
            out[key] = _diff_mapping(value, usual)
        else:
            out[key] = value
    return out | {k: None for k in default if k not in record}


def _diff_mapping(value: Mapping, usual: Mapping) -> dict:
    out = {k: v for k, v in value.items() if k not in usual or usual[k] != v}
    return out | {k: None for k in usual if k not in value}


def apply_default(row: Mapping, default: Mapping) -> dict:
    """The values of a row, completed from the default; null for missing keys."""
    out = dict(default)
    for key, value in row.items():
        both = isinstance(value, Mapping) and isinstance(default.get(key), Mapping)
        out[key] = {**default[key], **value} if both else value
    return out


def restore_record(row: Mapping, default: Mapping) -> dict:
    """The record of a row; the inverse of :func:`diff_from_default`."""
    return drop_nulls(apply_default(row, default))


class ValueCounter:
    """Counts the values of every key in any number of records, in bounded memory (Misra and Gries
    1982)."""

    def __init__(self) -> None:
        self.records = 0
        self._present: dict[tuple, int] = {}
        self._counts: dict[tuple, dict[str, int]] = {}
        self._last: dict[tuple, tuple[Any, str]] = {}

    def add(self, record: Mapping) -> None:
        """Count a record without nulls."""
        self.records += 1
        for key, value in record.items():
            if key in _UNIQUE_KEYS:
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
        """The values that most records share; empty for a single record."""
        out: dict[str, Any] = {}
        for path, counts in self._counts.items():
            text, count = max(counts.items(), key=lambda c: c[1], default=("null", 0))
            parents = self.records if len(path) == 1 else self._present[path[0], None]
            if count < 2 or count * 4 < self.records or count <= parents - self._present[path]:
                continue
            if len(path) == 1:
                if 2 * self._present.get((path[0], None), 0) <= self.records:
                    out[path[0]] = json.loads(text)
            elif 2 * parents > self.records:
                out.setdefault(path[0], {})[path[1]] = json.loads(text)
        return out


def index_scenes(value: Any, find_index: Callable[[Any], int | None]) -> Any:
    """A record with every list ``scenes`` replaced by ``scenes_at``: indices into a table of
    scenes.

    Args:
        find_index: returns the index of a scene; None if the table is full, and then the list
            stays.
    """
    if isinstance(value, list):
        return [index_scenes(v, find_index) for v in value]
    if not isinstance(value, Mapping):
        return value
    out = {}
    for key, inner in value.items():
        if key == "scenes" and isinstance(inner, list):
            indices = [find_index(scene) for scene in inner]
            if None not in indices:
                out["scenes_at"] = indices
                continue
        out[key] = index_scenes(inner, find_index)
    return out


def restore_scenes(value: Any, read_scene: Callable[[int], Any]) -> Any:
    """The inverse of :func:`index_scenes`."""
    if isinstance(value, list):
        return [restore_scenes(v, read_scene) for v in value]
    if not isinstance(value, Mapping):
        return value
    out = {}
    for key, inner in value.items():
        if key == "scenes_at":
            out["scenes"] = [read_scene(i) for i in inner]
        else:
            out[key] = restore_scenes(inner, read_scene)
    return out
