"""Rows in a temporary file until it is known which values repeat, so that memory does not grow
with their number."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ...formats import record_defaults

#: Most scenes of a table (about 100 bytes of memory each); later ones are written where they are
#: used.
MAX_SCENES = 1 << 16


class Spool:
    """JSON values that are appended to a temporary file, and then read in order."""

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
        """Delete the temporary file."""
        self._file.close()


class Rows:
    """Records (other values are kept as they are; None for a ROI without a record), and the
    default of their values.

    Args:
        never: keys that are in no default, because a row without them has another meaning.
    """

    def __init__(self, never: Collection[str] = ()) -> None:
        self._spool, self._counts, self._never = Spool(), record_defaults.ValueCounter(), never

    def add(self, record: Any, nulls: Iterable[str] = ()) -> None:
        """Append a record, without its null keys; the row has null for the keys in ``nulls``."""
        if isinstance(record, Mapping):
            record = record_defaults.drop_nulls(record)
            self._counts.add({k: v for k, v in record.items() if k not in self._never})
            record |= dict.fromkeys(nulls)
        self._spool.add(record)

    def default(self) -> dict:
        """The values of a record that its row does not have."""
        return self._counts.default()

    def differing(self) -> Iterator[Any]:
        """The differences of each record from the default, in order."""
        default = self.default()
        for record in self._spool:
            if not isinstance(record, Mapping):
                yield record
            else:
                values = record_defaults.drop_nulls(record)
                yield record_defaults.diff_from_default(values, default) | {k: None for k in record if k not in values}

    def close(self) -> None:
        """Delete the temporary file."""
        self._spool.close()


class Scenes:
    """A table of scenes, each once however many ROIs it covers."""

    def __init__(self) -> None:
        self.rows = Rows()
        self._indices: dict[bytes, int] = {}

    def index_of(self, scene: Any) -> int | None:
        """The index of a scene in the table; a new one is appended. None when the table is
        full."""
        key = hashlib.sha256(json.dumps(scene, sort_keys=True).encode()).digest()[:12]
        if key not in self._indices:
            if len(self._indices) == MAX_SCENES:
                return None
            self._indices[key] = len(self._indices)
            self.rows.add(scene)
        return self._indices[key]
