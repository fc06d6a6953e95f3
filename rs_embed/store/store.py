"""The store: one object per (source, bands, ROI) and per (unit, ROI), named by its identity.

A chip or embedding whose object exists is not computed again.

A new object is a file of its own (``objects.py``), written under a unique temporary name and
renamed (``atomic_files.py``): two writers of one object do no harm, a dead writer leaves no
partial object, and a reader detects every changed byte. Later the objects of a chunk may be put
into packs (``groups.py``, ``packs.py``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from ..request.identity import digest
from .atomic_files import (
    remove_temporary_files,
    replace_file,
)
from .groups import Group


class Store:
    """Chips and embeddings under one folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._groups: dict[Path, Group] = {}

    def group(self, folder: Path) -> Group:
        """The objects of a folder of the store.

        Always the same instance for a folder, because it caches the index of packs.
        """
        return self._groups.setdefault(folder, Group(folder))

    def chip_group(self, source_id: str, bands: tuple[str, ...]) -> Group:
        """The chips of a source that have exactly these bands (in any order)."""
        return self.group(self.chip_folder(source_id, bands))

    def embedding_group(self, unit_id: str) -> Group:
        """The embeddings of a unit."""
        return self.group(self.root / "embeddings" / unit_id)

    def chip_folder(self, source_id: str, bands: tuple[str, ...]) -> Path:
        """Folder of the chips of a source that have exactly these bands (in any order)."""
        return self.root / "chips" / source_id / digest(sorted(bands), 12)

    def chip_path(self, source_id: str, bands: tuple[str, ...], roi: str) -> Path:
        """File that a new chip is written to.

        To read a chip, which may be packed, use :meth:`chip_group`.
        """
        return self.chip_group(source_id, bands).path(roi)

    def embedding_path(self, unit_id: str, roi: str) -> Path:
        """File that a new embedding is written to; see :meth:`chip_path`."""
        return self.embedding_group(unit_id).path(roi)

    def list_band_sets(self, source_id: str, wanted: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        """The band sets of the stored chips of a source, largest first, as declared in their
        folders.

        Args:
            wanted: a set whose folder is found by its name, whatever it declares. Other folders
                with a damaged declaration are skipped until they are declared again.
        """
        found = {tuple(sorted(wanted))} if wanted and self.chip_folder(source_id, wanted).is_dir() else set()
        for entry in (self.root / "chips" / source_id).glob("*/bands.json"):
            bands = self.read_declared_bands(entry.parent)
            if bands:
                found.add(bands)
        return sorted(found, key=lambda b: (-len(b), b))

    def read_declared_bands(self, folder: Path) -> tuple[str, ...] | None:
        """The bands that a chip folder declares; None if they are unreadable or do not fit its
        name."""
        bands = self._read_bands(folder / "bands.json")
        return bands if bands and folder.name == self.chip_folder("", bands).name else None

    @staticmethod
    def _read_bands(path: Path) -> tuple[str, ...] | None:
        try:
            return tuple(sorted(json.loads(path.read_text())))
        except (OSError, ValueError, TypeError):
            return None

    def declare_bands(self, source_id: str, bands: tuple[str, ...]) -> None:
        """Record the bands of a chip folder, before the first chip is written to it."""
        path = self.chip_folder(source_id, bands) / "bands.json"
        if self._read_bands(path) != tuple(sorted(bands)):
            replace_file(path, json.dumps(sorted(bands)).encode(), durable=True)

    def select_band_sets(
        self, source_id: str, bands: tuple[str, ...], roi: str, band_sets: list[tuple[str, ...]]
    ) -> tuple[list[tuple[str, ...]], list[str]]:
        """Select stored chips of a ROI that together have ``bands``.

        Returns:
            The band sets of these chips, and the bands that no stored chip has.
        """
        missing, use = set(bands), []
        for stored in band_sets:
            if missing & set(stored) and self.chip_group(source_id, stored).has(roi):
                use.append(stored)
                missing -= set(stored)
        return use, [b for b in bands if b in missing]

    def register_work_folder(self, work: Path) -> None:
        """Record that runs of a work folder use this store.

        ``prune`` then keeps the objects that they refer to.
        """
        path = os.path.relpath(os.path.realpath(work), os.path.realpath(self.root))
        text = json.dumps({"path": path}).encode()
        file = self.root / "works" / f"{digest(path, 16)}.json"
        if not file.exists() or file.read_bytes() != text:
            replace_file(file, text, durable=True)

    def registered_work_folders(self) -> dict[Path, Path | None]:
        """The work folder of each registration file; None for a file that cannot be read."""
        return {file: self._read_registration(file) for file in sorted((self.root / "works").glob("[0-9a-f]*.json"))}

    def _read_registration(self, file: Path) -> Path | None:
        try:
            path = json.loads(file.read_text())["path"]
            return Path(os.path.normpath(os.path.join(os.path.realpath(self.root), path)))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def remove_temporary_files(self, sources: Iterable[str], units: Iterable[str]) -> int:
        """Remove temporary files of dead processes from the folders of some sources and units
        (ids).

        Other folders are not searched: a store that many runs share can be large and on a slow
        file system.

        Returns:
            Number of removed files.
        """
        folders = [self.root / kind / source for source in sources for kind in ("chips", "kept")]
        folders += [self.root / "works", *(self.root / "embeddings" / unit for unit in units)]
        return sum(remove_temporary_files(folder, below=True) for folder in folders)
