"""The contents of a store, from one pass over its folders; it opens only declarations of bands and
the indices of packs."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import StoreError
from ..store import groups, packs
from ..store.atomic_files import is_leftover
from ..store.store import Store

#: Bytes of files, by path.
FileSizes = dict[Path, int]
_OBJECT = groups.SUFFIX
#: Names of objects: a digest. Files with other names are never removed.
_NAME = re.compile(r"[0-9a-f]{32}")


@dataclass
class StoredGroup:
    """The chips of one source and band set, or the embeddings of one unit, as they are on the
    disk.

    Attributes:
        kind: ``chips`` or ``embeddings``. id: of the source or unit. store_group: reads and
            removes the objects.
        bands: the bands of chips as the folder declares them; None for embeddings, and where the
            declaration is invalid.
        declaration: bytes of ``bands.json``; None where the file does not exist.
        objects: bytes by name, loose and in packs.
        packed: file name of the pack by name, for objects that are only in a pack.
        packs: bytes by file name. overhead: bytes that belong to no object: indices, and second
            copies.
        broken: packs whose index is damaged, so their objects are unknown.
        others: number of files that are neither objects nor removable.
    """

    kind: str
    id: str
    store_group: groups.Group
    bands: tuple[str, ...] | None = None
    declaration: int | None = None
    objects: dict[str, int] = field(default_factory=dict)
    packed: dict[str, str] = field(default_factory=dict)
    packs: dict[str, int] = field(default_factory=dict)
    overhead: int = 0
    broken: list[Path] = field(default_factory=list)
    others: int = 0

    @property
    def folder(self) -> Path:
        """Folder of the objects."""
        return self.store_group.folder

    def path(self, name: str) -> Path:
        """File of an object if it is loose; messages use this path for packed objects, too."""
        return self.store_group.path(name)

    def pack_of(self, name: str) -> str:
        """File name of the pack that contains an object; empty for a loose object."""
        return self.packed.get(name, "")

    def count_files(self, names: Collection[str]) -> int:
        """Number of files that are removed with some objects: loose objects, and packs that
        contain no other objects."""
        removed, total = (Counter(map(self.pack_of, these)) for these in (names, self.objects))
        return removed.pop("", 0) + sum(count == total[pack] for pack, count in removed.items())


@dataclass
class StoreContents:
    """The contents of a store now.

    Attributes:
        groups: the groups of objects.
        damaged: objects that were set aside. leftovers: temporary files of dead processes, and old
            ones of other machines.
        others: all other files (temporary files that may be in use, registrations, unknown files).
    """

    groups: list[StoredGroup] = field(default_factory=list)
    damaged: FileSizes = field(default_factory=dict)
    leftovers: FileSizes = field(default_factory=dict)
    others: FileSizes = field(default_factory=dict)

    @property
    def files(self) -> int:
        """Number of files."""
        objects = sum(len(g.objects) - len(g.packed) + (g.declaration is not None) for g in self.groups)
        packs = sum(len(g.packs) for g in self.groups)
        return objects + packs + sum(map(len, (self.damaged, self.leftovers, self.others)))

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        objects = sum(sum(g.objects.values()) + g.overhead + (g.declaration or 0) for g in self.groups)
        return objects + sum(sum(f.values()) for f in (self.damaged, self.leftovers, self.others))


def scan_store(store: Store) -> StoreContents:
    """List the contents of a store. Files that are deleted during the scan are left out."""
    contents = StoreContents()
    for entry in _list_entries(store.root):
        if entry.name == "chips" and _is_folder(entry):
            for source in _subfolders(entry.path, contents):
                for folder in _subfolders(source.path, contents):
                    _scan_group(StoredGroup("chips", source.name, store.group(Path(folder.path))), store, contents)
        elif entry.name == "embeddings" and _is_folder(entry):
            for unit in _subfolders(entry.path, contents):
                _scan_group(StoredGroup("embeddings", unit.name, store.group(Path(unit.path))), store, contents)
        elif _is_folder(entry):
            for path, stat in walk_files(Path(entry.path)):
                leftover = is_leftover(path.name, stat.st_mtime)
                (contents.leftovers if leftover else contents.others)[path] = stat.st_size
        else:
            _add_stray_file(entry, contents)
    return contents


def walk_files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file below a folder, with its size and times; symbolic links are not followed."""
    for entry in _list_entries(folder):
        if _is_folder(entry):
            yield from walk_files(Path(entry.path))
        else:
            stat = _stat(entry)
            if stat is not None:
                yield Path(entry.path), stat


def _scan_group(group: StoredGroup, store: Store, contents: StoreContents) -> None:
    for entry in _list_entries(group.folder):
        if entry.name == groups.PACKS_FOLDER and _is_folder(entry):
            continue
        if _is_folder(entry):
            _scan_loose_objects(entry, group, contents)
        elif entry.name == "bands.json" and group.kind == "chips":
            group.declaration = _size(entry)
        else:
            group.others += _add_stray_file(entry, contents)
    # after loose objects, so one that is packed now is not missed
    for file in _list_entries(group.store_group.packs_folder):
        if not _add_pack(file, group):
            group.others += _add_stray_file(file, contents)
    if group.declaration is not None:
        group.bands = store.read_declared_bands(group.folder)
    contents.groups.append(group)


def _scan_loose_objects(folder: os.DirEntry, group: StoredGroup, contents: StoreContents) -> None:
    """Add the loose objects of one folder, which is named by their first two characters."""
    for file in _list_entries(folder.path):
        name = file.name.removesuffix(_OBJECT)
        size = _size(file)
        if size is None:
            continue
        if file.name.endswith(_OBJECT) and name[:2] == folder.name and _NAME.fullmatch(name):
            group.objects[name] = size
        else:
            group.others += _add_stray_file(file, contents)


def _add_pack(entry: os.DirEntry, group: StoredGroup) -> bool:
    """Add the objects of a pack; False where the file is not a readable pack."""
    size = _size(entry)
    if size is None or not entry.name.endswith(packs.SUFFIX) or entry.name.startswith("."):
        return False
    try:
        index = packs.read_index(Path(entry.path))
    except FileNotFoundError:
        return False
    except StoreError:
        group.broken.append(Path(entry.path))
        return False
    group.packs[entry.name] = size
    for packed in packs.parse_index(index):
        if packed.name not in group.objects:
            group.objects[packed.name] = packed.size
            group.packed[packed.name] = entry.name
            size -= packed.size
    group.overhead += size
    return True


def _add_stray_file(entry: os.DirEntry, contents: StoreContents) -> bool:
    """Add a file that is no object to the contents; True where it must not be removed."""
    stat = _stat(entry)
    if stat is None:
        return False
    kind = contents.others
    if entry.name.endswith(".damaged"):
        kind = contents.damaged
    elif is_leftover(entry.name, stat.st_mtime):
        kind = contents.leftovers
    kind[Path(entry.path)] = stat.st_size
    return kind is contents.others


def _subfolders(path: str, contents: StoreContents) -> Iterator[os.DirEntry]:
    for entry in _list_entries(path):
        if _is_folder(entry):
            yield entry
        else:
            _add_stray_file(entry, contents)


def _list_entries(folder: str | Path) -> list[os.DirEntry]:
    """Entries of a folder; none where it does not exist."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_folder(entry: os.DirEntry) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _stat(entry: os.DirEntry) -> os.stat_result | None:
    """Size and times of an entry; None where it was deleted."""
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


def _size(entry: os.DirEntry) -> int | None:
    stat = _stat(entry)
    return None if stat is None else stat.st_size
