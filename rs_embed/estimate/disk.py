"""Bytes and files of a run; docs/scaling.md has the same formulas in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..engine.image_cost import compute_image_cost, max_frames
from ..planning.plan import Chunk, Plan
from ..planning.units import Source, Unit
from ..runs.run import Run
from ..stages.shared.state import Jobs
from .costs import ModelCost, SourceCost
from .missing import image_shape

#: Bytes of an object in addition to its values: the npy header (128), the footer (48), and its
#: metadata; each scene of a composite adds about 150.
OBJECT_OVERHEAD = 4096
#: Bytes per ROI and model: in the manifest of a combined export, in the manifest of one ROI, and
#: in the records of the run.
MANIFEST_ENTRY, ROI_MANIFEST, RECORD = 350, 3000, 2000
#: Bytes in addition to the arrays where those of all ROIs have one shape: per ROI and model; per
#: file of NetCDF, and again for each of its models (measured: 16 to 36 kB and 27 to 40 kB for its
#: dimensions, coordinates and attributes).
ROW_OVERHEAD, NETCDF_OVERHEAD = 1024, 49152


def count_bytes(run: Run, todo: Jobs, sources: Sequence[SourceCost], models: Sequence[ModelCost]) -> dict[str, int]:
    """Bytes that the remaining jobs write, at most, by kind."""
    plan, config = run.plan, run.request.config
    added = {"pixels": sum(s.bytes for s in sources), "embeddings": sum(m.bytes for m in models)}
    to_write = set(todo.write)
    written = [c for c in plan.chunks if f"items/{c.name}.json" in to_write]
    merged = plan.chunks if todo.merge else ()
    exported: Sequence[Chunk] = merged if plan.layout == "combined" else written
    rois = sum(c.stop - c.start for c in exported)
    added["final"] = _count_array_bytes(run, exported) + (rois * ROW_OVERHEAD * len(plan.units) if rois else 0)
    if config.format == "netcdf":
        added["final"] += NETCDF_OVERHEAD * (1 + len(plan.units)) * (rois if plan.layout == "per_item" else bool(rois))
    added["manifests"] = rois * len(plan.units) * (MANIFEST_ENTRY if plan.layout == "combined" else ROI_MANIFEST)
    added["records"] = sum(c.stop - c.start for c in written) * len(plan.units) * RECORD
    return added | {"peak": sum(added.values())}


def _count_array_bytes(run: Run, chunks: Sequence[Chunk]) -> int:
    """Bytes of the arrays of the export, uncompressed: pixels (once where models share them),
    embeddings, tensors."""
    total = 0
    for source in run.plan.sources if chunks else ():
        rois = [i for chunk in chunks for i in run.plan.rois_of(source.id, chunk.start, chunk.stop)]
        first = {run.plan.boxes[i]: i for i in reversed(rois)}  # all points, and all boxes, have the same readers
        shapes = Counter((run.plan.boxes[i], image_shape(run, source, i)) for i in rois)
        for (kind, shape), count in shapes.items():
            total += count * _count_roi_bytes(run, source, run.plan.readers(source.id, first[kind]), shape)
    return total


def _count_roi_bytes(run: Run, source: Source, units: Sequence[Unit], shape: tuple[int, int]) -> int:
    """Bytes of the arrays of one ROI with an image of (height, width) pixels, uncompressed."""
    config, frames, total = run.request.config, max_frames(source), 0
    height, width = shape
    if config.save_inputs:
        itemsize = run.provider.fetch_cost(source, source.bands, height, width).itemsize
        bands = sum(map(len, {u.sensor.bands for u in units}))
        total += height * width * frames * bands * itemsize
    for unit in units:
        cost = compute_image_cost(unit, run.request.output.mode, shape, frames)
        if cost is not None:
            total += 4 * cost.embedding_values * config.save_embeddings
            total += 4 * cost.input_values * (config.save_inputs == "model")
    return total


def count_files(run: Run) -> dict[str, int]:
    """Files of the run when it is done, if no files existed before."""
    plan, config = run.plan, run.request.config
    n, has_manifest = len(plan.roi_ids), int(config.save_manifest)
    jobs = len(plan.receipts()) + 1
    is_per_item = plan.layout == "per_item"
    export = n * (1 + has_manifest) + has_manifest if is_per_item else 1 + has_manifest
    has_imagery = run.provider.freeze() is not None or bool(plan.names_by_source)
    store = _count_object_files(run)
    store += 2 + (has_imagery and run.provider.shared)  # the lock, the registration of the work folder, lookup results
    # request, ROI table, lock, link to the package; imagery, weights
    in_run = 4 + has_imagery + bool(run.digests.used_entries())
    in_run += (1 - has_manifest) * (n + 1 if is_per_item else 1)
    if config.keep_work == "none" or (config.keep_work == "embeddings" and config.save_inputs):
        in_run += 2  # freed.json and tidied.json
    return {"export": export, "store": store, "run": 3 * jobs + len(plan.chunks) + in_run, "snakemake": jobs}


def _count_object_files(run: Run) -> int:
    """Files of the objects in the store, with their declarations of bands and the records of freed
    chips."""
    plan, config = run.plan, run.request.config
    objects = {s.id: _count_names(plan, s.id, plan.rois_of(s.id)) for s in plan.sources}
    every = {u.id: _count_names(plan, u.source, range(len(plan.roi_ids))) for u in plan.embedded_units}
    files = 0
    if config.keep_work == "all" or (config.keep_work == "embeddings" and not config.save_inputs):
        # one file for each part instead of one for each object
        files += sum(len(plan.parts_of(s)) if config.pack else n for s, n in objects.items()) + len(objects)
    elif config.save_inputs:
        files += len(objects)
    if config.keep_work != "none":
        files += sum(len(plan.chunks) if config.pack else n for n in every.values())
    return files


def _count_names(plan: Plan, source_id: str, rois: Sequence[int]) -> int:
    """Number of different objects of some ROIs."""
    names = plan.object_names(source_id)
    return len({names[i] for i in rois})
