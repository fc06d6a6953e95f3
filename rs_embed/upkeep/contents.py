"""What lies in a store: one pass over its folders, no file opened but the declarations of bands and the ends of packs."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import StoreError
from ..store import groups, packs
from ..store.store import Store, is_leftover

#: Files by path, with their bytes.
Files = dict[Path, int]
_OBJECT = groups.SUFFIX
#: What objects are filed under: a digest. Anything else in a store is not ours to remove.
_NAME = re.compile(r"[0-9a-f]{32}")


@dataclass
class Group:
    """The chips of one source and band set, or the embeddings of one unit.

    Attributes:
        kind: ``chips`` or ``embeddings``. id: of the source or unit. held: the objects themselves.
        bands: the bands of chips as the folder declares them; None for embeddings, and where the declaration is not right.
        declaration: bytes of ``bands.json``; None where there is none.
        objects: name to bytes, loose and in packs.
        packed: of those that lie in packs alone, the file name of their pack.
        packs: bytes by file name. more: bytes that belong to no object: indices, and second copies.
        broken: packs whose index is damaged, so that nobody knows what is in them.
        others: number of files that are neither objects nor waste; they are nobody's business here.
    """

    kind: str
    id: str
    held: groups.Group
    bands: tuple[str, ...] | None = None
    declaration: int | None = None
    objects: dict[str, int] = field(default_factory=dict)
    packed: dict[str, str] = field(default_factory=dict)
    packs: dict[str, int] = field(default_factory=dict)
    more: int = 0
    broken: list[Path] = field(default_factory=list)
    others: int = 0

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.held.folder

    def path(self, name: str) -> Path:
        """What an object is called: the file where it lies if it is loose."""
        return self.held.path(name)

    def pack_of(self, name: str) -> str:
        """The pack in which an object lies, or nothing."""
        return self.packed.get(name, "")

    def files(self, names: Collection[str]) -> int:
        """How many files go with some objects: the loose ones, and packs with nothing else in them."""
        of, all_of = (Counter(map(self.pack_of, these)) for these in (names, self.objects))
        return of.pop("", 0) + sum(count == all_of[pack] for pack, count in of.items())

    def remove(self, names: Collection[str]) -> None:
        """Remove objects."""
        self.held.remove(names)


@dataclass
class Contents:
    """A store as it is now.

    Attributes:
        groups: what objects belong to.
        damaged: objects that were set aside. leftovers: temporary files of dead processes, and old ones of other machines.
        others: everything else (temporary files that may be written still, registrations, unknown files).
    """

    groups: list[Group] = field(default_factory=list)
    damaged: Files = field(default_factory=dict)
    leftovers: Files = field(default_factory=dict)
    others: Files = field(default_factory=dict)

    @property
    def files(self) -> int:
        objects = sum(len(g.objects) - len(g.packed) + (g.declaration is not None) for g in self.groups)
        return (
            objects
            + sum(len(g.packs) for g in self.groups)
            + len(self.damaged)
            + len(self.leftovers)
            + len(self.others)
        )

    @property
    def bytes(self) -> int:
        objects = sum(sum(g.objects.values()) + g.more + (g.declaration or 0) for g in self.groups)
        return objects + sum(sum(f.values()) for f in (self.damaged, self.leftovers, self.others))


def survey(store: Store) -> Contents:
    """Look through a store. Files that vanish meanwhile are not there."""
    found = Contents()
    for entry in _entries(store.root):
        if entry.name == "chips" and _is_folder(entry):
            for source in _folders(entry.path, found):
                for folder in _folders(source.path, found):
                    _group(Group("chips", source.name, store.group(Path(folder.path))), store, found)
        elif entry.name == "embeddings" and _is_folder(entry):
            for unit in _folders(entry.path, found):
                _group(Group("embeddings", unit.name, store.group(Path(unit.path))), store, found)
        elif _is_folder(entry):
            for path, stat in walk(Path(entry.path)):
                left = is_leftover(path.name, stat.st_mtime)
                (found.leftovers if left else found.others)[path] = stat.st_size
        else:
            _waste(entry, found)
    return found


def walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file below a folder, with its size and times; links are not followed."""
    for entry in _entries(folder):
        if _is_folder(entry):
            yield from walk(Path(entry.path))
        else:
            stat = _stat(entry)
            if stat is not None:
                yield Path(entry.path), stat


def _group(group: Group, store: Store, found: Contents) -> None:
    for entry in _entries(group.folder):
        if entry.name == groups.PACKS and _is_folder(entry):
            continue
        if _is_folder(entry):
            for file in _entries(entry.path):
                name = file.name.removesuffix(_OBJECT)
                size = _size(file)
                if size is None:
                    continue
                if file.name.endswith(_OBJECT) and name[:2] == entry.name and _NAME.fullmatch(name):
                    group.objects[name] = size
                else:
                    group.others += _waste(file, found)
        elif entry.name == "bands.json" and group.kind == "chips":
            group.declaration = _size(entry)
        else:
            group.others += _waste(entry, found)
    for file in _entries(group.held.packs):  # after the loose ones: what is being packed now lies in one of the two
        if not _pack(file, group):
            group.others += _waste(file, found)
    if group.declaration is not None:
        group.bands = store.declared(group.folder)
    found.groups.append(group)


def _pack(entry: os.DirEntry, group: Group) -> bool:
    """Count what is in a pack; True if it is one that can be read."""
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
    for held in packs.entries(index):
        if held.name not in group.objects:
            group.objects[held.name] = held.size
            group.packed[held.name] = entry.name
            size -= held.size
    group.more += size
    return True


def _waste(entry: os.DirEntry, found: Contents) -> bool:
    """File a stray file where it belongs; True if it is none of ours to remove."""
    stat = _stat(entry)
    if stat is None:
        return False
    kind = found.others
    if entry.name.endswith(".damaged"):
        kind = found.damaged
    elif is_leftover(entry.name, stat.st_mtime):
        kind = found.leftovers
    kind[Path(entry.path)] = stat.st_size
    return kind is found.others


def _folders(path: str, found: Contents) -> Iterator[os.DirEntry]:
    for entry in _entries(path):
        if _is_folder(entry):
            yield entry
        else:
            _waste(entry, found)


def _entries(folder: str | Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_folder(entry: os.DirEntry) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _stat(entry: os.DirEntry) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


def _size(entry: os.DirEntry) -> int | None:
    stat = _stat(entry)
    return None if stat is None else stat.st_size
