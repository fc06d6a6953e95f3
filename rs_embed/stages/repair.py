"""Repair one chunk: files that a finished receipt lists and that are gone or changed are made again, and only those."""

from __future__ import annotations

import time
from pathlib import Path

from ..errors import StoreError
from ..formats import manifest
from ..runs.run import Run
from ..store import receipts, store
from .shared.common import chunk_of, spent
from .write import make_rows


def expected_files(run: Run, chunk_name: str, receipt: dict) -> dict[str, tuple[int, dict]]:
    """Files of a chunk as they should be: path to (ROI index, record), later repairs replacing what the receipt says."""
    files = {f["path"]: (row["index"], f) for row in receipt["rows"] for f in row.get("files", ())}
    for stamp in stamps(run, chunk_name):
        try:
            made = receipts.read(stamp)
        except StoreError:  # then the receipt's own word stands, and digests decide
            continue
        if made["key"] == receipt["key"] and made["receipt_finished"] == receipt["finished"]:
            files |= {f["path"]: (row["index"], f) for row in made["rows"] for f in row["files"]}
    return files


def stamps(run: Run, chunk_name: str) -> list[Path]:
    """The repairs of a chunk so far, oldest first."""
    return sorted((run.dir / "repairs").glob(f"{chunk_name}-*.json"), key=lambda p: int(p.stem.rsplit("-", 1)[1]))


def damaged_rois(run: Run, chunk_name: str, receipt: dict) -> list[int]:
    """ROI indices with a file that is gone, or whose size or content changed."""
    found = expected_files(run, chunk_name, receipt)
    return sorted(
        {index for index, record in found.values() if manifest.damaged(record, str(run.dir / run.plan.target))}
    )


def repair(run: Run, chunk_name: str, number: int) -> dict:
    """Make the damaged files of a chunk again and write ``repairs/<chunk>-<number>.json``; returns counts.

    Raises:
        StoreError: an object they are made of is damaged, too; running again makes it anew.
    """
    chunk, started = chunk_of(run, chunk_name), time.monotonic()
    receipt = receipts.read(f"items/{chunk.name}.json", run.plan.items_key(chunk))
    indices = damaged_rois(run, chunk.name, receipt)
    rows = make_rows(run, chunk, indices, receipt["created"])
    receipts.write(
        f"repairs/{chunk.name}-{number}.json",
        "repair",
        receipt["key"],
        [{"index": r["index"], "files": r["files"]} for r in rows],
        receipt_finished=receipt["finished"],
        **spent(started),
    )
    store.clean(Path(run.plan.target))
    return {"repaired": len(rows)}
