"""The repair job: write those per-item files of a chunk again that are missing or changed, and
only those."""

from __future__ import annotations

import time
from pathlib import Path

from ..runs.run import Run
from ..store import atomic_files, receipts
from .shared.chunk_files import find_damaged_rois
from .shared.jobs import find_chunk, measure_job
from .write import make_rows


def repair(run: Run, chunk_name: str, number: int) -> dict:
    """Write the damaged files of a chunk again, and ``repairs/<chunk>-<number>.json``; returns
    counts.

    Raises:
        StoreError: an object that they are written from is damaged, too; running again creates it
            again.
    """
    chunk, started = find_chunk(run, chunk_name), time.monotonic()
    receipt = receipts.read(f"items/{chunk.name}.json", run.plan.items_key(chunk))
    indices = find_damaged_rois(run, chunk.name, receipt)
    rows = make_rows(run, chunk, indices, receipt["created"])
    receipts.write(
        f"repairs/{chunk.name}-{number}.json",
        "repair",
        receipt["key"],
        [{"index": r["index"], "files": r["files"]} for r in rows],
        receipt_finished=receipt["finished"],
        **measure_job(started),
    )
    atomic_files.remove_temporary_files(Path(run.plan.target))
    return {"repaired": len(rows)}
