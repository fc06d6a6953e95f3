"""Fetch one part of one source: the pixels its ROIs still lack, each ROI an object, then the receipt. The provider is asked for
what neither the store nor a finished export has (``restore.py``)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager

from ..errors import ProviderError
from ..planning.units import Source
from ..providers import Roi
from ..providers.retries import attempts
from ..request.geometry import Grid, roi_in_square
from ..runs.run import Run
from ..store import receipts
from ..store.store import write_object
from .shared.common import by_object, models_of, needed_bands, now, part_of, source_of, spent, stop
from .shared.packing import pack_part
from .shared.restored_chips import restore

#: Threads for each request that may be in flight: while one waits to ask again, another asks.
THREADS = 2


def fetch(run: Run, source_id: str, part_name: str) -> dict:
    """Fetch what a part lacks and write ``fetch/<source>/<part>.json``; returns counts.

    A chip is needed where the inputs are saved or a model that reads it has no embedding of the ROI yet.

    Raises:
        StageError: the first failure, unless ``continue_on_error``; chips fetched until then are kept.
    """
    source, part = source_of(run, source_id), part_of(run, part_name)
    started = time.monotonic()
    objects = run.plan.objects(source.id)
    places = by_object(objects, range(part.start, part.stop))
    lacking = _lacking(run, source, places)
    restored = restore(run.store, source.id, lacking)
    if restored:
        lacking = _lacking(run, source, lacking)
    rows: dict[str, dict] = {name: {"status": "ok"} for name in places if name not in lacking}
    wanted = [(run.roi(places[name][0]), bands) for name, bands in lacking.items()]
    for bands in {bands for _, bands in wanted}:
        run.store.declare_bands(source.id, bands)
    errors = _fetch_all(run, source, wanted, rows)
    if errors and not run.request.config.continue_on_error:
        roi, error = min(errors, key=lambda e: e[0].index)
        raise stop("fetch", roi.name, models_of(run, source.id), error)
    for roi, error in errors:
        rows[objects[roi.index]] = receipts.failure(error, "fetch")
    counts = {
        "fetched": len(wanted) - len(errors),
        "restored": len(restored - lacking.keys()),
        "reused": len(places.keys() - lacking.keys() - restored),
        "failed": len(errors),
    }
    if run.request.config.pack:
        counts["packed"] = pack_part(run, source, part).objects
    receipts.write(
        f"fetch/{source.id}/{part.name}.json",
        "fetch",
        run.plan.fetch_key(source, part),
        [{"object": name, **rows[name]} for name in objects[part.start : part.stop]],
        **counts,
        **spent(started),
    )
    return counts


def _lacking(run: Run, source: Source, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Objects with bands that something will read and no stored chip holds, and these bands."""
    band_sets = run.store.band_sets(source.id, source.bands)
    found = {}
    for name in names:
        _, missing = run.store.covering(source.id, needed_bands(run, source, name), name, band_sets)
        if missing:
            found[name] = tuple(missing)
    return found


def _fetch_all(run: Run, source: Source, wanted: list, rows: dict[str, dict]) -> list[tuple[Roi, Exception]]:
    """Fetch ``num_workers`` at a time; without ``continue_on_error`` nothing new is begun after a failure."""
    errors: list[tuple[Roi, Exception]] = []
    config = run.request.config
    turns = run.provider.turns(config.num_workers)
    _expect(run, source, wanted, turns)
    with ThreadPoolExecutor(THREADS * config.num_workers, thread_name_prefix="fetch") as pool:
        futures = {pool.submit(_fetch_one, run, source, roi, bands, turns): roi for roi, bands in wanted}
        pending = set(futures)
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    roi = futures[future]
                    try:
                        rows[run.plan.objects(source.id)[roi.index]] = future.result()
                    except Exception as error:
                        errors.append((roi, error))
                if errors and not config.continue_on_error:
                    pending = {f for f in pending if not f.cancel()}  # those under way are finished and kept
        except BaseException:  # Ctrl-C: do not begin what is still waiting
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return errors


def _expect(run: Run, source: Source, wanted: list, turns: AbstractContextManager) -> None:
    """Let the provider look things up for all places together; where it cannot, each place does it, and says why it fails."""
    config = run.request.config

    places = [(roi, run.grid(source, roi)) for roi, _ in wanted]
    try:
        attempts(config.max_retries, config.retry_backoff_s)(run.provider.expect, source, places, turns)
    except ProviderError as error:
        print(f"fetch: {error}", file=sys.stderr)


def _fetch_one(run: Run, source: Source, roi: Roi, bands: tuple[str, ...], turns: AbstractContextManager) -> dict:
    """Fetch and store one place. It has its turn until the chip is stored: if the job is killed, no more chips are lost
    than requests were in flight. While it waits to ask again it has none."""
    grid, config = run.grid(source, roi), run.request.config

    def once() -> dict:
        with turns:
            return _stored(run, source, roi, bands, grid)

    return attempts(config.max_retries, config.retry_backoff_s)(once)


def _stored(run: Run, source: Source, roi: Roi, bands: tuple[str, ...], grid: Grid) -> dict:
    chip = run.provider.fetch(source, bands, roi, grid)
    status = "ok" if chip.valid > 0 else "no_data"
    meta = {
        "status": status,
        "bands": list(bands),
        "crs": grid.crs,
        "affine": list(grid.affine),
        "coverage": {band: round(share, 6) for band, share in zip(bands, chip.coverage)},
        "dates": list(chip.dates),
        "provenance": chip.provenance,
        "fetched": now(),
    }
    roi_window = roi_in_square(roi.spatial, source.identity["projection"], grid) if source.identity["square"] else None
    if roi_window:
        meta["roi"] = list(roi_window)
    if chip.warnings:
        meta["said"] = {band: list(sentences) for band, sentences in zip(bands, chip.said)}
    pixels = chip.pixels if status == "ok" else chip.pixels[..., :0, :0]
    stored = write_object(run.store.chip(source.id, bands, run.plan.objects(source.id)[roi.index]), pixels, meta)
    return {"status": status, "size": stored.size, "sha256": stored.sha256}
