"""Embed one chunk with one unit: the ROIs that have no embedding yet, each an object, then the receipt.

The model is loaded once for the chunk, and only if something is lacking: otherwise torch is not even imported.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .. import receipts
from ..devices import lease
from ..errors import ModelError
from ..models import get_adapter
from ..plan import Chunk
from ..providers import Roi
from ..run import Run
from ..store import peek, write_object
from ..units import Unit
from .common import chunk_of, read_chip, spent, stop, unit_of
from .quality import inspect

if TYPE_CHECKING:
    import numpy as np


def embed(run: Run, unit_id: str, chunk_name: str, threads: int = 1) -> dict:
    """Embed what a chunk lacks and write ``embed/<unit>/<chunk>.json``; returns counts.

    Args:
        threads: CPU workers over whole batches; never changes a number.

    Raises:
        StageError: the first failure, unless ``continue_on_error``; embeddings made until then are kept.
    """
    unit, chunk = unit_of(run, unit_id), chunk_of(run, chunk_name)
    started = time.monotonic()
    failed = _failed_fetches(run, unit, chunk)
    rows: dict[int, dict] = {}
    lacking = []
    for index in range(chunk.start, chunk.stop):
        path = run.store.embedding(unit.id, run.plan.roi_ids[index])
        found = peek(path)
        if found is not None:
            rows[index] = {"status": found.meta["status"], "size": found.size, "sha256": found.sha256}
        elif index in failed:
            rows[index] = failed[index]
        else:
            lacking.append(index)
    reused = sum(r["status"] != "failed" for r in rows.values())
    if lacking:
        with lease(run.work / "locks"):
            _embed_all(run, unit, chunk, lacking, rows, threads)
    counts = {"embedded": sum(rows[i]["status"] == "ok" for i in lacking), "reused": reused}
    receipts.write(
        f"embed/{unit.id}/{chunk.name}.json",
        "embed",
        run.plan.embed_key(unit, chunk),
        [{"roi": run.plan.roi_ids[i], **rows[i]} for i in range(chunk.start, chunk.stop)],
        **counts,
        failed=sum(r["status"] == "failed" for r in rows.values()),
        **spent(started),
    )
    return counts


def _failed_fetches(run: Run, unit: Unit, chunk: Chunk) -> dict[int, dict]:
    """Failed rows of the chunk's fetch receipts, by ROI index."""
    source, failed = run.plan.source[unit.source], {}
    for part in chunk.parts:
        receipt = receipts.read(f"fetch/{source.id}/{part.name}.json", run.plan.fetch_key(source, part))
        for index, row in zip(range(part.start, part.stop), receipt["rows"]):
            if row["status"] == "failed":
                failed[index] = {k: v for k, v in row.items() if k != "roi"}
    return failed


def _embed_all(run: Run, unit: Unit, chunk: Chunk, lacking: list[int], rows: dict[int, dict], threads: int) -> None:
    from ..models.engine import Engine, settings

    config, adapter = run.request.config, get_adapter(unit.model)
    metas: dict[int, dict] = {}
    errors: list[tuple[int, Exception]] = []

    def fail(index: int, error: Exception) -> None:
        errors.append((index, error))
        rows[index] = receipts.failure(error, "embed", retryable=not isinstance(error, ModelError))

    def images() -> Iterator[tuple[int, Any]]:
        for index in lacking:
            if errors and not config.continue_on_error:
                return  # what is under way is finished and kept, nothing new is begun
            try:
                image, meta = _image(run, unit, chunk, run.roi(index))
            except Exception as error:
                fail(index, error)
                continue
            metas[index] = meta
            if image is None:
                write_object(run.store.embedding(unit.id, run.plan.roi_ids[index]), _nothing(), metas.pop(index))
                rows[index] = {"status": "no_data"}
            else:
                yield index, image

    try:
        how = settings(adapter, run.request.device, config.infer_batch_size, threads)
        engine = Engine(adapter, unit.options, unit.sensor.bands, run.request.output, how)
    except Exception as error:
        if not config.continue_on_error:
            raise stop("loading the model", run.plan.names[lacking[0]], unit.label, error) from error
        for index in lacking:
            rows[index] = receipts.failure(error, "load", retryable=not isinstance(error, ModelError))
        return
    with engine:
        how_made = {"device": how.device, "batch": how.batch, "weights": adapter.record(engine.network, unit.options)}
        for index, result in engine.run(images()):
            meta = metas.pop(index)
            if isinstance(result, Exception):
                fail(index, result)
                continue
            stored = write_object(run.store.embedding(unit.id, run.plan.roi_ids[index]), result, meta | how_made)
            rows[index] = {"status": "ok", "size": stored.size, "sha256": stored.sha256}
    if errors and not config.continue_on_error:
        index, error = min(errors, key=lambda e: e[0])
        raise stop("embed", run.plan.names[index], unit.label, error)


def _nothing() -> np.ndarray:
    import numpy as np

    return np.empty((0,), np.float32)


def _image(run: Run, unit: Unit, chunk: Chunk, roi: Roi) -> tuple[Any, dict]:
    """The image of a ROI as the adapter takes it, or None without imagery, and the metadata of its embedding."""
    import numpy as np

    from ..geometry import Grid, centre_lonlat
    from ..models.base import Image

    pixels, chip = read_chip(run, unit.source, unit.sensor.bands, roi.id, run.plan.fetch_receipts(chunk, [unit.source]))
    meta = {k: chip[k] for k in ("status", "crs", "affine", "dates", "provenance")}
    if pixels is None:
        return None, meta | {"quality": {"valid": 0.0}}
    quality = inspect(pixels, unit.sensor.bands, chip["valid"])
    if quality.get("warnings") and run.request.config.fail_on_bad_input:
        raise ModelError(f"bad input: {'; '.join(quality['warnings'])}")
    height, width = pixels.shape[-2:]
    lon, lat = centre_lonlat(Grid(chip["crs"], tuple(chip["affine"]), width, height))
    frames = pixels.astype(np.float32) if pixels.ndim == 4 else pixels[None].astype(np.float32)
    window = None if roi.temporal is None else (roi.temporal.start, roi.temporal.end)
    image = Image(frames, unit.sensor.bands, unit.sensor.scale_m, lon, lat, tuple(chip["dates"]), window)
    return image, meta | {"quality": quality, "shape": [height, width]}
