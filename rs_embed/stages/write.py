"""Write one chunk: verify its objects and record them; in per_item layout also make the ROIs' files from them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from .. import receipts
from ..formats import manifest
from ..formats.npz import NpzWriter
from ..models import describe
from ..plan import Chunk
from ..run import Run
from ..units import Unit
from .common import chunk_of, now, read_checked, read_chip, spent

if TYPE_CHECKING:
    import numpy as np


def write(run: Run, chunk_name: str) -> dict:
    """Verify and record a chunk and write ``items/<chunk>.json``; returns counts.

    Raises:
        StoreError: an object is damaged; it was set aside, and running again makes it anew.
    """
    chunk = chunk_of(run, chunk_name)
    started, created = time.monotonic(), now()
    status = _statuses(run, chunk)
    indices = range(chunk.start, chunk.stop)
    workers = (
        run.request.config.writer_workers if run.request.config.async_write and run.plan.layout == "per_item" else 1
    )
    with ThreadPoolExecutor(workers, thread_name_prefix="write") as pool:
        rows = list(pool.map(lambda i: _row(run, chunk, i, status, created), indices))
    receipts.write(
        f"items/{chunk.name}.json",
        "items",
        run.plan.items_key(chunk),
        rows,
        created=created,
        **spent(started),
    )
    return {"rois": len(rows), "failed": sum(r["status"] == "failed" for r in rows)}


def rewrite(run: Run, chunk: Chunk, indices: Iterable[int], created: str) -> list[dict]:
    """Make the files of some ROIs of a written chunk again (per_item); returns their rows."""
    status = _statuses(run, chunk)
    return [_row(run, chunk, i, status, created) for i in indices]


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


def _row(run: Run, chunk: Chunk, index: int, status: dict, created: str) -> dict:
    """The record of one ROI; reads, and so verifies, every object of it."""
    plan, config = run.plan, run.request.config
    arrays: dict[str, tuple[np.ndarray, bool]] = {}
    units = {}
    saved: dict[tuple, str] = {}
    for unit in plan.units:
        entry: dict = {"status": "ok"}
        if config.save_inputs:
            same = (unit.source, unit.sensor.bands)
            entry["input"] = _input(run, chunk, unit, index, status, saved.get(same), arrays)
            saved.setdefault(same, unit.key)
            entry["status"] = entry["input"]["status"]
        if config.save_embeddings:
            entry["embedding"] = _embedding(run, chunk, unit, index, status[unit.id, index], arrays)
            entry["status"] = entry["embedding"]["status"]
        units[unit.key] = entry
    row = {"roi": plan.roi_ids[index], "index": index, "units": units}
    row |= {"status": _combine([u["status"] for u in units.values()]), "retryable": _retryable(units)}
    if plan.layout == "per_item":
        row["files"] = _files(run, index, row, arrays, created)
    return row


def _combine(statuses: list[str]) -> str:
    if all(s == "failed" for s in statuses):
        return "failed"
    if "failed" in statuses:
        return "partial"
    return "ok" if "ok" in statuses else "no_data"


def _retryable(units: dict) -> bool:
    return any(
        part.get("retryable", False) for u in units.values() for part in (u.get("input", {}), u.get("embedding", {}))
    )


def _input(run: Run, chunk: Chunk, unit: Unit, index: int, status: dict, same_as: str | None, arrays: dict) -> dict:
    fetched = status[unit.source, index]
    if fetched["status"] == "failed":
        return {k: v for k, v in fetched.items() if k != "roi"}
    vouched = [*run.plan.fetch_receipts(chunk, [unit.source]), f"items/{chunk.name}.json"]
    pixels, meta = read_chip(run, unit.source, unit.sensor.bands, run.plan.roi_ids[index], vouched)
    record = {k: meta[k] for k in ("status", "crs", "affine", "dates", "fetched")}
    if pixels is None:
        return record
    record |= {
        "shape": list(pixels.shape),
        "dtype": pixels.dtype.name,
        "sha256": _array_digest(pixels),
        "provenance": meta["provenance"],
    }
    if same_as is None:
        arrays[f"input_chw__{unit.key}"] = (pixels, True)
    else:
        record["same_as"] = same_as
    return record


def _embedding(run: Run, chunk: Chunk, unit: Unit, index: int, made: dict, arrays: dict) -> dict:
    if made["status"] == "failed":
        return {k: v for k, v in made.items() if k != "roi"}
    vouched = [f"embed/{unit.id}/{chunk.name}.json", f"items/{chunk.name}.json"]
    stored = read_checked(run.store.embedding(unit.id, run.plan.roi_ids[index]), vouched)
    if stored.meta["status"] == "no_data":
        return {"status": "no_data", "meta": stored.meta}
    arrays[f"embedding__{unit.key}"] = (stored.array, False)
    record = {
        "shape": list(stored.array.shape),
        "dtype": stored.array.dtype.name,
        "sha256": _array_digest(stored.array),
    }
    return {"status": "ok", **record, "meta": stored.meta}


def _array_digest(array: np.ndarray) -> str:
    """SHA-256 of all bytes of an array in C order."""
    import hashlib

    return hashlib.sha256(memoryview(array).cast("B") if array.size else b"").hexdigest()


def _files(run: Run, index: int, row: dict, arrays: dict, created: str) -> list[dict]:
    """Write the ROI's arrays and then its manifest (a complete manifest implies complete arrays)."""
    path, sidecar = run.plan.item_file(index), run.plan.item_manifest(index)
    with NpzWriter(path) as npz:
        for key, (array, deflate) in arrays.items():
            npz.add(key, array.shape, array.dtype, [array], deflate=deflate)
    manifest.write(sidecar, item_manifest(run, index, row, created))
    return [manifest.file_record(path, run.plan.target), manifest.file_record(sidecar, run.plan.target)]


