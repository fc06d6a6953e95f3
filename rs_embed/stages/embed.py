"""The embed job: the ROIs of one chunk without an embedding of one unit, each an object, then the
receipt.

The model is loaded once for the chunk, and only if an embedding is missing: otherwise torch is not
even imported.
"""

from __future__ import annotations

import functools
import importlib.metadata
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import StoreError
from ..machine.cores import CoreShare
from ..machine.devices import lease_gpu
from ..models import get_adapter
from ..planning.plan import Chunk
from ..planning.units import Unit
from ..runs.run import Run
from ..store import receipts
from ..store.objects import Object, write_object
from ..version import DISTRIBUTION, package_version
from .shared.jobs import find_chunk, find_unit, group_by_object, make_stage_error, measure_job
from .shared.model_images import NoData, make_image
from .shared.packing import pack_embeddings
from .shared.quality import find_bad_input

if TYPE_CHECKING:
    import numpy as np

    from ..engine.engine import Engine


def embed(run: Run, unit_id: str, chunk_name: str, threads: CoreShare = CoreShare(1)) -> dict:
    """Embed the ROIs of a chunk that lack an embedding, and write ``embed/<unit>/<chunk>.json``;
    returns counts.

    Args:
        threads: CPU workers over whole batches, as many as the share has; never changes a number.

    Raises:
        StageError: the first failure, unless ``continue_on_error``; embeddings computed until then
            are kept.
    """
    unit, chunk = find_unit(run, unit_id), find_chunk(run, chunk_name)
    started = time.monotonic()
    rows = _Rows(run, unit)
    lacking = _find_lacking(rows, chunk)
    reused = rows.count_results()
    measured: dict = {"load_seconds": 0.0}
    if lacking and (not rows.errors or run.request.config.continue_on_error):
        with lease_gpu(run.request.device) as gpu:
            if gpu is not None:
                print(f"embed: has GPU {gpu}", flush=True)
            measured = _embed_rois(rows, lacking, threads) | ({"gpu": gpu} if gpu is not None else {})
    if rows.errors and not run.request.config.continue_on_error:
        index, error = min(rows.errors, key=lambda e: e[0])
        raise make_stage_error("embed", run.plan.names[index], unit.label, error)
    embedded = sum(rows.by_object[rows.objects[i]]["status"] == "ok" for i in lacking)
    counts = {"embedded": embedded, "reused": reused}
    packed = {"packed": pack_embeddings(run, unit, chunk).objects} if run.request.config.pack else {}
    receipts.write(
        f"embed/{unit.id}/{chunk.name}.json",
        "embed",
        run.plan.embed_key(unit, chunk),
        [{"object": name, **rows.by_object[name]} for name in rows.objects[chunk.start : chunk.stop]],
        **counts,
        **packed,
        failed=len(rows.by_object) - rows.count_results(),
        **measured,
        **measure_job(started),
    )
    return counts


class _Rows:
    """Rows of the receipt, by object, and the errors among them, by ROI index."""

    def __init__(self, run: Run, unit: Unit) -> None:
        self.run, self.unit, self.objects = run, unit, run.plan.object_names(unit.source)
        self.by_object: dict[str, dict] = {}
        self.errors: list[tuple[int, Exception]] = []

    def add_stored(self, name: str, stored: Object) -> None:
        """Add an embedding that is in the store."""
        self.by_object[name] = {"status": stored.meta["status"], "size": stored.size, "sha256": stored.sha256}

    def add_error(self, index: int, error: Exception) -> None:
        """Add a ROI that failed."""
        self.errors.append((index, error))
        self.by_object[self.objects[index]] = receipts.failure_row(error, "embed")

    def count_results(self) -> int:
        """Rows that did not fail."""
        return sum(row["status"] != "failed" for row in self.by_object.values())


def _find_lacking(rows: _Rows, chunk: Chunk) -> list[int]:
    """ROI indices of a chunk without an embedding, one per object. Adds the rows of the others."""
    failed = _read_failed_fetches(rows.run, rows.unit, chunk)
    group = rows.run.store.embedding_group(rows.unit.id)
    lacking = []
    for name, (index, *_) in group_by_object(rows.objects, range(chunk.start, chunk.stop)).items():
        stored = group.read_metadata(name)
        if stored is not None:
            rows.add_stored(name, stored)
            if stored.meta["status"] == "ok" and (bad := find_bad_input(rows.run, stored.meta["quality"])):
                rows.add_error(index, bad)
        elif name in failed:
            rows.by_object[name] = failed[name]
        else:
            lacking.append(index)
    return lacking


