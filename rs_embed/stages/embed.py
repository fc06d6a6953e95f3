"""Embed one chunk with one unit: the ROIs that have no embedding yet, each an object, then the receipt.

The model is loaded once for the chunk, and only if something is lacking: otherwise torch is not even imported.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import receipts
from ..devices import lease
from ..errors import ModelError, StoreError
from ..models import get_adapter
from ..plan import Chunk
from ..providers import Roi
from ..run import Run
from ..specs import PointBuffer
from ..store import Object, peek, write_object
from ..units import Source, Unit
from .common import by_object, chunk_of, read_chip, spent, stop, unit_of
from .quality import inspect

if TYPE_CHECKING:
    import numpy as np

    from ..models.base import Image


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
    loading = 0.0
    if lacking and (not errors or run.request.config.continue_on_error):
        with lease(run.work / "locks"):
            loading = _embed_all(run, unit, lacking, rows, errors, threads)
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
        load_seconds=round(loading, 3),
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


class _NoData(Exception):
    """There is no imagery: an answer, not a failure."""


def _embed_all(run: Run, unit: Unit, lacking: list[int], rows: dict[str, dict], errors: list, threads: int) -> float:
    """Embed ROIs; failures go into ``rows`` and ``errors``. Returns the seconds that loading the model took."""
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
            yield index, partial(_image, run, unit, run.roi(index), metas)

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
        return time.monotonic() - started
    loading = time.monotonic() - started
    with engine:
        for index, result in engine.run(images()):
            meta = metas.pop(index, {})
            if isinstance(result, _NoData):
                _keep(run, unit, index, _nothing(), meta)
                rows[ids[index]] = {"status": "no_data"}
            elif isinstance(result, Exception):
                fail(index, result)
            else:
                how_made = {"device": how.device, "weights": engine.said}
                meta |= how_made | _said(result.said, meta)
                stored = _keep(run, unit, index, result.array, meta)
                rows[ids[index]] = {"status": "ok", "size": stored.size, "sha256": stored.sha256}
    return loading


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


def _emptied(frames: np.ndarray, source: Source, unit: Unit) -> np.ndarray:
    """Pixels without data as 0, whatever the request fills them with: what models that know their bands take for no data."""
    import numpy as np

    fill = source.identity["fill_value"]
    if fill == 0 or get_adapter(unit.model).info.any_bands:
        return frames
    return np.where(frames == fill, frames.dtype.type(0), frames)


def _image(run: Run, unit: Unit, roi: Roi, metas: dict[int, dict]) -> Image:
    """The image of a ROI as the adapter takes it; the metadata of its embedding go into ``metas``.

    Raises:
        _NoData: there is no imagery. ModelError: bad input, where that is to be an error.
    """
    from ..geometry import Grid, centre_of_request
    from ..models.base import Image

    pixels, chip = read_chip(run, unit.source, unit.sensor.bands, run.plan.objects(unit.source)[roi.index])
    meta = {k: chip[k] for k in ("status", "crs", "affine", "dates", "provenance", "roi") if k in chip}
    if pixels is None:
        known = {"warnings": chip["warnings"]} if chip["warnings"] else {}
        metas[roi.index] = meta | {"quality": {"valid": 0.0} | known}
        raise _NoData
    quality = inspect(pixels, unit.sensor.bands, chip["valid"], chip["warnings"])
    bad = _bad_input(run, quality)
    if bad:
        raise bad
    height, width = pixels.shape[-2:]
    metas[roi.index] = meta | {"quality": quality, "shape": [height, width]}
    grid = Grid(chip["crs"], tuple(chip["affine"]), width, height)
    lon, lat = centre_of_request(roi.spatial, run.request.config.projection, grid)
    # rs-embed 0.3.1 tells all tiles of a point the point's place
    tiles_alike = unit.options.preset == "rs-embed" and isinstance(roi.spatial, PointBuffer)
    frames = _emptied(pixels if pixels.ndim == 4 else pixels[None], run.plan.source[unit.source], unit)
    return Image(
        unit.modality,
        frames,
        unit.sensor.bands,
        unit.sensor.scale_m,
        lon,
        lat,
        tuple(chip["dates"]),
        None if roi.temporal is None else (roi.temporal.start, roi.temporal.end),
        tuple(chip["roi"]) if "roi" in chip else None,
        grid=None if tiles_alike else grid,
    )
