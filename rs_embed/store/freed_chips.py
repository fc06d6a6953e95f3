"""Records of freed chips.

They contain what is needed to restore the chips, byte for byte, from the export that has their
pixels.

``<store>/kept/<source>/<bands>/<run>.jsonl`` contains the chips of one source and band set that
one run has saved, one per line, sorted by object name, so that a job finds its chips by bisection.
The first line is the head. Each line carries its own digest. All paths are relative to the store.

A line has ``object``; ``file`` (in the head's ``folder``) with its size and time when it was
recorded (``of``); ``arrays``: key, bands, and in an array of all ROIs row and mark
(``formats.arrays.Array.row``); ``dtype``, ``meta`` and ``digest`` of the object. The digest
decides: a record whose export has changed is not used.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import StoreError
from ..request.identity import digest
from .atomic_files import report_write_errors, sync_folder, temporary_path
from .receipts import append_digest
from .store import Store

SCHEMA = 1
#: Layout of the beginning of a line, to compare fields without parsing it.
_NAME_START, _NAME_LENGTH, _NAME_TO_FILE = len('{"object":"'), 32, len('","file":')


def records_path(store: Store, source_id: str, bands: tuple[str, ...], folder: Path) -> Path:
    """File of the records of a run (given by its folder) for one source and band set."""
    return store.root / "kept" / source_id / digest(sorted(bands), 12) / f"{_run_tag(store, folder)}.jsonl"


def list_source_records(store: Store, source_id: str) -> list[Path]:
    """Files of the records of one source, of all runs."""
    return sorted((store.root / "kept" / source_id).glob("*/[0-9a-f]*.jsonl"))


def list_run_records(store: Store, folder: Path) -> list[Path]:
    """Files of the records of one run."""
    return sorted((store.root / "kept").glob(f"*/*/{_run_tag(store, folder)}.jsonl"))


def list_all_records(store: Store) -> list[Path]:
    """Files of all records."""
    return sorted((store.root / "kept").glob("*/*/[0-9a-f]*.jsonl"))


def _run_tag(store: Store, folder: Path) -> str:
    return digest(os.path.relpath(os.path.realpath(folder), os.path.realpath(store.root)), 16)


class FreedChipRecords:
    """One file of records, as a context manager.

    Attributes:
        source: id of the source. bands: band set of the chips.
        run: name of the run folder. generation: of the run's chips (``refetch``).
        folder: folder of the exported files.
        count: number of records.

    Raises:
        FileNotFoundError: the file does not exist. StoreError: it cannot be read.
    """

    def __init__(self, path: Path, store: Store) -> None:
        self.path = path
        with open(path, "rb") as file:
            try:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:
                raise StoreError(f"records {path} are empty") from None
        self._first = self._map.find(b"\n") + 1
        head = parse_line(self._map[: max(self._first - 1, 0)])
        if head is None or head.get("schema") != SCHEMA:
            self._map.close()
            raise StoreError(f"records {path} are damaged")
        self.source, self.bands, self.count = head["source"], tuple(head["bands"]), head["count"]
        self.run, self.generation = head["run"], head["generation"]
        self.folder = Path(os.path.normpath(os.path.join(os.path.realpath(store.root), head["folder"])))

    def __enter__(self) -> FreedChipRecords:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._map.close()

    def find(self, name: str) -> dict[str, Any] | None:
        """The record of an object; None if it does not exist or is damaged."""
        wanted, low, high = name.encode(), self._first, len(self._map)
        while low < high:
            start = max(self._map.rfind(b"\n", low, (low + high) // 2) + 1, low)
            end = self._map.find(b"\n", start)
            end = end if end >= 0 else len(self._map)
            found = self._map[start + _NAME_START : start + _NAME_START + _NAME_LENGTH]
            if found == wanted:
                return parse_line(self._map[start:end])
            low, high = (end + 1, high) if found < wanted else (low, start)
        return None

    def __iter__(self) -> Iterator[dict[str, Any] | None]:
        """Every record, in order; None for a damaged one."""
        return (parse_line(self._map[start:end]) for start, end in self._lines())

    def find_by_files(self, files: Collection[str]) -> Iterator[dict[str, Any]]:
        """Records that refer to one of these files; other records are not parsed."""
        wanted = {json.dumps(file).encode() for file in files}
        lengths = {len(name) for name in wanted}  # no JSON string is the beginning of another one
        for start, end in self._lines():
            begin = start + _NAME_START + _NAME_LENGTH + _NAME_TO_FILE
            is_wanted = any(self._map[begin : begin + n] in wanted for n in lengths)
            if is_wanted and (record := parse_line(self._map[start:end])) is not None:
                yield record

    def _lines(self) -> Iterator[tuple[int, int]]:
        """Start and end of the line of every record."""
        start = self._first
        while start < len(self._map):
            end = self._map.find(b"\n", start)
            end = end if end >= 0 else len(self._map)
            yield start, end
            start = end + 1


def open_records(path: Path, store: Store) -> FreedChipRecords | None:
    """Open a file of records; None if it does not exist or cannot be read."""
    try:
        return FreedChipRecords(path, store)
    except (FileNotFoundError, StoreError):
        return None


def format_line(record: dict[str, Any]) -> bytes:
    """A record, or a head, as a line with its digest."""
    return (append_digest(json.dumps(record, separators=(",", ":"), allow_nan=False)[:-1]) + "\n").encode()


def parse_line(text: bytes) -> dict[str, Any] | None:
    """The content of a line, without its digest; None if the digest does not fit."""
    try:
        body = text.rpartition(b',"sha256":')[0].decode()
        if append_digest(body).encode() != text:
            return None
        record: dict[str, Any] = json.loads(body + "}")
        return record
    except ValueError:
        return None


def write_records(
    path: Path, store: Store, head: dict[str, Any], folder: Path, records: Iterable[dict[str, Any]]
) -> int:
    """Write a file of records durably; without records, no file exists afterwards.

    Memory: a name and a number per record.

    Args:
        head: ``source``, ``bands``, ``run``, ``generation``.
        folder: folder of the exported files.
        records: in any order.

    Returns:
        Number of records.
    """
    with report_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unsorted, temporary = temporary_path(path), temporary_path(path)
        try:
            with open(unsorted, "x+b") as source, open(temporary, "xb") as file:
                offsets: dict[str, int] = {}
                for record in records:
                    offsets[record["object"]] = source.tell()
                    source.write(format_line({"object": record["object"], "file": record["file"]} | record))
                relative = os.path.relpath(os.path.realpath(folder), os.path.realpath(store.root))
                file.write(format_line({"schema": SCHEMA, **head, "folder": relative, "count": len(offsets)}))
                for name in sorted(offsets):
                    source.seek(offsets[name])
                    file.write(source.readline())
                file.flush()
                os.fsync(file.fileno())
            if offsets:
                os.replace(temporary, path)
                for changed in (folder, path.parent):  # from now on, only these files have the pixels
                    sync_folder(changed)
            else:
                path.unlink(missing_ok=True)
        finally:
            unsorted.unlink(missing_ok=True)
            temporary.unlink(missing_ok=True)
    return len(offsets)


def is_export_missing(path: Path, store: Store) -> bool:
    """Whether no exported file that records refer to exists, or the records cannot be read."""
    records = open_records(path, store)
    if records is None:
        return True
    with records:
        files = dict.fromkeys(record["file"] for record in records if record is not None)
        return not any((records.folder / file).exists() for file in files)
