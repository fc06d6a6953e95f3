"""The merge job: combined streams every array into one file and writes the manifest; per_item
writes the index.

Memory does not grow with the number of ROIs: receipts are read a chunk at a time, arrays a ROI at
a time, and the manifest is written as a stream. The final files appear by a rename, when they are
complete.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StoreError
from ..formats import format_module, manifest
from ..formats.arrays import Row
from ..machine.cores import CoreShare
from ..planning.units import Unit
from ..runs.run import Run
from ..store import atomic_files, receipts
from .manifests import array_metadata, documents
from .manifests.survey import KINDS, Arrays, Survey
from .shared.jobs import measure_job, utc_now
from .shared.model_images import make_tensors
from .shared.restored_chips import store_chips_before_replacement
from .shared.stored_objects import read_checked, read_chip

if TYPE_CHECKING:
    import numpy as np


def merge(run: Run, threads: CoreShare = CoreShare(1)) -> dict:
    """Write the final files and ``merge.json``; returns counts.

    Args:
        threads: that deflate pixels.

    Raises:
        StoreError: an object is damaged; running again creates it, and every other damaged one,
            again.
    """
    started, plan = time.monotonic(), run.plan
    with contextlib.closing(Survey(run)) as survey:
        created, files = utc_now(), []
        if plan.layout == "combined":
            store_chips_before_replacement(run, [Path(plan.target).name])
            keys, sha = _write_arrays(run, survey, threads.available())
            files.append(manifest.file_record(plan.target, sha256=sha))
            manifest.write(plan.manifest, documents.build_combined_manifest(run, survey, keys, created))
        else:
            manifest.write(plan.manifest, documents.build_index(run, survey, created))
        files.append(manifest.file_record(plan.manifest))
    if not run.request.config.save_manifest:
        manifest.remove_manifest(plan.manifest_beside_target, plan.target)
    result = survey.counts.as_json()
    receipts.write(plan.merge_receipt, "merge", plan.merge_key, files, result=result, **measure_job(started))
    remove_leftovers(run)
    return {"rois": len(plan.roi_ids), **survey.counts.statuses}


def _write_arrays(run: Run, survey: Survey, threads: int) -> tuple[list[str], str | None]:
    """Write the combined array file; returns its keys and, where the writer knows it, its digest.

    Raises:
        StoreError: objects are damaged; all of them were moved aside.
    """
    writer = format_module(run.request.config.format).Writer
    with writer(run.plan.target, lambda: array_metadata.describe_file(run), threads) as file:
        try:
            for unit in run.plan.units:
                for kind in (*KINDS, *survey.tensors(unit.key)):
                    if survey.arrays[unit.key, kind].own:
                        _write_kind(run, unit, kind, survey.arrays[unit.key, kind], file)
        except StoreError as error:
            others = _set_damaged_objects_aside(run, survey)
            raise StoreError(f"{error}{f' (and {others} more)' if others else ''}") from None
    return file.keys, file.sha256


def _write_kind(run: Run, unit: Unit, kind: str, arrays: Arrays, file: Any) -> None:
    """Write the inputs, embeddings or tensors of a unit: one array of all ROIs where their shapes
    are equal, else one per ROI."""
    import numpy as np

    if arrays.stackable:
        shape, dtype = next(iter(arrays.shapes)), np.dtype(arrays.dtype)
        rows = _iterate_rows(run, unit, kind, arrays, shape, dtype)
        metadata = array_metadata.describe_array(unit, kind, all_rois=True)
        file.add(metadata, (len(arrays.have), *shape), dtype, rows)
        return
    for index in arrays.indices:
        row = _read_row(run, unit, kind, index)
        file.add(array_metadata.describe_array(unit, kind, roi=index), row.array.shape, row.array.dtype, [row])


def _iterate_rows(run: Run, unit: Unit, kind: str, arrays: Arrays, shape: tuple, dtype: np.dtype) -> Iterator[Row]:
    """A row for every ROI in one dtype: where it has no array NaN, or in integers the fill value
    of its pixels."""
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
        row = _read_row(run, unit, kind, index)
        yield row._replace(array=row.array.astype(dtype, copy=False))


def _read_row(run: Run, unit: Unit, kind: str, index: int) -> Row:
    """One array of a ROI that has it, with its grid."""
    name = run.plan.object_names(unit.source)[index]
    if kind.startswith(documents.MODEL_INPUT):
        return Row(make_tensors(run, unit, index)[kind.removeprefix(documents.MODEL_INPUT)])
    if kind == "embedding":
        stored = read_checked(run.store.embedding_group(unit.id), name)
        array, meta = stored.array, stored.meta
    else:
        array, meta = read_chip(run, run.plan.chip_source(unit, index), unit.sensor.bands, name)
    if array is None:
        raise StoreError(
            f"the chip of ROI {run.plan.names[index]!r} has no pixels, unlike its record; run again with resume=false"
        )
    return array_metadata.describe_row(kind, array, meta)


def _set_damaged_objects_aside(run: Run, survey: Survey) -> int:
    """Read everything, so that every damaged object is moved aside and one more start is enough;
    returns how many others there are."""
    found = 0
    for unit in run.plan.units:
        for kind in KINDS:
            for index in survey.arrays[unit.key, kind].indices:
                try:
                    _read_row(run, unit, kind, index)
                except StoreError:
                    found += 1
    return found - 1  # the first one is missing now, and counted again


def remove_leftovers(run: Run) -> None:
    """Remove temporary files that killed jobs of this machine left where this run works; after the
    receipt, because the export does not depend on it."""
    run.store.remove_temporary_files((s.id for s in run.plan.sources), (u.id for u in run.plan.embedded_units))
    for folder in written_folders(run):
        atomic_files.remove_temporary_files(folder)


def written_folders(run: Run) -> list[Path]:
    """The folders that jobs of a run write into, beside the store's."""
    target = Path(os.path.normpath(run.dir / run.plan.target))
    folders = [target.parent, run.dir]
    if run.plan.layout == "per_item":
        folders.append(target)
    for name in ("fetch", "embed", "items", "repairs", "manifests"):
        folders += [run.dir / name, *(run.dir / name).glob("*/")]
    return [folder for folder in folders if folder.is_dir()]
