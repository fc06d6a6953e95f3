"""The files of a chunk: its records (everything that manifests contain about its ROIs, in a file
of its own beside the write receipt), and in per_item layout those of its ROIs, with their repairs.

The receipt is read at every start and stays small. The records (grids, dates, provenance, digests
of every ROI and model) are read by the merge only, a line at a time. The receipt contains the
digest of the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from ...errors import StoreError
from ...formats import manifest
from ...planning.plan import Chunk
from ...runs.run import Run
from ...store import receipts
from ...store.atomic_files import replace_file
from ...store.objects import set_aside


def _records_path(chunk: Chunk) -> str:
    return f"items/{chunk.name}.jsonl"


def write_records(chunk: Chunk, rows: list[dict]) -> dict:
    """Write the records; returns the file's entry in the receipt."""
    lines = (json.dumps(row, separators=(",", ":"), allow_nan=False) + "\n" for row in rows)
    replace_file(_records_path(chunk), "".join(lines).encode())
    return manifest.file_record(_records_path(chunk))


def are_records_intact(run: Run, receipt: dict) -> bool:
    """Whether the file of records that a receipt lists exists and is unchanged."""
    return "records" in receipt and not manifest.is_damaged(receipt["records"], str(run.dir))


def read_records(run: Run) -> Iterator[dict]:
    """The records of all ROIs, in order.

    Raises:
        StoreError: a file is damaged, and was moved aside; the next start writes the chunk again.
    """
    for chunk in run.plan.chunks:
        path = _records_path(chunk)
        listed = receipts.read(f"items/{chunk.name}.json", run.plan.items_key(chunk))["records"]
        sha = hashlib.sha256()
        try:
            with open(path, "rb") as file:
                for line in file:
                    sha.update(line)
                    yield json.loads(line)
        except (FileNotFoundError, ValueError):
            sha = hashlib.sha256()
        if sha.hexdigest() != listed["sha256"]:
            if Path(path).exists():
                set_aside(Path(path))
            raise StoreError(f"the file of records {path} is damaged or missing; run again to create it again")


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
