"""Freed chips written again from the exports that contain their pixels (``freed_chips.py``): in a
fetch job, before the provider is asked, and before a final file is replaced that has the only copy
of some pixels.

The object is the same to the byte, or none is written: its digest decides, whatever has happened
to the export since.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import StoreError
from ...formats import ArrayFile, open_arrays
from ...runs.run import Run
from ...store import freed_chips
from ...store.objects import encode_object, write_object
from ...store.store import Store

if TYPE_CHECKING:
    import numpy as np

#: Records that are processed at a time where there can be as many as ROIs.
_BATCH = 64


def restore_freed_chips(store: Store, source_id: str, lacking: Mapping[str, Iterable[str]]) -> set[str]:
    """Write freed chips again, from exports.

    Args:
        lacking: object names, and the bands of each that no stored chip has.

    Returns:
        The names of which at least one chip was written.
    """
    missing, done = {name: set(bands) for name, bands in lacking.items()}, set()
    paths = freed_chips.list_source_records(store, source_id) if lacking else []
    records = filter(None, [freed_chips.open_records(path, store) for path in paths])
    for freed in sorted(records, key=lambda r: (-len(r.bands), r.bands, r.path)):
        with freed:
            names = [name for name, bands in missing.items() if bands & set(freed.bands)]
            for name in _write_objects(store, freed, filter(None, map(freed.find, names))):
                missing[name] -= set(freed.bands)
                done.add(name)
    return done


def store_chips_before_replacement(run: Run, files: Collection[str]) -> int:
    """Store the chips that only final files of this run contain which are about to be replaced.
    The chips of the new files are in the store already, so these are chips that the request no
    longer needs. Returns how many.

    Args:
        files: paths relative to the folder of the export.
    """
    count = 0
    for path in freed_chips.list_run_records(run.store, run.dir):
        freed = freed_chips.open_records(path, run.store)
        if freed is None:
            continue
        with freed:
            if freed.generation != run.generation.chips:  # refetch has replaced them
                continue
            lost = (r for r in freed.find_by_files(files) if _is_missing(run.store, freed, r["object"]))
            while batch := list(itertools.islice(lost, _BATCH)):
                count += len(list(_write_objects(run.store, freed, batch)))
    return count


def _is_missing(store: Store, freed: freed_chips.FreedChipRecords, name: str) -> bool:
    return bool(store.select_band_sets(freed.source, freed.bands, name, [freed.bands])[1])


def _write_objects(store: Store, freed: freed_chips.FreedChipRecords, records: Iterable[dict]) -> Iterator[str]:
    """Write the objects of records; yields the names of those that could be written."""
    for record, array in _read_arrays(freed.folder, records):
        store.declare_bands(freed.source, freed.bands)
        write_object(store.chip_path(freed.source, freed.bands, record["object"]), array, record["meta"])
        yield record["object"]


def _read_arrays(folder: Path, records: Iterable[dict]) -> Iterator[tuple[dict, np.ndarray]]:
    """Records whose objects the export still contains, with their arrays; each file is opened
    once."""
    for name, group in itertools.groupby(sorted(records, key=lambda r: r["file"]), key=lambda r: r["file"]):
        try:
            with open_arrays(folder / name) as file:
                for record in group:
                    if (array := _read_array(file, record)) is not None:
                        yield record, array
        except FileNotFoundError:
            continue
        except (OSError, ValueError, StoreError) as error:
            print(f"restore: {folder / name} cannot be read ({error})", file=sys.stderr)


def _read_array(file: ArrayFile, record: dict) -> np.ndarray | None:
    """The array of a record's object; None where the file no longer contains it."""
    parts = []
    try:
        for part in record["arrays"]:
            row = part.get("row")
            numbers = file.read(part["key"]) if row is None else file.read_row(part["key"], row, part["mark"])
            parts.append((part["bands"], numbers))
    except (OSError, KeyError, IndexError, ValueError, StoreError):  # the file was replaced or damaged
        return None
    return join_bands(parts, record["meta"], record["dtype"], record["digest"])


def join_bands(
    parts: Iterable[tuple[Iterable[str], np.ndarray]], meta: dict, dtype: str, sha: str
) -> np.ndarray | None:
    """The array of a chip from arrays that contain its bands; None where its object would differ
    from the recorded one.

    Args:
        parts: bands of (..., C, H, W) arrays, and the arrays; the first one with a band is used.
        meta, dtype, sha: of the chip; arrays of an export may be of a wider dtype.
    """
    import numpy as np

    planes: dict[str, np.ndarray] = {}
    for bands, numbers in parts:
        if numbers.ndim < 3 or numbers.shape[-3] != len(list(bands)):
            return None
        for i, band in enumerate(bands):
            planes.setdefault(band, numbers[..., i, :, :])
    if not set(meta["bands"]) <= planes.keys() or len({planes[b].shape for b in meta["bands"]}) > 1:
        return None
    with np.errstate(all="ignore"):  # values that do not fit the dtype change the digest
        array = np.stack([planes[b] for b in meta["bands"]], axis=-3).astype(dtype)
    return array if encode_object(array, meta)[1] == sha else None
