"""Freed chips made again of the exports that have their pixels (``kept.py``): for a fetch job before it asks the provider, and
before a final file is replaced that alone has some.

The object is the same to the byte, or there is none: its digest decides, whatever has happened to the export since.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import StoreError
from ...formats import Arrays, open_arrays
from ...runs.run import Run
from ...store import freed_chips
from ...store.store import Store, encoded, write_object

if TYPE_CHECKING:
    import numpy as np

#: Records that are worked on at a time where there can be as many as ROIs.
_BATCH = 64


def restore(store: Store, source_id: str, lacking: Mapping[str, Iterable[str]]) -> set[str]:
    """Make freed chips again.

    Args:
        lacking: object names, and the bands that no stored chip of theirs holds.

    Returns:
        The names of which something was made.
    """
    missing, done = {name: set(bands) for name, bands in lacking.items()}, set()
    paths = freed_chips.of_source(store, source_id) if lacking else []
    records = sorted(
        filter(None, (freed_chips.opened(path, store) for path in paths)),
        key=lambda r: (-len(r.bands), r.bands, r.path),
    )
    for held in records:
        with held:
            names = [name for name, bands in missing.items() if bands & set(held.bands)]
            for name in _made(store, held, filter(None, map(held.find, names))):
                missing[name] -= set(held.bands)
                done.add(name)
    return done


def rescue(run: Run, files: Collection[str]) -> int:
    """Put chips into the store that are nowhere but in final files of this run which are about to be replaced; those that the
    new files have are there already, so what comes back is what is not asked for any more. Returns how many.

    Args:
        files: paths relative to the folder they lie in.
    """
    count = 0
    for path in freed_chips.of_run(run.store, run.dir):
        held = freed_chips.opened(path, run.store)
        if held is None:
            continue
        with held:
            if held.generation != run.generation.chips:  # refetch: they are not wanted any more
                continue
            lost = (r for r in held.of_files(files) if _lacks(run.store, held, r["object"]))
            while batch := list(itertools.islice(lost, _BATCH)):
                count += len(list(_made(run.store, held, batch)))
    return count


def _lacks(store: Store, held: freed_chips.Records, name: str) -> bool:
    return bool(store.covering(held.source, held.bands, name, [held.bands])[1])


def _made(store: Store, held: freed_chips.Records, records: Iterable[dict]) -> Iterator[str]:
    """Write the objects of records; yields the names of those that could be made."""
    for record, array in _read_back(held.folder, records):
        store.declare_bands(held.source, held.bands)
        write_object(store.chip(held.source, held.bands, record["object"]), array, record["meta"])
        yield record["object"]


def _read_back(folder: Path, records: Iterable[dict]) -> Iterator[tuple[dict, np.ndarray]]:
    """Records whose objects the export still has, with their arrays; each file is opened once."""
    for name, group in itertools.groupby(sorted(records, key=lambda r: r["file"]), key=lambda r: r["file"]):
        try:
            with open_arrays(folder / name) as file:
                for record in group:
                    array = _array(file, record)
                    if array is not None:
                        yield record, array
        except FileNotFoundError:
            continue
        except (OSError, ValueError, StoreError) as error:
            print(f"restore: {folder / name} cannot be read ({error})", file=sys.stderr)


def _array(file: Arrays, record: dict) -> np.ndarray | None:
    """The array of a record's object, if the file still has it."""
    parts = []
    try:
        for part in record["arrays"]:
            row = part.get("row")
            numbers = file.read(part["key"]) if row is None else file.row(part["key"], row, part["mark"])
            parts.append((part["bands"], numbers))
    except (OSError, KeyError, IndexError, ValueError, StoreError):  # another file by now, or a damaged one
        return None
    return joined(parts, record["meta"], record["dtype"], record["digest"])


def joined(parts: Iterable[tuple[Iterable[str], np.ndarray]], meta: dict, dtype: str, sha: str) -> np.ndarray | None:
    """The array of a chip, of arrays that have its bands; None where the object they make is another one.

    Args:
        parts: bands of (..., C, H, W) arrays, and the arrays; the first one that has a band counts.
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
    with np.errstate(all="ignore"):  # what does not fit is another object
        array = np.stack([planes[b] for b in meta["bands"]], axis=-3).astype(dtype)
    return array if encoded(array, meta)[1] == sha else None
