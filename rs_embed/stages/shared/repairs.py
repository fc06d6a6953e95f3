"""Repairs of a chunk's per-item files: the files it should have, its repairs so far, and ROIs with
damaged files."""

from __future__ import annotations

from pathlib import Path

from ...errors import StoreError
from ...formats import manifest
from ...planning.plan import Chunk
from ...runs.run import Run
from ...store import receipts


def expected_files(run: Run, chunk_name: str, receipt: dict) -> dict[str, tuple[int, dict]]:
    """Files of a chunk as they should be: path to (ROI index, record); later repairs replace what
    the receipt has."""
    files = {f["path"]: (row["index"], f) for row in receipt["rows"] for f in row.get("files", ())}
    for stamp in list_repair_stamps(run, chunk_name):
        try:
            made = receipts.read(stamp)
        except StoreError:  # then the records of the receipt count, and digests decide
            continue
        if made["key"] == receipt["key"] and made["receipt_finished"] == receipt["finished"]:
            files |= {f["path"]: (row["index"], f) for row in made["rows"] for f in row["files"]}
    return files


def find_damaged_rois(run: Run, chunk_name: str, receipt: dict) -> list[int]:
    """ROI indices with a file that is missing, or whose size or content changed."""
    folder = str(run.dir / run.plan.target)
    found = expected_files(run, chunk_name, receipt)
    return sorted({index for index, record in found.values() if manifest.is_damaged(record, folder)})


def list_repair_stamps(run: Run, chunk_name: str) -> list[Path]:
    """The receipts of a chunk's repairs so far, oldest first."""
    return sorted((run.dir / "repairs").glob(f"{chunk_name}-*.json"), key=_repair_number)


def next_repair_stamp(run: Run, chunk: Chunk) -> str:
    """The receipt of a chunk's next repair; its number is the count of its repairs so far."""
    done = list_repair_stamps(run, chunk.name)
    return f"repairs/{chunk.name}-{_repair_number(done[-1]) + 1 if done else 0}.json"


def _repair_number(stamp: Path) -> int:
    return int(stamp.stem.rsplit("-", 1)[1])
