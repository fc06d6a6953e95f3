"""Merge a run: combined streams every array into one file and writes the manifest; per_item writes the index.

Memory does not grow with the number of ROIs: receipts are read a chunk at a time, arrays a ROI at a time, and the
manifest is written while it is made. The final files appear by a rename, when they are whole.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import StoreError
from ..formats import manifest, module
from ..formats.arrays import Row
from ..machine.cores import Share
from ..planning.units import Unit
from ..runs.run import Run
from ..store import receipts, store
from .manifests import array_metadata as described
from .manifests import documents
from .manifests.survey import KINDS, Arrays, Survey
from .shared.common import now, read_checked, read_chip, spent
from .shared.model_images import tensors_of
from .shared.restored_chips import rescue

if TYPE_CHECKING:
    import numpy as np


def merge(run: Run, threads: Share = Share(1)) -> dict:
    """Make the final files and ``merge.json``; returns counts.

    Args:
        threads: that deflate pixels.

    Raises:
        StoreError: an object is damaged; running again makes it, and every other damaged one, anew.
    """
    started, plan = time.monotonic(), run.plan
    with contextlib.closing(Survey(run)) as survey:
        created, files = now(), []
        if plan.layout == "combined":
            rescue(run, [Path(plan.target).name])
            keys, sha = _write_arrays(run, survey, threads.now())
            files.append(manifest.file_record(plan.target, sha256=sha))
            manifest.write(plan.manifest, documents.combined(run, survey, keys, created))
        else:
            manifest.write(plan.manifest, documents.index(run, survey, created))
        files.append(manifest.file_record(plan.manifest))
    if not run.request.config.save_manifest:
        manifest.remove_own(plan.manifest_beside_target, plan.target)
    receipts.write(plan.merge_receipt, "merge", plan.merge_key, files, **spent(started))
    clean(run)
    return {"rois": len(plan.roi_ids), **survey.statuses}


def _write_arrays(run: Run, survey: Survey, threads: int) -> tuple[list[str], str | None]:
    """Write the combined array file; returns its keys and, where the writer knows it, its digest."""
    import numpy as np

    writer = module(run.request.config.format).Writer
    with writer(run.plan.target, lambda: described.about(run), threads) as file:
        for unit in run.plan.units:
            for kind in (*KINDS, *survey.tensors(unit.key)):
                arrays = survey.arrays[unit.key, kind]
                if not arrays.own:
                    continue
                try:
                    if arrays.stackable:
                        shape, dtype = next(iter(arrays.shapes)), np.dtype(arrays.dtype)
                        rows = _every(run, unit, kind, arrays, shape, dtype)
                        file.add(described.array(unit, kind, all_rois=True), (len(arrays.have), *shape), dtype, rows)
                        continue
                    for index, row in _of(run, unit, kind, arrays.indices):
                        file.add(described.array(unit, kind, roi=index), row.array.shape, row.array.dtype, [row])
                except StoreError as error:
                    more = _find_all_damage(run, survey)
                    raise StoreError(f"{error}{f' (and {more} more)' if more else ''}") from None
    return file.keys, file.sha256


def _of(run: Run, unit: Unit, kind: str, indices: Iterable[int]) -> Iterator[tuple[int, Row]]:
    """(ROI index, its array and where it lies) of the ROIs that have one, in order."""
    for index in indices:
        yield index, _read(run, unit, kind, index)


def _every(run: Run, unit: Unit, kind: str, arrays: Arrays, shape: tuple, dtype: np.dtype) -> Iterator[Row]:
    """A row for every ROI in one dtype: NaN where there is no array, or in integers what pixels without data are."""
    import numpy as np

    fill = np.nan
    if dtype.kind != "f":
        fill = run.plan.source[unit.source].identity["fill_value"]
        limits = np.iinfo(dtype)
        fill = fill if fill == int(fill) and limits.min <= fill <= limits.max else 0
    missing = Row(np.full(shape, fill, dtype))
    for index, has in enumerate(arrays.have):
        if not has:
            yield missing
            continue
        row = _read(run, unit, kind, index)
        yield row._replace(array=row.array.astype(dtype, copy=False))


def _read(run: Run, unit: Unit, kind: str, index: int) -> Row:
    name = run.plan.objects(unit.source)[index]
    if kind.startswith(documents.MODEL_INPUT):
        return Row(tensors_of(run, unit, index)[kind.removeprefix(documents.MODEL_INPUT)])
    if kind == "embedding":
        stored = read_checked(run.store.embeddings(unit.id), name)
        return described.row(kind, stored.array, stored.meta)
    return described.row(kind, *read_chip(run, unit.source, unit.sensor.bands, name))


def _find_all_damage(run: Run, survey: Survey) -> int:
    """Read everything, so that every damaged object is set aside and one more start is enough; returns how many."""
    found = 0
    for unit in run.plan.units:
        for kind in KINDS:
            for index in survey.arrays[unit.key, kind].indices:
                try:
                    _read(run, unit, kind, index)
                except StoreError:
                    found += 1
    return found - 1  # the first one is missing now, and counted again


def clean(run: Run) -> None:
    """Remove temporary files that killed jobs of this machine left where this run works; after the receipt, because the export
    does not depend on it."""
    run.store.clean((s.id for s in run.plan.sources), (u.id for u in run.plan.embedded))
    for folder in written_folders(run):
        store.clean(folder)


def written_folders(run: Run) -> list[Path]:
    """The folders that jobs of a run write into, beside the store's."""
    target = Path(os.path.normpath(run.dir / run.plan.target))
    folders = [target.parent, run.dir]
    if run.plan.layout == "per_item":
        folders.append(target)
    for name in ("fetch", "embed", "items", "repairs", "manifests"):
        folders += [run.dir / name, *(run.dir / name).glob("*/")]
    return [folder for folder in folders if folder.is_dir()]
