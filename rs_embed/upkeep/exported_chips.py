"""Records chips of a finished export before they are freed, so that they can be made again from it
(``store/freed_chips.py``). Each chip is read back from the export first and compared with its
digest: fetching pixels costs money and time."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import StoreError
from ..formats import ArrayFile, manifest, open_arrays
from ..formats.parallel import map_in_order
from ..planning.units import Unit
from ..runs.run import Run
from ..stages.manifests.documents import single_key, stacked_key
from ..stages.shared.chunk_files import expected_files
from ..stages.shared.restored_chips import join_bands
from ..store import freed_chips, receipts
from ..store.store import Store
from .contents import StoredGroup
from .work_folder import READ_THREADS, LoadedRun

if TYPE_CHECKING:
    import numpy as np

    Parts = list[tuple[dict, np.ndarray]]  # arrays with some bands of a chip, and how they are found in the file


class _Location(NamedTuple):
    """Where an export has a chip: name of its object, the file, and the row in a combined file."""

    name: str
    file: str
    row: int | None


#: Record of a file in a receipt, and the chips to read from it.
_FileToRead = tuple[dict, list[_Location]]


class _ExportedChip(NamedTuple):
    """A chip as read from an export: its location, size and time of the file, and the arrays with
    its bands."""

    location: _Location
    file_stat: list[int]
    parts: Parts


@dataclass(frozen=True)
class _InputArrays:
    """The arrays with the pixels of one unit in a file: their bands, the key of the array of all
    ROIs, and that of one ROI."""

    bands: tuple[str, ...]
    stacked: str
    single: str


def record_chips(
    entry: LoadedRun, store: Store, group: StoredGroup, names: Iterable[str], *, known_only: bool = False
) -> set[str]:
    """Record how chips can be made again from the export of a finished run.

    Args:
        group: the chips of one source and band set. names: the chips to free.
        known_only: trust the existing records and do not read the export again.

    Returns:
        The names of the chips with a record.
    """
    run = entry.run
    if group.bands is None or group.id not in run.plan.source or not run.request.config.save_inputs:
        return set()
    names = set(names).intersection(itertools.chain.from_iterable(chips for _, chips in _list_exported(run, group)))
    if not names:
        return set()
    path, export = freed_chips.records_path(store, group.id, group.bands, run.dir), _Export(run)
    with freed_chips.open_records(path, store) or contextlib.nullcontext() as old:
        known = {name for name in names if old is not None and _is_current(old, name, group, export)}
        if names == known or known_only:
            return known
        found: set[str] = set()
        head = {"source": group.id, "bands": list(group.bands), "run": entry.name, "generation": run.generation.chips}
        records = _merge_records(export, group, names - known, old, found)
        freed_chips.write_records(path, store, head, export.folder, records)
    return known | found


def remove_void_records(entry: LoadedRun, store: Store) -> None:
    """Remove files of records whose combined export was replaced, and that :func:`record_chips`
    did not write again."""
    export = _Export(entry.run)
    for path in freed_chips.list_run_records(store, entry.run.dir):
        with freed_chips.open_records(path, store) or contextlib.nullcontext() as records:
            if records is None or not any(r is not None and export.keeps(r, records.folder) for r in records):
                path.unlink(missing_ok=True)


class _Export:
    """The final array files of a finished run, and which records describe them.

    Attributes:
        run: the run. combined: it has one file. folder: of the files.
    """

    def __init__(self, run: Run) -> None:
        target = Path(os.path.normpath(run.dir / run.plan.target))
        self.run, self.combined = run, run.plan.layout == "combined"
        self.folder = Path(os.path.realpath(target.parent if self.combined else target))  # as in records

    @cached_property
    def combined_file(self) -> dict:
        """The combined file as the receipt of the merge lists it."""
        return receipts.read(self.run.dir / self.run.plan.merge_receipt, self.run.plan.merge_key)["rows"][0]

    @cached_property
    def is_combined_file_intact(self) -> bool:
        """The combined file has not changed since the merge."""
        return not manifest.is_damaged(self.combined_file, str(self.run.dir))

    def matches(self, record: dict, folder: Path) -> bool:
        """A record describes a file that has not changed since the pixels were read back from
        it."""
        if self.combined:
            return self.keeps(record, folder) and self.is_combined_file_intact
        try:
            stat = os.stat(self.folder / record["file"])
        except OSError:
            return False
        if not record["file"].endswith(self.run.plan.suffix):  # of an earlier format, and may be deleted at any time
            return False
        return folder == self.folder and record["of"] == [stat.st_size, stat.st_mtime_ns]

    def keeps(self, record: dict, folder: Path) -> bool:
        """A record stays. A combined file is replaced as a whole, and chips that only the old one
        had are in the store again; a file of a single ROI has its chips until it is replaced or
        deleted."""
        if folder != self.folder:
            return False
        if self.combined:
            return record["of"] == _file_stat(self.combined_file)
        return (self.folder / record["file"]).exists()


def _file_stat(record: Mapping) -> list[int]:
    return [record["size"], record["mtime_ns"]]


def _is_current(old: freed_chips.FreedChipRecords, name: str, group: StoredGroup, export: _Export) -> bool:
    """A record describes the chip that is in the store, and its file has not changed."""
    record = old.find(name)
    if record is None or not export.matches(record, old.folder):
        return False
    chip = group.store_group.read_metadata(name)
    return chip is not None and chip.sha256 == record["digest"]


def _merge_records(
    export: _Export, group: StoredGroup, names: set[str], old: freed_chips.FreedChipRecords | None, found: set[str]
) -> Iterator[dict]:
    """Old records that stay, then new ones, whose objects are added to ``found``."""
    if old is not None:
        for record in old:
            if record is not None and record["object"] not in names and export.keeps(record, old.folder):
                yield record
    for record in _read_back(export, group, names):
        found.add(record["object"])
        yield record


def _read_back(export: _Export, group: StoredGroup, names: set[str]) -> Iterator[dict]:
    """Records of chips that the export has with equal bytes."""
    for arrays, chips in _list_exported(export.run, group):
        if some := names & chips:
            yield from _read_back_arrays(export, group, arrays, some)


def _read_back_arrays(
    export: _Export, group: StoredGroup, arrays: list[_InputArrays], names: set[str]
) -> Iterator[dict]:
    """Records of chips from the arrays with their bands. Threads read files of single ROIs, or
    compare the rows of a combined file."""
    files = _intact_files(export, group, names)

    def make_record(chip: _ExportedChip) -> dict | None:
        return _make_record(group, chip)

    def make_records(file: _FileToRead) -> list[dict | None]:
        return list(map(make_record, _read_chips(export, group, arrays, file, threads=1)))

    found: Iterator[dict | None]
    if export.combined:
        chips = (chip for file in files for chip in _read_chips(export, group, arrays, file, threads=READ_THREADS))
        found = map_in_order(make_record, chips, READ_THREADS, lambda chip: sum(n.nbytes for _, n in chip.parts))
    else:
        by_file = map_in_order(make_records, files, READ_THREADS, lambda file: file[0]["size"])
        found = itertools.chain.from_iterable(by_file)
    yield from filter(None, found)


def _make_record(group: StoredGroup, exported: _ExportedChip) -> dict | None:
    """The record of a chip; None where its object cannot be made from the arrays."""
    name = exported.location.name
    chip = group.store_group.read_metadata(name)
    # that no imagery exists is stored only there, in few bytes, so the chip stays
    if chip is None or chip.meta["status"] == "no_data":
        return None
    try:
        dtype = group.store_group.read_dtype(name)
    except (OSError, ValueError):  # verify reports it
        return None
    if join_bands([(how["bands"], numbers) for how, numbers in exported.parts], chip.meta, dtype, chip.sha256) is None:
        return None
    more = {"arrays": [how for how, _ in exported.parts], "dtype": dtype, "digest": chip.sha256, "meta": chip.meta}
    return {"object": name, "file": exported.location.file, "of": exported.file_stat, **more}


def _read_chips(
    export: _Export, group: StoredGroup, arrays: list[_InputArrays], file: _FileToRead, threads: int
) -> Iterator[_ExportedChip]:
    """The chips in a file; those after the first damage are left out."""
    record, locations = file
    try:
        with open_arrays(export.folder / locations[0].file) as opened:
            for location, parts in _read_parts(opened, arrays, group.bands or (), locations, threads):
                yield _ExportedChip(location, _file_stat(record), parts)
    except (OSError, ValueError, KeyError, IndexError, StoreError):  # the next start of the run reports it
        return


def _intact_files(export: _Export, group: StoredGroup, names: set[str]) -> Iterator[_FileToRead]:
    """Final files that have not changed since their receipts, with the chips to read, each chip
    once, in order of their rows."""
    run, plan, remaining = export.run, export.run.plan, set(names)
    objects = plan.object_names(group.id)
    if export.combined:
        rows = {name: i for i, name in reversed(list(enumerate(objects))) if name in remaining}
        file = Path(plan.target).name
        if export.is_combined_file_intact and rows:
            ordered = sorted((i, name) for name, i in rows.items())
            yield export.combined_file, [_Location(name, file, i) for i, name in ordered]
        return
    for chunk in plan.chunks:
        if remaining.isdisjoint(objects[chunk.start : chunk.stop]):
            continue
        receipt = receipts.read(run.dir / "items" / f"{chunk.name}.json", plan.items_key(chunk))
        for index, record in expected_files(run, chunk.name, receipt).values():
            name = objects[index]
            is_array_file = record["path"].endswith(plan.suffix)
            if name in remaining and is_array_file and not manifest.is_damaged(record, str(export.folder)):
                remaining.discard(name)
                yield record, [_Location(name, record["path"], None)]


def _list_exported(run: Run, group: StoredGroup) -> list[tuple[list[_InputArrays], set[str]]]:
    """The chips of a group that an export can contain, by the arrays with their bands: other
    models may read the points of a source than its boxes."""
    plan = run.plan
    found: dict[tuple[str, ...], tuple[tuple[Unit, ...], set[str]]] = {}
    objects = plan.object_names(group.id)
    for index in plan.rois_of(group.id):
        readers = plan.readers(group.id, index)
        found.setdefault(tuple(u.id for u in readers), (readers, set()))[1].add(objects[index])
    listed = [(_input_arrays(readers, group), names) for readers, names in found.values()]
    bands = set(group.bands or ())
    return [(arrays, names) for arrays, names in listed if bands <= {b for one in arrays for b in one.bands}]


def _input_arrays(units: Sequence[Unit], group: StoredGroup) -> list[_InputArrays]:
    """The arrays of some units with bands of a group; of units that read the same bands, those of
    the first one."""
    first = {u.sensor.bands: u for u in reversed(units)}
    wanted = set(group.bands or ())
    units = [u for u in units if first.get(u.sensor.bands) is u and wanted & set(u.sensor.bands)]
    return [_InputArrays(u.sensor.bands, stacked_key("input", u.key), single_key("input", u.key)) for u in units]


def _read_parts(
    file: ArrayFile, arrays: list[_InputArrays], bands: Iterable[str], locations: list[_Location], threads: int
) -> Iterator[tuple[_Location, Parts]]:
    """Each location with the arrays that have its bands. Arrays of all ROIs are read once, in
    order."""
    keys, wanted = set(file.keys()), set(bands)
    stacked = []
    for one in arrays:
        if locations[0].row is not None and one.stacked in keys and wanted & set(one.bands):
            stacked.append(one)
            wanted -= set(one.bands)
    singles = [one for one in arrays if one not in stacked and wanted & set(one.bands)]
    for location, rows in _read_rows(file, stacked, locations, threads):
        parts = [
            ({"key": one.stacked, "bands": list(one.bands), "row": location.row, "mark": mark}, numbers)
            for one, (numbers, mark) in zip(stacked, rows)
        ]
        missing = set(wanted)
        for one in singles:
            key = one.single if location.row is None else f"{one.single}__{location.row:05d}"
            if key in keys and missing & set(one.bands):
                missing -= set(one.bands)
                parts.append(({"key": key, "bands": list(one.bands)}, file.read(key)))
        # a row without a mark would make every job read all rows before it
        if not any("row" in how and how["mark"] is None for how, _ in parts):
            yield location, parts


def _read_rows(
    file: ArrayFile, stacked: list[_InputArrays], locations: list[_Location], threads: int
) -> Iterator[tuple[_Location, Sequence[tuple[np.ndarray, int | None]]]]:
    """Locations, in order, each with its rows of the arrays of all ROIs and their marks."""
    if not stacked:
        yield from ((location, ()) for location in locations)
        return
    remaining = iter(locations)
    location = next(remaining, None)
    for index, rows in enumerate(zip(*(file.iter_rows(one.stacked, threads) for one in stacked))):
        if location is None:
            return
        if index == location.row:
            yield location, rows
            location = next(remaining, None)
