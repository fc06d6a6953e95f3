"""Records of freed chips: what is needed to make their objects again, byte for byte, of the export that has their pixels.

``<store>/kept/<source>/<bands>/<run>.jsonl``: the chips of one source and band set that one run has saved, a line each, sorted by
object, so that a job finds its own by bisection; the first line is the head. Each line carries its own digest. All paths are relative
to the store.

A line has ``object``; ``file`` (in the head's ``folder``) with the size and time it was recorded with (``of``);
``arrays``: key, bands, and in an array of all ROIs row and mark (``formats.Arrays.row``); ``dtype``, ``meta`` and ``digest`` of the
object. The digest decides: a record whose export has changed counts for nothing.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from types import TracebackType

from ..errors import StoreError
from ..request.identity import digest
from .atomic_files import sync_folder
from .receipts import sealed
from .store import Store, temporary_name, writing

SCHEMA = 1
#: How a line begins.
_BEFORE_NAME, _NAME, _BEFORE_FILE = len('{"object":"'), 32, len('","file":')


def path_of(store: Store, source_id: str, bands: tuple[str, ...], folder: Path) -> Path:
    """Where the records of a run (by its folder) lie."""
    return store.root / "kept" / source_id / digest(sorted(bands), 12) / f"{_tag(store, folder)}.jsonl"


def of_source(store: Store, source_id: str) -> list[Path]:
    """The records of all runs that have saved chips of a source."""
    return sorted((store.root / "kept" / source_id).glob("*/[0-9a-f]*.jsonl"))


def of_run(store: Store, folder: Path) -> list[Path]:
    """The records of one run."""
    return sorted((store.root / "kept").glob(f"*/*/{_tag(store, folder)}.jsonl"))


def of_store(store: Store) -> list[Path]:
    """All records."""
    return sorted((store.root / "kept").glob("*/*/[0-9a-f]*.jsonl"))


def _tag(store: Store, folder: Path) -> str:
    return digest(os.path.relpath(os.path.realpath(folder), os.path.realpath(store.root)), 16)


class Records:
    """One file of records; for ``with``.

    Attributes:
        source, bands: what chips it is about. run: name of the run's folder. folder: that of the files. generation: of the run's
            chips (``refetch``). count: of its lines.

    Raises:
        FileNotFoundError: there is none. StoreError: it cannot be read.
    """

    def __init__(self, path: Path, store: Store) -> None:
        self.path = path
        with open(path, "rb") as file:
            try:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:
                raise StoreError(f"records {path} are empty") from None
        self._first = self._map.find(b"\n") + 1
        head = parse(self._map[: max(self._first - 1, 0)])
        if head is None or head.get("schema") != SCHEMA:
            self._map.close()
            raise StoreError(f"records {path} are damaged")
        self.source, self.bands, self.count = head["source"], tuple(head["bands"]), head["count"]
        self.run, self.generation = head["run"], head["generation"]
        self.folder = Path(os.path.normpath(os.path.join(os.path.realpath(store.root), head["folder"])))

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._map.close()

    def find(self, name: str) -> dict | None:
        """The record of an object; None where there is none, or it is damaged."""
        wanted, low, high = name.encode(), self._first, len(self._map)
        while low < high:
            start = max(self._map.rfind(b"\n", low, (low + high) // 2) + 1, low)
            end = self._map.find(b"\n", start)
            end = end if end >= 0 else len(self._map)
            found = self._map[start + _BEFORE_NAME : start + _BEFORE_NAME + _NAME]
            if found == wanted:
                return parse(self._map[start:end])
            low, high = (end + 1, high) if found < wanted else (low, start)
        return None

    def __iter__(self) -> Iterator[dict | None]:
        """Every record, in order; None for a damaged one."""
        return (parse(self._map[start:end]) for start, end in self._lines())

    def of_files(self, files: Collection[str]) -> Iterator[dict]:
        """Records that name one of these files; the others are not parsed."""
        wanted = {json.dumps(file).encode() for file in files}
        lengths = {len(name) for name in wanted}  # no text of JSON begins with another one
        for start, end in self._lines():
            begin = start + _BEFORE_NAME + _NAME + _BEFORE_FILE
            named = any(self._map[begin : begin + n] in wanted for n in lengths)
            if named and (record := parse(self._map[start:end])) is not None:
                yield record

    def _lines(self) -> Iterator[tuple[int, int]]:
        start = self._first
        while start < len(self._map):
            end = self._map.find(b"\n", start)
            end = end if end >= 0 else len(self._map)
            yield start, end
            start = end + 1


def opened(path: Path, store: Store) -> Records | None:
    """Records, or None where there are none that can be read: they are worth nothing then."""
    try:
        return Records(path, store)
    except (FileNotFoundError, StoreError):
        return None


def line(record: dict) -> bytes:
    """A record, or a head, as a line with its digest."""
    return (sealed(json.dumps(record, separators=(",", ":"), allow_nan=False)[:-1]) + "\n").encode()


def parse(text: bytes) -> dict | None:
    """What a line says, without its digest; None where it does not fit."""
    try:
        body = text.rpartition(b',"sha256":')[0].decode()
        if sealed(body).encode() != text:
            return None
        return json.loads(body + "}")
    except ValueError:
        return None


def write(path: Path, store: Store, head: dict, folder: Path, records: Iterable[dict]) -> int:
    """Write records, in any order, durably, or none: then there is no file; returns how many. Memory: a name and a number each.

    Args:
        head: ``source``, ``bands``, ``run``, ``generation``. folder: that of the files.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unsorted, temporary = temporary_name(path), temporary_name(path)
        try:
            with open(unsorted, "x+b") as found, open(temporary, "xb") as file:
                places: dict[str, int] = {}
                for record in records:
                    places[record["object"]] = found.tell()
                    found.write(line({"object": record["object"], "file": record["file"]} | record))
                relative = os.path.relpath(os.path.realpath(folder), os.path.realpath(store.root))
                file.write(line({"schema": SCHEMA, **head, "folder": relative, "count": len(places)}))
                for name in sorted(places):
                    found.seek(places[name])
                    file.write(found.readline())
                file.flush()
                os.fsync(file.fileno())
            if places:
                os.replace(temporary, path)
                for made in (folder, path.parent):  # the names of the files that count from now on
                    sync_folder(made)
            else:
                path.unlink(missing_ok=True)
        finally:
            unsorted.unlink(missing_ok=True)
            temporary.unlink(missing_ok=True)
    return len(places)


def gone(path: Path, store: Store) -> bool:
    """None of the files that records name is there any more, or they cannot be read."""
    records = opened(path, store)
    if records is None:
        return True
    with records:
        files = dict.fromkeys(record["file"] for record in records if record is not None)
        return not any((records.folder / file).exists() for file in files)
