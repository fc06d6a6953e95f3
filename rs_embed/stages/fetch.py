"""Fetch one part of one source: the pixels its ROIs still lack, each ROI an object, then the receipt."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from .. import receipts
from ..errors import ProviderError
from ..geometry import roi_in_square
from ..providers import Roi
from ..run import Run
from ..store import write_object
from ..units import Source
from .common import by_object, models_of, needed_bands, now, part_of, source_of, spent, stop

#: Longest pause between two attempts, seconds.
MAX_PAUSE_S = 60.0


def fetch(run: Run, source_id: str, part_name: str) -> dict:
    """Fetch what a part lacks and write ``fetch/<source>/<part>.json``; returns counts.

    A chip is needed where the inputs are saved or a model that reads it has no embedding of the ROI yet.

    Raises:
        StageError: the first failure, unless ``continue_on_error``; chips fetched until then are kept.
    """
    source, part = source_of(run, source_id), part_of(run, part_name)
    started = time.monotonic()
    band_sets = run.store.band_sets(source.id, source.bands)
    objects = run.plan.objects(source.id)
    places = by_object(objects, range(part.start, part.stop))
    rows: dict[str, dict] = {}
    wanted: list[tuple[Roi, tuple[str, ...]]] = []
    for name, indices in places.items():
        need = needed_bands(run, source, name)
        _, missing = run.store.covering(source.id, need, name, band_sets)
        if missing:
            wanted.append((run.roi(indices[0]), tuple(missing)))
        else:
            rows[name] = {"status": "ok"}
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
        "reused": len(places) - len(wanted),
        "failed": len(errors),
    }
    receipts.write(
        f"fetch/{source.id}/{part.name}.json",
        "fetch",
        run.plan.fetch_key(source, part),
        [{"object": name, **rows[name]} for name in objects[part.start : part.stop]],
        **counts,
        **spent(started),
    )
    return counts


def _fetch_all(run: Run, source: Source, wanted: list, rows: dict[str, dict]) -> list[tuple[Roi, Exception]]:
    """Fetch with ``num_workers`` threads; without ``continue_on_error`` nothing new is begun after a failure."""
    errors: list[tuple[Roi, Exception]] = []
    with ThreadPoolExecutor(run.request.config.num_workers, thread_name_prefix="fetch") as pool:
        futures = {pool.submit(_fetch_one, run, source, roi, bands): roi for roi, bands in wanted}
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
                if errors and not run.request.config.continue_on_error:
                    pending = {f for f in pending if not f.cancel()}  # those under way are finished and kept
        except BaseException:  # Ctrl-C: do not begin what is still waiting
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return errors


def _fetch_one(run: Run, source: Source, roi: Roi, bands: tuple[str, ...]) -> dict:
    grid = run.grid(source, roi)
    config = run.request.config
    attempts = Retrying(
        stop=stop_after_attempt(config.max_retries + 1),
        wait=wait_random_exponential(multiplier=config.retry_backoff_s, max=MAX_PAUSE_S),
        retry=retry_if_exception(lambda e: isinstance(e, ProviderError) and e.retryable),
        reraise=True,
    )
    chip = attempts(run.provider.fetch, source, bands, roi, grid)
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
