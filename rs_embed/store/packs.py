"""A pack: many objects in one file, for clusters that limit the number of files.

    the unchanged bytes of the objects, one after the other
    the index: 32 bytes per object, sorted by name:
        name (16 bytes), offset and size (8 bytes each, little-endian)
    the footer: number of objects (8 bytes), magic word (8 bytes),
        SHA-256 of the index and of these 16 bytes

Every object carries its own digest, so a digest covers every byte of a pack. A pack is never
changed: other content is written to a new pack, and the name of a pack is a digest of its content.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..errors import StoreError
from .atomic_files import report_write_errors, sync_folder, temporary_path

SUFFIX = ".pack"
_MAGIC = b"RSPACKS1"
_ENTRY = struct.Struct("<16sQQ")
_COUNT = struct.Struct("<Q8s")
_FOOTER = _COUNT.size + 32


@dataclass
class PackingResult:
    """What packing has done.

    Attributes:
        objects: number of loose objects that are packed now.
        bytes: their size.
        packs: number of new packs.
        damaged: files of objects whose digest does not fit; they stay as they are, for their
            reader to find.
    """

    objects: int = 0
    bytes: int = 0
    packs: int = 0
    damaged: list[Path] = field(default_factory=list)

    def __add__(self, other: PackingResult) -> PackingResult:
        values = (getattr(self, k) + getattr(other, k) for k in ("objects", "bytes", "packs", "damaged"))
        return PackingResult(*values)


class Entry(NamedTuple):
    """The position of an object in a pack: name (32 hex characters), offset and size in bytes."""

    name: str
    offset: int
    size: int


def write_pack(folder: Path, objects: Iterable[tuple[str, bytes]]) -> Path | None:
    """Write a pack; it gets its name when it is on the disk. One object at a time is in memory.

    Args:
        folder: folder of the packs.
        objects: (name, bytes), each name once, in the order in which they will be read.

    Returns:
        Path of the pack; None, and no file, for no objects.

    Raises:
        StoreError: the pack cannot be written, or an object cannot be read.
    """
    temporary = _create_temporary_file(folder)
    try:
        with report_write_errors(folder):
            digest = _write_content(temporary, objects)
            if digest is None:
                return None
            path = folder / f"{digest[:32]}{SUFFIX}"
            os.replace(temporary, path)
            sync_folder(folder)
            return path
    finally:
        with contextlib.suppress(OSError):  # it is renamed, or a more informative error is being raised
            temporary.unlink()


def _write_content(path: Path, objects: Iterable[tuple[str, bytes]]) -> str | None:
    """Write objects, index and footer durably.

    Returns the digest of the content, hex; None for no objects.
    """
    rows: list[bytes] = []
    contents, offset = hashlib.sha256(), 0
    with open(path, "r+b") as file:
        for name, data in _report_read_errors(objects):
            file.write(data)
            rows.append(_ENTRY.pack(bytes.fromhex(name), offset, len(data)))
            contents.update(data[-32:])  # the object's digest
            offset += len(data)
        counted = b"".join(sorted(rows)) + _COUNT.pack(len(rows), _MAGIC)
        contents.update(counted)
        file.write(counted + hashlib.sha256(counted).digest())
        file.flush()
        os.fsync(file.fileno())
    return contents.hexdigest() if rows else None


def _report_read_errors(objects: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The same objects; a failure to read one is not reported as a failure to write the pack."""
    try:
        yield from objects
    except OSError as error:
        why = error.strerror or str(error)
        raise StoreError(f"{error.filename or 'an object'} cannot be read ({why}), so it is not packed") from error


def _create_temporary_file(folder: Path) -> Path:
    while True:
        temporary = temporary_path(folder / f"new{SUFFIX}")
        with report_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another process has removed the empty folder
                temporary.touch(exist_ok=False)
                return temporary


