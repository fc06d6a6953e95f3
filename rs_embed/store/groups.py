"""A group: the objects of one folder of the store.

They are the chips of one source and band set, or the embeddings of one unit.

An object is loose, in a file of its own, or in a pack. New objects are loose, and a loose copy has
priority. Objects move while others read them: the packer renames a pack to its final name before
it deletes loose files, and a reader that finds an object in neither form checks the packs again,
then the loose file once more. So reading needs no lock.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from ..errors import StoreError
from . import objects, packs
from .atomic_files import replace_file
from .objects import Object
from .packs import PackingResult

SUFFIX = ".npy"
PACKS_FOLDER = "packs"
#: A folder that was changed less than this many seconds ago may change again without a new
#: modification time.
_MTIME_SETTLED_S = 3.0
#: Attempts to rewrite packs that other packers replace at the same time.
_REWRITE_ATTEMPTS = 5
_T = TypeVar("_T")


class Group:
    """The objects of a folder, by name (32 hex characters). Safe for threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index = packs.PackIndex()
        # modification time of the folder of packs when it was listed, ns; whether a later change
        # must change it
        self._listed: tuple[int, bool] | None = None
        self._lock = threading.RLock()

    def path(self, name: str) -> Path:
        """File of a loose object; new objects are written to it."""
        return self.folder / name[:2] / f"{name}{SUFFIX}"

    @property
    def packs_folder(self) -> Path:
        """Folder of the packs."""
        return self.folder / PACKS_FOLDER

    # reading -------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether an object exists."""
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Bytes of an object; None if it does not exist."""
        path = f"{self.folder}/{name[:2]}/{name}{SUFFIX}"  # called for thousands; a Path costs more than the access
        while True:
            index = self._index
            if os.access(path, os.F_OK):
                with contextlib.suppress(FileNotFoundError):
                    return os.stat(path).st_size
            if found := index.find(name):
                return found[1].size
            if self._refresh() is index:
                return None

    def read(self, name: str) -> Object:
        """Read and verify an object.

        Raises:
            FileNotFoundError: the object does not exist. StoreError: it is damaged.
        """
        return objects.decode_object(*self._read_bytes(name))

    def verify(self, name: str) -> Object:
        """Verify all bytes of an object without decoding its array; raises like :meth:`read`."""
        return objects.decode_object(*self._read_bytes(name), array=False)

    def read_metadata(self, name: str) -> Object | None:
        """Metadata and recorded digest of an object; None if it is missing or its end is damaged.

        See :func:`objects.read_metadata`.
        """

        def read_at(path: Path, offset: int, size: int | None) -> Object | None:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size if size is None else size
                return objects.read_metadata_at(file, offset, size)

        try:
            return self._read_current(name, read_at)
        except FileNotFoundError:
            return None

    def read_dtype(self, name: str) -> str:
        """The dtype of an object's numbers, as ``numpy.dtype`` accepts it.

        Raises:
            FileNotFoundError: the object does not exist. ValueError: its beginning is damaged.
        """

        def read_at(path: Path, offset: int, size: int | None) -> str:
            with open(path, "rb") as file:
                return objects.read_dtype_at(file, offset)

        return self._read_current(name, read_at)

    def _read_bytes(self, name: str) -> tuple[bytes, str]:
        """The bytes of an object, and its label for messages."""

        def read_at(path: Path, offset: int, size: int | None) -> tuple[bytes, str]:
            if size is None:
                return path.read_bytes(), str(path)
            return packs.read_bytes(path, offset, size), f"{self.path(name)} in {path.name}"

        return self._read_current(name, read_at)

    def _read_current(self, name: str, read_at: Callable[[Path, int, int | None], _T]) -> _T:
        """Call ``read_at`` with the current position of an object.

        Its arguments are file, offset and size (None: the whole file).
        """
        while True:
            index = self._index
            with contextlib.suppress(FileNotFoundError):
                return read_at(self.path(name), 0, None)
            if found := index.find(name):
                with contextlib.suppress(FileNotFoundError):
                    return read_at(self.packs_folder / found[0], found[1].offset, found[1].size)
            if self._refresh(always=True) is index:
                raise FileNotFoundError(f"no object {self.path(name)}")

    def _refresh(self, *, always: bool = False) -> packs.PackIndex:
        """The index of the current packs; the same object if nothing has changed.

        Args:
            always: list the folder even if its modification time has not changed.
        """
        with self._lock:
            changed = _mtime_ns(self.packs_folder)
            if always or self._listed != (changed, True):
                self._listed = (changed, changed / 1e9 < time.time() - _MTIME_SETTLED_S)
                files = packs.list_packs(self.packs_folder) if changed else []
                if tuple(files) != self._index.files or self._index.broken:
                    index = self._index.updated(self.packs_folder, files)
                    if (index.files, index.broken) != (self._index.files, self._index.broken):
                        self._index = index
            return self._index

    # packing -------------------------------------------------------------------------------------

    def loose_names(self) -> set[str]:
        """Names of the loose objects."""
        try:
            folders = [e.path for e in os.scandir(self.folder) if len(e.name) == 2 and e.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return set()
        return {n.removesuffix(SUFFIX) for f in folders for n in _list_folder(f) if n.endswith(SUFFIX) and n[0] != "."}

    def pack(self, names: Iterable[str]) -> PackingResult:
        """Write one pack of the loose ones among these objects.

        A loose copy is deleted after the bytes that readers find in a pack were read and are equal
        to it. The caller keeps other processes from unpacking.

        Raises:
            StoreError: the pack cannot be written; nothing has changed.
        """
        result, digests, differing = PackingResult(), {}, set()

        def read_loose() -> Iterator[tuple[str, bytes]]:
            for name in dict.fromkeys(names):
                try:
                    data = self.path(name).read_bytes()
                except FileNotFoundError:
                    continue
                digest = objects.verified_digest(data)
                if digest is None:
                    result.damaged.append(self.path(name))
                    continue
                digests[name] = digest, len(data)
                packed = self._packed_digest(name)  # equal if a packer was killed before it deleted the loose copy
                if packed is None or packed != digest:
                    if packed is not None:
                        differing.add(name)
                    yield name, data

        self.set_aside_broken_packs()
        self._refresh(always=True)
        new = packs.write_pack(self.packs_folder, read_loose())
        if differing:
            self._drop_older_copies(new, differing, digests)
        self._refresh(always=True)
        result.packs = int(new is not None)
        for name, (digest, size) in digests.items():
            if self._packed_digest(name) == digest:
                self.path(name).unlink(missing_ok=True)
                result.objects += 1
                result.bytes += size
        self._remove_empty_folders()
        return result

    def _drop_older_copies(self, new: Path | None, names: set[str], digests: Mapping[str, tuple[bytes, int]]) -> None:
        """Remove objects from older packs that have other bytes than the loose copy.

        Readers would find the older copy when the loose one is deleted.
        """
        for _ in range(_REWRITE_ATTEMPTS):
            try:
                for file in set(self._refresh(always=True).files) - {new and new.name}:
                    # equal copies stay: another packer may rely on them
                    self._rewrite_pack(file, without=self._names_that_differ(file, names, digests))
                return
            except FileNotFoundError:  # another packer has just replaced the pack
                continue

    def _packed_digest(self, name: str) -> bytes | None:
        """The verified digest of a packed object; empty if it is damaged, None if no pack contains
        it."""
        found = self._index.find(name)
        if found is None:
            return None
        try:
            data = packs.read_bytes(self.packs_folder / found[0], found[1].offset, found[1].size)
            return objects.verified_digest(data) or b""
        except FileNotFoundError:
            return b""

    def _names_that_differ(self, file: str, names: set[str], digests: Mapping[str, tuple[bytes, int]]) -> set[str]:
        """The objects among ``names`` that a pack contains with other bytes."""
        entries = [entry for entry in self._read_entries(file) or [] if entry.name in names]
        contents = self._read_contents(file, entries)
        return {name for name, data in contents if objects.verified_digest(data) != digests[name][0]}

    def unpack(self) -> int:
        """Make every packed object loose again; returns their number.

        Packs that cannot be read stay. The caller keeps other processes from packing.
        """
        moved = 0
        for file in self._refresh(always=True).files:
            entries = self._read_entries(file)
            if entries is not None:
                moved += sum(self._write_loose(name, data) for name, data in self._read_contents(file, entries))
                (self.packs_folder / file).unlink(missing_ok=True)
        self._refresh(always=True)
        self._remove_empty_folders()
        return moved

    def _write_loose(self, name: str, data: bytes) -> bool:
        """Write a packed object to a file; returns whether it is intact.

        A damaged object gets another name.
        """
        intact = objects.verified_digest(data) is not None
        path = self.path(name)
        if not path.exists():
            replace_file(path if intact else objects.damaged_path(path), data)
        return intact

    def _read_entries(self, file: str) -> list[packs.Entry] | None:
        """The entries of a pack, sorted by offset; None if it does not exist or cannot be read."""
        try:
            return sorted(packs.parse_index(packs.read_index(self.packs_folder / file)), key=lambda e: e.offset)
        except (FileNotFoundError, StoreError):
            return None

    def _read_contents(self, file: str, entries: list[packs.Entry]) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of the objects of a pack."""
        with open(self.packs_folder / file, "rb") as data:
            for entry in entries:
                data.seek(entry.offset)
                yield entry.name, data.read(entry.size)

    # removing ------------------------------------------------------------------------------------

    def remove(self, names: Collection[str]) -> None:
        """Remove objects, loose or packed.

        A pack that contains other objects, too, is written again without them.
        """
        for name in names:
            self.path(name).unlink(missing_ok=True)
        removed = set(names)
        for file in self._refresh(always=True).files:
            self._rewrite_pack(file, without=removed)
        self._refresh(always=True)

    def set_aside(self, name: str) -> list[Path]:
        """Rename a damaged object to ``*.damaged``, so that it can be inspected.

        If it is packed, all damaged objects of the pack are set aside.

        Returns:
            New paths of the damaged objects.
        """
        with contextlib.suppress(FileNotFoundError):
            if objects.verified_digest(self.path(name).read_bytes()) is not None:
                return []  # it was created again meanwhile
            return [objects.set_aside(self.path(name))]
        with self._lock:  # of several threads, the first one does it
            found = self._refresh(always=True).find(name)
            aside = self._rewrite_pack(found[0], bad={name}) if found else []
            self._refresh(always=True)
        return aside

    def broken_packs(self) -> list[Path]:
        """Packs whose index is damaged; their objects are lost."""
        return sorted(self.packs_folder / file for file in self._refresh(always=True).broken)

    def set_aside_broken_packs(self) -> list[Path]:
        """Rename the packs whose index is damaged; returns their new paths."""
        return [aside for path in self.broken_packs() if (aside := self._set_aside_pack(path)) is not None]

    @staticmethod
    def _set_aside_pack(path: Path) -> Path | None:
        """Rename a broken pack; one that was written again at this moment gets its name back."""
        aside = objects.set_aside(path)
        try:
            packs.read_index(aside)
        except (FileNotFoundError, StoreError):
            return aside
        os.replace(aside, path)
        return None

    def _rewrite_pack(self, file: str, without: Collection[str] = (), bad: Collection[str] = ()) -> list[Path]:
        """Replace a pack by one without some objects.

        Damaged objects, and those in ``bad``, are set aside. A pack with nothing to remove stays.

        Returns:
            Paths of the objects that were set aside.
        """
        aside: list[Path] = []
        path, entries = self.packs_folder / file, self._read_entries(file) or []
        remaining = [entry for entry in entries if entry.name not in without]
        if len(remaining) == len(entries) and not any(entry.name in bad for entry in entries):
            return aside

        def read_intact() -> Iterator[tuple[str, bytes]]:
            for name, data in self._read_contents(file, remaining):
                if name in bad or objects.verified_digest(data) is None:
                    aside.append(objects.damaged_path(self.path(name)))
                    replace_file(aside[-1], data)
                else:
                    yield name, data

        if remaining:  # otherwise nothing is written, so that it works on a full disk, too
            packs.write_pack(self.packs_folder, read_intact())
        path.unlink(missing_ok=True)
        return aside

    def _remove_empty_folders(self) -> None:
        for folder in [self.packs_folder, *self.folder.glob("[0-9a-f][0-9a-f]")]:
            with contextlib.suppress(OSError):
                folder.rmdir()  # fails unless it is empty


def _mtime_ns(folder: Path) -> int:
    """Modification time of a folder, ns; 0 if it does not exist.

    The folder is opened, because only then does a network file system ask its server.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)


def _list_folder(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
