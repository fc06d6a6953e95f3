"""The write job: verify the objects of one chunk and record them; in per_item layout also write
the ROIs' files from them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from ..errors import StoreError
from ..formats import format_module, manifest
from ..formats.arrays import ArrayMetadata, Row
from ..machine.cores import CoreShare, ThreadLimit
from ..planning.plan import Chunk
from ..runs.run import Run
from ..store import receipts
from .manifests import array_metadata, documents
from .manifests.roi_record import build_roi_record
from .shared import chunk_files
from .shared.jobs import StageError, find_chunk, make_stage_error, measure_job, utc_now
from .shared.packing import pack_chunk
from .shared.restored_chips import store_chips_before_replacement


def write(run: Run, chunk_name: str, threads: CoreShare = CoreShare(1)) -> dict:
    """Verify and record a chunk and write ``items/<chunk>.json``; returns counts.

    Args:
        threads: that read and verify where no file is written; with files there are
            ``writer_workers`` threads.

    Raises:
        StoreError: an object is damaged; it was set aside, and running again creates it again.
    """
    chunk = find_chunk(run, chunk_name)
    started, created = time.monotonic(), utc_now()
    rows = make_rows(run, chunk, range(chunk.start, chunk.stop), created, threads)
    kept = chunk_files.write_records(chunk, rows)
    small = [{k: v for k, v in row.items() if k != "units"} for row in rows]
    key = run.plan.items_key(chunk)
    packed = {"packed": pack_chunk(run, chunk).objects} if run.request.config.pack else {}
    path, used = f"items/{chunk.name}.json", measure_job(started)
    receipts.write(path, "items", key, small, records=kept, created=created, **used)
    return {"rois": len(rows), "failed": sum(r["status"] == "failed" for r in rows)} | packed


def make_rows(
    run: Run, chunk: Chunk, indices: Sequence[int], created: str, threads: CoreShare = CoreShare(1)
) -> list[dict]:
    """The rows of some ROIs of a chunk; in per_item layout also writes their files.

    Raises:
        StoreError: objects are damaged. All ROIs are read before, so that every damaged object is
            moved aside.
        StageError: another error, of the first ROI that has one.
    """
    status, config = _read_receipt_rows(run, chunk), run.request.config
    workers = threads.maximum
    limit: contextlib.AbstractContextManager = ThreadLimit(threads)
    if run.plan.layout == "per_item":
        store_chips_before_replacement(run, {f"{run.plan.names[i]}{run.plan.suffix}" for i in indices})
        workers, limit = config.writer_workers if config.async_write else 1, contextlib.nullcontext()

    def make_row(index: int) -> dict:
        with limit:
            row, arrays = build_roi_record(run, index, status)
            if run.plan.layout == "per_item":
                row["files"] = _write_files(run, index, row, arrays, created)
            return row

    futures = _call_for_all(make_row, indices, workers)
    _raise_errors(run, {i: error for i, f in zip(indices, futures) if (error := f.exception())})
    return [f.result() for f in futures]


def _call_for_all(call: Callable[[int], dict], indices: Sequence[int], workers: int) -> list[Future[dict]]:
    """Call a function for every index, in threads; returns when all calls have ended."""
    with ThreadPoolExecutor(workers, thread_name_prefix="write") as pool:
        futures = [pool.submit(call, i) for i in indices]
        try:
            wait(futures)
        except BaseException:  # Ctrl-C: do not start what is still waiting
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return futures


def _raise_errors(run: Run, errors: dict[int, BaseException]) -> None:
    """Raise the errors of ROIs as one, if there are any."""
    for index, error in errors.items():
        if isinstance(error, StageError):
            raise error
        if not isinstance(error, StoreError):
            labels = ", ".join(u.label for u in run.plan.units)
            raise make_stage_error("write", run.plan.names[index], labels, error) from error
    if errors:
        first, *others = errors.values()
        raise StoreError(f"{first}{f' (and {len(others)} more)' if others else ''}")


def _read_receipt_rows(run: Run, chunk: Chunk) -> dict[tuple[str, int], dict]:
    """Receipt rows of the chunk by (unit or source id, ROI index)."""
    plan = run.plan
    rows: dict[tuple[str, int], dict] = {}
    for unit in plan.embedded_units:
        receipt = receipts.read(f"embed/{unit.id}/{chunk.name}.json", plan.embed_key(unit, chunk))
        rows |= {(unit.id, i): r for i, r in zip(range(chunk.start, chunk.stop), receipt["rows"])}
    for source in plan.sources:
        for part in (p for p in chunk.parts if p.name in plan.parts_of(source.id)):
            receipt = receipts.read(f"fetch/{source.id}/{part.name}.json", plan.fetch_key(source, part))
            rows |= {(source.id, i): r for i, r in zip(plan.rois_of(source.id, part.start, part.stop), receipt["rows"])}
    return rows


def _write_files(run: Run, index: int, row: dict, arrays: list[tuple[ArrayMetadata, Row]], created: str) -> list[dict]:
    """Write the ROI's arrays and then its manifest (a complete manifest implies complete
    arrays)."""
    path, sidecar = run.plan.item_file(index), run.plan.item_manifest(index)
    writer = format_module(run.request.config.format).Writer
    with writer(path, lambda: array_metadata.describe_file(run, [index])) as file:
        for metadata, values in arrays:
            file.add(metadata, values.array.shape, values.array.dtype, [values])
    manifest.write(sidecar, documents.build_item_manifest(run, index, row, created))
    if not run.request.config.save_manifest:
        manifest.remove_manifest(f"{path[: -len(run.plan.suffix)]}.json", path)
    return [manifest.file_record(path, run.plan.target, file.sha256), manifest.file_record(sidecar, run.plan.target)]