def item_manifest(run: Run, index: int, row: dict, created: str) -> dict:
    """The manifest of one ROI (requirements B4)."""
    plan = run.plan
    entries = []
    for unit in plan.units:
        record = row["units"][unit.key]
        entry = {
            **manifest.model_entry(unit, describe(unit.model)),
            "status": record["status"],
            "input": None,
            "embedding": None,
            "meta": None,
        }
        taken = record.get("input")
        if taken is not None and "shape" in taken:
            entry["input"] = {"npz_key": f"input_chw__{taken.get('same_as', unit.key)}"} | {
                k: taken[k] for k in ("dtype", "shape", "sha256", "crs", "affine", "dates")
            }
            entry["input"] |= {
                "units": describe(unit.model).modalities[unit.modality].units,
                "bands": list(unit.sensor.bands),
            }
            if "same_as" in taken:
                entry["input"]["dedup_reused"] = True
            entry["fetch_meta"] = {"fetched": taken["fetched"], "provenance": taken["provenance"]}
        made = record.get("embedding")
        if made is not None and made["status"] == "ok":
            entry["embedding"] = {"npz_key": f"embedding__{unit.key}"} | {
                k: made[k] for k in ("dtype", "shape", "sha256")
            }
        if made is not None and "meta" in made:
            entry["meta"] = {"model": unit.label, **made["meta"]}
        for part in (taken, made):
            if part is not None and part["status"] == "failed":
                entry |= {k: part[k] for k in ("error", "stage", "retryable")}
        entries.append(entry)
    return {
        **manifest.header(plan, created),
        "point_index": index,
        "name": plan.names[index],
        "roi": plan.roi_ids[index],
        "status": row["status"],
        "spatial": manifest.spatial(run.roi(index).spatial),
        "models": entries,
        "summary": manifest.summary(e["status"] for e in entries),
        "npz_path": Path(plan.item_file(index)).name,
        "npz_keys": [
            e[k]["npz_key"] for e in entries for k in ("input", "embedding") if e[k] and not e[k].get("dedup_reused")
        ],
        "manifest_path": Path(plan.item_manifest(index)).name,
    }
