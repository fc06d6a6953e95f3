"""A pack: many objects in one file, for clusters that count files.

    the unchanged bytes of the objects, one after the other
    the index: 32 bytes an object, sorted by name: name (16 bytes), offset and size (8 bytes each, little-endian)
    the footer: number of objects (8 bytes), magic word (8 bytes), SHA-256 of the index and of these 16 bytes

Every object carries its own digest, so every byte of a pack is covered by one. A pack is never changed: what is to be
another pack is written anew, and its name is a digest of what is in it.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import StoreError
from .atomic_files import sync_folder, temporary_name, writing

SUFFIX = ".pack"
_MAGIC = b"RSPACKS1"
_ENTRY = struct.Struct("<16sQQ")
_COUNT = struct.Struct("<Q8s")
_FOOTER = _COUNT.size + 32


class Entry(NamedTuple):
    """Where an object lies in a pack: name (32 hex characters), offset and size in bytes."""

    name: str
    offset: int
    size: int


def write(folder: Path, objects: Iterable[tuple[str, bytes]]) -> Path | None:
    """Write a pack; it has its name when it is on the disk. One object at a time is in memory.

    Args:
        folder: where packs lie. objects: (name, bytes), each name once, in the order in which they are going to be read.

    Returns:
        Its path; None, and no file, for no objects.

    Raises:
        StoreError: it cannot be written.
    """
    temporary = _new(folder)
    rows: list[bytes] = []
    contents, offset = hashlib.sha256(), 0
    try:
        with writing(folder):
            with open(temporary, "r+b") as file:
                for name, data in _read(objects):
                    file.write(data)
                    rows.append(_ENTRY.pack(bytes.fromhex(name), offset, len(data)))
                    contents.update(data[-32:])  # the object's digest
                    offset += len(data)
                counted = b"".join(sorted(rows)) + _COUNT.pack(len(rows), _MAGIC)
                contents.update(counted)
                file.write(counted + hashlib.sha256(counted).digest())
                file.flush()
                os.fsync(file.fileno())
            if not rows:
                return None
            path = folder / f"{contents.hexdigest()[:32]}{SUFFIX}"
            os.replace(temporary, path)
            sync_folder(folder)
            return path
    finally:
        with contextlib.suppress(OSError):  # it has its name, or an error that says more is on its way
            temporary.unlink()


def _read(objects: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The same; where one cannot be read, the error does not say that the pack cannot be written."""
    try:
        yield from objects
    except OSError as error:
        why = error.strerror or str(error)
        raise StoreError(f"{error.filename or 'an object'} cannot be read ({why}), so it is not packed") from error


def _new(folder: Path) -> Path:
    """An empty temporary file."""
    while True:
        temporary = temporary_name(folder / f"new{SUFFIX}")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # somebody has removed the empty folder
                temporary.touch(exist_ok=False)
                return temporary


def read_index(path: Path) -> bytes:
    """The index of a pack.

    Raises:
        FileNotFoundError: there is none. StoreError: its end is damaged or gone, so that nobody knows what is in it.
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


def entries(index: bytes) -> Iterator[Entry]:
    """What an index says, by name."""
    for name, offset, size in _ENTRY.iter_unpack(index):
        yield Entry(name.hex(), offset, size)


def read_at(path: Path, offset: int, size: int) -> bytes:
    """The bytes of an object in a pack; fewer where the pack was cut short."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


def listed(folder: Path) -> list[str]:
    """File names of the packs in a folder, sorted."""
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(SUFFIX) and not name.startswith("."))
    except FileNotFoundError:
        return []


class _Names:
    """The names in an index, to search in."""

    def __init__(self, index: bytes) -> None:
        self._index = memoryview(index)

    def __len__(self) -> int:
        return len(self._index) // _ENTRY.size

    def __getitem__(self, i: int) -> bytes:
        return bytes(self._index[i * _ENTRY.size : i * _ENTRY.size + 16])


class Directory:
    """Where the objects of some packs lie: one index of 36 bytes an object, however many packs there are.

    Attributes:
        files: file names of the packs. broken: those of them whose index is damaged; nothing is found in these.
    """

    def __init__(self, files: tuple[str, ...] = (), broken: frozenset[str] = frozenset()) -> None:
        self.files, self.broken = files, broken
        self._index, self._pack = b"", b""  # entries by name, and of each the place of its pack in ``files``

    def find(self, name: str) -> tuple[str, Entry] | None:
        """The pack that holds an object, and where in it."""
        if not self._index:
            return None
        key, names = bytes.fromhex(name), _Names(self._index)
        i = bisect.bisect_left(names, key)
        if i == len(names) or names[i] != key:
            return None
        _, offset, size = _ENTRY.unpack_from(self._index, i * _ENTRY.size)
        return self.files[memoryview(self._pack).cast("I")[i]], Entry(name, offset, size)

    def of(self, folder: Path, files: Iterable[str]) -> Directory:
        """The same of the packs that are there now: what is new is read, what is gone is left out."""
        import numpy as np

        new: dict[str, bytes] = {}
        broken = set()
        known = (
            set(self.files) - self.broken
        )  # one that was broken may be sound by now: its name is that of its content
        for file in files:
            try:
                new[file] = b"" if file in known else read_index(folder / file)
            except FileNotFoundError:
                continue
            except StoreError:
                new[file] = b""
                broken.add(file)
        place = {file: i for i, file in enumerate(new)}
        moved = np.array([place.get(file, -1) for file in self.files], np.int64)
        row = np.dtype([("name", "S16"), ("place", "V16")])
        rows, pack = np.frombuffer(self._index, row), moved[np.frombuffer(self._pack, np.uint32)]
        rows = np.concatenate([rows[pack >= 0], np.frombuffer(b"".join(new.values()), row)])
        counts = [len(index) // _ENTRY.size for index in new.values()]
        pack = np.concatenate([pack[pack >= 0], np.repeat(np.arange(len(new)), counts)])
        order = np.argsort(rows["name"], kind="stable")
        made = Directory(tuple(new), frozenset(broken & new.keys()))
        made._index, made._pack = rows[order].tobytes(), pack[order].astype(np.uint32).tobytes()
        return made