def _read_failed_fetches(run: Run, unit: Unit, chunk: Chunk) -> dict[str, dict]:
    """Failed rows of the chunk's fetch receipts, by object."""
    failed = {}
    for source in (run.plan.source[s] for s in run.plan.unit_sources(unit)):
        for part in (p for p in chunk.parts if p.name in run.plan.parts_of(source.id)):
            receipt = receipts.read(f"fetch/{source.id}/{part.name}.json", run.plan.fetch_key(source, part))
            for index, row in zip(run.plan.rois_of(source.id, part.start, part.stop), receipt["rows"]):
                if row["status"] == "failed" and run.plan.chip_source(unit, index) == source.id:
                    failed[row["object"]] = {k: v for k, v in row.items() if k != "object"}
    return failed


def _embed_rois(rows: _Rows, lacking: list[int], threads: CoreShare) -> dict:
    """Embed ROIs and add their rows. Returns measurements for the receipt: the device, the
    threads, the seconds that loading the model and then embedding took, the latter also in CPU
    time of the process."""
    from ..engine import torch_device

    run, unit = rows.run, rows.unit
    started = time.monotonic()
    try:
        engine = _load_engine(run, unit, threads)
    except Exception as error:
        if not run.request.config.continue_on_error:
            raise make_stage_error("loading the model", run.plan.names[lacking[0]], unit.label, error) from error
        rows.by_object |= {rows.objects[index]: receipts.failure_row(error, "load") for index in lacking}
        return {"load_seconds": round(time.monotonic() - started, 3)}
    loaded, loaded_cpu = time.monotonic(), time.process_time()
    metas: dict[int, dict] = {}
    with engine:
        for index, result in engine.run(_iterate_images(rows, lacking, metas)):
            _store_result(rows, engine, index, result, metas.pop(index, {}))
    return torch_device.describe_device(engine.settings.device) | {
        "threads": threads.assigned,
        "most_threads": engine.thread_limit.peak,
        "load_seconds": round(loaded - started, 3),
        "embed_seconds": round(time.monotonic() - loaded, 3),
        "embed_cpu_seconds": round(time.process_time() - loaded_cpu, 3),
    }


def _load_engine(run: Run, unit: Unit, threads: CoreShare) -> Engine:
    from ..engine.engine import Engine, resolve_settings

    adapter, request = get_adapter(unit.model), run.request
    settings = resolve_settings(adapter, request.device, request.config.infer_batch_size, threads)
    weights, bands, precision = run.checkpoint(unit), unit.sensor.bands, unit.identity["precision"]
    return Engine(adapter, unit.options, unit.modality, bands, request.output, settings, weights, unit.prep, precision)


def _iterate_images(rows: _Rows, lacking: list[int], metas: dict[int, dict]) -> Iterator[tuple[int, Any]]:
    """ROI indices with functions that read their images. Without ``continue_on_error`` none is
    started after a failure: those that have started are finished and kept. Damaged chips do not
    count, so that all of them are found."""
    run, unit = rows.run, rows.unit
    for index in lacking:
        if not run.request.config.continue_on_error and any(not isinstance(e, StoreError) for _, e in rows.errors):
            return
        yield index, functools.partial(make_image, run, unit, run.roi(index), metas)


def _store_result(rows: _Rows, engine: Engine, index: int, result: Any, meta: dict) -> None:
    """Store the result of one ROI, and add its row."""
    if isinstance(result, NoData):
        import numpy as np

        _store_embedding(rows, index, np.empty((0,), np.float32), meta)
        rows.by_object[rows.objects[index]] = {"status": "no_data"}
    elif isinstance(result, Exception):
        rows.add_error(index, result)
    else:
        meta |= {"device": engine.settings.device, "weights": engine.weights_record, "software": _software_versions()}
        meta |= _describe_processing(result.metadata, meta)
        rows.add_stored(rows.objects[index], _store_embedding(rows, index, result.array, meta))


@functools.cache
def _software_versions() -> dict[str, str]:
    libraries = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
    return {DISTRIBUTION: package_version(), **libraries}


def _store_embedding(rows: _Rows, index: int, array: np.ndarray, meta: dict) -> Object:
    """Store an embedding. Where that fails (a full disk) all others would fail, too, so
    ``continue_on_error`` does not apply."""
    run, unit = rows.run, rows.unit
    try:
        return write_object(run.store.embedding_path(unit.id, rows.objects[index]), array, meta)
    except StoreError as error:
        raise make_stage_error("embed", run.plan.names[index], unit.label, error) from error


def _describe_processing(metadata: dict, meta: dict) -> dict:
    """How the engine processed an image, and the grid of an embedding: even cells over the pixels
    that they cover."""
    out = {"input_prep": metadata["input_prep"], "batch": metadata["batch"]}
    if "cells" in metadata:
        (a, _, c, _, e, f), (height, width) = meta["affine"], meta["shape"]
        (y0, y1, x0, x1), (rows, columns) = metadata["cells"], metadata["grid"]
        affine = [a * width * (x1 - x0) / columns, 0.0, c + a * width * x0]
        affine += [0.0, e * height * (y1 - y0) / rows, f + e * height * y0]
        out["grid"] = {"crs": meta["crs"], "affine": affine}
    return out
