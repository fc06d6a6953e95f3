"""The store: one object per (source, bands, ROI) and per (unit, ROI), named by its identity, so *object exists = done*.

A new object is a file of its own (``objects.py``), written to a unique temporary name and renamed (``files.py``): two
writers of one object are harmless, a dead writer leaves no half object, and a reader notices every changed byte. Later the
objects of a chunk may be put together into packs (``groups.py``, ``packs.py``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from ..request.identity import digest
from .atomic_files import TEMP_PREFIX, clean, is_leftover, replace_file, temporary_name, writing
from .groups import Group, Packed
from .objects import Object, encoded, peek, read_object, set_aside, verify_object, write_object

__all__ = [
    "TEMP_PREFIX",
    "Group",
    "Object",
    "Packed",
    "Store",
    "clean",
    "encoded",
    "is_leftover",
    "peek",
    "read_object",
    "replace_file",
    "set_aside",
    "temporary_name",
    "verify_object",
    "write_object",
    "writing",
]


class Store:
    """Chips and embeddings under one folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._groups: dict[Path, Group] = {}

    def group(self, folder: Path) -> Group:
        """The objects of a folder of the store; the same group every time, because it remembers what lies in packs."""
        return self._groups.setdefault(folder, Group(folder))

    def chips(self, source_id: str, bands: tuple[str, ...]) -> Group:
        """The chips of a source that hold exactly these bands (in any order)."""
        return self.group(self.chip_dir(source_id, bands))

    def embeddings(self, unit_id: str) -> Group:
        """The embeddings of a unit."""
        return self.group(self.root / "embeddings" / unit_id)

    def chip_dir(self, source_id: str, bands: tuple[str, ...]) -> Path:
        """Folder of the chips of a source that hold exactly these bands (in any order)."""
        return self.root / "chips" / source_id / digest(sorted(bands), 12)

    def chip(self, source_id: str, bands: tuple[str, ...], roi: str) -> Path:
        """File that a new chip is written to; it may have been packed since (:meth:`chips` knows)."""
        return self.chips(source_id, bands).path(roi)

    def embedding(self, unit_id: str, roi: str) -> Path:
        """File that a new embedding is written to; see :meth:`chip`."""
        return self.embeddings(unit_id).path(roi)

    def band_sets(self, source_id: str, wanted: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        """The band sets that chips of a source were fetched with, largest first; each folder says its own.

        Args:
            wanted: a set whose folder is found by its name, whatever it says. A folder with a damaged declaration is
                passed over until it is declared again.
        """
        found = {tuple(sorted(wanted))} if wanted and self.chip_dir(source_id, wanted).is_dir() else set()
        for entry in (self.root / "chips" / source_id).glob("*/bands.json"):
            bands = self.declared(entry.parent)
            if bands:
                found.add(bands)
        return sorted(found, key=lambda b: (-len(b), b))

    def declared(self, folder: Path) -> tuple[str, ...] | None:
        """The bands that a chip folder says it holds; None where it says nothing that fits its name."""
        bands = self._declared(folder / "bands.json")
        return bands if bands and folder.name == self.chip_dir("", bands).name else None

    @staticmethod
    def _declared(path: Path) -> tuple[str, ...] | None:
        try:
            return tuple(sorted(json.loads(path.read_text())))
        except (OSError, ValueError, TypeError):
            return None

    def declare_bands(self, source_id: str, bands: tuple[str, ...]) -> None:
        """Say which bands a chip folder holds, before the first chip goes into it."""
        path = self.chip_dir(source_id, bands) / "bands.json"
        if self._declared(path) != tuple(sorted(bands)):
            replace_file(path, json.dumps(sorted(bands)).encode(), durable=True)

    def covering(
        self, source_id: str, bands: tuple[str, ...], roi: str, band_sets: list[tuple[str, ...]]
    ) -> tuple[list[tuple[str, ...]], list[str]]:
        """Which stored chips of a ROI together hold ``bands``, and which bands none holds."""
        missing, use = set(bands), []
        for held in band_sets:
            if missing & set(held) and self.chips(source_id, held).has(roi):
                use.append(held)
                missing -= set(held)
        return use, [b for b in bands if b in missing]

    def register(self, work: Path) -> None:
        """Say that runs of a work folder use this store: ``prune`` counts what they refer to, wherever it is started."""
        path = os.path.relpath(os.path.realpath(work), os.path.realpath(self.root))
        text = json.dumps({"path": path}).encode()
        file = self.root / "works" / f"{digest(path, 16)}.json"
        if not file.exists() or file.read_bytes() != text:
            replace_file(file, text, durable=True)

    def works(self) -> dict[Path, Path | None]:
        """Registrations, and the work folder that each names; None for one that cannot be read."""
        return {file: self._work(file) for file in sorted((self.root / "works").glob("[0-9a-f]*.json"))}

    def _work(self, file: Path) -> Path | None:
        try:
            return Path(
                os.path.normpath(os.path.join(os.path.realpath(self.root), json.loads(file.read_text())["path"]))
            )
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def clean(self, sources: Iterable[str], units: Iterable[str]) -> int:
        """Remove temporary files that dead processes left beside what belongs to some sources and units, by their ids; returns
        how many. Not in the whole store: what many runs share can be large, and far away."""
        folders = [self.root / kind / source for source in sources for kind in ("chips", "kept")]
        folders += [self.root / "works", *(self.root / "embeddings" / unit for unit in units)]
        return sum(clean(folder, below=True) for folder in folders)
