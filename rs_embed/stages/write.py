"""Write one chunk: verify its objects and record them; in per_item layout also make the ROIs' files from them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from ..errors import ModelError, StoreError
from ..formats import manifest, module
from ..formats.arrays import Array, Row
from ..machine.cores import Share, Turn
from ..planning.plan import Chunk
from ..planning.units import Unit
from ..runs.run import Run
from ..store import receipts
from .manifests import array_metadata as described
from .manifests import documents
from .shared import chunk_records
from .shared.common import chunk_of, now, read_checked, read_chip, spent, stop
from .shared.model_images import tensors_of
from .shared.packing import pack_chunk
from .shared.quality import inspect
from .shared.restored_chips import rescue

if TYPE_CHECKING:
    import numpy as np


def write(run: Run, chunk_name: str, threads: Share = Share(1)) -> dict:
    """Verify and record a chunk and write ``items/<chunk>.json``; returns counts.

    Args:
        threads: that read and check where no file is written; writing has ``writer_workers``.

    Raises:
        StoreError: an object is damaged; it was set aside, and running again makes it anew.
    """
    chunk = chunk_of(run, chunk_name)
    started, created = time.monotonic(), now()
    rows = make_rows(run, chunk, range(chunk.start, chunk.stop), created, threads)
    kept = chunk_records.write(chunk, rows)
    small = [{k: v for k, v in row.items() if k != "units"} for row in rows]
    key = run.plan.items_key(chunk)
    packed = {"packed": pack_chunk(run, chunk).objects} if run.request.config.pack else {}
    receipts.write(f"items/{chunk.name}.json", "items", key, small, records=kept, created=created, **spent(started))
    return {"rois": len(rows), "failed": sum(r["status"] == "failed" for r in rows)} | packed


def make_rows(run: Run, chunk: Chunk, indices: Iterable[int], created: str, threads: Share = Share(1)) -> list[dict]:
    """The rows of some ROIs of a chunk, and in per_item layout their files. Goes through all of them before it fails, so
    that every damaged object is set aside."""
    status = _statuses(run, chunk)
    config, workers = run.request.config, threads.most
    turn: contextlib.AbstractContextManager = Turn(threads)
    if run.plan.layout == "per_item":
        rescue(run, {f"{run.plan.names[i]}{run.plan.suffix}" for i in indices})
        workers, turn = config.writer_workers if config.async_write else 1, contextlib.nullcontext()

    def row_of(index: int) -> dict:
        with turn:
            return _row(run, index, status, created)

    with ThreadPoolExecutor(workers, thread_name_prefix="write") as pool:
        futures = [pool.submit(row_of, i) for i in indices]
        try:
            wait(futures)
        except BaseException:  # Ctrl-C: do not begin what is still waiting
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    failed = [(i, f.exception()) for i, f in zip(indices, futures) if f.exception()]
    errors = [error for _, error in failed]
    for index, error in failed:
        if not isinstance(error, StoreError):
            raise stop("write", run.plan.names[index], ", ".join(u.label for u in run.plan.units), error) from error
    if errors:
        raise StoreError(f"{errors[0]}{f' (and {len(errors) - 1} more)' if len(errors) > 1 else ''}")
    return [f.result() for f in futures]


def _statuses(run: Run, chunk: Chunk) -> dict[tuple[str, int], dict]:
    """Receipt rows of the chunk by (unit or source id, ROI index)."""
    plan, rows = run.plan, {}
    for unit in plan.embedded:
        receipt = receipts.read(f"embed/{unit.id}/{chunk.name}.json", plan.embed_key(unit, chunk))
        rows |= {(unit.id, i): r for i, r in zip(range(chunk.start, chunk.stop), receipt["rows"])}
    for source in plan.sources:
        for part in chunk.parts:
            receipt = receipts.read(f"fetch/{source.id}/{part.name}.json", plan.fetch_key(source, part))
            rows |= {(source.id, i): r for i, r in zip(range(part.start, part.stop), receipt["rows"])}
    return rows


def _row(run: Run, index: int, status: dict, created: str) -> dict:
    """The record of one ROI; reads, and so verifies, every object of it."""
    plan, config = run.plan, run.request.config
    arrays: list[tuple[Array, Row]] = []
    units = {}
    saved: dict[tuple, str] = {}
    read = functools.cache(read_checked)  # models share chips
    for unit in plan.units:
        entry: dict = {}
        if config.save_inputs:
            same = (unit.source, unit.sensor.bands)
            fetched = status[unit.source, index]
            entry["input"] = _input(run, unit, index, fetched, saved.get(same), arrays, read)
            saved.setdefault(same, unit.key)
        if config.save_embeddings:
            entry["embedding"] = _embedding(run, unit, index, status[unit.id, index], arrays)
        if config.save_inputs == "model" and all(part["status"] == "ok" for part in entry.values()):
            entry["model_inputs"] = _model_inputs(run, unit, index, arrays)
        found = {part["status"] for part in entry.values()}
        entry["status"] = next(s for s in ("failed", "no_data", "ok") if s in found)
        units[unit.key] = entry
        if plan.layout == "combined":  # merge reads them again
            arrays.clear()
    read.cache_clear()
    parts = [part for unit in units.values() for part in unit.values() if isinstance(part, dict)]
    row = {"roi": plan.roi_ids[index], "index": index, "units": units}
    row["status"] = _combine([u["status"] for u in units.values()])
    row["retryable"] = any(part.get("retryable", False) for part in parts)
    if plan.layout == "per_item":
        row["files"] = _files(run, index, row, arrays, created)
    return row


def _combine(statuses: list[str]) -> str:
    if all(s == "failed" for s in statuses):
        return "failed"
    if "failed" in statuses:
        return "partial"
    return "ok" if "ok" in statuses else "no_data"


def _input(run: Run, unit: Unit, index: int, fetched: dict, same_as: str | None, arrays: list, read: Callable) -> dict:
    if fetched["status"] == "failed":
        return {k: v for k, v in fetched.items() if k != "object"}
    pixels, meta = read_chip(run, unit.source, unit.sensor.bands, run.plan.objects(unit.source)[index], read)
    record = {k: meta[k] for k in ("status", "crs", "affine", "dates", "fetched", "roi") if k in meta}
    if pixels is None:
        return record | {"status": "no_data"}
    record |= {"shape": list(pixels.shape), "dtype": pixels.dtype.name, "sha256": _array_digest(pixels)}
    if same_as is None:
        arrays.append((described.array(unit, "input"), described.row("input", pixels, meta)))
    else:
        record["same_as"] = same_as
    if unit not in run.plan.embedded:  # else the embedding's record says it
        record["quality"] = inspect(pixels, unit.sensor.bands, meta["valid"], meta["warnings"])
    return record | {"provenance": meta["provenance"]}


def _embedding(run: Run, unit: Unit, index: int, made: dict, arrays: list) -> dict:
    if made["status"] == "failed":
        return {k: v for k, v in made.items() if k != "object"}
    stored = read_checked(run.store.embeddings(unit.id), run.plan.objects(unit.source)[index])
    if stored.meta["status"] == "no_data":
        return {"status": "no_data", "meta": stored.meta}
    arrays.append((described.array(unit, "embedding"), described.row("embedding", stored.array, stored.meta)))
    record = {
        "shape": list(stored.array.shape),
        "dtype": stored.array.dtype.name,
        "sha256": _array_digest(stored.array),
    }
    return {"status": "ok", **record, "meta": stored.meta}


def _model_inputs(run: Run, unit: Unit, index: int, arrays: list) -> dict:
    """The tensors that enter the network, which are made again of the chip."""
    try:
        tensors = tensors_of(run, unit, index)
    except ModelError as error:  # only where nothing was embedded: an embedding has been through this
        return receipts.failure(error, "write")
    said = {}
    for name, tensor in tensors.items():
        arrays.append((described.array(unit, documents.MODEL_INPUT + name), Row(tensor)))
        said[name] = {"shape": list(tensor.shape), "dtype": tensor.dtype.name, "sha256": _array_digest(tensor)}
    return {"status": "ok", "tensors": said}


def _array_digest(array: np.ndarray) -> str:
    """SHA-256 of all bytes of an array in C order."""
    return hashlib.sha256(memoryview(array).cast("B") if array.size else b"").hexdigest()


def _files(run: Run, index: int, row: dict, arrays: list, created: str) -> list[dict]:
    """Write the ROI's arrays and then its manifest (a complete manifest implies complete arrays)."""
    path, sidecar = run.plan.item_file(index), run.plan.item_manifest(index)
    with module(run.request.config.format).Writer(path, lambda: described.about(run, [index])) as file:
        for array, held in arrays:
            file.add(array, held.array.shape, held.array.dtype, [held])
    manifest.write(sidecar, documents.item(run, index, row, created))
    if not run.request.config.save_manifest:
        manifest.remove_own(f"{path[: -len(run.plan.suffix)]}.json", path)
    return [manifest.file_record(path, run.plan.target, file.sha256), manifest.file_record(sidecar, run.plan.target)]
