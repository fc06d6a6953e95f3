"""Bytes and files of a run; docs/scaling.md has the same formulas in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..engine.image_cost import frames_of, image
from ..planning.units import Source
from ..request.geometry import grid_shape
from ..runs.run import Run
from ..stages.shared.state import Jobs

if TYPE_CHECKING:
    from . import ModelCost, SourceCost

#: Bytes of an object of the store beside its numbers: the npy header (128), the footer (48), and what it says of itself; a scene
#: of a composite takes about 150.
OBJECT = 4096
#: Bytes of a ROI and model: in the manifest of a combined export, in the manifest of a ROI, and in the records of the run.
MANIFEST, MANIFEST_OF_ONE, RECORD = 350, 3000, 2000
#: Bytes beside the arrays where those of all ROIs have one shape: of a ROI and model; of a file of NetCDF, and again for each of
#: its models (measured: 16 to 36 kB and 27 to 40 kB for its dimensions, coordinates and attributes).
ROW, NETCDF = 1024, 49152


def added(run: Run, todo: Jobs, sources: Sequence[SourceCost], models: Sequence[ModelCost]) -> dict[str, int]:
    """Bytes that the remaining jobs write, at most, by kind."""
    plan, config = run.plan, run.request.config
    out = {"pixels": sum(s.bytes for s in sources), "embeddings": sum(m.bytes for m in models)}
    left = set(todo.write)
    written = [c for c in plan.chunks if f"items/{c.name}.json" in left]
    exported = written
    if plan.layout == "combined":
        exported = plan.chunks if todo.merge else []
    rois = sum(c.stop - c.start for c in exported)
    out["final"] = _arrays(run, exported) + (rois * ROW * len(plan.units) if rois else 0)
    if config.format == "netcdf":
        out["final"] += NETCDF * (1 + len(plan.units)) * (rois if plan.layout == "per_item" else bool(rois))
    each = MANIFEST if plan.layout == "combined" else MANIFEST_OF_ONE
    out["manifests"] = rois * len(plan.units) * each
    out["records"] = sum(c.stop - c.start for c in written) * len(plan.units) * RECORD
    return out | {"peak": sum(out.values())}


def _arrays(run: Run, chunks: Sequence) -> int:
    """Bytes of the arrays of the export, uncompressed: pixels that several models share once, embeddings, tensors."""
    plan, config, output = run.plan, run.request.config, run.request.output.mode
    total = 0
    for source in plan.sources if chunks else ():
        shapes, frames = _shapes(run, source, chunks), frames_of(source)
        units = [u for u in plan.units if u.source == source.id]
        for shape, count in shapes.items():
            height, width = shape
            if config.save_inputs:
                itemsize = run.provider.asked(source, source.bands, height, width).itemsize
                bands = sum(map(len, {u.sensor.bands for u in units}))
                total += count * height * width * frames * bands * itemsize
            for unit in units:
                one = image(unit, output, shape, frames)
                if one is None:
                    continue
                total += 4 * count * one.embedding * config.save_embeddings
                total += 4 * count * one.numbers * (config.save_inputs == "model")
    return total


def _shapes(run: Run, source: Source, chunks: Sequence) -> Counter:
    about, places = source.identity, run.request.spatials
    return Counter(
        grid_shape(places[i], about["projection"], source.scale_m, square=about["square"])
        for chunk in chunks
        for i in range(chunk.start, chunk.stop)
    )


def files(run: Run) -> dict[str, int]:
    """Files of the run when it is done, if nothing was there before."""
    plan, config = run.plan, run.request.config
    n, told = len(plan.roi_ids), int(config.save_manifest)
    places = {s.id: len(set(plan.objects(s.id))) for s in plan.sources}
    jobs = len(plan.sources) * len(plan.parts) + (len(plan.embedded) + 1) * len(plan.chunks) + 1
    apart = plan.layout == "per_item"
    export = n * (1 + told) + told if apart else 1 + told
    of_chips, packs = (
        (len(plan.parts), len(plan.chunks)) if config.pack else (None, None)
    )  # instead of a file for each object
    store = 0
    if config.keep_work == "all" or (config.keep_work == "embeddings" and not config.save_inputs):
        store += sum(of_chips or n for n in places.values()) + len(places)  # each folder of chips says its bands
    elif config.save_inputs:
        store += len(places)  # records of where the pixels are in the export
    if config.keep_work != "none":
        store += sum(packs or places[u.source] for u in plan.embedded)
    frozen = run.provider.freeze() is not None or bool(plan.keys)
    store += 2 + (frozen and run.provider.shared)  # the lock, the registration of the work folder, what was found out
    kept = 4 + frozen + bool(run.digests.frozen())  # request, places, lock, link to the package; imagery, weights
    kept += (1 - told) * (n + 1 if apart else 1)
    if config.keep_work == "none" or (config.keep_work == "embeddings" and config.save_inputs):
        kept += 2  # what was freed, and after which merge
    return {"export": export, "store": store, "run": 3 * jobs + len(plan.chunks) + kept, "snakemake": jobs}
