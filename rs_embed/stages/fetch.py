"""The fetch job: the pixels that the ROIs of one part lack of one source, each ROI an object, then
the receipt. The provider is asked for what neither the store nor a finished export has
(``restored_chips.py``)."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager

from ..errors import ProviderError
from ..planning.units import Source
from ..providers import Roi
from ..providers.retries import retrying
from ..request.geometry import Grid, roi_in_square
from ..runs.run import Run
from ..store import receipts
from ..store.objects import write_object
from .shared.jobs import (
    find_part,
    find_source,
    format_readers,
    group_by_object,
    make_stage_error,
    measure_job,
    utc_now,
)
from .shared.packing import pack_part
from .shared.restored_chips import restore_freed_chips
from .shared.stored_objects import needed_bands

#: Threads for each request that may be in flight: while one waits for a retry, another sends a
#: request.
THREADS = 2


def fetch(run: Run, source_id: str, part_name: str) -> dict:
    """Fetch the chips that a part lacks, and write ``fetch/<source>/<part>.json``; returns counts.

    A chip is needed where the inputs are saved or a model that reads it has no embedding of the
    ROI yet.

    Raises:
        StageError: the first failure, unless ``continue_on_error``; chips fetched until then are
            kept.
    """
    source, part = find_source(run, source_id), find_part(run, part_name)
    started = time.monotonic()
    objects = run.plan.object_names(source.id)
    rois = run.plan.rois_of(source.id, part.start, part.stop)
    indices = group_by_object(objects, rois)
    lacking = _find_missing_bands(run, source, indices)
    restored = restore_freed_chips(run.store, source.id, lacking)
    if restored:
        lacking = _find_missing_bands(run, source, {name: indices[name] for name in lacking})
    rows: dict[str, dict] = {name: {"status": "ok"} for name in indices if name not in lacking}
    wanted = [(run.roi(indices[name][0]), bands) for name, bands in lacking.items()]
    for bands in {bands for _, bands in wanted}:
        run.store.declare_bands(source.id, bands)
    errors = _fetch_all(run, source, wanted, rows)
    if errors and not run.request.config.continue_on_error:
        roi, error = min(errors, key=lambda e: e[0].index)
        raise make_stage_error("fetch", roi.name, format_readers(run, source.id), error)
    for roi, error in errors:
        rows[objects[roi.index]] = receipts.failure_row(error, "fetch")
    counts = {
        "fetched": len(wanted) - len(errors),
        "restored": len(restored - lacking.keys()),
        "reused": len(indices.keys() - lacking.keys() - restored),
        "failed": len(errors),
    }
    if run.request.config.pack:
        counts["packed"] = pack_part(run, source, part).objects
    receipts.write(
        f"fetch/{source.id}/{part.name}.json",
        "fetch",
        run.plan.fetch_key(source, part),
        [{"object": name, **rows[name]} for name in (objects[i] for i in rois)],
        **counts,
        **measure_job(started),
    )
    return counts


def _find_missing_bands(run: Run, source: Source, indices: Mapping[str, Sequence[int]]) -> dict[str, tuple[str, ...]]:
    """Bands that something in this run will read and no stored chip has, of each object with such
    bands."""
    band_sets = run.store.list_band_sets(source.id, source.bands)
    found = {}
    for name, (index, *_) in indices.items():
        needed = needed_bands(run, source, index)
        if missing := run.store.select_band_sets(source.id, needed, name, band_sets)[1]:
            found[name] = tuple(missing)
    return found


def _fetch_all(run: Run, source: Source, wanted: list, rows: dict[str, dict]) -> list[tuple[Roi, Exception]]:
    """Fetch ``num_workers`` chips at a time, and add their rows; returns failures. Without
    ``continue_on_error`` no request starts after a failure."""
    errors: list[tuple[Roi, Exception]] = []
    config = run.request.config
    slots = run.provider.request_slots(config.num_workers)
    _look_up_all(run, source, wanted, slots)
    with ThreadPoolExecutor(THREADS * config.num_workers, thread_name_prefix="fetch") as pool:
        futures = {pool.submit(_fetch_one, run, source, roi, bands, slots): roi for roi, bands in wanted}
        pending = set(futures)
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    roi = futures[future]
                    try:
                        rows[run.plan.object_names(source.id)[roi.index]] = future.result()
                    except Exception as error:
                        errors.append((roi, error))
                if errors and not config.continue_on_error:
                    pending = {f for f in pending if not f.cancel()}  # those in progress are finished and kept
        except BaseException:  # Ctrl-C: do not start what is still waiting
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return errors


def _look_up_all(run: Run, source: Source, wanted: list, slots: AbstractContextManager) -> None:
    """Let the provider look things up for all ROIs together. Where that fails, each ROI's fetch
    does it, and reports its error."""
    config = run.request.config
    rois = [(roi, run.grid(source, roi)) for roi, _ in wanted]
    try:
        retrying(config.max_retries, config.retry_backoff_s)(run.provider.look_up, source, rois, slots)
    except ProviderError as error:
        print(f"fetch: {error}", file=sys.stderr)


def _fetch_one(run: Run, source: Source, roi: Roi, bands: tuple[str, ...], slots: AbstractContextManager) -> dict:
    """Fetch and store one chip. A slot is released when the chip is stored: if the job is killed,
    no more chips are lost than requests were in flight. No slot is taken while a retry waits."""
    grid, config = run.grid(source, roi), run.request.config

    def fetch_once() -> dict:
        with slots:
            return _fetch_and_store(run, source, roi, bands, grid)

    return retrying(config.max_retries, config.retry_backoff_s)(fetch_once)


def _fetch_and_store(run: Run, source: Source, roi: Roi, bands: tuple[str, ...], grid: Grid) -> dict:
    """Fetch one chip and store it with its metadata; returns its row."""
    chip = run.provider.fetch(source, bands, roi, grid)
    status = "ok" if chip.valid > 0 else "no_data"
    meta = {
        "status": status,
        "bands": list(bands),
        "crs": grid.crs,
        "affine": list(grid.affine),
        "coverage": {band: round(share, 6) for band, share in zip(bands, chip.coverage)},
        "dates": list(chip.dates),
        **({"date_is": list(chip.date_is)} if chip.date_is else {}),
        "provenance": chip.provenance,
        "fetched": utc_now(),
    }
    roi_window = roi_in_square(roi.spatial, source.identity["projection"], grid) if source.identity["square"] else None
    if roi_window:
        meta["roi"] = list(roi_window)
    if chip.warnings:
        meta["said"] = {band: list(sentences) for band, sentences in zip(bands, chip.band_warnings)}
    pixels = chip.pixels if status == "ok" else chip.pixels[..., :0, :0]
    path = run.store.chip_path(source.id, bands, run.plan.object_names(source.id)[roi.index])
    stored = write_object(path, pixels, meta)
    return {"status": status, "size": stored.size, "sha256": stored.sha256}
