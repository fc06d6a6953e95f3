"""Before chips are freed: which of them a finished export has, so that they can be made again (``kept.py``). Every one is read back
from the export first and compared with its digest; what was paid for is not freed on a promise."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import StoreError
from ..formats import Arrays, manifest, open_arrays
from ..formats.parallel import ahead
from ..runs.run import Run
from ..stages.manifests.documents import single_key, stacked_key
from ..stages.repair import expected_files
from ..stages.shared.restored_chips import joined
from ..store import freed_chips, receipts
from ..store.store import Store
from .contents import Group
from .work_folder import THREADS, RunFolder

if TYPE_CHECKING:
    import numpy as np


class _Place(NamedTuple):
    """A chip that a run has saved: its object, the file, and its row in a combined one."""

    name: str
    file: str
    row: int | None


class _Chip(NamedTuple):
    """What was read of a chip: size and time of the file, and the arrays that have its bands, with how they are found again."""

    place: _Place
    of: list[int]
    parts: list[tuple[dict, np.ndarray]]


@dataclass(frozen=True)
class _Saved:
    """The pixels of one unit in a file: their bands, the array of all ROIs, the array of one."""

    bands: tuple[str, ...]
    stacked: str
    single: str


def keep(entry: RunFolder, store: Store, group: Group, names: Iterable[str], *, tried: bool = False) -> set[str]:
    """Write down how chips can be made again of the export of a finished run; returns those of which it is so.

    Args:
        group: the chips of one source and band set. names: those that are to go.
        tried: what this export cannot give back is known; only what is written down already counts.
    """
    run = entry.run
    if group.bands is None or group.id not in run.plan.source or not run.request.config.save_inputs:
        return set()
    names = set(names) & set(run.plan.objects(group.id))
    if not names or not set(group.bands) <= {b for saved in _saved(run, group) for b in saved.bands}:
        return set()
    path, export = freed_chips.path_of(store, group.id, group.bands, run.dir), _Export(run)
    with freed_chips.opened(path, store) or contextlib.nullcontext() as old:
        known = {name for name in names if old is not None and _holds(old, name, group, export)}
        if names == known or tried:
            return known
        found: set[str] = set()
        head = {"source": group.id, "bands": list(group.bands), "run": entry.name, "generation": run.generation.chips}
        freed_chips.write(path, store, head, export.folder, _records(export, group, names - known, old, found))
    return known | found


def drop_void(entry: RunFolder, store: Store) -> None:
    """Remove records of a combined export that was replaced since, where nothing was written down anew."""
    export = _Export(entry.run)
    for path in freed_chips.of_run(store, entry.run.dir):
        with freed_chips.opened(path, store) or contextlib.nullcontext() as records:
            if records is None or not any(r is not None and export.retains(r, records.folder) for r in records):
                path.unlink(missing_ok=True)


class _Export:
    """The final array files of a finished run, and which records are of them.

    Attributes:
        run: the run. folder: that the files lie in.
    """

    def __init__(self, run: Run) -> None:
        target = Path(os.path.normpath(run.dir / run.plan.target))
        self.run, self.combined = run, run.plan.layout == "combined"
        self.folder = Path(os.path.realpath(target.parent if self.combined else target))  # as records have it

    @cached_property
    def merged(self) -> dict:
        """What the merge's receipt says of the combined file."""
        return receipts.read(self.run.dir / self.run.plan.merge_receipt, self.run.plan.merge_key)["rows"][0]

    @cached_property
    def whole(self) -> bool:
        """The combined file is as it was written."""
        return not manifest.damaged(self.merged, str(self.run.dir))

    def holds(self, record: dict, folder: Path) -> bool:
        """The pixels were read back from the very file that is there."""
        if self.combined:
            return self.retains(record, folder) and self.whole
        try:
            stat = os.stat(self.folder / record["file"])
        except OSError:
            return False
        if not record["file"].endswith(self.run.plan.suffix):  # of an earlier format, which may go at any time
            return False
        return folder == self.folder and record["of"] == [stat.st_size, stat.st_mtime_ns]

    def retains(self, record: dict, folder: Path) -> bool:
        """A record is worth keeping. A combined file is replaced as a whole, and what only the old one had is in the store; of
        files of single ROIs each stays until it is replaced, or is nobody's any more."""
        if folder != self.folder:
            return False
        if self.combined:
            return record["of"] == _of(self.merged)
        return (self.folder / record["file"]).exists()


def _of(record: Mapping) -> list[int]:
    return [record["size"], record["mtime_ns"]]


def _holds(old: freed_chips.Records, name: str, group: Group, export: _Export) -> bool:
    """A record is of the chip that is in the store, and its file is as it was."""
    record = old.find(name)
    if record is None or not export.holds(record, old.folder):
        return False
    chip = group.held.peek(name)
    return chip is not None and chip.sha256 == record["digest"]


def _records(
    export: _Export, group: Group, names: set[str], old: freed_chips.Records | None, found: set[str]
) -> Iterator[dict]:
    """Old records that are worth keeping, then new ones, whose objects go into ``found``."""
    for record in old or ():
        if record is not None and record["object"] not in names and export.retains(record, old.folder):
            yield record
    for record in _proved(export, group, names):
        found.add(record["object"])
        yield record