def read_index(path: Path) -> bytes:
    """The index of a pack.

    Raises:
        FileNotFoundError: the pack does not exist.
        StoreError: its end is damaged or missing, so its content is unknown.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(size - _FOOTER, 0))
        footer = file.read(_FOOTER)
        count, magic = _COUNT.unpack_from(footer) if len(footer) == _FOOTER else (0, b"")
        length = count * _ENTRY.size
        if magic == _MAGIC and length + _FOOTER <= size:
            file.seek(size - _FOOTER - length)
            index = file.read(length)
            if hashlib.sha256(index + footer[: _COUNT.size]).digest() == footer[_COUNT.size :]:
                return index
    raise StoreError(f"damaged pack {path}: its index does not fit its digest")


def parse_index(index: bytes) -> Iterator[Entry]:
    """The entries of an index, sorted by name."""
    for name, offset, size in _ENTRY.iter_unpack(index):
        yield Entry(name.hex(), offset, size)


def read_bytes(path: Path, offset: int, size: int) -> bytes:
    """The bytes of an object in a pack; fewer if the pack is truncated."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


def list_packs(folder: Path) -> list[str]:
    """File names of the packs in a folder, sorted."""
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(SUFFIX) and not name.startswith("."))
    except FileNotFoundError:
        return []


class _IndexNames:
    """The names in an index as a sequence, for bisection."""

    def __init__(self, index: bytes) -> None:
        self._index = memoryview(index)

    def __len__(self) -> int:
        return len(self._index) // _ENTRY.size

    def __getitem__(self, i: int) -> bytes:
        return bytes(self._index[i * _ENTRY.size : i * _ENTRY.size + 16])


class PackIndex:
    """The positions of all objects of several packs: one index of 36 bytes per object.

    Attributes:
        files: file names of the packs.
        broken: the packs among them whose index is damaged; their objects are not found.
    """

    def __init__(self, files: tuple[str, ...] = (), broken: frozenset[str] = frozenset()) -> None:
        self.files, self.broken = files, broken
        self._entries, self._packs = b"", b""  # entries sorted by name; for each, its pack's position in ``files``

    def find(self, name: str) -> tuple[str, Entry] | None:
        """The pack that contains an object, and its position in it."""
        if not self._entries:
            return None
        key, names = bytes.fromhex(name), _IndexNames(self._entries)
        i = bisect.bisect_left(names, key)
        if i == len(names) or names[i] != key:
            return None
        _, offset, size = _ENTRY.unpack_from(self._entries, i * _ENTRY.size)
        return self.files[memoryview(self._packs).cast("I")[i]], Entry(name, offset, size)

    def updated(self, folder: Path, files: Iterable[str]) -> PackIndex:
        """The index of the packs that exist now: new packs are read, deleted ones are dropped."""
        import numpy as np

        new, broken = self._read_new_packs(folder, files)
        position = {file: i for i, file in enumerate(new)}
        moved = np.array([position.get(file, -1) for file in self.files], np.int64)
        row = np.dtype([("name", "S16"), ("position", "V16")])
        rows, pack = np.frombuffer(self._entries, row), moved[np.frombuffer(self._packs, np.uint32)]
        rows = np.concatenate([rows[pack >= 0], np.frombuffer(b"".join(new.values()), row)])
        counts = [len(index) // _ENTRY.size for index in new.values()]
        pack = np.concatenate([pack[pack >= 0], np.repeat(np.arange(len(new)), counts)])
        order = np.argsort(rows["name"], kind="stable")
        result = PackIndex(tuple(new), broken)
        result._entries, result._packs = rows[order].tobytes(), pack[order].astype(np.uint32).tobytes()
        return result

    def _read_new_packs(self, folder: Path, files: Iterable[str]) -> tuple[dict[str, bytes], frozenset[str]]:
        """The indices of existing packs (empty for known and broken ones), and the broken
        packs."""
        new: dict[str, bytes] = {}
        broken = set()
        known = set(self.files) - self.broken  # a broken one may have been replaced by an intact one of the same name
        for file in files:
            try:
                new[file] = b"" if file in known else read_index(folder / file)
            except FileNotFoundError:
                continue
            except StoreError:
                new[file] = b""
                broken.add(file)
        return new, frozenset(broken)
