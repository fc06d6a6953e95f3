"""Rows that wait in a temporary file until it is known what repeats in them, so that memory does not grow with them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ...formats import record_defaults

#: Scenes that a table takes (about 100 bytes of memory each); later ones are written out where they are used.
MAX_SCENES = 1 << 16


class Spool:
    """JSON values, appended and then read again in order."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed in close()

    def add(self, value: Any) -> None:
        """Append a value."""
        self._file.write(json.dumps(value, separators=(",", ":")) + "\n")

    def __iter__(self) -> Iterator[Any]:
        self._file.seek(0)
        for line in self._file:
            yield json.loads(line)

    def close(self) -> None:
        """Give the temporary file back."""
        self._file.close()


class Rows:
    """Records (anything else stays as it is; None where a ROI has none), and what most of them say.

    Args:
        never: keys that are in no default, because a row without them means something else.
    """

    def __init__(self, never: Collection[str] = ()) -> None:
        self._spool, self._counts, self._never = Spool(), record_defaults.Counts(), never

    def add(self, record: Any, lacks: Iterable[str] = ()) -> None:
        """Append a record, without its keys that are null; ``lacks`` are keys that its row is to have as null all the same."""
        if isinstance(record, Mapping):
            record = record_defaults.clean(record)
            self._counts.see({k: v for k, v in record.items() if k not in self._never})
            record |= dict.fromkeys(lacks)
        self._spool.add(record)

    def default(self) -> dict:
        """What a record says unless it says something else."""
        return self._counts.default()

    def differing(self) -> Iterator[Any]:
        """What each record says beyond the default, in order."""
        default = self.default()
        for record in self._spool:
            if not isinstance(record, Mapping):
                yield record
            else:
                said = record_defaults.clean(record)
                yield record_defaults.differences(said, default) | {k: None for k in record if k not in said}

    def close(self) -> None:
        """Give the temporary file back."""
        self._spool.close()


class Scenes:
    """Images, each said once however many ROIs it covers."""

    def __init__(self) -> None:
        self.rows = Rows()
        self._at: dict[bytes, int] = {}

    def at(self, scene: Any) -> int | None:
        """The place of a scene in the table, which it is put into where it is new; None when the table is full."""
        key = hashlib.sha256(json.dumps(scene, sort_keys=True).encode()).digest()[:12]
        if key not in self._at:
            if len(self._at) == MAX_SCENES:
                return None
            self._at[key] = len(self._at)
            self.rows.add(scene)
        return self._at[key]