def _proved(export: _Export, group: Group, names: set[str]) -> Iterator[dict]:
    """Records of chips whose objects were made of the export, as they lie in the store. Threads read files of single ROIs, or
    compare what is read of the combined one."""
    saved, files = _saved(export.run, group), _files(export, group, names)

    def prove(one: _Chip) -> dict | None:
        return _record(group, one)

    def prove_file(file: tuple[dict, list[_Place]]) -> list[dict | None]:
        return list(map(prove, _read(export, group, saved, *file, threads=1)))

    if export.combined:
        chips = itertools.chain.from_iterable(_read(export, group, saved, *file, threads=THREADS) for file in files)
        found = ahead(prove, chips, THREADS, lambda one: sum(n.nbytes for _, n in one.parts))
    else:
        found = itertools.chain.from_iterable(ahead(prove_file, files, THREADS, lambda file: file[0]["size"]))
    yield from filter(None, found)


def _record(group: Group, one: _Chip) -> dict | None:
    """What is written down of a chip; None where its object cannot be made of what was read."""
    chip = group.held.peek(one.place.name)
    # that there is nothing is nowhere else: it is tiny, and stays
    if chip is None or chip.meta["status"] == "no_data":
        return None
    try:
        dtype = group.held.dtype(one.place.name)
    except (OSError, ValueError):  # verify says so
        return None
    if joined([(a["bands"], n) for a, n in one.parts], chip.meta, dtype, chip.sha256) is None:
        return None
    more = {"arrays": [a for a, _ in one.parts], "dtype": dtype, "digest": chip.sha256, "meta": chip.meta}
    return {"object": one.place.name, "file": one.place.file, "of": one.of, **more}


def _read(
    export: _Export, group: Group, saved: list[_Saved], record: dict, places: list[_Place], threads: int
) -> Iterator[_Chip]:
    """What a file has of chips; a damaged one ends early."""
    try:
        with open_arrays(export.folder / places[0].file) as opened:
            for place, parts in _parts(opened, saved, group.bands, places, threads):
                yield _Chip(place, _of(record), parts)
    except (OSError, ValueError, KeyError, IndexError, StoreError):  # the run's next start says so
        return


def _files(export: _Export, group: Group, names: set[str]) -> Iterator[tuple[dict, list[_Place]]]:
    """Final files that are as the receipts say, with what is wanted of them, each chip once, in order of their rows."""
    run, plan, left = export.run, export.run.plan, set(names)
    objects = plan.objects(group.id)
    if export.combined:
        rows = {name: i for i, name in reversed(list(enumerate(objects))) if name in left}
        file = Path(plan.target).name
        if export.whole and rows:
            yield export.merged, [_Place(name, file, i) for i, name in sorted((i, name) for name, i in rows.items())]
        return
    for chunk in plan.chunks:
        if left.isdisjoint(objects[chunk.start : chunk.stop]):
            continue
        receipt = receipts.read(run.dir / "items" / f"{chunk.name}.json", plan.items_key(chunk))
        for index, record in expected_files(run, chunk.name, receipt).values():
            name = objects[index]
            arrays = record["path"].endswith(plan.suffix)
            if name in left and arrays and not manifest.damaged(record, str(export.folder)):
                left.discard(name)
                yield record, [_Place(name, record["path"], None)]


def _saved(run: Run, group: Group) -> list[_Saved]:
    """The arrays that have bands of a group: those of the first unit, where several read the same bands."""
    first = {u.sensor.bands: u for u in reversed(run.plan.units) if u.source == group.id}
    units = [
        u for u in run.plan.units if first.get(u.sensor.bands) is u and set(u.sensor.bands) & set(group.bands or ())
    ]
    return [_Saved(u.sensor.bands, stacked_key("input", u.key), single_key("input", u.key)) for u in units]


def _parts(
    file: Arrays, saved: list[_Saved], bands: Iterable[str], places: list[_Place], threads: int
) -> Iterator[tuple[_Place, list[tuple[dict, np.ndarray]]]]:
    """Of each place the arrays that have its bands, and how they are found again. Arrays of all ROIs are read once, in order."""
    keys, wanted = set(file.keys()), set(bands)
    stacked = []
    for one in saved:
        if places[0].row is not None and one.stacked in keys and wanted & set(one.bands):
            stacked.append(one)
            wanted -= set(one.bands)
    singles = [one for one in saved if one not in stacked and wanted & set(one.bands)]
    for place, rows in _rows(file, stacked, places, threads):
        parts = [
            ({"key": one.stacked, "bands": list(one.bands), "row": place.row, "mark": mark}, numbers)
            for one, (numbers, mark) in zip(stacked, rows)
        ]
        lacking = set(wanted)
        for one in singles:
            key = one.single if place.row is None else f"{one.single}__{place.row:05d}"
            if key in keys and lacking & set(one.bands):
                lacking -= set(one.bands)
                parts.append(({"key": key, "bands": list(one.bands)}, file.read(key)))
        # a row that cannot be found alone would make every job read all those before it
        if not any("row" in how and how["mark"] is None for how, _ in parts):
            yield place, parts


def _rows(file: Arrays, stacked: list[_Saved], places: list[_Place], threads: int) -> Iterator[tuple[_Place, tuple]]:
    """Places, in order, each with its rows of the arrays of all ROIs."""
    if not stacked:
        yield from ((place, ()) for place in places)
        return
    left = iter(places)
    place = next(left, None)
    for index, rows in enumerate(zip(*(file.rows(one.stacked, threads) for one in stacked))):
        if place is None:
            return
        if index == place.row:
            yield place, rows
            place = next(left, None)
