"""Embed one chunk with one unit: the ROIs that have no embedding yet, each an object, then the receipt.

The model is loaded once for the chunk, and only if something is lacking: otherwise torch is not even imported.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import StoreError
from ..machine.cores import Share
from ..machine.devices import lease
from ..models import get_adapter
from ..planning.plan import Chunk
from ..planning.units import Unit
from ..runs.run import Run
from ..store import receipts
from ..store.store import Object, write_object
from .shared.common import by_object, chunk_of, spent, stop, unit_of
from .shared.model_images import NoData, bad_input, image_of
from .shared.packing import pack_embeddings

if TYPE_CHECKING:
    import numpy as np


def embed(run: Run, unit_id: str, chunk_name: str, threads: Share = Share(1)) -> dict:
    """Embed what a chunk lacks and write ``embed/<unit>/<chunk>.json``; returns counts.

    Args:
        threads: CPU workers over whole batches, as many as the share has; never changes a number.

    Raises:
        StageError: the first failure, unless ``continue_on_error``; embeddings made until then are kept.
    """
    unit, chunk = unit_of(run, unit_id), chunk_of(run, chunk_name)
    started = time.monotonic()
    failed = _failed_fetches(run, unit, chunk)
    objects = run.plan.objects(unit.source)
    places = by_object(objects, range(chunk.start, chunk.stop))
    rows: dict[str, dict] = {}
    lacking = []
    errors: list[tuple[int, Exception]] = []
    for name, indices in places.items():
        found = run.store.embeddings(unit.id).peek(name)
        if found is not None:
            rows[name] = {"status": found.meta["status"], "size": found.size, "sha256": found.sha256}
            bad = bad_input(run, found.meta["quality"])
            if bad:
                errors.append((indices[0], bad))
                rows[name] = receipts.failure(bad, "embed")
        elif name in failed:
            rows[name] = failed[name]
        else:
            lacking.append(indices[0])
    reused = sum(r["status"] != "failed" for r in rows.values())
    said: dict = {"load_seconds": 0.0}
    if lacking and (not errors or run.request.config.continue_on_error):
        with lease(run.request.device) as gpu:
            if gpu is not None:
                print(f"embed: has GPU {gpu}", flush=True)
            said = _embed_all(run, unit, lacking, rows, errors, threads) | ({"gpu": gpu} if gpu is not None else {})
    if errors and not run.request.config.continue_on_error:
        index, error = min(errors, key=lambda e: e[0])
        raise stop("embed", run.plan.names[index], unit.label, error)
    made = [rows[objects[i]] for i in lacking]
    counts = {"embedded": sum(r["status"] == "ok" for r in made), "reused": reused}
    packed = {"packed": pack_embeddings(run, unit, chunk).objects} if run.request.config.pack else {}
    receipts.write(
        f"embed/{unit.id}/{chunk.name}.json",
        "embed",
        run.plan.embed_key(unit, chunk),
        [{"object": name, **rows[name]} for name in objects[chunk.start : chunk.stop]],
        **counts,
        **packed,
        failed=sum(r["status"] == "failed" for r in rows.values()),
        **said,
        **spent(started),
    )
    return counts


def _failed_fetches(run: Run, unit: Unit, chunk: Chunk) -> dict[str, dict]:
    """Failed rows of the chunk's fetch receipts, by object."""
    source, failed = run.plan.source[unit.source], {}
    for part in chunk.parts:
        receipt = receipts.read(f"fetch/{source.id}/{part.name}.json", run.plan.fetch_key(source, part))
        for row in receipt["rows"]:
            if row["status"] == "failed":
                failed[row["object"]] = {k: v for k, v in row.items() if k != "object"}
    return failed


def _embed_all(run: Run, unit: Unit, lacking: list[int], rows: dict[str, dict], errors: list, threads: Share) -> dict:
    """Embed ROIs; failures go into ``rows`` and ``errors``. Returns what the receipt says of it: the device, and the seconds
    that loading the model and then embedding took, the latter in CPU time of the process, too."""
    from ..engine import torch_device as on
    from ..engine.engine import Engine, settings

    config, adapter, ids = run.request.config, get_adapter(unit.model), run.plan.objects(unit.source)
    metas: dict[int, dict] = {}

    def fail(index: int, error: Exception) -> None:
        errors.append((index, error))
        rows[ids[index]] = receipts.failure(error, "embed")

    def images() -> Iterator[tuple[int, Any]]:
        for index in lacking:
            if not config.continue_on_error and any(not isinstance(e, StoreError) for _, e in errors):
                return  # what is under way is finished and kept, nothing new is begun; damaged chips are all found
            yield index, partial(image_of, run, unit, run.roi(index), metas)

    started = time.monotonic()
    try:
        how = settings(adapter, run.request.device, config.infer_batch_size, threads)
        engine = Engine(
            adapter,
            unit.options,
            unit.modality,
            unit.sensor.bands,
            run.request.output,
            how,
            run.checkpoint(unit),
            unit.prep,
            unit.identity["precision"],
        )
    except Exception as error:
        if not config.continue_on_error:
            raise stop("loading the model", run.plan.names[lacking[0]], unit.label, error) from error
        rows |= {ids[index]: receipts.failure(error, "load") for index in lacking}
        return {"load_seconds": round(time.monotonic() - started, 3)}
    loaded, loaded_cpu = time.monotonic(), time.process_time()
    software = {name: importlib.metadata.version(name) for name in ("rs-embed-workflow", "torch", "numpy")}
    with engine:
        for index, result in engine.run(images()):
            meta = metas.pop(index, {})
            if isinstance(result, NoData):
                _keep(run, unit, index, _nothing(), meta)
                rows[ids[index]] = {"status": "no_data"}
            elif isinstance(result, Exception):
                fail(index, result)
            else:
                how_made = {"device": how.device, "weights": engine.said, "software": software}
                meta |= how_made | _said(result.said, meta)
                stored = _keep(run, unit, index, result.array, meta)
                rows[ids[index]] = {"status": "ok", "size": stored.size, "sha256": stored.sha256}
    return on.said(how.device) | {
        "threads": threads.own,
        "most_threads": engine.turn.most,
        "load_seconds": round(loaded - started, 3),
        "embed_seconds": round(time.monotonic() - loaded, 3),
        "embed_cpu_seconds": round(time.process_time() - loaded_cpu, 3),
    }


def _keep(run: Run, unit: Unit, index: int, array: np.ndarray, meta: dict) -> Object:
    """Store an embedding. Where that fails (a full disk) nothing else would succeed, whatever ``continue_on_error`` says."""
    try:
        return write_object(run.store.embedding(unit.id, run.plan.objects(unit.source)[index]), array, meta)
    except StoreError as error:
        raise stop("embed", run.plan.names[index], unit.label, error) from error


def _nothing() -> np.ndarray:
    import numpy as np

    return np.empty((0,), np.float32)


def _said(said: dict, meta: dict) -> dict:
    """What the engine did to an image, and where the cells of a grid lie: as even cells over the pixels they cover."""
    out = {"input_prep": said["input_prep"], "batch": said["batch"]}
    if "cells" in said:
        (a, _, c, _, e, f), (height, width) = meta["affine"], meta["shape"]
        (y0, y1, x0, x1), (rows, columns) = said["cells"], said["grid"]
        affine = [a * width * (x1 - x0) / columns, 0.0, c + a * width * x0]
        affine += [0.0, e * height * (y1 - y0) / rows, f + e * height * y0]
        out["grid"] = {"crs": meta["crs"], "affine": affine}
    return out
