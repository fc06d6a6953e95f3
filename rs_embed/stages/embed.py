"""Embed one chunk with one unit: the ROIs that have no embedding yet, each an object, then the receipt.

The model is loaded once for the chunk, and only if something is lacking: otherwise torch is not even imported.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .. import receipts
from ..devices import lease
from ..errors import ModelError, StoreError
from ..models import get_adapter
from ..plan import Chunk
from ..providers import Roi
from ..run import Run
from ..store import peek, write_object
from ..units import Unit
from .common import by_object, chunk_of, read_chip, spent, stop, unit_of
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
    objects = run.plan.objects(unit.source)
    places = by_object(objects, range(chunk.start, chunk.stop))
    rows: dict[str, dict] = {}
    lacking = []
    errors: list[tuple[int, Exception]] = []
    for name, indices in places.items():
        found = peek(run.store.embedding(unit.id, name))
        if found is not None:
            rows[name] = {"status": found.meta["status"], "size": found.size, "sha256": found.sha256}
            bad = _bad_input(run, found.meta["quality"])
            if bad:
                errors.append((indices[0], bad))
                rows[name] = receipts.failure(bad, "embed")
        elif name in failed:
            rows[name] = failed[name]
        else:
            lacking.append(indices[0])
    reused = sum(r["status"] != "failed" for r in rows.values())
    if lacking and (not errors or run.request.config.continue_on_error):
        with lease(run.work / "locks"):
            _embed_all(run, unit, lacking, rows, errors, threads)
    if errors and not run.request.config.continue_on_error:
        index, error = min(errors, key=lambda e: e[0])
        raise stop("embed", run.plan.names[index], unit.label, error)
    made = [rows[objects[i]] for i in lacking]
    counts = {"embedded": sum(r["status"] == "ok" for r in made), "reused": reused}
    receipts.write(
        f"embed/{unit.id}/{chunk.name}.json",
        "embed",
        run.plan.embed_key(unit, chunk),
        [{"object": name, **rows[name]} for name in objects[chunk.start : chunk.stop]],
        **counts,
        failed=sum(r["status"] == "failed" for r in rows.values()),
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


def _bad_input(run: Run, quality: dict) -> ModelError | None:
    """The error of an image with warnings, where the request wants one; also for an embedding that is there already."""
    if quality.get("warnings") and run.request.config.fail_on_bad_input:
        return ModelError(f"bad input: {'; '.join(quality['warnings'])}")
    return None


def _embed_all(run: Run, unit: Unit, lacking: list[int], rows: dict[str, dict], errors: list, threads: int) -> None:
    """Embed ROIs; failures go into ``rows`` and ``errors``."""
    from ..models.engine import Engine, settings

    config, adapter, ids = run.request.config, get_adapter(unit.model), run.plan.objects(unit.source)
    metas: dict[int, dict] = {}

    def fail(index: int, error: Exception) -> None:
        errors.append((index, error))
        rows[ids[index]] = receipts.failure(error, "embed")

    def images() -> Iterator[tuple[int, Any]]:
        for index in lacking:
            if not config.continue_on_error and any(not isinstance(e, StoreError) for _, e in errors):
                return  # what is under way is finished and kept, nothing new is begun; damaged chips are all found
            try:
                image, meta = _image(run, unit, run.roi(index))
            except Exception as error:
                fail(index, error)
                continue
            metas[index] = meta
            if image is None:
                write_object(run.store.embedding(unit.id, ids[index]), _nothing(), metas.pop(index))
                rows[ids[index]] = {"status": "no_data"}
            else:
                yield index, image

    try:
        how = settings(adapter, run.request.device, config.infer_batch_size, threads)
        engine = Engine(adapter, unit.options, unit.modality, unit.sensor.bands, run.request.output, how)
    except Exception as error:
        if not config.continue_on_error:
            raise stop("loading the model", run.plan.names[lacking[0]], unit.label, error) from error
        rows |= {ids[index]: receipts.failure(error, "load") for index in lacking}
        return
    with engine:
        how_made = {"device": how.device, "batch": how.batch, "weights": adapter.record(engine.network, unit.options)}
        for index, result in engine.run(images()):
            meta = metas.pop(index)
            if isinstance(result, Exception):
                fail(index, result)
                continue
            stored = write_object(run.store.embedding(unit.id, ids[index]), result, meta | how_made)
            rows[ids[index]] = {"status": "ok", "size": stored.size, "sha256": stored.sha256}


def _nothing() -> np.ndarray:
    import numpy as np

    return np.empty((0,), np.float32)


def _image(run: Run, unit: Unit, roi: Roi) -> tuple[Any, dict]:
    """The image of a ROI as the adapter takes it, or None without imagery, and the metadata of its embedding."""
    import numpy as np

    from ..geometry import Grid, centre_lonlat
    from ..models.base import Image

    pixels, chip = read_chip(run, unit.source, unit.sensor.bands, run.plan.objects(unit.source)[roi.index])
    meta = {k: chip[k] for k in ("status", "crs", "affine", "dates", "provenance", "roi") if k in chip}
    if pixels is None:
        return None, meta | {"quality": {"valid": 0.0}}
    quality = inspect(pixels, unit.sensor.bands, chip["valid"], chip["warnings"])
    bad = _bad_input(run, quality)
    if bad:
        raise bad
    height, width = pixels.shape[-2:]
    lon, lat = centre_lonlat(Grid(chip["crs"], tuple(chip["affine"]), width, height))
    frames = pixels.astype(np.float32) if pixels.ndim == 4 else pixels[None].astype(np.float32)
    window = None if roi.temporal is None else (roi.temporal.start, roi.temporal.end)
    square = tuple(chip["roi"]) if "roi" in chip else None
    image = Image(
        unit.modality, frames, unit.sensor.bands, unit.sensor.scale_m, lon, lat, tuple(chip["dates"]), window, square
    )
    return image, meta | {"quality": quality, "shape": [height, width]}
