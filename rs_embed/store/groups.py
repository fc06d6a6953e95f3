"""A group: the objects of one folder of the store (the chips of one source and band set, or the embeddings of one unit).

Each lies loose, in a file of its own, or in a pack. A new one is always loose, and what is loose comes first. Objects move
while others read them: a packer gives the pack its name before it deletes anything, and whoever finds neither looks at the
packs again, and then at the loose file once more. So nobody needs a lock to read.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ..errors import StoreError
from . import objects, packs
from .atomic_files import replace_file
from .objects import Object

SUFFIX = ".npy"
PACKS = "packs"
#: A folder that was changed so many seconds ago may be changed again without another time.
_SETTLED_S = 3.0
#: How often packs are looked at that other packers replace meanwhile.
_LOOKS = 5
_T = TypeVar("_T")


@dataclass
class Packed:
    """What packing has done.

    Attributes:
        objects: that are packed now and were loose. bytes: of them. packs: new packs.
        damaged: objects whose digest does not fit; they were left as they are, for their reader to find.
    """

    objects: int = 0
    bytes: int = 0
    packs: int = 0
    damaged: list[Path] = field(default_factory=list)

    def __add__(self, other: Packed) -> Packed:
        values = (getattr(self, k) + getattr(other, k) for k in ("objects", "bytes", "packs", "damaged"))
        return Packed(*values)


class Group:
    """The objects of a folder, by name (32 hex characters). Safe for threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._packs = packs.Directory()
        self._seen: tuple[int, bool] | None = (
            None  # time of the folder of packs when it was listed; nothing can be hidden
        )
        self._lock = threading.RLock()

    def path(self, name: str) -> Path:
        """File of a loose object; where a new one is written."""
        return self.folder / name[:2] / f"{name}{SUFFIX}"

    @property
    def packs(self) -> Path:
        """Folder of the packs."""
        return self.folder / PACKS

    # reading ---------------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """There is such an object."""
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Bytes of an object; None if there is none."""
        path = (
            f"{self.folder}/{name[:2]}/{name}{SUFFIX}"  # thousands are asked for, and a Path costs more than the look
        )
        while True:
            seen = self._packs
            if os.access(path, os.F_OK):
                with contextlib.suppress(FileNotFoundError):
                    return os.stat(path).st_size
            if where := seen.find(name):
                return where[1].size
            if self._look() is seen:
                return None

    def read(self, name: str) -> Object:
        """Read and verify an object.

        Raises:
            FileNotFoundError: there is none. StoreError: it is damaged.
        """
        return objects.decode(*self._bytes(name))

    def verify(self, name: str) -> Object:
        """Verify all bytes of an object without making its array; raises like :meth:`read`."""
        return objects.decode(*self._bytes(name), array=False)

    def peek(self, name: str) -> Object | None:
        """Metadata and recorded digest of an object; None if there is none, or its end is damaged (``objects.peek``)."""

        def at(path: Path, offset: int, size: int | None) -> Object | None:
            with open(path, "rb") as file:
                return objects.peek_in(file, offset, os.fstat(file.fileno()).st_size if size is None else size)

        try:
            return self._found(name, at)
        except FileNotFoundError:
            return None

    def dtype(self, name: str) -> str:
        """The dtype of an object's numbers, as ``numpy.dtype`` takes it.

        Raises:
            FileNotFoundError: there is none. ValueError: it does not begin as an object does.
        """

        def at(path: Path, offset: int, size: int | None) -> str:
            with open(path, "rb") as file:
                return objects.dtype_in(file, offset)

        return self._found(name, at)

    def _bytes(self, name: str) -> tuple[bytes, str]:
        """The bytes of an object, and what it is called in messages."""

        def at(path: Path, offset: int, size: int | None) -> tuple[bytes, str]:
            if size is None:
                return path.read_bytes(), str(path)
            return packs.read_at(path, offset, size), f"{self.path(name)} in {path.name}"

        return self._found(name, at)

    def _found(self, name: str, at: Callable[[Path, int, int | None], _T]) -> _T:
        """What ``at`` (file, offset, size; None: all of it) reads where an object lies now."""
        while True:
            seen = self._packs
            with contextlib.suppress(FileNotFoundError):
                return at(self.path(name), 0, None)
            if where := seen.find(name):
                with contextlib.suppress(FileNotFoundError):
                    return at(self.packs / where[0], where[1].offset, where[1].size)
            if self._look(always=True) is seen:
                raise FileNotFoundError(f"no object {self.path(name)}")

    def _look(self, *, always: bool = False) -> packs.Directory:
        """The packs as they are now; the same directory where nothing has changed.

        Args:
            always: list the folder, whatever its time says.
        """
        with self._lock:
            changed = _changed(self.packs)
            if always or self._seen != (changed, True):
                self._seen = (changed, changed / 1e9 < time.time() - _SETTLED_S)
                files = packs.listed(self.packs) if changed else []
                if tuple(files) != self._packs.files or self._packs.broken:
                    made = self._packs.of(self.packs, files)
                    if (made.files, made.broken) != (self._packs.files, self._packs.broken):
                        self._packs = made
            return self._packs

    # moving ----------------------------------------------------------------------------------------------------

    def loose(self) -> set[str]:
        """Names of the loose objects."""
        try:
            folders = [e.path for e in os.scandir(self.folder) if len(e.name) == 2 and e.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return set()
        return {n.removesuffix(SUFFIX) for f in folders for n in _names(f) if n.endswith(SUFFIX) and n[0] != "."}

    def pack(self, names: Iterable[str]) -> Packed:
        """Make one pack of those of some objects that lie loose. A loose copy goes when the bytes that readers find in a
        pack were read, and are its own. Whoever calls it keeps others from unpacking.

        Raises:
            StoreError: the pack cannot be written; everything is as it was.
        """
        done, digests, other = Packed(), {}, set()

        def loose() -> Iterator[tuple[str, bytes]]:
            for name in dict.fromkeys(names):
                try:
                    data = self.path(name).read_bytes()
                except FileNotFoundError:
                    continue
                digest = objects.sound(data)
                if digest is None:
                    done.damaged.append(self.path(name))
                    continue
                digests[name] = digest, len(data)
                held = self._in_pack(name)  # a packer was killed before it had deleted this
                if held is None or held != digest:
                    if held is not None:
                        other.add(name)
                    yield name, data

        self.set_aside_broken()
        self._look(always=True)
        made = packs.write(self.packs, loose())
        for _ in range(_LOOKS if other else 0):  # what is loose comes first, so it is what stays
            try:
                for file in set(self._look(always=True).files) - {made and made.name}:
                    # nothing equal: another packer may count on it
                    self._rewrite(file, without=self._others(file, other, digests))
                break
            except FileNotFoundError:  # another packer has just replaced it
                continue
        self._look(always=True)
        done.packs = int(made is not None)
        for name, (digest, size) in digests.items():
            if self._in_pack(name) == digest:
                self.path(name).unlink(missing_ok=True)
                done.objects += 1
                done.bytes += size
        self._tidy()
        return done

    def _in_pack(self, name: str) -> bytes | None:
        """The digest of an object in a pack, where all its bytes fit; empty where they do not; None where it is in none."""
        where = self._packs.find(name)
        if where is None:
            return None
        try:
            return objects.sound(packs.read_at(self.packs / where[0], where[1].offset, where[1].size)) or b""
        except FileNotFoundError:
            return b""

    def _others(self, file: str, names: set[str], digests: Mapping[str, tuple[bytes, int]]) -> set[str]:
        """Those of some objects that a pack has with other bytes."""
        held = [entry for entry in self._entries(file) or [] if entry.name in names]
        return {name for name, data in self._contents(file, held) if objects.sound(data) != digests[name][0]}

    def unpack(self) -> int:
        """Make every object in a pack a loose one again; returns how many. Packs that nobody can read stay. Whoever calls it
        keeps others from packing."""
        moved = 0
        for file in self._look(always=True).files:
            held = self._entries(file)
            if held is not None:
                moved += sum(self._loosen(name, data) for name, data in self._contents(file, held))
                (self.packs / file).unlink(missing_ok=True)
        self._look(always=True)
        self._tidy()
        return moved

    def _loosen(self, name: str, data: bytes) -> bool:
        sound = objects.sound(data) is not None
        path = self.path(name)
        if not path.exists():
            replace_file(path if sound else objects.aside_of(path), data)
        return sound

    def _entries(self, file: str) -> list[packs.Entry] | None:
        """What is in a pack, in the order in which it lies; None where it is gone, or nobody can read it."""
        try:
            return sorted(packs.entries(packs.read_index(self.packs / file)), key=lambda e: e.offset)
        except (FileNotFoundError, StoreError):
            return None

    def _contents(self, file: str, held: list[packs.Entry]) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of the objects of a pack."""
        with open(self.packs / file, "rb") as data:
            for entry in held:
                data.seek(entry.offset)
                yield entry.name, data.read(entry.size)

    # removing --------------------------------------------------------------------------------------------------

    def remove(self, names: Collection[str]) -> None:
        """Remove objects, loose or in packs; a pack that holds others, too, is written anew without them."""
        for name in names:
            self.path(name).unlink(missing_ok=True)
        going = set(names)
        for file in self._look(always=True).files:
            self._rewrite(file, without=going)
        self._look(always=True)

    def set_aside(self, name: str) -> list[Path]:
        """Move a damaged object out of the way, keeping it for a look (``*.damaged``); of a pack, every damaged one with it.

        Returns:
            New names of what was moved.
        """
        with contextlib.suppress(FileNotFoundError):
            if objects.sound(self.path(name).read_bytes()) is not None:
                return []  # made anew meanwhile
            return [objects.set_aside(self.path(name))]
        with self._lock:  # of several threads, the first one does it
            where = self._look(always=True).find(name)
            aside = self._rewrite(where[0], bad={name}) if where else []
            self._look(always=True)
        return aside

    def broken(self) -> list[Path]:
        """Packs whose index is damaged; what was in them is gone."""
        return sorted(self.packs / file for file in self._look(always=True).broken)

    def set_aside_broken(self) -> list[Path]:
        """Move these out of the way; returns their new names."""
        return [aside for path in self.broken() if (aside := self._set_aside_pack(path)) is not None]

    @staticmethod
    def _set_aside_pack(path: Path) -> Path | None:
        """Move a broken pack out of the way; one that was made anew this moment goes back."""
        aside = objects.set_aside(path)
        try:
            packs.read_index(aside)
        except (FileNotFoundError, StoreError):
            return aside
        os.replace(aside, path)
        return None

    def _rewrite(self, file: str, without: Collection[str] = (), bad: Collection[str] = ()) -> list[Path]:
        """Replace a pack by one without some objects; the damaged ones, and ``bad``, go aside. One with none of them stays."""
        aside: list[Path] = []
        path, held = self.packs / file, self._entries(file) or []
        staying = [entry for entry in held if entry.name not in without]
        if len(staying) == len(held) and not any(entry.name in bad for entry in held):
            return aside

        def kept() -> Iterator[tuple[str, bytes]]:
            for name, data in self._contents(file, staying):
                if name in bad or objects.sound(data) is None:
                    aside.append(objects.aside_of(self.path(name)))
                    replace_file(aside[-1], data)
                else:
                    yield name, data

        if staying:  # else nothing is written, also on a full disk
            packs.write(self.packs, kept())
        path.unlink(missing_ok=True)
        return aside

    def _tidy(self) -> None:
        """Remove folders that are empty."""
        for folder in [self.packs, *self.folder.glob("[0-9a-f][0-9a-f]")]:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if it is empty


def _changed(folder: Path) -> int:
    """Time of a folder, ns; 0 where there is none. It is opened, because then a network file system asks its server."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
